//! The only module with `unsafe`: ioctls that no library offers, and what must
//! happen between fork and exec. Each function takes safe types, returns
//! `io::Result`, and says beside each block why it is sound.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
    sync::{Mutex, PoisonError},
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::units::DevNo;

use nix::{ioctl_none_bad, ioctl_read, ioctl_read_bad, ioctl_write_ptr, ioctl_write_ptr_bad};

// linux/fs.h
ioctl_read!(blkgetsize64, 0x12, 114, u64);
ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);
ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long);
ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long);
// linux/blkpg.h: _IO(0x12, 105), although it takes a pointer
ioctl_write_ptr_bad!(blkpg, 0x1269, BlkpgArg);
// fs/ext4/ext4.h
ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64);
// fs/xfs/libxfs/xfs_fs.h; the first form of the geometry, which every kernel knows
ioctl_read!(xfs_fsgeometry, b'X', 100, XfsGeometry);
ioctl_write_ptr!(xfs_growfs_data, b'X', 110, XfsGrowth);

/// `FS_IMMUTABLE_FL` of linux/fs.h.
const IMMUTABLE: libc::c_long = 0x10;
/// `BLKPG_ADD_PARTITION` of linux/blkpg.h.
const ADD_PARTITION: libc::c_int = 1;
/// `BLKPG_RESIZE_PARTITION` of linux/blkpg.h.
const RESIZE_PARTITION: libc::c_int = 3;

// linux/loop.h; the first is a plain number and takes nothing.
ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);

/// `struct loop_config` of linux/loop.h, with `struct loop_info64` as the words
/// that it is made of: 232 bytes, of which only the flags are ours to set.
#[repr(C)]
#[derive(Debug)]
pub struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: [u32; 58],
    reserved: [u64; 8],
}

/// Index of `lo_flags` among the words of `loop_info64`: after five fields of
/// two words come `lo_number`, `lo_encrypt_type` and `lo_encrypt_key_size`.
const LOOP_INFO_FLAGS: usize = 13;
/// `LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR`.
const LOOP_READ_ONLY_AUTOCLEAR: u32 = 1 | 4;

// linux/mount.h
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
/// `MOUNT_ATTR_RDONLY | NOSUID | NODEV | NOEXEC`.
const MOUNT_ATTRIBUTES: libc::c_uint = 1 | 2 | 4 | 8;

#[repr(C)]
#[derive(Debug)]
pub struct BlkpgArg {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    partition: *mut BlkpgPartition,
}

