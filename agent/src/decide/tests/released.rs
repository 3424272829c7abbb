//! Disks that a person has released.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::{Change, adopted, bench::*};
use crate::{
    claim::{Resized, Stage},
    decide::{Reason, Released, Verdict, released},
    fact::Fact,
    ledger::{Before, Kept, Mounting, Release, ReleasePhase},
    observe::Medium,
    provision::Job,
    units::DevNo,
};

const PLACE: &str = "/mnt/longhorn/sdb1";
/// The number of `sdb1`.
const SDB1: DevNo = DevNo {
    major: 8,
    minor: 17,
};

fn in_phase(bench: &mut Bench, uuid: Uuid, called: &str, phase: ReleasePhase) {
    let kept = Kept::named(name(called));
    let standing = bench.standing();
    standing.disks.entry(uuid).or_insert(kept);
    let release = Release {
        name: name(called),
        phase,
    };
    standing.releases.insert(uuid, release);
}

/// Releases a disk for good.
pub(super) fn leave(bench: &mut Bench, uuid: Uuid, called: &str) {
    in_phase(bench, uuid, called, ReleasePhase::Left);
}

/// A disk of ours that has left, and is still mounted.
fn left() -> Bench {
    let mut bench = Bench::managed();
    bench.mounts().push(mount(SDB1, PLACE));
    leave(&mut bench, GUID, "sdb1");
    bench
}

fn found(bench: &Bench) -> Released {
    let mut released = released(&bench.inventory, &bench.policy);
    released.remove(&name("sdb1")).expect("it was released")
}

const SCHEDULABLE: Before = Before {
    schedulable: true,
    evicting: false,
};

#[test]
fn until_it_has_left_a_disk_is_served_as_before() {
    for phase in [
        ReleasePhase::UNTOUCHED,
        ReleasePhase::leaving(SCHEDULABLE),
        ReleasePhase::returning(SCHEDULABLE),
    ] {
        for mounted in [false, true] {
            let mut bench = Bench::managed();
            if mounted {
                bench.mounts().push(mount(SDB1, PLACE));
            }
            let before = bench.verdicts();
            in_phase(&mut bench, GUID, "sdb1", phase.clone());
            assert_eq!(bench.verdicts(), before, "{phase:?}");
            assert!(released(&bench.inventory, &bench.policy).is_empty());
        }
    }
}

#[test]
fn what_has_left_is_left_alone_whoever_made_it() {
    let makers: [(&str, Change); 4] = [
        ("the agent", |b| *b = Bench::managed()),
        ("longhorn", |b| {
            adopted::lodge(b, "sdb", adopted::named("sdh1"));
        }),
        ("another node's agent", |b| {
            let id = claim_id().made_on("another");
            b.claim("sdb", id, Stage::Committed, ext4(GUID));
        }),
        ("the agent, begun once more", |b| *b = Bench::pending()),
    ];
    for (who, make) in makers {
        let mut bench = Bench::with(make);
        leave(&mut bench, GUID, "sdb1");
        let refusal = bench.refusal("sdb");
        assert_eq!(refusal.reason, Reason::Released, "{who}");
        assert_eq!(refusal.detail, "sdb1", "{who}");
        bench.standing().releases.clear();
        assert_ne!(
            bench.verdict("sdb"),
            Verdict::Refused(refusal),
            "{who}: taken back"
        );
    }
}

#[test]
fn a_filesystem_that_was_made_anew_on_a_released_disk_is_another_disk() {
    let mut bench = left();
    bench.mounts().pop();
    bench.inventory.devices.remove("sdb1");
    bench.inventory.media.insert("sdb".to_owned(), blank());
    assert_eq!(
        bench.provision("sdb").name,
        name("sdb1-2"),
        "its name is kept"
    );
}

#[test]
fn a_mount_of_what_has_left_is_found_by_what_the_disk_says() {
    let bench = left();
    let expected = Released {
        disk: Some("sdb".to_owned()),
        partitions: vec!["sdb1".to_owned()],
        mounted: Some(SDB1),
        elsewhere: Vec::new(),
    };
    assert_eq!(found(&bench), expected);
    let mut away = left();
    for device in ["sdb", "sdb1"] {
        away.inventory.devices.remove(device);
    }
    assert_eq!(found(&away), Released::default());
}

