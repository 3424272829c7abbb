//! Who has a disk open for writing without holding it exclusively.
//!
//! `O_EXCL` keeps away only those who ask for it as well. A virtual machine that
//! is given the raw disk, or a `dd` that is writing to it, does not: to mounts,
//! to holders and to an exclusive open such a disk looks unused. Only the
//! descriptors of the processes tell. They are compared by the number of the
//! device that they lead to, since a process may have a `/dev` of its own.
//!
//! It costs a look at every descriptor on the host, so it is asked before a disk
//! is written to or mounted, never in a round.

use std::{
    ffi::CStr,
    fmt, fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, readlinkat},
    sys::stat::Mode,
};

use super::Host;
use crate::{
    fact::{Fact, Unreadable},
    sys,
    units::DevNo,
};

/// A process that has a device open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// Its number, as the host counts.
    pub pid: u32,
    /// What it calls itself (`comm` of proc(5)).
    pub comm: String,
}

impl fmt::Display for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, pid {}", self.comm, self.pid)
    }
}

/// A process other than this one and its children that has one of these devices
/// open for writing. Readers do not count: smartd, multipathd and udevd's
/// workers come and go. Processes and descriptors that vanish meanwhile are
/// closed; where any other cannot be looked at, it is not known that there is
/// none.
pub fn writer(host: &Host, devices: &[DevNo]) -> Fact<Option<Opener>> {
    Processes::of(host.processes()).and_then(|processes| processes.writer(devices))
}

/// A procfs, and who reads it.
#[derive(Debug)]
struct Processes {
    root: PathBuf,
    /// This process, by its number there.
    own: u32,
}

impl Processes {
    fn of(root: PathBuf) -> Fact<Self> {
        let link = root.join("self");
        // In a container another number than getpid(2) gives.
        let own = match fs::read_link(&link) {
            Ok(number) => number.to_str().and_then(|number| number.parse().ok()),
            Err(error) => return Fact::unreadable(link.display(), error),
        };
        match own {
            Some(1) => Fact::unreadable(
                root.display(),
                "shows the processes of this container alone; mount the host's /proc below --host-root",
            ),
            Some(own) => Fact::Known(Self { root, own }),
            None => Fact::unreadable(link.display(), "is no number"),
        }
    }

    fn writer(&self, devices: &[DevNo]) -> Fact<Option<Opener>> {
        let pids = match numbers_in(&self.root) {
            Ok(pids) => pids,
            Err(error) => return Fact::unreadable(self.root.display(), error),
        };
        // hidepid (proc(5)) leaves out what may not be looked at, and first of
        // all this one, which has every right.
        if !pids.contains(&1) {
            return Fact::unreadable(
                self.root.join("1").display(),
                "is not shown; grant CAP_SYS_PTRACE, and in a container mount the host's /proc below --host-root",
            );
        }
        let mut unread = None;
        for pid in pids.into_iter().filter(|pid| *pid != self.own) {
            match self.has_open(pid, devices) {
                Ok(false) => {}
                Ok(true) => match self.name(pid) {
                    Ok(Some(opener)) => return Fact::Known(Some(opener)),
                    Ok(None) => {}
                    Err(why) => unread = unread.or(Some(why)),
                },
                Err(why) => unread = unread.or(Some(why)),
            }
        }
        match unread {
            None => Fact::Known(None),
            Some(why) => Fact::Unreadable(why),
        }
    }

