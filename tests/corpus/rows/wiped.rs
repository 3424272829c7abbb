//! What `wipefs -a` leaves: everything but the magic number. Somebody meant to
//! erase the disk, so a person can approve it; until then it is left alone.

use crate::row::{Row, by_tool};

pub const ROWS: &[Row] = &[
    by_tool(
        "a_wiped_ext4_is_left_alone",
        320,
        &["residual-data"],
        r"mkfs.ext4 -q -F -b 4096 $disk && store ext4
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_xfs_is_left_alone",
        320,
        &["residual-data"],
        r"mkfs.xfs -q -f $disk && store xfs
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_btrfs_is_left_alone",
        128,
        &["residual-data"],
        r"mkfs.btrfs -q -f $disk && store btrfs
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_luks2_is_left_alone",
        64,
        &["residual-data"],
        r"encrypt --type luks2 $disk
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_array_member_is_left_alone",
        64,
        &["residual-data"],
        r"mirror 1.2
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_physical_volume_is_left_alone",
        64,
        &["residual-data"],
        r"vgcreate -q wiped $disk
        lvcreate -q -y -L 16M -n data wiped
        vgchange -q -an wiped
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_swap_is_left_alone",
        64,
        &["residual-data"],
        r"mkswap $disk
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_wiped_empty_gpt_is_left_alone",
        64,
        &["residual-data"],
        r"sgdisk --clear $disk
        wipefs -q -a $disk",
    ),
    by_tool(
        "a_disk_wiped_after_its_partition_is_left_alone",
        64,
        &["residual-data"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1
        wipefs -q -a ${disk}1
        wipefs -q -a $disk",
    ),
    // Only the table was erased: the filesystem in the partition is whole.
    by_tool(
        "a_disk_wiped_without_its_partition_is_left_alone",
        64,
        &["signature:ext4"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1
        wipefs -q -a $disk",
    ),
];
