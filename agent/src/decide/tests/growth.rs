//! Which of our disks are grown, and what keeps the others from it.

use super::super::{Growth, Managed, Obstacle, Policy, room};
use super::*;
use crate::provision::Job;

const HALF: u64 = SIZE / 2;

/// `sdb` with our claim, mounted, enlarged to twice what its table is for, and
/// blank behind the partition.
fn grown() -> Bench {
    let mut bench = Bench::managed();
    bench
        .mounts()
        .push(mount(devno(8, 17), "/mnt/longhorn/sdb1"));
    bench.resized(
        "sdb",
        true,
        Resized::Grown {
            partition_end: HALF,
            moved: false,
        },
    );
    inside(&mut bench).beyond = Some(Fact::Known(None));
    bench
}

fn inside(bench: &mut Bench) -> &mut Inside {
    bench.medium("sdb").partition.as_mut().expect("a partition")
}

fn managed(bench: &Bench) -> Managed {
    match bench.verdict("sdb") {
        Verdict::Managed(managed) => managed,
        other @ (Verdict::Adopt(_)
        | Verdict::Provision(_)
        | Verdict::Resume(_)
        | Verdict::Refused(_)) => {
            panic!("{other:?}")
        }
    }
}

fn growth(change: impl FnOnce(&mut Bench)) -> Option<Growth> {
    let mut bench = grown();
    change(&mut bench);
    managed(&bench).growth
}

fn obstacle(change: impl FnOnce(&mut Bench)) -> Obstacle {
    match growth(change) {
        Some(Growth::Withheld(withheld)) => withheld.obstacle,
        other @ (Some(Growth::Due) | None) => panic!("{other:?}"),
    }
}

/// The length that the partition of the whole disk has.
fn length() -> u64 {
    let geometry = Geometry {
        size: SIZE,
        sector: 512,
    };
    let range = crate::claim::partition_range(geometry).expect("room");
    range.end - range.start
}

/// A disk whose table is for its present size, with a partition and a
/// filesystem of these lengths.
fn complete(known: u64, used: u64) -> Bench {
    let mut bench = grown();
    bench.claim("sdb", claim_id(), Stage::Committed, ext4(GUID));
    bench.dev("sdb1").size = Fact::Known(known);
    inside(&mut bench).extent = Some(Fact::Known(extent(used)));
    bench
}

#[test]
fn a_disk_that_was_enlarged_is_mounted_first_and_then_grown() {
    let mut bench = grown();
    let verdict = bench.verdict("sdb");
    assert_eq!(managed(&bench).growth, Some(Growth::Due));
    assert!(matches!(Job::for_verdict(&verdict), Some(Job::Grow(_))));
    bench.mounts().pop();
    let verdict = bench.verdict("sdb");
    assert_eq!(managed(&bench).growth, Some(Growth::Due));
    assert!(matches!(Job::for_verdict(&verdict), Some(Job::Mount(_))));
}

#[test]
fn a_disk_whose_filesystem_fills_it_asks_for_nothing() {
    let slack = extent(0).slack;
    for used in [length(), length() - slack + 1] {
        assert_eq!(managed(&complete(length(), used)).growth, None, "{used}");
    }
}

#[test]
fn what_an_interrupted_growth_has_left_behind_the_table_is_grown() {
    let slack = extent(0).slack;
    for (known, used) in [
        (length(), length() - slack),
        (length(), HALF),
        (HALF, HALF),
        (length() - 512, length()),
    ] {
        let bench = complete(known, used);
        assert_eq!(managed(&bench).growth, Some(Growth::Due), "{known} {used}");
        // A filesystem can be asked for its size only while it is mounted.
        let mut bench = bench;
        bench.mounts().pop();
        assert_eq!(managed(&bench).growth, None, "{known} {used}");
    }
    // A table that was cut off within its last write.
    let torn = |b: &mut Bench| torn(b, true);
    assert_eq!(growth(torn), Some(Growth::Due));
}

/// A table that is neither whole nor for another size.
fn torn(bench: &mut Bench, only: bool) {
    bench.medium("sdb").table = Fact::Known(Table::Ours {
        claim: Claim {
            id: claim_id(),
            stage: Stage::Committed,
        },
        whole: false,
        only_ours: only,
        resized: None,
    });
}

#[test]
fn a_table_that_another_program_has_changed_is_not_completed() {
    assert_eq!(growth(|b| torn(b, false)), None);
}

