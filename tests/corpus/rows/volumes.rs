//! What lies below a filesystem: swap, encryption, volume managers and arrays,
//! each made by its own tool.

use crate::row::{Row, by_tool};

pub const ROWS: &[Row] = &[
    by_tool(
        "swap_is_left_alone",
        64,
        &["signature:swap"],
        "mkswap $disk",
    ),
    // The kernel puts its mark where swap's own was: kernel/power/swap.c.
    by_tool(
        "a_hibernation_image_is_left_alone",
        64,
        &["signature:swsuspend"],
        r"mkswap $disk
        head -c 1M /dev/urandom | at 4096
        printf 'S1SUSPEND\0' | at 4086",
    ),
    by_tool(
        "luks1_is_left_alone",
        64,
        &["signature:crypto_LUKS"],
        "encrypt --type luks1 $disk",
    ),
    by_tool(
        "luks2_is_left_alone",
        64,
        &["signature:crypto_LUKS"],
        "encrypt --type luks2 $disk",
    ),
    // Without its header, the data are random to everybody else.
    by_tool(
        "luks2_data_with_a_detached_header_and_the_header_are_left_alone",
        64,
        &["residual-data", "signature:crypto_LUKS"],
        r"encrypt --type luks2 --header $disk2 --offset 0 $disk
        printf secret | cryptsetup open --key-file - --header $disk2 $disk detached
        mkfs.ext4 -q /dev/mapper/detached
        sync
        cryptsetup close detached",
    ),
    by_tool(
        "plain_dm_crypt_is_left_alone",
        64,
        &["residual-data"],
        r"printf secret | cryptsetup open --type plain --key-file - --cipher aes-xts-plain64 --key-size 256 $disk plain
        mkfs.ext4 -q /dev/mapper/plain
        sync
        cryptsetup close plain",
    ),
    by_tool(
        "dm_integrity_is_left_alone",
        64,
        &["signature:DM_integrity"],
        "integritysetup -q format --no-wipe $disk",
    ),
    by_tool(
        "the_data_and_the_hashes_of_dm_verity_are_left_alone",
        64,
        &["signature:squashfs", "signature:DM_verity_hash"],
        r"mksquashfs files image -quiet && put image
        veritysetup format --data-blocks 64 $disk $disk2",
    ),
    by_tool(
        "the_store_of_a_snapshot_is_left_alone",
        64,
        &["signature:ext4", "signature:DM_snapshot_cow"],
        r#"mkfs.ext4 -q -F $disk
        dmsetup create snapshot --table "0 131072 snapshot $disk $disk2 P 8"
        head -c 64K /dev/urandom >/dev/mapper/snapshot
        sync
        dmsetup remove --retry snapshot"#,
    ),
    by_tool(
        "a_physical_volume_is_left_alone",
        64,
        &["signature:LVM2_member"],
        "pvcreate -q -ff -y $disk",
    ),
    by_tool(
        "a_physical_volume_with_two_copies_of_its_metadata_is_left_alone",
        64,
        &["signature:LVM2_member"],
        "pvcreate -q -ff -y --metadatacopies 2 $disk",
    ),
    by_tool(
        "a_physical_volume_without_metadata_is_left_alone",
        64,
        &["signature:LVM2_member"],
        "pvcreate -q -ff -y --metadatacopies 0 $disk",
    ),
    by_tool(
        "a_physical_volume_with_its_label_in_the_fourth_sector_is_left_alone",
        64,
        &["signature:LVM2_member"],
        "pvcreate -q -ff -y --labelsector 3 $disk",
    ),
    by_tool(
        "both_disks_of_a_volume_group_are_left_alone",
        64,
        &["signature:LVM2_member", "signature:LVM2_member"],
        r"vgcreate -q linear $disk $disk2
        lvcreate -q -y -l 100%FREE -n data linear
        mkfs.ext4 -q /dev/linear/data
        vgchange -q -an linear",
    ),
    by_tool(
        "a_thin_pool_is_left_alone",
        64,
        &["signature:LVM2_member"],
        r"vgcreate -q thin $disk
        lvcreate -q -y --type thin-pool -L 16M -n pool thin
        lvcreate -q -y -V 32M --thinpool pool -n data thin
        mkfs.ext4 -q /dev/thin/data
        vgchange -q -an thin",
    ),
    by_tool(
        "a_member_of_an_array_with_metadata_0_90_is_left_alone",
        64,
        &["signature:linux_raid_member"],
        "mirror 0.90",
    ),
    by_tool(
        "a_member_of_an_array_with_metadata_1_0_is_left_alone",
        64,
        &["signature:linux_raid_member"],
        "mirror 1.0",
    ),
    by_tool(
        "a_member_of_an_array_with_metadata_1_1_is_left_alone",
        64,
        &["signature:linux_raid_member"],
        "mirror 1.1",
    ),
    by_tool(
        "a_member_of_an_array_with_metadata_1_2_is_left_alone",
        64,
        &["signature:linux_raid_member"],
        "mirror 1.2",
    ),
    by_tool(
        "both_disks_of_an_intel_matrix_array_are_left_alone",
        64,
        &["signature:isw_raid_member", "signature:isw_raid_member"],
        r"export IMSM_NO_PLATFORM=1
        array imsm -e imsm -n 2 $disk $disk2",
    ),
    by_tool(
        "both_disks_of_a_ddf_array_are_left_alone",
        64,
        &["signature:ddf_raid_member", "signature:ddf_raid_member"],
        r"array ddf -e ddf -n 2 $disk $disk2",
    ),
    by_tool(
        "a_bcache_backing_disk_is_left_alone",
        64,
        &["signature:bcache"],
        "make-bcache -B $disk",
    ),
    by_tool(
        "a_bcache_cache_is_left_alone",
        64,
        &["signature:bcache"],
        "make-bcache -C $disk",
    ),
    by_tool(
        "drbd_with_internal_metadata_is_left_alone",
        64,
        &["signature:drbd"],
        r"mkfs.ext4 -q -F $disk 60M
        drbdmeta --force 0 v08 $disk internal create-md",
    ),
    by_tool(
        "a_zfs_pool_is_left_alone",
        128,
        &["signature:zfs_member"],
        "pool tank",
    ),
];
