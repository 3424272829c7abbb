//! Whether an XFS was ever mounted, by its log.
//!
//! mkfs clears the log and writes one record, that of a clean unmount, to its
//! beginning. The first thing that a mount writes are records behind it
//! (`xlog_clear_stale_blocks`), and from then on there is always one within any
//! 256 KiB, which is the most that a record takes (xfs_log_format.h).

/// Enough to hold several records, whatever was written.
const LOOKED_AT: u64 = 1 << 20;
/// The unit in which records begin.
const BLOCK: usize = 512;
/// `XLOG_HEADER_MAGIC_NUM`.
const MAGIC: [u8; 4] = [0xfe, 0xed, 0xba, 0xbe];
/// Of `h_fs_uuid` in a record.
const UUID_AT: usize = 304;

/// The beginning of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Byte offset in the partition.
    pub at: u64,
    /// Bytes to be looked at.
    pub len: usize,
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
}

/// Where a superblock says that the log is; `None` when it says nothing that
/// could be, or that the log is on another device.
pub fn place(superblock: &[u8]) -> Option<Place> {
    let block = u64::from(be32(superblock, 4)?);
    let start = u64::from_be_bytes(*superblock.get(48..)?.first_chunk()?);
    let blocks_in_group = u64::from(be32(superblock, 84)?);
    let blocks = u64::from(be32(superblock, 96)?);
    // A block number has the group above this many bits.
    let bits = u32::from(*superblock.get(124)?);
    let group = start.checked_shr(bits)?;
    let inside = start.checked_sub(group.checked_shl(bits)?)?;
    let at = group
        .checked_mul(blocks_in_group)?
        .checked_add(inside)?
        .checked_mul(block)?;
    let len = blocks.checked_mul(block)?.min(LOOKED_AT);
    (start != 0 && len > BLOCK as u64).then_some(Place {
        at,
        len: usize::try_from(len).ok()?,
        uuid: *superblock.get(32..)?.first_chunk()?,
    })
}

/// Whether there is a record besides the one that mkfs wrote.
pub fn tells_of_a_mount(log: &[u8], uuid: &[u8; 16]) -> bool {
    let record = |block: &[u8]| {
        block.starts_with(&MAGIC) && block.get(UUID_AT..UUID_AT + 16) == Some(uuid.as_slice())
    };
    log.chunks(BLOCK).skip(1).any(record)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_record_of_this_filesystem_tells_of_a_mount() {
        let uuid = [7; 16];
        let log = |records: &[(usize, [u8; 16])]| {
            let mut log = vec![0; 4096];
            for (at, uuid) in records {
                log[*at..at + 4].copy_from_slice(&MAGIC);
                log[at + UUID_AT..at + UUID_AT + 16].copy_from_slice(uuid);
            }
            tells_of_a_mount(&log, &[7; 16])
        };
        assert!(!log(&[]));
        assert!(!log(&[(0, uuid)]));
        assert!(log(&[(0, uuid), (1024, uuid)]));
        assert!(log(&[(3584, uuid)]));
        assert!(!log(&[(0, uuid), (1024, [8; 16])]), "of another filesystem");
        assert!(!log(&[(0, uuid), (1000, uuid)]), "not where records begin");
    }

    #[test]
    fn a_superblock_that_makes_no_sense_names_no_place() {
        let sensible = |at: usize, value: u8| {
            let mut superblock = [0; 2048];
            superblock[6] = 16; // blocks of 4096 bytes
            superblock[55] = 10; // the log begins at block 10
            superblock[87] = 100; // 100 blocks in a group
            superblock[99] = 9; // 9 blocks of log
            superblock[124] = 7;
            superblock[at] = value;
            place(&superblock).map(|place| (place.at, place.len))
        };
        assert_eq!(sensible(0, 0), Some((40_960, 36_864)));
        // In the second group, and more than is looked at.
        assert_eq!(sensible(55, 138), Some((450_560, 36_864)));
        assert_eq!(sensible(98, 9), Some((40_960, 1 << 20)));
        assert_eq!(sensible(55, 0), None);
        assert_eq!(sensible(99, 0), None);
        assert_eq!(sensible(124, 64), None);
        assert_eq!(place(&[0; 100]), None);
    }
}
