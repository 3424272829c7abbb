//! Filesystems, each made by its own tool over the whole disk.

use vm_fixtures::Bus;

use crate::row::{Row, by_tool};

pub const ROWS: &[Row] = &[
    by_tool(
        "ext2_is_left_alone",
        64,
        &["signature:ext2"],
        "mkfs.ext2 -q -F $disk && store ext2",
    ),
    by_tool(
        "ext3_is_left_alone",
        64,
        &["signature:ext3"],
        "mkfs.ext3 -q -F $disk && store ext3",
    ),
    by_tool(
        "ext4_is_left_alone",
        64,
        &["signature:ext4"],
        "mkfs.ext4 -q -F $disk && store ext4",
    ),
    by_tool(
        "ext4_on_a_disk_with_4096_byte_sectors_is_left_alone",
        64,
        &["signature:ext4"],
        "mkfs.ext4 -q -F $disk && store ext4",
    )
    .with_sector(4096),
    by_tool(
        "the_external_journal_of_an_ext4_is_left_alone",
        64,
        &["signature:jbd"],
        "mke2fs -q -F -O journal_dev $disk",
    ),
    // A disk of Longhorn's that was formatted without a partition table. The
    // file is what Longhorn writes at the root of each of its disks.
    by_tool(
        "a_whole_disk_that_longhorn_uses_is_left_alone",
        64,
        &["signature:ext4"],
        r#"mkfs.ext4 -q -F $disk
        mount $disk tree
        echo '{"diskName":"sdz","diskUUID":"1a2b3c4d-0001-4e5f-8a9b-0c1d2e3f4a5b","diskDriver":""}' >tree/longhorn-disk.cfg
        mkdir -p tree/replicas/pvc-0001
        echo precious >tree/replicas/pvc-0001/volume-head-000.img
        umount tree"#,
    ),
    by_tool(
        "xfs_is_left_alone",
        320,
        &["signature:xfs"],
        "mkfs.xfs -q -f $disk && store xfs",
    ),
    by_tool(
        "an_xfs_and_its_external_log_are_left_alone",
        320,
        &["signature:xfs", "signature:xfs_external_log"],
        "mkfs.xfs -q -f -l logdev=$disk2 $disk",
    ),
    by_tool(
        "btrfs_is_left_alone",
        128,
        &["signature:btrfs"],
        "mkfs.btrfs -q -f $disk && store btrfs",
    ),
    by_tool(
        "both_disks_of_a_btrfs_mirror_are_left_alone",
        128,
        &["signature:btrfs", "signature:btrfs"],
        "mkfs.btrfs -q -f -d raid1 -m raid1 $disk $disk2",
    ),
    by_tool(
        "f2fs_is_left_alone",
        64,
        &["signature:f2fs"],
        "mkfs.f2fs -q -f $disk && store f2fs",
    ),
    by_tool(
        "ntfs_is_left_alone",
        64,
        &["signature:ntfs"],
        "mkntfs -q -Q -F $disk",
    ),
    by_tool(
        "exfat_is_left_alone",
        64,
        &["signature:exfat"],
        "mkfs.exfat $disk && store exfat",
    ),
    by_tool(
        "fat12_is_left_alone",
        64,
        &["signature:vfat"],
        "mkfs.fat -I -F 12 -s 128 --mbr=n $disk && store vfat",
    ),
    by_tool(
        "fat16_is_left_alone",
        64,
        &["signature:vfat"],
        "mkfs.fat -I -F 16 --mbr=n $disk && store vfat",
    ),
    by_tool(
        "fat32_is_left_alone",
        64,
        &["signature:vfat"],
        "mkfs.fat -I -F 32 --mbr=n $disk && store vfat",
    ),
    // mkfs.fat adds a table with a partition over all of it, for Windows.
    by_tool(
        "fat32_with_a_partition_table_in_its_boot_sector_is_left_alone",
        64,
        &["partitioned"],
        r"mkfs.fat -I -F 32 --mbr=y $disk",
    ),
    by_tool(
        "fat32_on_a_usb_stick_is_left_alone",
        64,
        &["signature:vfat"],
        "mkfs.fat -I -F 32 --mbr=n $disk && store vfat",
    )
    .over(Bus::Usb),
    by_tool(
        "ext4_on_a_usb_disk_is_left_alone",
        64,
        &["signature:ext4"],
        "mkfs.ext4 -q -F $disk && store ext4",
    )
    .over(Bus::Usb),
    by_tool(
        "reiserfs_is_left_alone",
        64,
        &["signature:reiserfs"],
        "mkfs.reiserfs -q -f -f $disk",
    ),
    by_tool(
        "reiser4_is_left_alone",
        64,
        &["signature:reiser4"],
        "mkfs.reiser4 -y -f $disk",
    ),
    by_tool(
        "jfs_is_left_alone",
        64,
        &["signature:jfs"],
        "mkfs.jfs -q $disk",
    ),
    by_tool(
        "nilfs2_is_left_alone",
        136,
        &["signature:nilfs2"],
        "mkfs.nilfs2 -q -f $disk",
    ),
    by_tool(
        "ocfs2_is_left_alone",
        64,
        &["signature:ocfs2"],
        "mkfs.ocfs2 -q -F -b 4096 -C 4096 -N 1 -J size=4M --fs-features=local $disk < <(yes)",
    ),
    by_tool(
        "gfs2_is_left_alone",
        64,
        &["signature:gfs2"],
        "mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 8 $disk",
    ),
    by_tool(
        "hfs_is_left_alone",
        64,
        &["signature:hfs"],
        "hformat -f -l foreign $disk",
    ),
    by_tool(
        "apfs_is_left_alone",
        600,
        &["signature:apfs"],
        "mkapfs $disk",
    ),
    by_tool(
        "minix_is_left_alone",
        64,
        &["signature:minix"],
        "mkfs.minix -3 $disk",
    ),
    by_tool(
        "sco_bfs_is_left_alone",
        64,
        &["signature:bfs"],
        "mkfs.bfs $disk",
    ),
    by_tool(
        "ufs1_is_left_alone",
        64,
        &["signature:ufs"],
        "makefs -t ffs -s 8m image files && put image",
    ),
    by_tool(
        "ufs2_is_left_alone",
        64,
        &["signature:ufs"],
        "makefs -t ffs -o version=2 -s 8m image files && put image",
    ),
    by_tool(
        "udf_is_left_alone",
        64,
        &["signature:udf"],
        "mkudffs --media-type=hd --bootarea=erase $disk",
    ),
    by_tool(
        "iso_9660_is_left_alone",
        64,
        &["signature:iso9660"],
        "genisoimage -quiet -o image files && put image",
    ),
    by_tool(
        "squashfs_is_left_alone",
        64,
        &["signature:squashfs"],
        "mksquashfs files image -quiet && put image",
    ),
    by_tool(
        "erofs_is_left_alone",
        64,
        &["signature:erofs"],
        "mkfs.erofs image files && put image",
    ),
    by_tool(
        "cramfs_is_left_alone",
        64,
        &["signature:cramfs"],
        "mkfs.cramfs files image && put image",
    ),
    by_tool(
        "romfs_is_left_alone",
        64,
        &["signature:romfs"],
        "genromfs -d files -f image && put image",
    ),
];
