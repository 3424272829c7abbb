//! Whether a filesystem that our own mkfs made was finished or even used, for
//! a partition whose claim is still pending.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::xfslog;
use crate::units::Filesystem;

/// How far a filesystem of ours has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Never mounted: making it again loses nothing.
    Unused,
    /// Complete, perhaps used: it is kept.
    Finished,
}

/// Reads the superblock at the beginning of a partition.
///
/// ext4 has no mark of a finished mkfs, but counts mounts (`s_mtime`,
/// `s_mnt_count`, Documentation/filesystems/ext4/super.rst). XFS cannot be
/// mounted while `sb_inprogress` is set, which mkfs clears last of all
/// (xfs_format.h). That it is cleared does not say that the rest is there: mkfs
/// flushes the disk only after that, and a power cut may have taken any of its
/// writes before. So an XFS is kept only if its log tells of a mount.
///
/// # Errors
/// When it cannot be read or is none of that type.
pub fn progress(device: &File, start: u64, filesystem: Filesystem) -> io::Result<Progress> {
    let mut bytes = [0_u8; 2048];
    device.read_exact_at(&mut bytes, start)?;
    let none = || io::Error::other(format!("no superblock of {filesystem} where it belongs"));
    let progress = parse(&bytes, filesystem).ok_or_else(none)?;
    if (filesystem, progress) != (Filesystem::Xfs, Progress::Finished) {
        return Ok(progress);
    }
    let place = xfslog::place(&bytes).ok_or_else(none)?;
    let mut log = vec![0; place.len];
    device.read_exact_at(&mut log, start.saturating_add(place.at))?;
    Ok(if xfslog::tells_of_a_mount(&log, &place.uuid) {
        Progress::Finished
    } else {
        Progress::Unused
    })
}

/// What the superblock in the first 2048 bytes of a partition says; `None` when
/// they are no superblock of that type.
pub fn parse(bytes: &[u8], filesystem: Filesystem) -> Option<Progress> {
    let used = match filesystem {
        Filesystem::Ext4 => {
            let superblock = bytes.get(1024..)?;
            if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
                return None;
            }
            let mount_time = superblock.get(0x2c..0x30)?;
            let mount_count = superblock.get(0x34..0x36)?;
            mount_time.iter().chain(mount_count).any(|byte| *byte != 0)
        }
        Filesystem::Xfs => {
            if bytes.get(..4)? != b"XFSB" {
                return None;
            }
            *bytes.get(126)? == 0
        }
    };
    Some(if used {
        Progress::Finished
    } else {
        Progress::Unused
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt, process::Command};

    use super::*;

    fn made(program: &str, arguments: &[&str]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(512 << 20).expect("its size");
        let made = Command::new(program)
            .args(arguments)
            .arg(file.path())
            .output()
            .expect(program);
        assert!(made.status.success(), "{made:?}");
        file
    }

    #[test]
    fn a_fresh_ext4_is_unused_and_a_counted_mount_makes_it_used() {
        let file = made("mkfs.ext4", &["-q", "-F"]);
        let read = || progress(file.as_file(), 0, Filesystem::Ext4).expect("a superblock");
        assert_eq!(read(), Progress::Unused);
        file.as_file()
            .write_all_at(&[1], 1024 + 0x34)
            .expect("a mount count");
        assert_eq!(read(), Progress::Finished);
    }

    #[test]
    fn a_fresh_xfs_is_unused_whether_or_not_mkfs_came_to_its_end() {
        for sector in ["512", "4096"] {
            let size = format!("size={sector}");
            let file = made("mkfs.xfs", &["-q", "-s", &size]);
            let read = || progress(file.as_file(), 0, Filesystem::Xfs).expect("a superblock");
            assert_eq!(read(), Progress::Unused);
            file.as_file().write_all_at(&[1], 126).expect("the mark");
            assert_eq!(read(), Progress::Unused);
        }
    }

    /// As the kernel leaves it from the first moment of a mount on: records
    /// behind the one that mkfs wrote.
    #[test]
    fn an_xfs_whose_log_tells_of_a_mount_is_finished() {
        let file = made("mkfs.xfs", &["-q"]);
        let mut superblock = [0; 2048];
        file.as_file()
            .read_exact_at(&mut superblock, 0)
            .expect("a superblock");
        let place = xfslog::place(&superblock).expect("a log");
        let mut first = [0; 512];
        file.as_file()
            .read_exact_at(&mut first, place.at)
            .expect("a record");
        file.as_file()
            .write_all_at(&first, place.at + 1024)
            .expect("a second record");
        let read = || progress(file.as_file(), 0, Filesystem::Xfs).expect("a superblock");
        assert_eq!(read(), Progress::Finished);
        file.as_file().write_all_at(&[1], 126).expect("the mark");
        assert_eq!(read(), Progress::Unused);
    }

    #[test]
    fn what_is_no_superblock_is_an_error() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("its size");
        for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
            assert!(progress(&file, 0, filesystem).is_err());
        }
    }
}
