//! Partition tables, with and without partitions in them.

use anyhow::Result;

use crate::{
    canvas::Canvas,
    row::{Row, by_hand, by_tool},
};

pub const ROWS: &[Row] = &[
    by_tool(
        "an_empty_gpt_is_left_alone",
        64,
        &["signature:gpt"],
        "sgdisk --clear $disk",
    ),
    by_tool(
        "an_empty_gpt_on_a_disk_with_4096_byte_sectors_is_left_alone",
        64,
        &["signature:gpt"],
        "sgdisk --clear $disk",
    )
    .with_sector(4096),
    by_tool(
        "a_gpt_with_blank_partitions_is_left_alone",
        64,
        &["partitioned"],
        "sgdisk -n 1:0:+16M -n 2:0:0 $disk",
    ),
    by_tool(
        "a_gpt_with_filesystems_in_its_partitions_is_left_alone",
        64,
        &["partitioned"],
        r"sgdisk -n 1:0:+16M -n 2:0:0 $disk
        wait_for ${disk}2
        mkfs.vfat ${disk}1
        mkfs.ext4 -q ${disk}2",
    ),
    // What k3s1 has, but for the UUID: a disk that Longhorn knows is adopted,
    // a disk with the empty file that people create by hand is not.
    by_tool(
        "a_partition_with_a_longhorn_file_without_a_uuid_is_left_alone",
        64,
        &["nameless-longhorn-disk"],
        r"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1
        mount ${disk}1 tree
        echo '{}' >tree/longhorn-disk.cfg
        umount tree",
    ),
    // What is left of a mirror of the firmware when one of its disks is put
    // into another machine: the table and the filesystem are seen on each half.
    by_tool(
        "half_of_a_mirror_with_a_disk_of_longhorns_is_left_alone",
        64,
        &["array-member"],
        r#"sgdisk -n 1:0:0 $disk
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1
        mount ${disk}1 tree
        echo '{"diskName":"sdz","diskUUID":"1a2b3c4d-0002-4e5f-8a9b-0c1d2e3f4a5b","diskDriver":""}' >tree/longhorn-disk.cfg
        umount tree
        printf 'Intel Raid ISM Cfg Sig. 1.1.00' | at $((64 * 1024 * 1024 - 1024))"#,
    ),
    by_tool(
        "a_hybrid_table_is_left_alone",
        64,
        &["partitioned"],
        r"sgdisk -n 1:0:+16M -n 2:0:0 $disk
        sgdisk -h 1 $disk",
    ),
    // The table of a disk that was behind another controller: 4096-byte
    // sectors there, 512 here. Its header is not where either would look.
    by_tool(
        "a_gpt_for_4096_byte_sectors_on_a_disk_with_512_is_left_alone",
        64,
        &["signature:PMBR"],
        "gpt_4096",
    ),
    by_tool(
        "a_protective_mbr_alone_is_left_alone",
        64,
        &["signature:PMBR"],
        r"sgdisk --clear $disk
        zero 512 16896
        zero $((64 * 1024 * 1024 - 16896)) 16896",
    ),
    by_tool(
        "a_gpt_without_its_protective_mbr_is_left_alone",
        64,
        &["signature:gpt"],
        r"sgdisk -n 1:0:0 $disk
        zero 0 512",
    ),
    by_tool(
        "an_empty_mbr_is_left_alone",
        64,
        &["signature:dos"],
        "parted -s $disk mklabel msdos",
    ),
    by_tool(
        "an_mbr_with_a_partition_is_left_alone",
        64,
        &["partitioned"],
        "parted -s $disk mklabel msdos mkpart primary ext4 8MiB 40MiB",
    ),
    by_tool(
        "an_mbr_with_logical_partitions_is_left_alone",
        64,
        &["partitioned"],
        r"printf '%s\n' 'label: dos' size=8M,type=83 size=40M,type=5 size=8M,type=83 | sfdisk -q $disk",
    ),
    // libblkid looks for it inside a partition only, the kernel has to read it.
    by_tool(
        "a_bsd_label_with_a_partition_is_left_alone",
        64,
        &["partitioned"],
        "parted -s $disk mklabel bsd mkpart ext2 8MiB 40MiB",
    ),
    by_tool(
        "an_empty_bsd_label_is_left_alone",
        64,
        &["residual-data"],
        "parted -s $disk mklabel bsd",
    ),
    // It always has a partition for the whole disk.
    by_tool(
        "a_sun_label_is_left_alone",
        64,
        &["partitioned"],
        "parted -s $disk mklabel sun",
    ),
    // It always has two, for its header and for the whole disk.
    by_tool(
        "an_sgi_label_is_left_alone",
        64,
        &["partitioned"],
        "parted -s $disk mklabel dvh",
    ),
    // Its map is a partition of itself.
    by_tool(
        "a_mac_label_is_left_alone",
        64,
        &["partitioned"],
        "parted -s $disk mklabel mac",
    ),
    by_tool(
        "an_atari_label_with_a_partition_is_left_alone",
        64,
        &["partitioned"],
        "parted -s $disk mklabel atari mkpart primary ext2 8MiB 40MiB",
    ),
    by_tool(
        "an_empty_atari_label_is_left_alone",
        64,
        &["residual-data"],
        "parted -s $disk mklabel atari",
    ),
    by_tool(
        "an_empty_amiga_label_is_left_alone",
        64,
        &["residual-data"],
        "parted -s $disk mklabel amiga",
    ),
    by_tool(
        "a_pc98_label_is_left_alone",
        64,
        &["signature:dos"],
        "parted -s $disk mklabel pc98",
    ),
    by_tool(
        "the_loop_label_of_parted_is_left_alone",
        64,
        &["residual-data"],
        "parted -s $disk mklabel loop",
    ),
    by_hand(
        "an_aix_label_is_left_alone",
        64,
        &["signature:aix"],
        aix_label,
    ),
];

/// The first sector of an AIX disk: `_LVM` for its volume manager in sector 7,
/// `IBMA` in EBCDIC in front (Linux, block/partitions/aix.c and msdos.c).
fn aix_label(disk: &mut Canvas) -> Result<()> {
    disk.put(0, [0xc9, 0xc2, 0xd4, 0xc1])?;
    disk.put(7 * 512, b"_LVM")
}
