//! What superblocks say: whether a filesystem that our own mkfs made was ever
//! mounted, for a partition whose claim is still pending; whether one that is not
//! mounted has a journal to replay; and how much of its partition a mounted one
//! uses.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

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

/// What a superblock says of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// All there is to know.
    Now(Progress),
    /// It was never mounted if these bytes of the partition are zero.
    InLog(Range<u64>),
}

/// What the kernel writes behind the one record of `mkfs.xfs` before anything
/// else, when it mounts, is more than this many bytes.
const LOG_PIECE: u64 = 64 * 1024;

/// Reads the superblock at the beginning of a partition.
///
/// ext4 has no mark of a finished mkfs, but counts mounts (`s_mtime`,
/// `s_mnt_count`, Documentation/filesystems/ext4/super.rst).
///
/// XFS has such a mark, `sb_inprogress` (xfs_format.h), but `mkfs.xfs` clears it
/// with the same flush that makes everything else durable: after a power cut it
/// proves nothing. What proves a mount is the log. mkfs leaves one record in it
/// and zeroes behind; a mount that may write stamps the two mebibytes that
/// follow (`xlog_clear_stale_blocks`), and what is stored goes there first.
///
/// # Errors
/// When it cannot be read or is none of that type.
pub fn progress(device: &File, start: u64, filesystem: Filesystem) -> io::Result<Progress> {
    let mut bytes = [0_u8; 2048];
    device.read_exact_at(&mut bytes, start)?;
    let told = parse(&bytes, filesystem).ok_or_else(|| {
        io::Error::other(format!("no superblock of {filesystem} where it belongs"))
    })?;
    match told {
        Told::Now(progress) => Ok(progress),
        Told::InLog(range) => {
            let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let mut log = vec![0; length];
            device.read_exact_at(&mut log, start.saturating_add(range.start))?;
            Ok(if log.iter().any(|byte| *byte != 0) {
                Progress::Finished
            } else {
                Progress::Unused
            })
        }
    }
}

/// What the first 2048 bytes of a partition say; `None` when they are no
/// superblock of that type.
pub fn parse(bytes: &[u8], filesystem: Filesystem) -> Option<Told> {
    match filesystem {
        Filesystem::Ext4 => {
            let superblock = bytes.get(1024..)?;
            if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
                return None;
            }
            let mount_time = superblock.get(0x2c..0x30)?;
            let mount_count = superblock.get(0x34..0x36)?;
            let mounted = mount_time.iter().chain(mount_count).any(|byte| *byte != 0);
            Some(Told::Now(if mounted {
                Progress::Finished
            } else {
                Progress::Unused
            }))
        }
        Filesystem::Xfs => {
            if bytes.get(..4)? != b"XFSB" {
                return None;
            }
            if *bytes.get(126)? != 0 {
                return Some(Told::Now(Progress::Unused));
            }
            log_after_mkfs(bytes)
        }
    }
}

/// Where in the partition the log goes on behind the record of `mkfs.xfs`, by
/// the fields of `struct xfs_dsb`; `None` when they make no sense. A log on
/// another device tells nothing, and the filesystem is kept.
fn log_after_mkfs(superblock: &[u8]) -> Option<Told> {
    let number = |at: usize, length: usize| {
        let bytes = superblock.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte)),
        )
    };
    let (block, log_start) = (number(4, 4)?, number(48, 8)?);
    if log_start == 0 {
        return Some(Told::Now(Progress::Finished));
    }
    let (group_blocks, log_blocks) = (number(84, 4)?, number(96, 4)?);
    let group_bits = u32::try_from(number(124, 1)?).ok()?;
    // A record is padded to the stripe unit of the log.
    let record = number(196, 4)?.max(1024);
    // A block number is that of the group and that within the group, in bits.
    let (group, within) = (
        log_start.checked_shr(group_bits)?,
        log_start & 1_u64.checked_shl(group_bits)?.checked_sub(1)?,
    );
    let first = group.checked_mul(group_blocks)?.checked_add(within)?;
    let log = first.checked_mul(block)?;
    let end = log.checked_add(log_blocks.checked_mul(block)?)?;
    let start = log.checked_add(record)?;
    let end = end.min(start.checked_add(LOG_PIECE)?);
    (start < end).then_some(Told::InLog(start..end))
}

