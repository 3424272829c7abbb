//! What the protocol promises, where everything goes wrong that may.

use disk_discovery::units::Filesystem;

use crate::{
    Case,
    promises::Reached,
    world::{Budget, Cell, Claim, Image, Name, Value},
};

const NONE: Budget = Budget::NOTHING;

/// What `wipefs` or a shorter overwrite leaves, after a person approved it.
pub fn residue() -> Image {
    let mut image = Image::BLANK;
    let cells = [
        Cell::PrimaryEntry,
        Cell::PrimaryRest,
        Cell::BackupRest,
        Cell::BackupHeader,
        Cell::Gap,
        Cell::Body,
    ];
    for cell in cells {
        image.put(cell, Value::Before);
    }
    image
}

#[test]
fn four_crashes_at_any_moment_end_in_a_mount() {
    let left = Budget { crashes: 4, ..NONE };
    let reached = [
        Reached::Mounted,
        Reached::TornPrimaryWithJournal,
        Reached::TornCommit,
        Reached::FreshUnderPending,
        Reached::OrphanAlone,
    ];
    Case::of(&[Image::BLANK], left)
        .reaching(&reached)
        .holds("crashes");
}

#[test]
fn a_lost_journal_and_files_stored_meanwhile_do_no_harm() {
    let left = Budget {
        crashes: 3,
        losses: 1,
        stores: 1,
        ..NONE
    };
    let reached = [Reached::TornWithoutJournal, Reached::FilesUnderPending];
    Case::of(&[Image::BLANK], left)
        .reaching(&reached)
        .holds("losses");
}

#[test]
fn what_somebody_writes_to_the_disk_stays() {
    let left = Budget {
        crashes: 2,
        losses: 1,
        foreign: 1,
        stores: 1,
        ..NONE
    };
    let reached = [Reached::ForeignBeside, Reached::FilesUnderPending];
    Case::of(&[Image::BLANK], left)
        .reaching(&reached)
        .holds("foreign writes");
}

#[test]
fn xfs_has_one_flush_for_everything_and_ends_in_a_mount_all_the_same() {
    let left = Budget {
        crashes: 3,
        losses: 1,
        stores: 1,
        ..NONE
    };
    let reached = [
        Reached::Mounted,
        Reached::FreshUnderPending,
        Reached::FilesUnderPending,
    ];
    Case::of(&[Image::BLANK], left)
        .with(|setup| setup.filesystem = Filesystem::Xfs)
        .reaching(&reached)
        .holds("xfs");
}

#[test]
fn a_disk_that_was_approved_is_finished_as_a_blank_one() {
    let left = Budget {
        crashes: 2,
        losses: 1,
        ..NONE
    };
    let reached = [
        Reached::Mounted,
        Reached::TornPrimaryWithJournal,
        Reached::TornCommit,
    ];
    Case::of(&[residue()], left)
        .with(|setup| setup.approved = Some(residue()))
        .reaching(&reached)
        .holds("approved");
}

#[test]
fn what_somebody_writes_to_an_approved_disk_stays() {
    let left = Budget {
        crashes: 2,
        foreign: 1,
        ..NONE
    };
    Case::of(&[residue()], left)
        .with(|setup| setup.approved = Some(residue()))
        .reaching(&[Reached::ForeignBeside])
        .holds("foreign writes to an approved disk");
}

#[test]
fn residue_that_nobody_approved_is_never_written_over() {
    let left = Budget {
        crashes: 1,
        moves: 2,
        ..NONE
    };
    let mut foreign = residue();
    for value in &mut foreign.0 {
        if *value == Value::Before {
            *value = Value::Foreign;
        }
    }
    Case::of(&[foreign, Image::FOREIGN], left).holds("residue");
}

#[test]
fn two_disks_that_take_turns_have_two_names_for_life() {
    let left = Budget {
        crashes: 1,
        moves: 2,
        ..NONE
    };
    Case::of(&[Image::BLANK, Image::BLANK], left)
        .reaching(&[Reached::Mounted, Reached::TwoMounted])
        .holds("two disks");
}

#[test]
fn a_foreign_disk_in_place_of_one_that_was_decided_on_is_never_written() {
    for identified in [true, false] {
        let left = Budget {
            crashes: 1,
            moves: 2,
            ..NONE
        };
        Case::of(&[Image::BLANK, Image::FOREIGN], left)
            .with(|setup| setup.identified = identified)
            .reaching(&[Reached::Mounted])
            .holds("a foreign disk");
    }
}

#[test]
fn disks_that_nothing_tells_apart_do_no_harm() {
    let left = Budget { moves: 2, ..NONE };
    Case::of(&[Image::BLANK, Image::BLANK], left)
        .with(|setup| setup.identified = false)
        .reaching(&[Reached::TwoMounted])
        .holds("disks without identity");
}

#[test]
fn a_copy_of_a_disk_is_not_taken_for_it() {
    let left = Budget {
        crashes: 1,
        moves: 1,
        clones: 1,
        ..NONE
    };
    Case::of(&[Image::BLANK, Image::BLANK], left)
        .reaching(&[Reached::TwoClones])
        .holds("a copy");
}

#[test]
fn a_name_that_the_host_forgot_may_be_given_twice_and_then_neither_is_touched() {
    let left = Budget {
        crashes: 1,
        moves: 2,
        ..NONE
    };
    let claim = Claim {
        number: 0,
        name: Name::of("sdb1"),
    };
    Case::of(&[Image::used(claim), Image::BLANK], left)
        .on_a_new_host()
        .reaching(&[Reached::Mounted, Reached::TwoOfOneName, Reached::TwoMounted])
        .holds("a host installed anew");
}

#[test]
fn a_journal_that_is_lost_while_disks_are_exchanged_does_no_harm() {
    let left = Budget {
        crashes: 1,
        losses: 1,
        moves: 2,
        ..NONE
    };
    let reached = [
        Reached::Mounted,
        Reached::TwoMounted,
        Reached::AwayWithoutJournal,
    ];
    Case::of(&[Image::BLANK, Image::BLANK], left)
        .reaching(&reached)
        .holds("losses and moves");
    Case::of(&[Image::BLANK, Image::FOREIGN], left)
        .reaching(&[Reached::Mounted, Reached::AwayWithoutJournal])
        .holds("losses and a foreign disk");
}

#[test]
fn a_disk_that_was_begun_and_comes_back_to_a_host_that_lost_its_journal_is_finished_or_left_alone()
{
    let left = Budget {
        crashes: 1,
        losses: 1,
        moves: 2,
        ..NONE
    };
    let claim = Claim {
        number: 0,
        name: Name::of("sdb1"),
    };
    for image in [Image::pending(claim), Image::fresh(claim)] {
        for (other, two) in [
            (
                Image::BLANK,
                &[Reached::TwoMounted, Reached::TwoOfOneName][..],
            ),
            (Image::FOREIGN, &[]),
        ] {
            Case::of(&[image, other], left)
                .begun_and_away(claim)
                .reaching(&[Reached::Mounted, Reached::AwayWithoutJournal])
                .reaching(two)
                .holds("losses, and a disk that comes back");
        }
    }
}
