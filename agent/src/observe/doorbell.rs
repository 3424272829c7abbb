//! Rings when something may have changed. Says where to look, never what is.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Dirty, Host};
use crate::{sys, text::chain};

/// More changed devices than this in one go are answered as if events had been
/// lost, by a full pass.
const MANY: usize = 256;

/// How long until a directory that could not be made is tried again, at first
/// and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Uevents of block devices. Not `Send`: libudev's types belong to one thread.
pub struct UeventBell {
    /// Straight from the kernel, in every network namespace.
    kernel: AsyncFd<udev::MonitorSocket>,
    /// After udevd's work, only in the host's network namespace: tells when a
    /// device is ready, so that nothing has to be polled there.
    processed: AsyncFd<udev::MonitorSocket>,
}

impl std::fmt::Debug for UeventBell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UeventBell")
    }
}

impl UeventBell {
    /// Subscribes.
    ///
    /// # Errors
    /// When the netlink sockets cannot be opened.
    pub fn listen() -> io::Result<Self> {
        let open = |builder: udev::MonitorBuilder| {
            sys::watch_monitor(builder.match_subsystem("block")?.listen()?)
        };
        Ok(Self {
            kernel: open(udev::MonitorBuilder::new_kernel()?)?,
            processed: open(udev::MonitorBuilder::new()?)?,
        })
    }

    /// Waits for the next ring and says which devices to read again.
    ///
    /// Cancel safe: an event is taken off a socket only after the last await.
    ///
    /// # Errors
    /// When waiting on the sockets fails.
    pub async fn rung(&self) -> io::Result<Dirty> {
        // The ready flag is cleared only when the socket is empty, which
        // `drain` sees to.
        let mut guard = tokio::select! {
            guard = self.kernel.readable() => guard?,
            guard = self.processed.readable() => guard?,
        };
        let dirty = drain(guard.get_inner());
        guard.clear_ready();
        Ok(dirty)
    }
}

fn drain(socket: &udev::MonitorSocket) -> Dirty {
    let mut names = BTreeSet::new();
    let mut lost = false;
    loop {
        Errno::clear();
        for event in socket.iter() {
            names.insert(event.sysname().to_string_lossy().replace('/', "!"));
            Errno::clear();
        }
        // The queue ran over. From then on the kernel drops every event, and
        // wakes nobody, until what is still in the queue was read.
        if Errno::last() != Errno::ENOBUFS {
            break;
        }
        lost = true;
    }
    if lost {
        tracing::info!("events were lost, so every device is looked at again");
    }
    if lost || names.len() > MANY {
        Dirty::Lost
    } else {
        Dirty::Devices(names)
    }
}

/// Changes of the host's mount table, through `poll(2)` on mountinfo.
#[derive(Debug)]
pub struct MountBell {
    table: AsyncFd<std::fs::File>,
}

impl MountBell {
    /// Watches the table of the host's first process.
    ///
    /// # Errors
    /// When it cannot be opened, for want of rights.
    pub fn watch(host: &Host) -> io::Result<Self> {
        let file = std::fs::File::open(host.init_mountinfo())?;
        let interest = Interest::ERROR | Interest::PRIORITY;
        Ok(Self {
            table: sys::watch_file(file, interest)?,
        })
    }

    /// Waits until the table has changed since it was last asked.
    ///
    /// # Errors
    /// When waiting fails.
    pub async fn rung(&self) -> io::Result<()> {
        let mut guard = self
            .table
            .ready(Interest::ERROR | Interest::PRIORITY)
            .await?;
        // The kernel answers a poll once for each change.
        let mut poll = [nix::poll::PollFd::new(
            guard.get_inner().as_fd(),
            nix::poll::PollFlags::POLLPRI,
        )];
        nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO)?;
        guard.clear_ready();
        Ok(())
    }
}

/// Requests of people: files that appear in a directory.
#[derive(Debug)]
pub struct RequestBell {
    directory: PathBuf,
    inotify: Inotify,
    /// The same open file, to wait for.
    readable: AsyncFd<File>,
    /// The directory went away and is not watched again yet.
    gone: AtomicBool,
}

