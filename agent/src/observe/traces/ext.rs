//! ext2, ext3 and ext4 keep copies of the superblock at the beginning of block
//! groups 1 and the powers of 3, 5 and 7 (Documentation/filesystems/ext4,
//! "Block Groups").

use std::io;

use super::{Fields, GIB, MIB, Owner, Piece, Places, Reader, SECTOR_63, Trace, piece::Likeness};

/// What is read of a superblock: all that is looked at lies in its first half.
const SUPERBLOCK: usize = 512;
/// Where the first superblock is in the filesystem.
const PRIMARY: u64 = 1024;
/// `s_uuid`, `s_blocks_per_group` and `s_inodes_per_group`. The block size is
/// left out because it is zero for blocks of 1 KiB.
const LIKENESS: Likeness = Likeness {
    magic: (0x38, 2),
    same: &[(0x68, 16), (0x20, 4), (0x28, 4)],
};

/// Blocks of a group: a bitmap of one block has a bit for each, and the count
/// has to fit into 16 bits (e2fsprogs, `EXT2_MAX_BLOCKS_PER_GROUP`).
const fn group_size(block: u64) -> u64 {
    let bits = block * 8;
    block * if bits > 65528 { 65528 } else { bits }
}

/// Block size, and the groups whose copies are looked for, at each start. The
/// higher groups are for disks of which more than the beginning was erased.
const LAYOUTS: [(u64, &[u64], &[u64]); 6] = [
    (1024, &[1, 3], &[0, MIB]),
    (2048, &[1, 3], &[0, MIB]),
    (4096, &[1, 3, 5, 7, 9, 81, 729], &[0, MIB]),
    (4096, &[1, 3], &[2 * MIB]),
    (4096, &[1], &[SECTOR_63]),
    (65536, &[1], &[0, MIB]),
];

/// Sizes of groups that were asked for: those of `mkfs -g` are 16 to 64 MiB,
/// those of clusters (`-O bigalloc`) half a gibibyte and more, 2 GiB by default.
const OTHER_GROUPS: [u64; 8] = [
    16 * MIB,
    32 * MIB,
    64 * MIB,
    512 * MIB,
    GIB,
    2 * GIB,
    4 * GIB,
    8 * GIB,
];

pub(super) fn places(places: &mut Places) {
    for start in [0, MIB] {
        for group in OTHER_GROUPS {
            places.add(Owner::Ext, start + group, SUPERBLOCK as u64);
        }
    }
    for (block, groups, starts) in LAYOUTS {
        // Blocks of 1 KiB are counted from the second: the first is for a boot loader.
        let first_block = if block == 1024 { block } else { 0 };
        for start in starts {
            for group in groups {
                let position = start + group * group_size(block) + first_block;
                places.add(Owner::Ext, position, SUPERBLOCK as u64);
            }
        }
    }
}

pub(super) fn look(piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = Vec::new();
    for (at, superblock) in piece.sectors(SUPERBLOCK) {
        let Some(found) = Superblock::read(superblock) else {
            continue;
        };
        let mut wiped = false;
        for start in found.starts(at) {
            let primary = start.saturating_add(PRIMARY);
            wiped |= primary != at && reader.is_wiped(primary, superblock, LIKENESS)?;
        }
        traces.push(Trace {
            at,
            kind: found.kind.to_owned(),
            wiped,
        });
    }
    Ok(traces)
}

struct Superblock {
    kind: &'static str,
    /// The group that this copy believes to be in.
    group: u64,
    /// Bytes of a group.
    group_size: u64,
    /// Bytes before the first group.
    first_block: u64,
}

impl Superblock {
    fn read(fields: Fields<'_>) -> Option<Self> {
        // Checked first: most pieces fail here.
        if fields.le16(0x38)? != 0xef53 {
            return None;
        }
        let shift = fields.le32(0x18).filter(|shift| *shift <= 6)?;
        let block = 1024_u64 << shift;
        let blocks_per_group = fields.le32(0x20).filter(|count| *count > 0)?;
        let known_revision = fields.le32(0x4c)? <= 1;
        let populated = fields.le32(0)? > 0 && fields.le32(0x28)? > 0;
        (known_revision && populated).then_some(())?;
        Some(Self {
            kind: kind(fields)?,
            group: fields.le16(0x5a)?.into(),
            group_size: block * u64::from(blocks_per_group),
            first_block: block * u64::from(fields.le32(0x14)?),
        })
    }

    /// Where the filesystem may begin. A resize by a kernel before 6.3 wrote
    /// copies that all say group 0, so then the usual places are tried.
    fn starts(&self, at: u64) -> Vec<u64> {
        let in_groups = at.saturating_sub(self.first_block);
        if self.group > 0 {
            let told = in_groups.checked_sub(self.group.saturating_mul(self.group_size));
            return told.into_iter().collect();
        }
        [0, SECTOR_63, MIB, 2 * MIB]
            .into_iter()
            .filter(|start| {
                in_groups
                    .checked_sub(*start)
                    .is_some_and(|groups| groups.is_multiple_of(self.group_size))
            })
            .collect()
    }
}

/// By the features that each one knows, as libblkid tells them apart.
fn kind(fields: Fields<'_>) -> Option<&'static str> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    /// sparse_super, large_file, btree_dir.
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
    /// filetype, recover, meta_bg.
    const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;

    let compat = fields.le32(0x5c)?;
    let incompat = fields.le32(0x60)?;
    let ro_compat = fields.le32(0x64)?;
    Some(if incompat & JOURNAL_DEVICE != 0 {
        "jbd"
    } else if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        "ext4"
    } else if compat & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    })
}