    fn has_open(&self, pid: u32, devices: &[DevNo]) -> Result<bool, Unreadable> {
        let process = self.root.join(pid.to_string());
        if let Some(found) = has_open(&process, devices)? {
            return Ok(found);
        }
        // A first thread that has ended shows nothing of what the others have
        // open; a thread of the kernel has nothing.
        let threads = process.join("task");
        let tids = match numbers_in(&threads) {
            Ok(tids) => tids,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(unreadable(&threads, &error)),
        };
        for tid in tids.into_iter().filter(|tid| *tid != pid) {
            if has_open(&threads.join(tid.to_string()), devices)? == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who a process is; `None` when it has ended, or is a child of this one: it
    /// has for a moment what this process has open, until it becomes mkfs.
    fn name(&self, pid: u32) -> Result<Option<Opener>, Unreadable> {
        let path = self.root.join(pid.to_string()).join("stat");
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        // "pid (comm) state ppid": comm may have anything in it.
        let parts = text.split_once('(').and_then(|(_, rest)| {
            let (comm, rest) = rest.rsplit_once(')')?;
            let parent: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
            Some((comm, parent))
        });
        match parts {
            Some((_, parent)) if parent == self.own => Ok(None),
            Some((comm, _)) => Ok(Some(Opener {
                pid,
                comm: comm.to_owned(),
            })),
            None => Err(Unreadable {
                what: path.display().to_string(),
                why: "is not as proc(5) has it".to_owned(),
            }),
        }
    }
}

/// Whether a process or thread has one of the devices open for writing; `None`
/// when it has nothing open at all.
fn has_open(task: &Path, devices: &[DevNo]) -> Result<Option<bool>, Unreadable> {
    let path = task.join("fd");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let listed = Dir::open(&path, flags, Mode::empty()).and_then(|mut directory| {
        let names = directory
            .iter()
            .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
            .filter(|name| !matches!(name.as_deref().map(CStr::to_bytes), Ok(b"." | b"..")))
            .collect::<Result<Vec<_>, Errno>>()?;
        Ok((directory, names))
    });
    let (directory, names) = match listed {
        Ok(listed) => listed,
        Err(Errno::ENOENT | Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(unreadable(&path, &error.into())),
    };
    for name in &names {
        let failed = |error: &io::Error| {
            let name = name.to_string_lossy();
            Err(unreadable(&path.join(name.as_ref()), error))
        };
        match device_behind(&directory, name) {
            Ok(Some(devno)) if devices.contains(&devno) => {}
            Ok(Some(_) | None) => continue,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return failed(&error),
        }
        let about = task.join("fdinfo").join(name.to_string_lossy().as_ref());
        match fs::read_to_string(&about) {
            Ok(text) => match writes(&text) {
                Some(false) => {}
                Some(true) => return Ok(Some(true)),
                None => return failed(&io::Error::other("its flags are not told")),
            },
            Err(error) if is_gone(&error) => {}
            Err(error) => return failed(&error),
        }
    }
    Ok((!names.is_empty()).then_some(false))
}

/// The block device that a descriptor leads to, if it is one. Nothing here
/// waits for a filesystem whose server is gone: the text of the link is the
/// kernel's own, and of what lies behind a path only that is asked which the
/// kernel has in memory.
fn device_behind(directory: &Dir, link: &CStr) -> io::Result<Option<DevNo>> {
    match readlinkat(directory.as_fd(), link) {
        // Sockets, pipes and whatever else has no name: "socket:[1234]".
        Ok(target) if !target.as_encoded_bytes().starts_with(b"/") => return Ok(None),
        // A path may be too long to be told.
        Ok(_) | Err(Errno::ENAMETOOLONG) => {}
        Err(error) => return Err(error.into()),
    }
    match sys::block_device_behind(directory.as_fd(), link) {
        Err(error) if is_of_a_lost_filesystem(&error) => Ok(None),
        other => other,
    }
}

/// What a filesystem answers of its files when its disk or its server is gone,
/// and FUSE to whoever has not mounted it. Nodes of devices lie on devtmpfs and
/// tmpfs, which never say so. Without this a disk that has died under a program
/// would keep all others from being served.
fn is_of_a_lost_filesystem(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES
                | libc::EIO
                | libc::ENODEV
                | libc::ENXIO
                | libc::ESTALE
                | libc::ENOTCONN
                | libc::ECONNABORTED
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ETIMEDOUT
        )
    )
}

/// Whether a descriptor was opened for writing, by the `flags` of its fdinfo,
/// which are octal. The mode 3 is for requests to a driver alone (open(2)).
fn writes(fdinfo: &str) -> Option<bool> {
    let flags = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    let mode = flags & libc::O_ACCMODE;
    Some(mode != libc::O_RDONLY && mode != libc::O_ACCMODE)
}

/// The entries of a directory that are numbers.
fn numbers_in(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// A process or a descriptor that is not there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn unreadable(what: &Path, error: &io::Error) -> Unreadable {
    let why = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!("{error}; grant CAP_SYS_PTRACE"),
        Some(_) | None => error.to_string(),
    };
    Unreadable {
        what: what.display().to_string(),
        why,
    }
}

#[cfg(test)]
pub(crate) mod tests;
