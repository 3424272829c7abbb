//! Looks into a filesystem that nobody has mounted, for the one file by which
//! Longhorn marks its disks, and changes not one byte of it.
//!
//! A read-only mount is not enough: ext4 replays its journal on one, and cleans
//! up its list of orphans even with `noload`, as long as the device can be
//! written to. So a read-only loop device is put on top, which no driver can
//! write through, and the filesystem is told not to replay (ext4(5) `noload`,
//! xfs(5) `norecovery`). The mount is attached to no tree (`fsmount(2)`), so no
//! process but this one ever sees it, and it is gone with its descriptor,
//! however this process ends.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag, openat},
    sys::stat::Mode,
};

use super::{
    longhorn_disk::{self, LonghornDisk},
    superblock,
};
use crate::{sys, units::Filesystem};

/// Others take free loop devices as well, and udevd looks at one for a moment
/// after it was given back.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);
/// The kernel shows one free device to all who ask at the same time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a filesystem says of Longhorn. `device` is open for reading only;
/// `nodes` is the directory of device nodes.
///
/// # Errors
/// When there is no loop device, the kernel does not mount the filesystem, or the
/// file is not there as far as can be told without the journal.
pub fn peek(device: &File, filesystem: Filesystem, nodes: &Path) -> io::Result<LonghornDisk> {
    let lens = read_only_loop(device, nodes)?;
    let source = format!("/proc/self/fd/{}", lens.as_raw_fd());
    let options: &[(&str, Option<&str>)] = match filesystem {
        // Whatever its superblock asks for: an error in somebody's filesystem
        // must not make the kernel panic.
        Filesystem::Ext4 => &[("noload", None), ("errors", Some("continue"))],
        // Another with this UUID may be mounted, and must stay mountable.
        Filesystem::Xfs => &[("norecovery", None), ("nouuid", None)],
    };
    let root = sys::detached_read_only_mount(filesystem.name(), &source, options)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match openat(root.as_fd(), longhorn_disk::FILE, flags, Mode::empty()) {
        Ok(file) => {
            let file = File::from(file);
            // Whatever else may bear the name is not Longhorn's.
            if file.metadata()?.is_file() {
                longhorn_disk::read(file)
            } else {
                Ok(LonghornDisk::Nameless)
            }
        }
        Err(Errno::ENOENT) if superblock::needs_recovery(device, filesystem)? => {
            Err(io::Error::other(
                "it is not there, but may be in the journal, which has not been replayed",
            ))
        }
        Err(Errno::ENOENT) => Ok(LonghornDisk::None),
        // A symbolic link.
        Err(Errno::ELOOP) => Ok(LonghornDisk::Nameless),
        Err(error) => Err(error.into()),
    }
}