impl RequestBell {
    /// Watches the directory, which is made where it is not there.
    ///
    /// # Errors
    /// When it cannot be made or watched.
    pub fn watch(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readable = File::from(inotify.as_fd().try_clone_to_owned()?);
        let bell = Self {
            directory: directory.to_owned(),
            inotify,
            readable: sys::watch_file(readable, Interest::READABLE)?,
            gone: AtomicBool::new(false),
        };
        bell.begin()?;
        Ok(bell)
    }

    fn begin(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let appears = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let only = AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(&self.directory, appears | only)?;
        Ok(())
    }

    /// Waits until something appears, or until the directory is watched again
    /// after it went away.
    ///
    /// Cancel safe: an event is taken only after the last await, and that the
    /// directory is gone is kept.
    ///
    /// # Errors
    /// When waiting fails.
    pub async fn rung(&self) -> io::Result<()> {
        if self.gone.load(Ordering::Relaxed) {
            self.again().await;
            return Ok(());
        }
        let mut guard = self.readable.readable().await?;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    let ignored = AddWatchFlags::IN_IGNORED;
                    if events.iter().any(|event| event.mask.contains(ignored)) {
                        self.gone.store(true, Ordering::Relaxed);
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        guard.clear_ready();
        if self.gone.load(Ordering::Relaxed) {
            self.again().await;
        }
        Ok(())
    }

    /// Makes and watches the directory again, as often as that takes.
    async fn again(&self) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.begin() {
            tracing::warn!(
                directory = %self.directory.display(),
                error = chain(&error),
                "requests are noticed at the timer only until their directory can be made"
            );
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        self.gone.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough on any machine; what does not ring is a failure.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async { tokio::time::timeout(PATIENCE, test).await })
            .expect("it rings");
    }

    #[test]
    fn a_request_rings_also_after_its_directory_was_removed() {
        run(async {
            let state = tempfile::tempdir().expect("a directory");
            let directory = state.path().join("requests");
            let bell = RequestBell::watch(&directory).expect("watched");
            for _ in 0..2 {
                fs::write(directory.join("release-sdb1"), "").expect("asked");
                bell.rung().await.expect("rung");
                let written = state.path().join("half");
                fs::write(&written, "").expect("written");
                fs::rename(&written, directory.join("cancel-sdb1")).expect("asked");
                bell.rung().await.expect("rung");
                fs::remove_dir_all(&directory).expect("removed");
                bell.rung().await.expect("rung");
                assert!(directory.is_dir(), "it is made again");
            }
        });
    }

    #[test]
    fn a_request_rings_after_its_directory_could_not_be_made_for_a_while() {
        run(async {
            let root = tempfile::tempdir().expect("a directory");
            let state = root.path().join("state");
            let directory = state.join("requests");
            let bell = RequestBell::watch(&directory).expect("watched");
            fs::remove_dir_all(&state).expect("removed");
            fs::write(&state, "in its place").expect("written");
            for _ in 0..2 {
                let short = Duration::from_millis(50);
                let rung = tokio::time::timeout(short, bell.rung()).await;
                assert!(rung.is_err(), "there is nothing to watch");
            }
            fs::remove_file(&state).expect("removed");
            bell.rung().await.expect("watched again");
            fs::write(directory.join("release-sdb1"), "").expect("asked");
            bell.rung().await.expect("rung");
        });
    }

    #[test]
    fn an_answered_request_does_not_ring() {
        run(async {
            let state = tempfile::tempdir().expect("a directory");
            let bell = RequestBell::watch(state.path()).expect("watched");
            let file = state.path().join("release-sdb1");
            fs::write(&file, "").expect("asked");
            bell.rung().await.expect("rung");
            fs::remove_file(&file).expect("answered");
            let mut events = [nix::poll::PollFd::new(
                bell.inotify.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            let ringing = nix::poll::poll(&mut events, nix::poll::PollTimeout::ZERO);
            assert_eq!(ringing, Ok(0));
        });
    }
}