#[repr(C)]
#[derive(Debug)]
struct BlkpgPartition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct xfs_fsop_geom_v1` of fs/xfs/libxfs/xfs_fs.h.
#[repr(C)]
#[derive(Debug, Default)]
pub struct XfsGeometry {
    block_size: u32,
    _up_to_inode_size: [u32; 6],
    inodes_percent: u32,
    data_blocks: u64,
    _from_realtime_blocks: [u64; 9],
}
const _: () = assert!(size_of::<XfsGeometry>() == 112);

/// `struct xfs_growfs_data` of fs/xfs/libxfs/xfs_fs.h.
#[repr(C)]
#[derive(Debug)]
pub struct XfsGrowth {
    blocks: u64,
    inodes_percent: u32,
}

/// Size of an open block device in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// What the kernel answers, `ENOTTY` for what is no block device.
pub fn device_size(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the kernel writes one u64 into `size`, which outlives the call.
    unsafe { blkgetsize64(device.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// Sequence number that the kernel gives each disk once and never again
/// (`BLKGETDISKSEQ`, Linux 5.15).
///
/// # Errors
/// What the kernel answers, `ENOTTY` before 5.15.
pub fn disk_sequence(device: &File) -> io::Result<u64> {
    let mut sequence = 0;
    // SAFETY: the kernel writes one u64 into `sequence`, which outlives the call.
    unsafe { blkgetdiskseq(device.as_raw_fd(), &raw mut sequence) }?;
    Ok(sequence)
}

/// Logical sector size in bytes (`BLKSSZGET`).
///
/// # Errors
/// What the kernel answers.
pub fn logical_sector_size(device: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the kernel writes one int into `size`, which outlives the call.
    unsafe { blksszget(device.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(|_negative| io::Error::from(io::ErrorKind::InvalidData))
}

/// Tells the kernel of one partition of an open disk (`BLKPG`), offsets in
/// bytes. Unlike a re-read of the table it touches no other partition and
/// works while the disk is claimed.
///
/// # Errors
/// `EBUSY` when the number or the range is taken already.
pub fn add_partition(disk: &File, number: i32, start: u64, length: u64) -> io::Result<()> {
    tell_partition(disk, ADD_PARTITION, number, start, length)
}

/// Tells the kernel that a partition which it knows has another length, also
/// while it is mounted.
///
/// # Errors
/// `ENXIO` without such a partition, `EINVAL` when it begins elsewhere, `EBUSY`
/// when the range is taken.
pub fn resize_partition(disk: &File, number: i32, start: u64, length: u64) -> io::Result<()> {
    tell_partition(disk, RESIZE_PARTITION, number, start, length)
}

fn tell_partition(
    disk: &File,
    op: libc::c_int,
    number: i32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let too_big = |_overflow| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(too_big)?,
        length: i64::try_from(length).map_err(too_big)?,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = BlkpgArg {
        op,
        flags: 0,
        datalen: libc::c_int::try_from(size_of::<BlkpgPartition>()).map_err(too_big)?,
        partition: &raw mut partition,
    };
    // SAFETY: both structures have the layout of linux/blkpg.h and outlive the
    // call; the kernel only reads them.
    unsafe { blkpg(disk.as_raw_fd(), &raw const argument) }?;
    Ok(())
}

/// Number of a loop device that nobody uses (`LOOP_CTL_GET_FREE`).
///
/// # Errors
/// What the kernel answers.
pub fn free_loop(control: &File) -> io::Result<i32> {
    // SAFETY: the call takes no argument.
    Ok(unsafe { loop_ctl_get_free(control.as_raw_fd()) }?)
}

/// Puts a loop device on top of a file or device (`LOOP_CONFIGURE`, Linux 5.8).
/// It lets nobody write through it, and unbinds itself when it is closed.
///
/// # Errors
/// `EBUSY` when somebody else took it.
pub fn bind_read_only_loop(device: &File, backing: &File) -> io::Result<()> {
    let mut config = LoopConfig {
        fd: u32::try_from(backing.as_raw_fd())
            .map_err(|_negative| io::Error::from(io::ErrorKind::InvalidInput))?,
        block_size: 0,
        info: [0; 58],
        reserved: [0; 8],
    };
    if let Some(flags) = config.info.get_mut(LOOP_INFO_FLAGS) {
        *flags = LOOP_READ_ONLY_AUTOCLEAR;
    }
    // SAFETY: the structure has the size and layout of linux/loop.h and
    // outlives the call; the kernel only reads it.
    unsafe { loop_configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

/// Mounts a filesystem read-only, attached to no tree: only the descriptor
/// leads to it, and it is gone with that (`fsopen(2)`, Linux 5.2).
///
/// # Errors
/// What the kernel answers, for an option or for the filesystem.
pub fn detached_read_only_mount(
    filesystem: &str,
    source: &str,
    options: &[(&str, Option<&str>)],
) -> io::Result<OwnedFd> {
    let text = |text: &str| CString::new(text).map_err(io::Error::other);
    let name = text(filesystem)?;
    // SAFETY: the string outlives the call.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?;
    let set = |command: libc::c_uint, key: Option<&str>, value: Option<&str>| {
        let (key, value) = (key.map(text).transpose()?, value.map(text).transpose()?);
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
        // SAFETY: both strings, where there are any, outlive the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                pointer(&key),
                pointer(&value),
                0,
            )
        };
        if answer == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    set(FSCONFIG_SET_STRING, Some("source"), Some(source))?;
    set(FSCONFIG_SET_FLAG, Some("ro"), None)?;
    for (option, value) in options {
        match value {
            None => set(FSCONFIG_SET_FLAG, Some(option), None)?,
            Some(_) => set(FSCONFIG_SET_STRING, Some(option), *value)?,
        }
    }
    set(FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: a system call with three integers.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            MOUNT_ATTRIBUTES,
        )
    })
}

/// The descriptor that a system call has made, or why it has not.
fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(answer).map_err(|_large| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Number of the block device that a link below `/proc/PID/fd` leads to; `None`
/// when it leads to anything else (`statx(2)`, Linux 4.11). No attribute is
/// asked for and none fetched, so that the kernel answers with the type and the
/// number that it has in memory, also for a file on a server that is gone.
///
/// # Errors
/// What the kernel answers.
pub fn block_device_behind(directory: BorrowedFd<'_>, link: &CStr) -> io::Result<Option<DevNo>> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the string and the structure outlive the call, and the kernel
    // writes at most one structure.
    let answer = unsafe {
        libc::statx(
            directory.as_raw_fd(),
            link.as_ptr(),
            libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
            0,
            found.as_mut_ptr(),
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it consists of integers, which are zero where the kernel has not
    // written.
    let found = unsafe { found.assume_init() };
    let is_block_device = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    Ok(is_block_device.then_some(DevNo {
        major: found.stx_rdev_major,
        minor: found.stx_rdev_minor,
    }))
}

/// Lets a mounted ext4 use this many of its blocks (`EXT4_IOC_RESIZE_FS`).
///
/// # Errors
/// What the kernel answers: `EROFS` when it is mounted read-only, `EPERM` when
/// it has errors.
pub fn grow_ext4(mount: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64 from `blocks`.
    unsafe { ext4_resize_fs(mount.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

/// How large a mounted XFS is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfsSize {
    /// Bytes in a block.
    pub block: u32,
    /// Blocks for data.
    pub blocks: u64,
    /// Percentage that inodes may take.
    pub inodes_percent: u32,
}

/// Asks a mounted XFS for its size (`XFS_IOC_FSGEOMETRY_V1`).
///
/// # Errors
/// What the kernel answers, `ENOTTY` for another filesystem.
pub fn xfs_size(mount: &File) -> io::Result<XfsSize> {
    let mut geometry = XfsGeometry::default();
    // SAFETY: the structure has the layout and size that the number of the
    // request says, and outlives the call.
    unsafe { xfs_fsgeometry(mount.as_raw_fd(), &raw mut geometry) }?;
    Ok(XfsSize {
        block: geometry.block_size,
        blocks: geometry.data_blocks,
        inodes_percent: geometry.inodes_percent,
    })
}

/// Lets a mounted XFS use this many of its blocks (`XFS_IOC_FSGROWFSDATA`).
///
/// # Errors
/// What the kernel answers, `EROFS` when it is mounted read-only.
pub fn grow_xfs(mount: &File, blocks: u64, inodes_percent: u32) -> io::Result<()> {
    let growth = XfsGrowth {
        blocks,
        inodes_percent,
    };
    // SAFETY: the kernel reads one structure of the layout of xfs_fs.h.
    unsafe { xfs_growfs_data(mount.as_raw_fd(), &raw const growth) }?;
    Ok(())
}

/// Sets or clears the immutable flag of a file or directory.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` on filesystems without flags, `EPERM` without
/// `CAP_LINUX_IMMUTABLE`.
pub fn set_immutable(file: &File, immutable: bool) -> io::Result<()> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most one long into `flags`.
    unsafe { fs_ioc_getflags(file.as_raw_fd(), &raw mut flags) }?;
    let wanted = if immutable {
        flags | IMMUTABLE
    } else {
        flags & !IMMUTABLE
    };
    if wanted != flags {
        // SAFETY: the kernel reads at most one long from `wanted`.
        unsafe { fs_ioc_setflags(file.as_raw_fd(), &raw const wanted) }?;
    }
    Ok(())
}

