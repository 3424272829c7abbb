//! What a person asks of the agent of this host by `disk-discovery release`:
//! files in `<state>/requests/`, whose names are the requests. They are empty,
//! but for a release that a person wants whatever is on the disk. Only who may
//! write to the state directory can ask, and what was asked while no agent ran is
//! done by the next one.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use crate::{
    durable::{self, WriteError},
    units::DiskName,
};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    /// The disk is to leave the node.
    Release,
    /// It is to stay after all, or to be used again.
    Cancel,
}

impl Wish {
    const ALL: [Self; 2] = [Self::Release, Self::Cancel];

    fn opposite(self) -> Self {
        match self {
            Self::Release => Self::Cancel,
            Self::Cancel => Self::Release,
        }
    }

    /// As the name of a file begins.
    fn prefix(self) -> &'static str {
        match self {
            Self::Release => "release-",
            Self::Cancel => "cancel-",
        }
    }
}

/// A wish for a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// Which disk, by its name for life.
    pub name: DiskName,
    /// What of it.
    pub wish: Wish,
    /// A release is wanted although Longhorn may have replicas on the disk, and
    /// is not asked to move them away.
    pub even_with_replicas: bool,
}

/// What a file says that stands for such a release.
const EVEN_WITH_REPLICAS: &[u8] = b"even-with-replicas";
/// No request says more.
const LONGEST: u64 = 64;

impl Request {
    fn file(&self) -> String {
        format!("{}{}", self.wish.prefix(), self.name)
    }

    /// The request that a file stands for, if any: a half-written one ends in
    /// `.tmp`, which no name of a disk does.
    fn of_file(name: &str) -> Option<Self> {
        Wish::ALL.into_iter().find_map(|wish| {
            let name = name.strip_prefix(wish.prefix())?.parse().ok()?;
            Some(Self {
                name,
                wish,
                even_with_replicas: false,
            })
        })
    }
}

/// A request could not be kept.
#[derive(Debug, Error)]
pub enum PostError {
    /// Who asks at the same time could not be waited for.
    #[error("cannot lock {}", directory.display())]
    Turn {
        /// Of the requests.
        directory: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The requests cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the requests in {}", directory.display())]
pub struct ReadError {
    directory: PathBuf,
    #[source]
    source: io::Error,
}

/// The directory of the requests.
#[derive(Debug, Clone)]
pub struct Mailbox {
    directory: PathBuf,
}

impl Mailbox {
    /// Below the agent's state directory. Nothing is made yet.
    pub fn below(state: &Path) -> Self {
        Self {
            directory: state.join("requests"),
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Asks for something, durably, in place of the opposite that may have been
    /// asked for before. Those who ask at the same time take turns; the agent does
    /// not wait for them.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn post(&self, request: &Request) -> Result<(), PostError> {
        let _turn = self.turn().map_err(|source| PostError::Turn {
            directory: self.directory.clone(),
            source,
        })?;
        let opposite = Request {
            name: request.name.clone(),
            wish: request.wish.opposite(),
            even_with_replicas: false,
        };
        durable::remove(&self.directory.join(opposite.file()))?;
        let says: &[u8] = if request.even_with_replicas {
            EVEN_WITH_REPLICAS
        } else {
            b""
        };
        Ok(durable::write(&self.directory.join(request.file()), says)?)
    }

    fn turn(&self) -> io::Result<Flock<File>> {
        fs::create_dir_all(&self.directory)?;
        let directory = File::open(&self.directory)?;
        Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    }

    /// Whether a request is still to be answered.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn is_open(&self, request: &Request) -> Result<bool, ReadError> {
        let there = fs::exists(self.directory.join(request.file()));
        there.map_err(|source| self.unread(source))
    }

    /// What is asked for, in the order of the names. Files that are no requests
    /// are passed over.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn open(&self) -> Result<Vec<Request>, ReadError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.unread(source)),
        };
        let mut requests = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| self.unread(source))?;
            let request = entry.file_name().to_str().and_then(Request::of_file);
            requests.extend(request.map(|request| Request {
                even_with_replicas: says_so(&entry.path()),
                ..request
            }));
        }
        requests.sort_unstable();
        Ok(requests)
    }

    /// Takes an answered request away for good; one that is gone already is no
    /// error. Where it asks for more by now, that is still to be answered, unless
    /// it came at this very moment.
    ///
    /// # Errors
    /// When it stays.
    pub fn answered(&self, request: &Request) -> Result<(), WriteError> {
        let file = self.directory.join(request.file());
        if says_so(&file) && !request.even_with_replicas {
            return Ok(());
        }
        durable::remove(&file)
    }

    fn unread(&self, source: io::Error) -> ReadError {
        ReadError {
            directory: self.directory.clone(),
            source,
        }
    }
}