/// Whether a filesystem is known to have a journal that must be replayed before
/// all that it holds is seen: ext4 says so itself (`INCOMPAT_RECOVER`). XFS has
/// no such mark, only its log, and is taken as it is.
///
/// # Errors
/// When it cannot be read or is none of that type.
pub fn needs_recovery(device: &File, filesystem: Filesystem) -> io::Result<bool> {
    match filesystem {
        Filesystem::Ext4 => {
            let mut bytes = [0_u8; 2048];
            device.read_exact_at(&mut bytes, 0)?;
            ext4_needs_recovery(&bytes).ok_or_else(|| io::Error::other("no superblock of ext4"))
        }
        Filesystem::Xfs => Ok(false),
    }
}

/// `s_feature_incompat` (fs/ext4/ext4.h), from the first 2048 bytes.
fn ext4_needs_recovery(bytes: &[u8]) -> Option<bool> {
    const RECOVER: u32 = 0x4;
    let superblock = bytes.get(1024..2048)?;
    if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
        return None;
    }
    let incompatible: [u8; 4] = superblock.get(0x60..0x64)?.try_into().ok()?;
    Some(u32::from_le_bytes(incompatible) & RECOVER != 0)
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

    /// Where the log begins, as the program of the filesystem's makers says.
    fn log_of(file: &tempfile::NamedTempFile) -> u64 {
        let asked = |words: &[&str]| {
            let mut asked = Command::new("xfs_db");
            asked.args(["-r", "-f"]).args(words).arg(file.path());
            let out = asked.output().expect("xfs_db of xfsprogs");
            String::from_utf8(out.stdout).expect("text")
        };
        let block = asked(&["-c", "sb 0", "-c", "p logstart"]);
        let block = block.trim().trim_start_matches("logstart = ");
        let byte = asked(&["-c", &format!("convert fsblock {block} byte")]);
        let byte = byte.split(['(', ')']).nth(1).expect("a decimal number");
        byte.parse().expect("a number")
    }

    #[test]
    fn xfs_is_used_when_its_log_goes_on_behind_what_mkfs_wrote() {
        for (unit, record) in [(None, 1024), (Some("su=64k"), 64 * 1024)] {
            let options = unit.map_or(vec!["-q"], |unit| vec!["-q", "-l", unit]);
            let file = made("mkfs.xfs", &options);
            let read = || progress(file.as_file(), 0, Filesystem::Xfs).expect("a superblock");
            let write = |byte, at| file.as_file().write_all_at(&[byte], at).expect("written");
            assert_eq!(read(), Progress::Unused, "{unit:?}");
            let behind = log_of(&file) + record;
            write(1, behind - 1);
            assert_eq!(read(), Progress::Unused, "{unit:?}");
            write(1, behind);
            assert_eq!(read(), Progress::Finished, "{unit:?}");
            write(0, behind);
            write(1, behind + 32 * 1024);
            assert_eq!(read(), Progress::Finished, "{unit:?}");
        }
    }

    #[test]
    fn an_xfs_whose_mkfs_is_in_progress_is_unused() {
        let file = made("mkfs.xfs", &["-q"]);
        let log = log_of(&file) + 1024;
        file.as_file().write_all_at(&[1], log).expect("a log");
        file.as_file().write_all_at(&[1], 126).expect("the mark");
        let read = progress(file.as_file(), 0, Filesystem::Xfs);
        assert_eq!(read.expect("a superblock"), Progress::Unused);
    }

    #[test]
    fn a_log_elsewhere_tells_nothing_and_one_that_cannot_be_is_no_superblock() {
        let mut bytes = vec![0; 2048];
        bytes[..4].copy_from_slice(b"XFSB");
        let told = parse(&bytes, Filesystem::Xfs);
        assert_eq!(told, Some(Told::Now(Progress::Finished)));
        bytes[55] = 1;
        assert_eq!(parse(&bytes, Filesystem::Xfs), None);
        bytes[48..56].fill(0xff);
        bytes[84..88].fill(0xff);
        assert_eq!(parse(&bytes, Filesystem::Xfs), None);
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
