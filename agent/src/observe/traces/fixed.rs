//! Formats whose structures are at fixed distances from the beginning or the
//! end of a disk or partition, as one table: a row for each structure.
//!
//! Positions and magic numbers are those of util-linux
//! (libblkid/src/superblocks) unless a row says otherwise.

use std::io;

use super::{Fields, GIB, KIB, MIB, Owner, Piece, Places, Reader, TIB, Trace, piece::Likeness};

/// What is read of a structure.
const STRUCTURE: usize = 512;
/// Where the volume may begin.
const VOLUMES: [u64; 2] = [0, MIB];

/// One structure of one format.
struct Structure {
    owner: Owner,
    kind: &'static str,
    /// Bytes from the beginning of the volume.
    after_start: &'static [u64],
    /// Bytes before the end of the disk, which is first rounded down to a
    /// multiple of the second number.
    before_end: &'static [(u64, u64)],
    /// Where in the structure its magic number is.
    magic_at: usize,
    magic: &'static [u8],
    /// More that must be true, where the magic number is short.
    holds: fn(Fields<'_>) -> bool,
    /// How the first superblock is found and what it has in common with this
    /// copy; `None` where `wipefs` leaves none.
    first: Option<First>,
}

/// The first superblock of which a structure is a copy.
struct First {
    /// Where it is, from where the copy is and what the copy says.
    at: fn(u64, Fields<'_>) -> Option<u64>,
    likeness: Likeness,
}

const fn row(owner: Owner, kind: &'static str, magic_at: usize, magic: &'static [u8]) -> Structure {
    Structure {
        owner,
        kind,
        after_start: &[],
        before_end: &[],
        magic_at,
        magic,
        holds: |_| true,
        first: None,
    }
}

impl Structure {
    const fn after_start(mut self, positions: &'static [u64]) -> Self {
        self.after_start = positions;
        self
    }

    const fn before_end(mut self, distances: &'static [(u64, u64)]) -> Self {
        self.before_end = distances;
        self
    }