#[test]
fn a_mount_of_a_failing_disk_is_found_by_what_the_ledger_says() {
    let unreadable = |made: Option<DevNo>| {
        let mut bench = left();
        let failing = Arc::new(Fact::<Medium>::unreadable("sdb", "Input/output error"));
        bench.inventory.media.insert("sdb".to_owned(), failing);
        let mounted = made.map(|devno| Mounting {
            devno,
            boot: "this boot".to_owned(),
        });
        let kept = Kept {
            mounted,
            ..Kept::named(name("sdb1"))
        };
        bench.standing().disks.insert(GUID, kept);
        found(&bench).mounted
    };
    assert_eq!(unreadable(Some(SDB1)), Some(SDB1));
    assert_eq!(unreadable(Some(devno(8, 49))), None, "another device");
    assert_eq!(unreadable(None), None, "nobody knows whose it is");
}

#[test]
fn what_somebody_else_has_at_its_place_is_not_taken_for_it() {
    let theirs: [(&str, Change); 4] = [
        ("another device", |b| {
            *b.mounts() = vec![mount(devno(8, 1), "/"), mount(devno(8, 33), PLACE)];
        }),
        ("on top of it", |b| {
            b.mounts().push(mount(devno(8, 33), PLACE))
        }),
        ("a part of it", |b| {
            let mount = b.mounts().last_mut().expect("a mount");
            mount.root = "/replicas".to_owned();
        }),
        ("another filesystem by now", |b| {
            b.claim(
                "sdb",
                crate::claim::ClaimId {
                    partition_guid: Uuid::from_u128(7),
                    ..claim_id()
                },
                Stage::Committed,
                ext4(Uuid::from_u128(7)),
            );
        }),
    ];
    for (why, change) in theirs {
        let mut bench = left();
        change(&mut bench);
        assert_eq!(found(&bench).mounted, None, "{why}");
    }
    let mut bench = left();
    bench.mounts().push(mount(SDB1, "/backup"));
    assert_eq!(found(&bench).mounted, Some(SDB1));
    assert_eq!(found(&bench).elsewhere, ["/backup"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever else is the case with a disk, once it has left no job is begun on
    /// it: it is neither mounted nor resumed nor grown nor provisioned.
    #[test]
    fn nothing_is_done_with_a_disk_that_has_left(
        maker in 0..4_usize,
        mounted in any::<bool>(),
        node in proptest::sample::select(vec!["unknown", "another"]),
        resized in any::<bool>(),
        boot_knows in any::<bool>(),
        phase_of_another in any::<bool>(),
        ledger_name in proptest::sample::select(vec!["sdb1", "sdb1-2", "data"]),
    ) {
        let id = claim_id().made_on(node);
        let mut bench = Bench::new();
        match maker {
            0 => bench.claim("sdb", id, Stage::Committed, ext4(GUID)),
            1 => bench.claim("sdb", id, Stage::Pending, ext4(GUID)),
            2 => bench.claim("sdb", id, Stage::Committed, crate::observe::signature::Signature::Nothing),
            _ => adopted::lodge(&mut bench, "sdb", adopted::named("sdh1")),
        }
        if resized && maker == 0 {
            bench.resized("sdb", true, Resized::Grown { partition_end: SIZE / 2, moved: false });
        }
        if mounted {
            bench.mounts().push(mount(SDB1, &format!("/mnt/longhorn/{ledger_name}")));
        }
        let kept = Kept {
            mounted: boot_knows.then(|| Mounting { devno: SDB1, boot: "this boot".to_owned() }),
            ..Kept::named(name(ledger_name))
        };
        bench.standing().disks.insert(GUID, kept);
        leave(&mut bench, GUID, ledger_name);
        if phase_of_another {
            leave(&mut bench, Uuid::from_u128(99), "other");
        }
        let verdict = bench.verdict("sdb");
        prop_assert!(Job::for_verdict(&verdict).is_none(), "{verdict:?}");
        let there = released(&bench.inventory, &bench.policy);
        let there = there.get(&name(ledger_name)).expect("it has left");
        prop_assert_eq!(there.mounted, mounted.then_some(SDB1));
    }
}
