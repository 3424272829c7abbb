//! The partition table is gone, the filesystems that it led to are not. They
//! are where a partition usually starts: at 1 MiB, or at sector 63 on a disk
//! partitioned long ago.

use crate::row::{Row, by_tool};

pub const ROWS: &[Row] = &[
    by_tool(
        "an_ext4_in_a_partition_whose_gpt_is_gone_is_left_alone",
        64,
        &["signature:ext4"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1
        no_gpt",
    ),
    by_tool(
        "an_xfs_in_a_partition_whose_gpt_is_gone_is_left_alone",
        320,
        &["signature:xfs"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.xfs -q ${disk}1
        no_gpt",
    ),
    by_tool(
        "a_btrfs_in_a_partition_whose_gpt_is_gone_is_left_alone",
        128,
        &["signature:btrfs"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.btrfs -q ${disk}1
        no_gpt",
    ),
    by_tool(
        "an_ntfs_in_a_partition_whose_gpt_is_gone_is_left_alone",
        64,
        &["signature:ntfs"],
        r"sgdisk -n 1:0:0 -t 1:0700 $disk
        wait_for ${disk}1
        mkntfs -q -Q ${disk}1
        no_gpt",
    ),
    by_tool(
        "a_luks2_in_a_partition_whose_gpt_is_gone_is_left_alone",
        64,
        &["signature:crypto_LUKS"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        encrypt --type luks2 ${disk}1
        no_gpt",
    ),
    by_tool(
        "a_physical_volume_in_a_partition_whose_gpt_is_gone_is_left_alone",
        64,
        &["signature:LVM2_member"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        pvcreate -q -y ${disk}1
        no_gpt",
    ),
    by_tool(
        "an_ext3_at_sector_63_whose_mbr_is_gone_is_left_alone",
        64,
        &["signature:ext3"],
        r"printf '%s\n' 'label: dos' start=63,type=83 | sfdisk -q $disk
        wait_for ${disk}1
        mkfs.ext3 -q ${disk}1
        zero 0 512",
    ),
    by_tool(
        "an_ext4_in_a_partition_without_the_first_8_mib_of_the_disk_is_left_alone",
        320,
        &["signature:ext4"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.ext4 -q -b 4096 ${disk}1
        no_gpt
        zero 0 $((8 << 20))",
    ),
    by_tool(
        "an_xfs_in_a_partition_without_the_first_8_mib_of_the_disk_is_left_alone",
        320,
        &["signature:xfs"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.xfs -q ${disk}1
        no_gpt
        zero 0 $((8 << 20))",
    ),
];