/// Whether a file asks for a release whatever is on the disk. One that cannot be
/// read asks for nothing out of the ordinary.
fn says_so(file: &Path) -> bool {
    let mut says = Vec::new();
    let read = File::open(file).and_then(|file| file.take(LONGEST).read_to_end(&mut says));
    read.is_ok() && says.trim_ascii() == EVEN_WITH_REPLICAS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(wish: Wish, name: &str) -> Request {
        Request {
            name: name.parse().expect("a name"),
            wish,
            even_with_replicas: false,
        }
    }

    #[test]
    fn a_release_whatever_is_on_the_disk_is_asked_for_in_so_many_words() {
        let state = tempfile::tempdir().expect("a directory");
        let mailbox = Mailbox::below(state.path());
        let plain = request(Wish::Release, "sdb1");
        let whatever = Request {
            even_with_replicas: true,
            ..plain.clone()
        };
        // The later one counts.
        for request in [&whatever, &plain, &whatever] {
            mailbox.post(request).expect("asked");
            let open = mailbox.open().expect("readable");
            assert_eq!(open, std::slice::from_ref(request));
        }
        let file = mailbox.directory().join("release-sdb1");
        for (says, means) in [
            ("even-with-replicas\n", true),
            ("", false),
            ("yes", false),
            ("even-with-replicas of sdc1", false),
        ] {
            fs::write(&file, says).expect("a file");
            let open = mailbox.open().expect("readable");
            assert_eq!(open.first().map(|one| one.even_with_replicas), Some(means));
        }
        mailbox.answered(&plain).expect("answered");
        fs::create_dir(&file).expect("a directory in its place");
        assert_eq!(mailbox.open().expect("readable"), [plain]);
    }

    #[test]
    fn what_was_asked_is_there_until_it_is_answered() {
        let state = tempfile::tempdir().expect("a directory");
        let asked = Mailbox::below(state.path());
        assert_eq!(asked.open().expect("nothing yet"), []);
        let wishes = [
            request(Wish::Cancel, "sdb1"),
            request(Wish::Release, "sdc1-2"),
        ];
        let overtaken = request(Wish::Release, "sdb1");
        for request in [&overtaken]
            .into_iter()
            .chain(&wishes)
            .chain(wishes.first())
        {
            asked.post(request).expect("asked");
        }
        let agent = Mailbox::below(state.path());
        assert_eq!(agent.open().expect("readable"), wishes);
        for request in &wishes {
            assert!(asked.is_open(request).expect("readable"));
            agent.answered(request).expect("answered");
            agent.answered(request).expect("again");
            assert!(!asked.is_open(request).expect("readable"));
        }
        assert_eq!(agent.open().expect("readable"), []);
    }

    #[test]
    fn what_is_asked_for_while_the_answer_is_shown_is_still_to_be_answered() {
        let state = tempfile::tempdir().expect("a directory");
        let mailbox = Mailbox::below(state.path());
        let plain = request(Wish::Release, "sdb1");
        let whatever = Request {
            even_with_replicas: true,
            ..plain.clone()
        };
        mailbox.post(&plain).expect("asked");
        mailbox.post(&whatever).expect("asked");
        mailbox.answered(&plain).expect("answered");
        let open = mailbox.open().expect("readable");
        assert_eq!(open, std::slice::from_ref(&whatever));
        // Less than what was answered is answered as well.
        mailbox.post(&plain).expect("asked");
        mailbox.answered(&whatever).expect("answered");
        assert_eq!(mailbox.open().expect("readable"), []);
        // Who calls it off takes back all of it.
        mailbox.post(&whatever).expect("asked");
        let cancel = request(Wish::Cancel, "sdb1");
        mailbox.post(&cancel).expect("asked");
        assert_eq!(mailbox.open().expect("readable"), [cancel]);
    }

    #[test]
    fn two_who_ask_for_the_same_at_the_same_time_are_both_heard() {
        let state = tempfile::tempdir().expect("a directory");
        let mailbox = Mailbox::below(state.path());
        let whatever = Request {
            even_with_replicas: true,
            ..request(Wish::Release, "sdb1")
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        mailbox.post(&whatever).expect("asked");
                        let open = mailbox.open().expect("readable");
                        assert_eq!(open, std::slice::from_ref(&whatever));
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_no_request_is_passed_over_and_left_alone() {
        let state = tempfile::tempdir().expect("a directory");
        let mailbox = Mailbox::below(state.path());
        mailbox
            .post(&request(Wish::Release, "sdb1"))
            .expect("asked");
        for name in [
            "release-sdb1.tmp",
            "release-",
            "release-..",
            "release-SDB1",
            "cancel-sdb1~",
            "wipe-sdb1",
            ".release-sdb1",
        ] {
            fs::write(mailbox.directory().join(name), "").expect("a file");
        }
        let open = mailbox.open().expect("readable");
        assert_eq!(open, [request(Wish::Release, "sdb1")]);
    }

    #[test]
    fn requests_that_cannot_be_read_are_an_error() {
        let state = tempfile::tempdir().expect("a directory");
        fs::write(state.path().join("requests"), "").expect("a file in its place");
        let mailbox = Mailbox::below(state.path());
        let error = mailbox.open().expect_err("no directory").to_string();
        assert!(error.contains("requests"), "{error}");
        assert!(mailbox.post(&request(Wish::Release, "sdb1")).is_err());
    }
}
