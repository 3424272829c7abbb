//! The owner's superblock is gone, a copy of it is not: what an interrupted
//! `dd`, an installer or a firmware leaves of a disk full of data. The copy
//! still says whose the disk is.

use anyhow::Result;

use super::{foreign::hfs_plus_header, pools::bluestore_label};
use crate::{
    canvas::Canvas,
    row::{Row, by_hand, by_tool},
};

pub const ROWS: &[Row] = &[
    by_tool(
        "an_ext4_whose_first_superblock_is_gone_is_left_alone",
        320,
        &["signature:ext4"],
        r"mkfs.ext4 -q -F -b 4096 $disk && store ext4
        zero 0 4096",
    ),
    by_tool(
        "an_ext4_with_blocks_of_1_kib_whose_first_superblock_is_gone_is_left_alone",
        64,
        &["signature:ext4"],
        r"mkfs.ext4 -q -F -b 1024 $disk && store ext4
        zero 1024 1024",
    ),
    by_tool(
        "an_ext4_without_its_first_8_mib_is_left_alone",
        320,
        &["signature:ext4"],
        r"mkfs.ext4 -q -F -b 4096 $disk && store ext4
        zero 0 $((8 << 20))",
    ),
    by_tool(
        "an_ext4_without_its_first_and_last_8_mib_is_left_alone",
        320,
        &["signature:ext4"],
        r"mkfs.ext4 -q -F -b 4096 $disk && store ext4
        zero 0 $((8 << 20))
        zero $((312 << 20)) $((8 << 20))",
    ),
    by_tool(
        "an_ext4_of_which_an_interrupted_overwriting_left_the_rest_is_left_alone",
        320,
        &["signature:ext4"],
        r"mkfs.ext4 -q -F -b 4096 $disk && store ext4
        zero 0 $((100 << 20))",
    ),
    by_tool(
        "an_ext3_without_its_first_8_mib_is_left_alone",
        320,
        &["signature:ext3"],
        r"mkfs.ext3 -q -F -b 4096 $disk && store ext3
        zero 0 $((8 << 20))",
    ),
    by_tool(
        "an_ext2_without_its_first_8_mib_is_left_alone",
        320,
        &["signature:ext2"],
        r"mkfs.ext2 -q -F -b 4096 $disk && store ext2
        zero 0 $((8 << 20))",
    ),
    by_tool(
        "an_xfs_whose_first_superblock_is_gone_is_left_alone",
        320,
        &["signature:xfs"],
        r"mkfs.xfs -q -f $disk && store xfs
        zero 0 512",
    ),
    by_tool(
        "an_xfs_without_its_first_8_mib_is_left_alone",
        320,
        &["signature:xfs"],
        r"mkfs.xfs -q -f $disk && store xfs
        zero 0 $((8 << 20))",
    ),
    by_tool(
        "a_btrfs_whose_first_superblock_is_gone_is_left_alone",
        128,
        &["signature:btrfs"],
        r"mkfs.btrfs -q -f $disk && store btrfs
        zero 65536 4096",
    ),
    by_tool(
        "a_btrfs_without_its_first_8_mib_is_left_alone",
        128,
        &["signature:btrfs"],
        r"mkfs.btrfs -q -f $disk && store btrfs
        zero 0 $((8 << 20))",
    ),
    by_tool(
        "an_f2fs_whose_first_superblock_is_gone_is_left_alone",
        64,
        &["signature:f2fs"],
        r"mkfs.f2fs -q -f $disk
        zero 0 4096",
    ),
    by_tool(
        "an_ntfs_whose_boot_sector_is_gone_is_left_alone",
        64,
        &["signature:ntfs"],
        r"mkntfs -q -Q -F $disk
        zero 0 512",
    ),
    by_tool(
        "an_exfat_whose_boot_region_is_gone_is_left_alone",
        64,
        &["signature:exfat"],
        r"mkfs.exfat $disk && store exfat
        zero 0 $((12 * 512))",
    ),
    by_tool(
        "a_fat32_whose_boot_sector_is_gone_is_left_alone",
        64,
        &["signature:vfat"],
        r"mkfs.fat -I -F 32 --mbr=n $disk && store vfat
        zero 0 512",
    ),
    by_tool(
        "a_nilfs2_without_its_first_8_mib_is_left_alone",
        136,
        &["signature:nilfs2"],
        r"mkfs.nilfs2 -q -f $disk
        zero 0 $((8 << 20))",
    ),
    // The first backup superblock is at 1 GiB.
    by_tool(
        "an_ocfs2_without_its_first_8_mib_is_left_alone",
        1152,
        &["signature:ocfs2"],
        r"mkfs.ocfs2 -q -F -b 4096 -C 4096 -N 1 -J size=4M --fs-features=local,backup-super $disk < <(yes)
        zero 0 $((8 << 20))",
    ),
    by_hand(
        "an_hfs_plus_whose_first_header_is_gone_is_left_alone",
        64,
        &["signature:hfsplus"],
        hfs_plus_alternate,
    ),
    by_tool(
        "a_luks2_whose_first_header_is_gone_is_left_alone",
        64,
        &["signature:crypto_LUKS"],
        r"encrypt --type luks2 $disk
        zero 0 16384",
    ),
    // Its keys have no copy: nothing names them, but they are not zero.
    by_tool(
        "a_luks1_whose_header_is_gone_is_left_alone",
        64,
        &["residual-data"],
        r"encrypt --type luks1 $disk
        zero 0 4096",
    ),
    by_tool(
        "a_zfs_pool_without_its_first_8_mib_is_left_alone",
        128,
        &["signature:zfs_member"],
        r"pool shortened
        zero 0 $((8 << 20))",
    ),
    // Ceph has kept further labels since Squid, the first of them at 1 GiB.
    by_hand(
        "a_ceph_bluestore_disk_whose_first_label_is_gone_is_left_alone",
        1152,
        &["signature:ceph_bluestore"],
        bluestore_copy,
    ),
    by_tool(
        "an_array_of_metadata_1_0_without_its_first_8_mib_is_left_alone",
        64,
        &["signature:linux_raid_member"],
        r"mirror 1.0
        zero 0 $((8 << 20))",
    ),
    // No copy of their superblocks is known; their other blocks are not zero.
    by_tool(
        "a_gfs2_whose_superblock_is_gone_is_left_alone",
        64,
        &["residual-data"],
        r"mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 8 $disk
        zero 65536 4096",
    ),
    by_tool(
        "a_reiserfs_whose_superblock_is_gone_is_left_alone",
        64,
        &["residual-data"],
        r"mkfs.reiserfs -q -f -f $disk
        zero 65536 4096",
    ),
    by_tool(
        "a_physical_volume_whose_label_is_gone_is_left_alone",
        64,
        &["residual-data"],
        r"vgcreate -q unlabelled $disk
        lvcreate -q -y -L 16M -n data unlabelled
        vgchange -q -an unlabelled
        zero 0 4096",
    ),
    by_tool(
        "a_backup_gpt_alone_is_left_alone",
        64,
        &["signature:gpt"],
        r"sgdisk -n 1:0:0 $disk
        zero 0 $((34 * 512))",
    ),
    by_tool(
        "a_backup_gpt_alone_on_a_disk_with_4096_byte_sectors_is_left_alone",
        64,
        &["signature:gpt"],
        r"sgdisk -n 1:0:0 $disk
        zero 0 $((6 * 4096))",
    )
    .with_sector(4096),
    by_tool(
        "a_backup_gpt_for_4096_byte_sectors_alone_on_a_disk_with_512_is_left_alone",
        64,
        &["signature:gpt"],
        r"gpt_4096
        zero 0 $((6 * 4096))",
    ),
    by_tool(
        "a_gpt_whose_primary_header_is_damaged_is_left_alone",
        64,
        &["signature:gpt"],
        r"sgdisk -n 1:0:0 $disk
        printf damaged | at 568",
    ),
];

fn hfs_plus_alternate(disk: &mut Canvas) -> Result<()> {
    let header = hfs_plus_header(disk);
    disk.put(disk.size() - 1024, header)
}

fn bluestore_copy(disk: &mut Canvas) -> Result<()> {
    disk.put(1 << 30, bluestore_label())?;
    disk.put_random(64 << 20, 64 << 10)
}