/// An obstacle, and what brings it about.
const EXAMPLES: &[(Obstacle, Change)] = &[
    (Obstacle::Off, |b| b.policy.grow = false),
    (Obstacle::Frozen, |b| {
        b.standing().frozen = Some("moving house".to_owned())
    }),
    (Obstacle::NotBlank, |b| {
        inside(b).beyond = Some(Fact::Known(Some(HALF + 4096)))
    }),
    (Obstacle::TableChanged, |b| {
        b.resized(
            "sdb",
            false,
            Resized::Grown {
                partition_end: HALF,
                moved: false,
            },
        )
    }),
    (Obstacle::ReadOnly, |b| {
        b.dev("sdb").read_only = Fact::Known(true)
    }),
    (Obstacle::ReadOnly, |b| {
        b.mounts().last_mut().expect("the mount").super_options = "ro,relatime".to_owned()
    }),
    (Obstacle::ReadOnly, |b| {
        b.mounts().last_mut().expect("the mount").read_only = true
    }),
    (Obstacle::OtherUsers, |b| {
        b.add(partition("sdb", 2, devno(8, 18)))
    }),
    (Obstacle::OtherUsers, |b| {
        b.dev("sdb").holders = Fact::Known(vec!["dm-0".to_owned()])
    }),
    (Obstacle::Unreadable, |b| inside(b).beyond = Some(lost())),
    (Obstacle::Unreadable, |b| inside(b).beyond = None),
    (Obstacle::Unreadable, |b| b.inventory.standing = lost()),
    (Obstacle::Unreadable, |b| {
        b.dev("sdb").read_only = lost();
    }),
    (Obstacle::Unreadable, |b| b.dev("sdb").holders = lost()),
];

#[test]
fn each_obstacle_keeps_the_disk_mounted_as_it_is_and_says_so() {
    for expected in Obstacle::ALL {
        let examples = EXAMPLES.iter().filter(|(of, _)| of == expected);
        assert!(examples.clone().count() > 0, "{expected:?}");
        for (_, change) in examples {
            assert_eq!(obstacle(change), *expected);
            let mut bench = grown();
            change(&mut bench);
            assert!(managed(&bench).mounted);
            assert!(Job::for_verdict(&bench.verdict("sdb")).is_none());
        }
    }
}

#[test]
fn codes_of_obstacles_are_unique_and_each_has_a_sentence() {
    let codes: std::collections::BTreeSet<&str> = Obstacle::ALL
        .iter()
        .map(|obstacle| obstacle.code())
        .collect();
    assert_eq!(codes.len(), Obstacle::ALL.len());
    for obstacle in Obstacle::ALL {
        assert!(obstacle.explanation().ends_with('.'), "{obstacle:?}");
    }
}

#[test]
fn a_copy_of_the_disk_keeps_both_from_being_grown() {
    let mut bench = grown();
    bench.add(disk("sdc", 32));
    bench.claim("sdc", claim_id(), Stage::Committed, ext4(GUID));
    assert_eq!(bench.reason("sdb"), Reason::DuplicateIdentity);
    assert_eq!(bench.reason("sdc"), Reason::DuplicateIdentity);
}

#[test]
fn an_interrupted_disk_of_another_size_is_left_alone() {
    for to in [
        Resized::Grown {
            partition_end: HALF,
            moved: false,
        },
        Resized::Shrunk { from: 2 * SIZE },
    ] {
        let mut bench = Bench::pending();
        bench.resized("sdb", true, to);
        assert_eq!(bench.reason("sdb"), Reason::ClaimDamaged, "{to:?}");
    }
}

#[test]
fn the_proof_on_the_open_disk_asks_the_same_of_the_medium() {
    let asked = |change: fn(&mut Bench)| {
        let mut bench = grown();
        change(&mut bench);
        room(bench.medium("sdb"))
    };
    assert_eq!(asked(|_| {}), Ok(()));
    for (obstacle, change) in EXAMPLES {
        let of_the_medium = [Obstacle::NotBlank, Obstacle::TableChanged].contains(obstacle);
        let refused = asked(*change).map_err(|withheld| withheld.obstacle);
        if of_the_medium {
            assert_eq!(refused, Err(*obstacle));
        }
    }
    assert!(asked(|b| inside(b).beyond = Some(lost())).is_err());
    assert!(asked(|b| inside(b).beyond = None).is_err());
    let shrunk = |b: &mut Bench| b.resized("sdb", true, Resized::Shrunk { from: 2 * SIZE });
    assert!(asked(shrunk).is_err());
    assert!(asked(|b| b.medium("sdb").table = lost()).is_err());
    assert!(asked(|b| b.medium("sdb").table = Fact::Known(Table::Absent)).is_err());
}

#[test]
fn disks_are_grown_unless_the_policy_says_otherwise() {
    assert!(Policy::default().grow);
}
