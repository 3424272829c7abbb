//! Copies of disks of this host, and which of two is the original.

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    adopted::{lodge, named},
    bench::*,
};
use crate::{
    claim::Stage,
    decide::{Reason, Verdict, copied},
    fact::Fact,
    ledger::Kept,
    observe::Hardware,
};

fn hardware(serial: &str) -> Hardware {
    Hardware {
        wwn: None,
        serial: Some(serial.to_owned()),
    }
}

fn call(bench: &mut Bench, disk: &str, serial: &str) {
    let disk = bench.dev(disk);
    disk.wwn = Fact::Known(None);
    disk.serial = Fact::Known(Some(serial.to_owned()));
}

/// What the ledger says of the disk that `GUID` names.
fn keep(bench: &mut Bench, original: Option<&str>, copied: bool) {
    let kept = Kept {
        hardware: original.map(hardware),
        copied,
        ..Kept::named(name("sdb1"))
    };
    bench.standing().disks.insert(GUID, kept);
}

/// A disk of ours that is a copy of one that is away.
pub(super) fn left_alone(bench: &mut Bench) {
    bench.claim("sdb", claim_id(), Stage::Committed, ext4(GUID));
    call(bench, "sdb", "the copy");
    keep(bench, Some("the original"), true);
}

/// The original as sdb, a copy of it as sdc.
fn both() -> Bench {
    let mut bench = Bench::managed();
    call(&mut bench, "sdb", "the original");
    bench.add_blank("sdc", 32);
    bench.claim("sdc", claim_id(), Stage::Committed, ext4(GUID));
    call(&mut bench, "sdc", "the copy");
    keep(&mut bench, Some("the original"), false);
    bench
}

fn lose(bench: &mut Bench, disk: &str) {
    bench.inventory.devices.remove(disk);
    bench.inventory.devices.remove(&format!("{disk}1"));
    bench.inventory.media.remove(disk);
}

fn seen(bench: &Bench) -> Vec<Uuid> {
    copied(&bench.inventory, &bench.policy, &bench.verdicts())
}

#[test]
fn a_copy_does_not_take_the_place_of_the_original_when_that_is_away() {
    let mut bench = both();
    for disk in ["sdb", "sdc"] {
        assert_eq!(bench.reason(disk), Reason::DuplicateIdentity, "{disk}");
    }
    assert_eq!(seen(&bench), [GUID]);
    keep(&mut bench, Some("the original"), true);
    assert_eq!(seen(&bench), Vec::<Uuid>::new(), "it is known");
    let alone = |gone: &str| {
        let mut bench = bench.clone();
        lose(&mut bench, gone);
        bench
    };
    let copy = alone("sdb");
    assert_eq!(copy.reason("sdc"), Reason::Copy);
    let original = alone("sdc");
    assert!(matches!(original.verdict("sdb"), Verdict::Managed(_)));
}

#[test]
fn a_copy_of_a_disk_of_longhorns_does_not_take_its_place() {
    let mut bench = both();
    for disk in ["sdb", "sdc"] {
        lodge(&mut bench, disk, named("sdb1"));
    }
    assert_eq!(seen(&bench), [GUID]);
    keep(&mut bench, Some("the original"), true);
    lose(&mut bench, "sdb");
    assert_eq!(bench.reason("sdc"), Reason::Copy);
}

#[test]
fn a_copy_is_used_in_the_place_of_the_original_when_a_rule_names_it() {
    let mut bench = Bench::with(left_alone);
    for vague in ["serial=the*", "name=sdb", "serial=the original"] {
        bench.policy.allow = rules(&[vague]);
        assert_eq!(bench.reason("sdb"), Reason::Copy, "{vague}");
    }
    bench.policy.allow = rules(&["serial=the copy"]);
    assert!(matches!(bench.verdict("sdb"), Verdict::Managed(_)));
    // Mounted, it is the original.
    keep(&mut bench, Some("the copy"), true);
    bench.policy.allow.clear();
    assert!(matches!(bench.verdict("sdb"), Verdict::Managed(_)));
}

#[test]
fn a_disk_of_which_there_was_no_copy_may_come_as_any_other() {
    for (original, copied) in [(Some("another"), false), (None, true), (None, false)] {
        let bench = Bench::with(|b| {
            left_alone(b);
            keep(b, original, copied);
        });
        assert!(matches!(bench.verdict("sdb"), Verdict::Managed(_)));
    }
}

#[test]
fn a_second_path_to_a_disk_is_no_copy_of_it() {
    let mut bench = both();
    call(&mut bench, "sdc", "the original");
    assert_eq!(bench.reason("sdb"), Reason::DuplicateIdentity);
    assert_eq!(seen(&bench), Vec::<Uuid>::new());
}

#[test]
fn a_disk_that_has_moved_is_no_copy_of_itself_whatever_others_are() {
    let mut bench = both();
    lose(&mut bench, "sdb");
    // Two other disks are one too many.
    for disk in ["sdd", "sde"] {
        bench.add_blank(disk, if disk == "sdd" { 48 } else { 64 });
        call(&mut bench, disk, "twins");
    }
    assert_eq!(bench.reason("sdd"), Reason::DuplicateIdentity);
    assert_eq!(seen(&bench), Vec::<Uuid>::new());
    assert!(matches!(bench.verdict("sdc"), Verdict::Managed(_)));
}

#[test]
fn a_disk_that_does_not_say_which_it_is_is_left_alone_where_there_is_a_copy() {
    let mut bench = Bench::with(left_alone);
    bench.dev("sdb").serial = Fact::unreadable("serial", "Input/output error");
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
    call(&mut bench, "sdb", "0000");
    assert_eq!(bench.reason("sdb"), Reason::Copy);
}

proptest! {
    #[test]
    fn whichever_of_two_disks_comes_back_first_the_copy_is_never_mounted(
        arrivals in prop::collection::vec(any::<(bool, bool)>(), 1..12),
    ) {
        // Each round shows which of the two are there; the ledger is kept as the
        // agent keeps it.
        let mut known = false;
        for (original, copy) in arrivals {
            let mut bench = both();
            keep(&mut bench, Some("the original"), known);
            if !original {
                lose(&mut bench, "sdb");
            }
            if !copy {
                lose(&mut bench, "sdc");
            }
            known |= original && copy;
            prop_assert_eq!(seen(&bench).is_empty(), !(original && copy) || bench.standing().disks[&GUID].copied);
            let verdicts = bench.verdicts();
            if known && copy {
                prop_assert!(matches!(verdicts["sdc"], Verdict::Refused(_)));
            }
            if original && !copy {
                prop_assert!(matches!(verdicts["sdb"], Verdict::Managed(_)));
            }
        }
    }
}
