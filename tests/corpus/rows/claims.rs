//! Disks that carry a claim of this agent and something else as well. A claim
//! is a promise to its owner, not a licence to format.

use crate::row::{Row, by_tool, claimed};

pub const ROWS: &[Row] = &[
    claimed(
        "a_disk_of_ours_whose_filesystem_was_replaced_by_another_type_is_left_alone",
        &["filesystem-damaged"],
        "mkfs.xfs -q -f ${disk}1",
    ),
    claimed(
        "a_disk_of_ours_whose_filesystem_was_replaced_by_another_of_its_type_is_left_alone",
        &["filesystem-damaged"],
        "mkfs.ext4 -q -F ${disk}1",
    ),
    claimed(
        "a_disk_of_ours_whose_filesystem_is_zeroed_is_left_alone",
        &["filesystem-damaged"],
        "zero $((1 << 20)) $((64 << 20))",
    ),
    claimed(
        "a_disk_of_ours_with_half_a_table_and_a_zeroed_filesystem_is_left_alone",
        &["filesystem-damaged"],
        r"zero 0 $((65 << 20))
        reread",
    ),
    // Its filesystem was in use: that it is still ours can no longer be known.
    claimed(
        "a_disk_of_ours_whose_tables_are_both_gone_is_left_alone",
        &["signature:ext4"],
        "no_gpt",
    ),
    claimed(
        "a_disk_of_ours_with_a_second_partition_is_left_alone",
        &["partitioned"],
        "sgdisk -a 1 -n 2:34:2047 $disk",
    ),
    claimed(
        "a_disk_with_a_pending_claim_and_somebody_elses_filesystem_is_left_alone",
        &["claim-damaged"],
        r"mkfs.xfs -q -f ${disk}1
        uncommit",
    ),
    claimed(
        "a_disk_with_a_pending_claim_and_text_is_left_alone",
        &["claim-damaged"],
        r"zero $((1 << 20)) $((64 << 20))
        echo 'the only copy' | at $((1 << 20))
        uncommit",
    ),
    claimed(
        "a_disk_of_ours_and_its_copy_are_both_left_alone",
        &["duplicate-identity", "duplicate-identity"],
        r"dd if=$disk of=$disk2 bs=1M count=64 conv=fsync
        dd if=$disk of=$disk2 bs=1M skip=2047 seek=2047 conv=fsync
        udevadm settle --timeout=60
        disk=$disk2 reread",
    ),
    // Names like ours, given by a person.
    by_tool(
        "a_partition_that_somebody_named_like_a_claim_is_left_alone",
        64,
        &["filesystem-damaged"],
        r"named longhorn:sdz1
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1",
    ),
    by_tool(
        "a_partition_that_somebody_named_like_a_pending_claim_is_left_alone",
        64,
        &["claim-damaged"],
        r"named lh-pending:sdy1
        wait_for ${disk}1
        mkfs.ext4 -q ${disk}1",
    ),
];