    const fn if_holds(mut self, holds: fn(Fields<'_>) -> bool) -> Self {
        self.holds = holds;
        self
    }

    const fn copy_of(mut self, at: fn(u64, Fields<'_>) -> Option<u64>, likeness: Likeness) -> Self {
        self.first = Some(First { at, likeness });
        self
    }
}

const SECTOR: u64 = 512;
/// Secondary headers are where the first one and its JSON area may end
/// (cryptsetup, LUKS2 on-disk format).
const LUKS2: [u64; 9] = [
    16 * KIB,
    32 * KIB,
    64 * KIB,
    128 * KIB,
    256 * KIB,
    512 * KIB,
    MIB,
    2 * MIB,
    4 * MIB,
];
pub(super) const LUKS_IN_REENCRYPTION: &[u8] = b"LUKS\xde\xad";
const LVM: [u64; 4] = [0, 512, 1024, 1536];
/// Allocation units of 1 and 4 MiB: the header's copy is in the last block
/// but one of the second unit.
const ASM: [u64; 3] = [0, 2 * MIB - 2 * 4096, 8 * MIB - 2 * 4096];
const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const PROMISE: [(u64, u64); 13] = [
    (63 * SECTOR, SECTOR),
    (255 * SECTOR, SECTOR),
    (256 * SECTOR, SECTOR),
    (16 * SECTOR, SECTOR),
    (399 * SECTOR, SECTOR),
    (591 * SECTOR, SECTOR),
    (675 * SECTOR, SECTOR),
    (735 * SECTOR, SECTOR),
    (911 * SECTOR, SECTOR),
    (974 * SECTOR, SECTOR),
    (991 * SECTOR, SECTOR),
    (951 * SECTOR, SECTOR),
    (3087 * SECTOR, SECTOR),
];
/// An anchor is in block 256 and 512, in the last block, and 256 before it.
const UDF_START: [u64; 5] = [128 * KIB, 256 * KIB, 512 * KIB, MIB, 2 * MIB];
const UDF_END: [(u64, u64); 6] = [
    (512, 512),
    (2048, 512),
    (4096, 512),
    (257 * 512, 512),
    (257 * 2048, 512),
    (257 * 4096, 512),
];

/// The magic number of UFS is in the third sector of the superblock. Its first
/// copies are in the first two cylinder groups, whose size newfs of FreeBSD
/// chooses by the block size alone: 16 KiB formerly, 32 KiB today.
const UFS: [u64; 4] = [
    (160 + 2) * SECTOR,
    (192 + 2) * SECTOR,
    (376_512 + 2) * SECTOR,
    (1_282_432 + 2) * SECTOR,
];

/// Every structure.
static STRUCTURES: &[Structure] = &[
    // Shared storage.
    row(Owner::Ocfs2, "ocfs2", 0, b"OCFSV2")
        .after_start(&[GIB, 4 * GIB, 16 * GIB, 64 * GIB, 256 * GIB, TIB])
        .copy_of(
            // `i_blkno` is where this copy is, the first is in block 2.
            |at, copy| {
                let block = 1_u64.checked_shl(copy.le32(248).filter(|bits| *bits <= 16)?)?;
                let within = copy.le64(80)?.checked_mul(block)?;
                at.checked_sub(within)?.checked_add(2 * block)
            },
            // `s_blocksize_bits`, `s_clustersize_bits` and `s_uuid`.
            Likeness {
                magic: (0, 6),
                same: &[(248, 4), (252, 4), (336, 16)],
            },
        ),
    row(
        Owner::Bluestore,
        "ceph_bluestore",
        0,
        b"bluestore block device",
    )
    // BlueStore.cc, `bdev_label_positions`.
    .after_start(&[GIB, 10 * GIB, 100 * GIB, 1000 * GIB])
    .copy_of(
        // Nothing in it says which copy it is.
        |at, _| Some(if at.is_multiple_of(GIB) { 0 } else { MIB }),
        // The UUID in text, after the magic and a line feed.
        Likeness {
            magic: (0, 22),
            same: &[(23, 36)],
        },
    ),
    // lib/blob/blobstore.h of SPDK, `SPDK_BS_SUPER_BLOCK_SIG`.
    row(Owner::Spdk, "spdk_blobstore", 0, b"SPDKBLOB").after_start(&[0]),
    row(
        Owner::Gfs2,
        "gfs2",
        0,
        &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1],
    )
    .after_start(&[64 * KIB]),
    row(Owner::Drbd, "drbd", 60, &[0x83, 0x74, 0x02])
        .before_end(&[(4096, 4096)])
        .if_holds(|block| block.be32(60).is_some_and(|magic| magic & 0xff >= 0x6b)),
    row(Owner::Asm, "oracleasm", 32, b"ORCLDISK").after_start(&ASM),
    row(
        Owner::Vmfs,
        "VMFS_volume_member",
        0,
        &[0x0d, 0xd0, 0x01, 0xc0],
    )
    .after_start(&[MIB]),
    row(Owner::Vmfs, "VMFS", 0, &[0x5e, 0xf1, 0xab, 0x2f]).after_start(&[2 * MIB]),
    // Volume managers, caches, encryption.
    // Not the `LABELONE` in front of it, which wipefs leaves there.
    row(Owner::Lvm, "LVM2_member", 24, b"LVM2 001").after_start(&LVM),
    // The first header while cryptsetup 2.3 or older encrypts the disk anew
    // (`NOMAGIC`): libblkid does not know it.
    row(Owner::Luks, "crypto_LUKS", 0, LUKS_IN_REENCRYPTION).after_start(&[0]),
    row(Owner::Luks, "crypto_LUKS", 0, b"SKUL\xba\xbe").after_start(&LUKS2),
    row(
        Owner::Bcache,
        "bcache",
        24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
    )
    .after_start(&[4096]),
    row(
        Owner::Bcache,
        "bcachefs",
        24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d,
            0xf7, 0xef,
        ],
    )
    .after_start(&[4096, 2 * MIB])
    .before_end(&[(MIB, SECTOR)]),
    row(Owner::Vdo, "vdo", 0, b"dmvdo001").after_start(&[0]),
    row(Owner::Stratis, "stratis", 4, b"!Stra0tis\x86\xff\x02^Arh").after_start(&[512, 9 * 512]),
    // Software and BIOS RAIDs.
    row(Owner::Md, "linux_raid_member", 0, MD_MAGIC)
        .after_start(&[0, 4096])
        .before_end(&[(8192, 4096)])
        .if_holds(|block| block.le32(4) == Some(1)),
    row(Owner::Md, "linux_raid_member", 0, MD_MAGIC)
        .before_end(&[(64 * KIB, 64 * KIB)])
        .if_holds(|block| block.le32(4) == Some(0)),
    row(Owner::Ddf, "ddf_raid_member", 0, &[0xde, 0x11, 0xde, 0x11])
        .before_end(&[(SECTOR, SECTOR), (257 * SECTOR, SECTOR)]),
    row(
        Owner::Imsm,
        "isw_raid_member",
        0,
        b"Intel Raid ISM Cfg Sig. ",
    )
    .before_end(&[(2 * SECTOR, SECTOR), (2 * 4096, SECTOR)]),
    row(
        Owner::BiosRaid,
        "adaptec_raid_member",
        0,
        &[0x37, 0xfc, 0x4d, 0x1e],
    )
    .before_end(&[(SECTOR, SECTOR)]),
    row(Owner::BiosRaid, "lsi_mega_raid_member", 0, b"$XIDE$").before_end(&[(SECTOR, SECTOR)]),
    row(Owner::BiosRaid, "nvidia_raid_member", 0, b"NVIDIA  ").before_end(&[(2 * SECTOR, SECTOR)]),
    row(
        Owner::BiosRaid,
        "promise_fasttrack_raid_member",
        0,
        b"Promise Technology, Inc.",
    )
    .before_end(&PROMISE),
    row(
        Owner::BiosRaid,
        "hpt45x_raid_member",
        1,
        &[0x16, 0x78, 0x5a],
    )
    .before_end(&[(11 * SECTOR, SECTOR)])
    .if_holds(|block| matches!(block.le32(0), Some(0x5a78_16f3 | 0x5a78_16fd))),
    // Filesystems.
    row(Owner::Nilfs2, "nilfs2", 6, &[0x34, 0x34])
        .before_end(&[(4096, 4096)])
        .if_holds(|block| block.le32(0) == Some(2)),
    row(Owner::F2fs, "f2fs", 0, &[0x10, 0x20, 0xf5, 0xf2])
        .after_start(&[5120])
        .copy_of(
            |at, _| at.checked_sub(4096),
            // `log_blocksize`, `block_count` and `uuid`.
            Likeness {
                magic: (0, 4),
                same: &[(16, 4), (36, 8), (108, 16)],
            },
        ),
    row(Owner::Jfs, "jfs", 0, b"JFS1")
        .after_start(&[60 * KIB])
        .copy_of(
            |at, _| at.checked_sub(28 * KIB),
            // `s_size`, `s_bsize` and `s_uuid`.
            Likeness {
                magic: (0, 4),
                same: &[(8, 8), (16, 4), (136, 16)],
            },
        ),
    row(Owner::Ufs, "ufs", 348, &[0x19, 0x01, 0x54, 0x19]).after_start(&UFS),
    row(Owner::Udf, "udf", 0, &[2, 0])
        .after_start(&UDF_START)
        .before_end(&UDF_END)
        .if_holds(is_descriptor_tag),
    row(Owner::Hfs, "hfsplus", 0, &[b'H', b'+', 0, 4]).before_end(&[(1024, SECTOR)]),
    row(Owner::Hfs, "hfsplus", 0, &[b'H', b'X', 0, 5]).before_end(&[(1024, SECTOR)]),
    // The next blocks hold earlier states of the first one.
    row(Owner::Apfs, "apfs", 32, b"NXSB").after_start(&[4096, 2 * 4096]),
    row(Owner::Vfat, "vfat", 0x52, b"FAT32   ")
        .after_start(&[6 * 512, 6 * 4096])
        .copy_of(
            |at, copy| at.checked_sub(6 * u64::from(copy.le16(11)?)),
            // Bytes in a sector, sectors in all, serial number.
            Likeness {
                magic: (0x52, 8),
                same: &[(11, 2), (32, 4), (67, 4)],
            },
        ),
    row(Owner::Exfat, "exfat", 3, b"EXFAT   ")
        .after_start(&[12 * 512, 12 * 4096])
        .copy_of(
            |at, copy| at.checked_sub(12_u64.checked_shl(u32::from(copy.byte(108)?).min(16))?),
            // Sectors in all, place of the clusters, serial number.
            Likeness {
                magic: (3, 8),
                same: &[(72, 8), (88, 4), (100, 4)],
            },
        ),
    row(Owner::Refs, "ReFS", 0, b"\0\0\0ReFS\0").before_end(&[(512, SECTOR), (4096, SECTOR)]),
];

/// ECMA-167 3/7.2: the fifth byte of a tag is the sum of the other fifteen.
fn is_descriptor_tag(tag: Fields<'_>) -> bool {
    let sum = |range| {
        tag.bytes(range)
            .map(|bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)))
    };
    match (sum(0..4), sum(5..16), tag.byte(4)) {
        (Some(before), Some(behind), Some(there)) => before.wrapping_add(behind) == there,
        (_, _, _) => false,
    }
}