/// Whether the immutable flag of a file or directory is set.
///
/// # Errors
/// As [`set_immutable`].
pub fn is_immutable(file: &File) -> io::Result<bool> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most one long into `flags`.
    unsafe { fs_ioc_getflags(file.as_raw_fd(), &raw mut flags) }?;
    Ok(flags & IMMUTABLE != 0)
}

/// Makes the kernel kill the child when the thread that starts it ends, so
/// that no mkfs outlives an agent that was killed.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only two async-signal-safe system calls
    // are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // The parent may have died before the line above took effect.
            if nix::unistd::getppid() == parent {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        })
    }
}

/// Held while a child has what this process has open: from its fork until it runs
/// its program.
static FORKING: Mutex<()> = Mutex::new(());

/// Starts a program. All of the agent's are started by this.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _forking = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    // Returns when the program runs: std waits for the end of a pipe that is
    // closed by that, with all the rest.
    command.spawn()
}

/// Closes a file that the kernel grants to one only, such that the next one gets
/// it: no child has it open any more that is about to run another program.
pub fn close_for_others(file: File) {
    // Not under the lock: a disk that does not answer may keep this one, and must
    // not keep those who start programs.
    drop(file);
    drop(FORKING.lock().unwrap_or_else(PoisonError::into_inner));
}

