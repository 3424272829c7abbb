//! What superblocks say: whether a filesystem that our own mkfs made was
//! finished or even used, for a partition whose claim is still pending; and how
//! much of its partition a mounted one uses.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::xfslog;
use crate::{sys, units::Filesystem};

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

/// How much of its partition a mounted filesystem uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extent {
    /// Bytes from the beginning of the partition on.
    pub bytes: u64,
    /// Bytes in a block.
    pub block: u32,
    /// Mkfs and growing leave less than this unused at the end, where there is
    /// no room for a whole group of blocks.
    pub slack: u64,
}

/// `XFS_AG_MIN_BYTES` of mkfs.xfs: it leaves out a last group smaller than this.
const XFS_SMALLEST_GROUP: u64 = 16 * 1024 * 1024;

/// Asks a mounted filesystem for its size: ext4 by its superblock, which it
/// shares with readers of its device; XFS itself, since its superblock is on
/// the device only some time after it has grown.
///
/// # Errors
/// When it cannot be asked, or is none of that type.
pub fn extent(device: &File, mount: &File, filesystem: Filesystem) -> io::Result<Extent> {
    match filesystem {
        Filesystem::Ext4 => {
            let mut bytes = [0_u8; 2048];
            device.read_exact_at(&mut bytes, 0)?;
            ext4_extent(&bytes).ok_or_else(|| io::Error::other("no superblock of ext4"))
        }
        Filesystem::Xfs => {
            let size = sys::xfs_size(mount)?;
            let bytes = size.blocks.checked_mul(u64::from(size.block));
            Ok(Extent {
                bytes: bytes.ok_or_else(|| io::Error::other("an impossible size of XFS"))?,
                block: size.block,
                slack: XFS_SMALLEST_GROUP,
            })
        }
    }
}

/// `s_blocks_count` and what it is counted in (fs/ext4/ext4.h), from the first
/// 2048 bytes of a partition.
pub fn ext4_extent(bytes: &[u8]) -> Option<Extent> {
    const HAS_64_BIT: u32 = 0x80;
    let superblock = bytes.get(1024..2048)?;
    let word = |at: usize| -> Option<u32> {
        let four: [u8; 4] = superblock.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(four))
    };
    if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
        return None;
    }
    let block = 1024_u32
        .checked_shl(word(0x18)?)
        .filter(|size| *size <= 65536)?;
    let high = if word(0x60)? & HAS_64_BIT == 0 {
        0
    } else {
        u64::from(word(0x150)?)
    };
    let blocks = high << 32 | u64::from(word(0x4)?);
    Some(Extent {
        bytes: blocks.checked_mul(u64::from(block))?,
        block,
        slack: u64::from(word(0x20)?).checked_mul(u64::from(block))?,
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
    fn an_ext4_of_any_block_size_says_how_large_it_is() {
        let size = 512 << 20;
        for (block, slack) in [(1024_u32, 8_u64 << 20), (4096, 128 << 20)] {
            for bits in ["64bit", "^64bit"] {
                let block_size = block.to_string();
                let file = made("mkfs.ext4", &["-q", "-F", "-O", bits, "-b", &block_size]);
                let mut bytes = [0; 2048];
                file.as_file().read_exact_at(&mut bytes, 0).expect("read");
                let expected = Extent {
                    bytes: size,
                    block,
                    slack,
                };
                assert_eq!(ext4_extent(&bytes), Some(expected), "{block} {bits}");
            }
        }
        // 16 TiB and more do not fit into the lower half of the number.
        let mut large = [0; 2048];
        let superblock = &mut large[1024..];
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x18] = 2;
        superblock[0x20..0x24].copy_from_slice(&32768_u32.to_le_bytes());
        superblock[0x60] = 0x80;
        superblock[0x150] = 5;
        let extent = ext4_extent(&large).expect("a superblock");
        assert_eq!((extent.bytes, extent.slack), (5 << 44, 128 << 20));
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