pub(super) fn places(places: &mut Places) {
    for structure in STRUCTURES {
        for start in VOLUMES {
            for position in structure.after_start {
                places.add(structure.owner, start + position, STRUCTURE as u64);
            }
        }
        for (distance, multiple) in structure.before_end {
            let end = places.size - places.size % multiple;
            if let Some(position) = end.checked_sub(*distance) {
                places.add(structure.owner, position, STRUCTURE as u64);
            }
        }
    }
}

pub(super) fn look(owner: Owner, piece: &Piece, reader: &mut Reader<'_>) -> io::Result<Vec<Trace>> {
    let mut traces = Vec::new();
    for structure in STRUCTURES
        .iter()
        .filter(|structure| structure.owner == owner)
    {
        for (at, fields) in piece.sectors(STRUCTURE) {
            if !fields.has(structure.magic_at, structure.magic) || !(structure.holds)(fields) {
                continue;
            }
            let first = structure
                .first
                .as_ref()
                .and_then(|first| Some(((first.at)(at, fields)?, first.likeness)));
            let wiped = match first {
                Some((first, likeness)) if first != at => {
                    reader.is_wiped(first, fields, likeness)?
                }
                Some(_) | None => false,
            };
            traces.push(Trace {
                at,
                kind: structure.kind.to_owned(),
                wiped,
            });
        }
    }
    Ok(traces)
}

/// Every magic number and where in its structure it is.
#[cfg(test)]
pub(super) fn magics() -> impl Iterator<Item = (usize, &'static [u8])> {
    let number = |structure: &'static Structure| (structure.magic_at, structure.magic);
    STRUCTURES.iter().map(number)
}