/// A descriptor that becomes readable when the child exits. The child must not
/// have been waited for yet, so its pid still means this child.
///
/// # Errors
/// What `pidfd_open(2)` answers.
pub fn exit_descriptor(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: a system call with two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = i32::try_from(fd).map_err(|_overflow| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps the resting memory small: one heap for all threads, and freed memory
/// given back. Speed of allocation does not matter to this program.
pub fn prefer_small_heap() {
    // SAFETY: called once at start, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024);
    }
}

/// Gives freed memory back to the kernel.
pub fn return_free_memory() {
    // SAFETY: malloc_trim takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Waits for netlink messages on the event loop.
///
/// # Errors
/// When the descriptor cannot be registered.
pub fn watch_monitor(socket: udev::MonitorSocket) -> io::Result<AsyncFd<udev::MonitorSocket>> {
    // SAFETY: a monitor keeps one open descriptor for as long as it lives and
    // answers with that one each time.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Waits for conditions on an open file on the event loop.
///
/// # Errors
/// When the descriptor cannot be registered.
pub fn watch_file(file: File, interest: Interest) -> io::Result<AsyncFd<File>> {
    // SAFETY: a File keeps one open descriptor for as long as it lives and
    // answers with that one each time.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write, pipe},
        process::Stdio,
        thread,
        time::Duration,
    };

    use nix::{
        fcntl::{FcntlArg, OFlag, fcntl},
        poll::{PollFd, PollFlags, PollTimeout, poll},
    };
    use std::os::fd::AsFd;

    use super::*;

    /// Such a child once kept a disk from the mkfs of another.
    #[test]
    fn what_is_closed_for_others_is_open_in_no_child_that_is_about_to_run() {
        let (mut held, hold) = pipe().expect("a pipe");
        let (mut forked, forks) = pipe().expect("a pipe");
        let mut command = Command::new("true");
        command.stdin(Stdio::null());
        let mut tell = forks.try_clone().expect("a descriptor");
        // SAFETY: a write and a pause, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                tell.write_all(b"!")?;
                thread::sleep(Duration::from_secs(3));
                Ok(())
            });
        }
        let starts = thread::spawn(move || spawn(&mut command).expect("started"));
        forked.read_exact(&mut [0]).expect("a child");
        close_for_others(File::from(OwnedFd::from(hold)));
        fcntl(&held, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("non-blocking");
        // The child's own last step in closing it may be a moment behind.
        let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
        let closed = poll(&mut fds, PollTimeout::from(1_500_u16)).expect("polled");
        assert_eq!(closed, 1, "the child still has it");
        assert_eq!(held.read(&mut [0]).expect("the end"), 0);
        let mut child = starts.join().expect("a child");
        assert!(child.wait().expect("ended").success());
    }
}
