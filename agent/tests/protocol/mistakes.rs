//! Each rule of the protocol is needed: with one of them broken, the checker
//! finds what goes wrong.

use disk_discovery::units::Filesystem;

use crate::{
    Case, Mistake,
    promises::{HARMLESS, SETTLES},
    world::{Budget, Image},
};

const NONE: Budget = Budget::NOTHING;

fn with(mistake: Mistake, left: Budget, broken: &str) {
    let case = Case::of(&[Image::BLANK], left).with(|setup| setup.mistake = Some(mistake));
    assert_eq!(case.breaks(&format!("{mistake:?}")), broken);
}

#[test]
fn the_backup_table_comes_first() {
    let left = Budget {
        crashes: 1,
        losses: 1,
        ..NONE
    };
    with(Mistake::PrimaryFirst, left, SETTLES);
}

#[test]
fn one_copy_is_durable_before_the_other_is_written() {
    with(Mistake::OneFlush, Budget { crashes: 1, ..NONE }, SETTLES);
}

#[test]
fn both_copies_are_durable_before_there_are_files() {
    with(Mistake::NoFlush, Budget { crashes: 1, ..NONE }, SETTLES);
}

#[test]
fn a_whole_table_is_made_durable_before_it_is_built_on() {
    with(
        Mistake::ResumeUnflushed,
        Budget { crashes: 2, ..NONE },
        SETTLES,
    );
}

#[test]
fn the_commit_comes_after_mkfs() {
    with(
        Mistake::CommitFirst,
        Budget { crashes: 1, ..NONE },
        HARMLESS,
    );
}

#[test]
fn the_commit_comes_after_the_filesystem_is_durable() {
    with(
        Mistake::CommitUnflushed,
        Budget { crashes: 1, ..NONE },
        SETTLES,
    );
}

#[test]
fn the_journal_comes_before_the_table() {
    with(Mistake::RecordLate, Budget { crashes: 1, ..NONE }, SETTLES);
}

#[test]
fn the_journal_is_kept_until_the_disk_is_mounted() {
    with(Mistake::ForgetEarly, Budget { crashes: 2, ..NONE }, SETTLES);
}

#[test]
fn the_table_is_read_again_before_the_commit() {
    with(
        Mistake::NotReadAgain,
        Budget { foreign: 1, ..NONE },
        HARMLESS,
    );
}

#[test]
fn what_is_in_a_pending_partition_is_not_taken_for_ours() {
    let left = Budget {
        crashes: 1,
        losses: 1,
        foreign: 1,
        ..NONE
    };
    with(Mistake::ResidueIgnored, left, HARMLESS);
}

#[test]
fn one_committed_sector_is_final() {
    with(
        Mistake::PrimaryBelieved,
        Budget { crashes: 1, ..NONE },
        HARMLESS,
    );
}

#[test]
fn the_disk_is_read_again_once_it_is_open() {
    with(Mistake::NotProven, Budget { foreign: 1, ..NONE }, HARMLESS);
}

#[test]
fn the_directory_that_keeps_a_name_is_durable() {
    let left = Budget {
        crashes: 1,
        moves: 2,
        ..NONE
    };
    let case = Case::of(&[Image::BLANK, Image::BLANK], left);
    let case = case.with(|setup| setup.mistake = Some(Mistake::NameNotDurable));
    assert_eq!(case.breaks("NameNotDurable"), HARMLESS);
}

/// Not the agent's mistakes but what it relies on.
#[test]
fn data_of_no_known_format_in_a_pending_partition_is_not_told_from_an_unfinished_mkfs() {
    let left = Budget {
        crashes: 1,
        foreign: 1,
        ..NONE
    };
    let case = Case::of(&[Image::BLANK], left).with(|setup| setup.considerate = false);
    assert_eq!(case.breaks("formatless data"), HARMLESS);
}

#[test]
fn a_mount_between_our_proof_and_our_mkfs_is_not_noticed() {
    let left = Budget {
        crashes: 1,
        stores: 1,
        ..NONE
    };
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
        let case = Case::of(&[Image::BLANK], left).with(|setup| {
            setup.considerate = false;
            setup.filesystem = filesystem;
        });
        assert_eq!(case.breaks("a quick person"), HARMLESS);
    }
}