/// A loop device through which the file can only be read, and which is gone
/// when it is closed. It is locked, so that udevd does not look at it and
/// point links such as by-uuid at it.
fn read_only_loop(device: &File, nodes: &Path) -> io::Result<Flock<File>> {
    let control = File::open(nodes.join("loop-control"))?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let number = sys::free_loop(&control)?;
        let file = File::open(nodes.join(format!("loop{number}")))?;
        let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => sys::bind_read_only_loop(&file, device).map(|()| file),
            Err((_, error)) => Err(error.into()),
        };
        match held {
            Ok(file) => return Ok(file),
            Err(error) if attempt < ATTEMPTS && is_taken(&error) => {
                drop(turn);
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        os::unix::fs::FileExt,
        process::Command,
        time::{Duration, Instant},
    };

    use sha2::{Digest, Sha256};

    use super::*;

    const CONFIG: &str = r#"{"diskName":"sdh1","diskUUID":"1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3"}"#;

    fn run(program: &str, arguments: &[&str]) {
        let out = Command::new(program).args(arguments).output();
        let out = out.expect(program);
        assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
    }

    /// An image with the file, if there is to be one.
    fn image(directory: &Path, filesystem: Filesystem, config: Option<&str>) -> std::path::PathBuf {
        let path = directory.join(format!("{filesystem:?}.img"));
        let file = File::create(&path).expect("an image");
        file.set_len(320 << 20).expect("its size");
        let text = path.to_str().expect("UTF-8");
        let contents = directory.join("contents");
        fs::create_dir_all(&contents).expect("a directory");
        if let Some(config) = config {
            fs::write(contents.join(longhorn_disk::FILE), config).expect("a file");
        }
        match filesystem {
            Filesystem::Ext4 => run(
                "mkfs.ext4",
                &["-q", "-d", contents.to_str().expect("UTF-8"), text],
            ),
            Filesystem::Xfs => {
                let prototype = directory.join("prototype");
                let file = match config {
                    Some(_) => format!(
                        "{name} ---644 0 0 {path}\n",
                        name = longhorn_disk::FILE,
                        path = contents.join(longhorn_disk::FILE).display()
                    ),
                    None => String::new(),
                };
                let lines = format!("/dev/null\n0 0\nd--755 0 0\n{file}$\n");
                fs::write(&prototype, lines).expect("a prototype");
                run(
                    "mkfs.xfs",
                    &["-q", "-p", prototype.to_str().expect("UTF-8"), text],
                );
            }
        }
        path
    }

    fn digest(path: &Path) -> Vec<u8> {
        Sha256::digest(fs::read(path).expect("an image")).to_vec()
    }

    #[test]
    fn the_file_is_read_out_of_an_ext4_that_nobody_mounted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Ext4, Some(CONFIG));
        let before = digest(&path);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let file = open().expect("an image");
        let found = peek(&file, Filesystem::Ext4, Path::new("/dev")).expect("mounted");
        assert_eq!(found, longhorn_disk::parse(CONFIG.as_bytes()));
        assert_eq!(digest(&path), before);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains("/proc/self/fd"), "{mounts}");
    }

    /// With `needs_recovery` and a list of orphans, which a plain read-only
    /// mount would replay and clean up.
    fn cut_off(path: &Path) -> File {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.expect("an image");
        let word = |at: u64| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, 1024 + at).expect("read");
            u32::from_le_bytes(bytes)
        };
        // s_feature_incompat |= RECOVER; without checksums of metadata the
        // superblock needs no new one, so they are off.
        run(
            "tune2fs",
            &["-O", "^metadata_csum", path.to_str().expect("UTF-8")],
        );
        let incompat = word(0x60) | 0x4;
        file.write_all_at(&incompat.to_le_bytes(), 1024 + 0x60)
            .expect("write");
        // s_last_orphan: the first inode that is not reserved.
        file.write_all_at(&12_u32.to_le_bytes(), 1024 + 0xe8)
            .expect("write");
        file
    }

    #[test]
    fn an_ext4_that_was_cut_off_is_not_repaired_by_looking() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Ext4, Some(CONFIG));
        let file = cut_off(&path);
        let before = digest(&path);
        let found = peek(&file, Filesystem::Ext4, Path::new("/dev")).expect("mounted");
        assert_eq!(found, longhorn_disk::parse(CONFIG.as_bytes()));
        assert_eq!(digest(&path), before);
    }

    /// Longhorn may have written it a moment before.
    #[test]
    fn a_file_that_may_be_in_the_journal_only_is_not_an_absent_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Ext4, None);
        let file = cut_off(&path);
        let error = peek(&file, Filesystem::Ext4, Path::new("/dev")).expect_err("not known");
        assert!(error.to_string().contains("journal"), "{error}");
        let path = path.to_str().expect("UTF-8");
        // 1: errors were mended.
        let mended = Command::new("e2fsck").args(["-fy", path]).status();
        assert_eq!(mended.expect("e2fsck").code(), Some(1));
        let found = peek(&file, Filesystem::Ext4, Path::new("/dev"));
        assert_eq!(found.expect("mounted"), LonghornDisk::None);
    }

    #[test]
    fn a_filesystem_without_the_file_says_nothing_and_a_broken_one_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Ext4, None);
        let file = File::open(&path).expect("an image");
        let look = || peek(&file, Filesystem::Ext4, Path::new("/dev"));
        assert_eq!(look().expect("mounted"), LonghornDisk::None);
        let garbage = directory.path().join("garbage");
        fs::write(&garbage, vec![0xa5; 1 << 20]).expect("garbage");
        let file = File::open(&garbage).expect("garbage");
        assert!(peek(&file, Filesystem::Ext4, Path::new("/dev")).is_err());
    }

    #[test]
    fn many_looks_at_the_same_time_all_see() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Ext4, Some(CONFIG));
        let look = || {
            let file = File::open(&path).expect("an image");
            peek(&file, Filesystem::Ext4, Path::new("/dev")).expect("mounted")
        };
        let found: Vec<LonghornDisk> = thread::scope(|scope| {
            let looks: Vec<_> = (0..8).map(|_| scope.spawn(look)).collect();
            let seen = looks.into_iter().map(|look| look.join().expect("it ended"));
            seen.collect()
        });
        assert!(
            found
                .iter()
                .all(|found| *found == longhorn_disk::parse(CONFIG.as_bytes()))
        );
    }

    #[test]
    fn no_loop_device_is_left_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Ext4, Some(CONFIG));
        let file = File::open(&path).expect("an image");
        for _ in 0..8 {
            peek(&file, Filesystem::Ext4, Path::new("/dev")).expect("mounted");
        }
        // A child that another test has just started, or udevd, may hold one open
        // for a moment longer.
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            let bound = Command::new("losetup").arg("-j").arg(&path).output();
            let bound = bound.expect("losetup");
            if bound.stdout.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{bound:?}");
            thread::sleep(PAUSE);
        }
    }

    #[test]
    fn an_xfs_is_read_also_while_its_log_is_dirty() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = image(directory.path(), Filesystem::Xfs, Some(CONFIG));
        let before = digest(&path);
        let file = File::open(&path).expect("an image");
        match peek(&file, Filesystem::Xfs, Path::new("/dev")) {
            Ok(found) => assert_eq!(found, longhorn_disk::parse(CONFIG.as_bytes())),
            // Not every kernel has XFS.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}"),
        }
        assert_eq!(digest(&path), before);
    }
}
