//! Rings when something may have changed. Says where to look, never what is.

use std::{collections::BTreeSet, io, os::fd::AsFd};

use nix::errno::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use super::{Dirty, Host};
use crate::sys;

/// More changed devices than this in one go are answered as if events had been
/// lost, by a full pass.
const MANY: usize = 256;

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
