//! What the operator's policy forbids, lifts and limits, and what a person
//! approved.

use std::{collections::BTreeMap, sync::Arc};

use super::bench::*;
use crate::{
    approval::Token,
    claim::{Ends, Stage},
    decide::{Reason, Verdict, VerdictKind},
    fact::Fact,
    journal::Approved,
    observe::{Transport, traces::Trace},
    units::Filesystem,
};

fn token(digit: &str) -> Token {
    let text = format!("approve-{}-{}", digit.repeat(16), digit.repeat(32));
    text.parse().expect("a token")
}

/// `sdb` with residual data for which a token holds that the policy has.
fn approved() -> Bench {
    Bench::with(|b| {
        b.scan("sdb").residue = Some(4096);
        b.content("sdb").approvals = vec![token("a")];
        b.policy.approvals.insert(token("a"));
    })
}

// ---------------------------------------------------------------------------
// Hazards that a rule lifts only by their name.

#[test]
fn a_hazard_is_lifted_only_by_a_rule_that_names_it() {
    type Hazard = fn(&mut Bench);
    let hazards: [(Reason, Hazard, &[&str], &[&str]); 5] = [
        (
            Reason::Removable,
            |b| b.dev("sdb").transport = Fact::Known(Transport::Usb),
            &["transport=usb", "transport=usb,serial=S*"],
            &[
                "name=sd*",
                "serial=S16",
                "removable=false",
                "transport=usb,serial=other",
            ],
        ),
        (
            Reason::Removable,
            |b| b.dev("sdb").removable = Fact::Known(true),
            &["removable=true"],
            &["name=sdb", "transport=scsi"],
        ),
        (
            Reason::NetworkTransport,
            |b| b.dev("sdb").transport = Fact::Known(Transport::Iscsi),
            &["transport=iscsi"],
            &["name=sdb", "by-path=*", "transport=fibre-channel"],
        ),
        (
            Reason::NetworkTransport,
            |b| b.dev("sdb").transport = Fact::Known(Transport::FibreChannel),
            &["transport=fibre-channel"],
            &["name=sdb"],
        ),
        (
            Reason::CsiVolume,
            |b| b.dev("sdb").model = Fact::Known(Some("nvme_card-pd".to_owned())),
            &["model=nvme_card-pd", "model=nvme*", "serial=S16"],
            &[
                "name=sdb",
                "model=*",
                "size=>1GB",
                "vendor=ATA",
                "serial=S*",
                "wwn=naa.*",
            ],
        ),
    ];
    for (reason, hazard, lifting, others) in hazards {
        let with = |allow: &[&str]| {
            Bench::with(|b| {
                hazard(b);
                b.policy.allow = rules(allow);
            })
        };
        assert_eq!(with(&[]).reason("sdb"), reason);
        for rule in lifting {
            assert!(with(&[rule]).is_provisioned("sdb"), "{rule}");
        }
        for rule in others {
            assert_eq!(with(&[rule]).reason("sdb"), reason, "{rule}");
        }
    }
}

#[test]
fn no_rule_lifts_what_is_never_touched() {
    let all = rules(&[
        "name=*",
        "transport=scsi",
        "transport=other",
        "vendor=IET",
        "model=*VIRTUAL*",
        "removable=false",
        "serial=S*",
    ]);
    type Never = fn(&mut Bench);
    let never: [(Reason, Never); 6] = [
        (Reason::LonghornVolume, |b| {
            b.dev("sdb").vendor = Fact::Known(Some("IET".to_owned()));
            b.dev("sdb").model = Fact::Known(Some("VIRTUAL-DISK".to_owned()));
        }),
        (Reason::LonghornVolume, |b| {
            b.dev("sdb").model = Fact::Known(Some("SPDK bdev Controller".to_owned()));
        }),
        (Reason::UnknownTransport, |b| {
            b.dev("sdb").transport = Fact::Known(Transport::Other)
        }),
        (Reason::SystemDisk, |b| {
            b.mounts().push(mount(devno(8, 16), "/boot"))
        }),
        (Reason::SystemDiskUnresolved, |b| b.mounts().clear()),
        (Reason::Swap, |b| {
            b.inventory.swaps = Fact::Known(vec![swap("/dev/sdb")])
        }),
    ];
    for (reason, change) in never {
        let bench = Bench::with(|b| {
            change(b);
            b.policy.allow.clone_from(&all);
        });
        assert_eq!(bench.reason("sdb"), reason);
    }
}

#[test]
fn swap_on_what_is_built_on_a_disk_keeps_the_disk_and_an_unknown_swap_keeps_all() {
    let bench = Bench::with(|b| {
        b.add(partition("sdb", 1, devno(8, 17)));
        b.add(stacked("dm-3", devno(253, 3), &["sdb1"]));
        b.add_blank("sdc", 32);
        b.inventory.swaps = Fact::Known(vec![swap("/dev/dm-3"), swap("/swapfile")]);
    });
    assert_eq!(bench.reason("sdb"), Reason::Swap);
    assert!(bench.is_provisioned("sdc"));
    let bench = Bench::with(|b| b.inventory.swaps = Fact::Known(vec![swap("/dev/gone")]));
    assert_eq!(bench.reason("sdb"), Reason::SystemDiskUnresolved);
}

// ---------------------------------------------------------------------------
// Rules.

#[test]
fn a_disk_needs_one_rule_of_allow_and_none_of_deny() {
    let with = |allow: &[&str], deny: &[&str]| {
        Bench::with(|b| {
            b.policy.allow = rules(allow);
            b.policy.deny = rules(deny);
        })
    };
    assert!(with(&["name=vd*", "model=SSD*"], &["model=HDD*"]).is_provisioned("sdb"));
    assert_eq!(with(&["name=vd*"], &[]).reason("sdb"), Reason::NotAllowed);
    let refusal = with(&["name=sd*"], &["name=vd*", "serial=S*"]).refusal("sdb");
    assert_eq!(refusal.to_string(), "denied: serial=S*");
}

#[test]
fn a_rule_in_doubt_denies_and_does_not_allow() {
    let doubtful = |allow: &[&str], deny: &[&str]| {
        Bench::with(|b| {
            b.dev("sdb").rotational = lost();
            b.policy.allow = rules(allow);
            b.policy.deny = rules(deny);
        })
    };
    assert!(doubtful(&[], &[]).is_provisioned("sdb"));
    let reason = |allow, deny| doubtful(allow, deny).reason("sdb");
    assert_eq!(reason(&[], &["rotational=true"]), Reason::Unreadable);
    assert_eq!(reason(&["rotational=false"], &[]), Reason::Unreadable);
    assert!(doubtful(&["rotational=false", "name=sdb"], &[]).is_provisioned("sdb"));
}

#[test]
fn a_changed_policy_orphans_no_disk_of_ours() {
    let mut bench = Bench::managed();
    let before = bench.verdict("sdb");
    bench.policy.deny = rules(&["name=*"]);
    bench.policy.allow = rules(&["name=none"]);
    bench.policy.max_disks = Some(0);
    bench.policy.max_formats_per_hour = Some(0);
    bench.standing().frozen = Some("moving house".to_owned());
    assert_eq!(bench.verdict("sdb"), before);
    assert_eq!(before.kind(), VerdictKind::Managed);
}

// ---------------------------------------------------------------------------
// Freezing and limits.

#[test]
fn while_frozen_neither_a_new_disk_nor_one_that_was_begun_is_formatted() {
    for mut bench in [Bench::new(), Bench::pending()] {
        assert_ne!(bench.verdict("sdb").kind(), VerdictKind::Refused);
        bench.standing().frozen = Some("moving house".to_owned());
        let refusal = bench.refusal("sdb");
        assert_eq!(refusal.to_string(), "frozen: moving house");
    }
}

/// Five blank disks `sdb` to `sdf`.
fn five() -> Bench {
    Bench::with(|b| {
        for (name, minor) in [("sdc", 32), ("sdd", 48), ("sde", 64), ("sdf", 80)] {
            b.add_blank(name, minor);
        }
    })
}

fn taken(bench: &Bench) -> Vec<String> {
    let verdicts: BTreeMap<String, Verdict> = bench.verdicts();
    verdicts
        .into_iter()
        .filter(|(_, verdict)| verdict.kind() == VerdictKind::Provision)
        .map(|(disk, _)| disk)
        .collect()
}

#[test]
fn no_more_disks_are_taken_than_the_node_may_have() {
    let mut bench = five();
    bench.policy.max_disks = Some(2);
    assert_eq!(taken(&bench), ["sdb", "sdc"]);
    assert_eq!(bench.reason("sdd"), Reason::DiskLimit);
    bench.claim("sdf", claim_id(), Stage::Committed, ext4(GUID));
    assert_eq!(taken(&bench), ["sdb"]);
    assert_eq!(bench.verdict("sdf").kind(), VerdictKind::Managed);
}

#[test]
fn a_disk_that_may_be_ours_and_cannot_be_read_counts_as_ours() {
    let mut bench = five();
    bench.policy.max_disks = Some(2);
    bench.add(partition("sdf", 1, devno(8, 81)));
    bench
        .inventory
        .media
        .insert("sdf".to_owned(), Arc::new(lost()));
    assert_eq!(taken(&bench), ["sdb"]);
    bench.inventory.media.remove("sdf");
    bench.inventory.not_answering.insert("sdf".to_owned());
    assert_eq!(taken(&bench), ["sdb"]);
}

#[test]
fn no_more_disks_are_begun_within_an_hour_than_may_be() {
    let mut bench = five();
    bench.policy.max_formats_per_hour = Some(3);
    assert_eq!(taken(&bench).len(), 3);
    bench.standing().formats_last_hour = 2;
    assert_eq!(taken(&bench), ["sdb"]);
    assert_eq!(bench.reason("sdc"), Reason::FormatLimit);
    bench.standing().formats_last_hour = 9;
    assert_eq!(taken(&bench), Vec::<String>::new());
}

#[test]
fn disks_that_are_worked_on_count_before_those_with_earlier_names() {
    let mut bench = five();
    bench.inventory.working.insert("sdf".to_owned());
    bench.policy.max_disks = Some(2);
    // The verdict of one that is worked on means nothing: the other is sdb.
    assert_eq!(taken(&bench), ["sdb", "sdf"]);
    bench.policy.max_disks = Some(1);
    assert_eq!(taken(&bench), ["sdf"]);
    bench.policy.max_disks = None;
    bench.policy.max_formats_per_hour = Some(1);
    assert_eq!(taken(&bench), ["sdf"]);
}

// ---------------------------------------------------------------------------
// Approvals.

#[test]
fn an_approved_disk_is_taken_by_its_token_and_by_no_other() {
    assert_eq!(approved().provision("sdb").approval, Some(token("a")));
    let mut without = approved();
    without.policy.approvals.clear();
    assert_eq!(without.reason("sdb"), Reason::ResidualData);
    let mut changed = approved();
    changed.content("sdb").approvals.clear();
    assert_eq!(changed.reason("sdb"), Reason::ResidualData);
    let mut other = approved();
    other.policy.approvals = [token("b")].into();
    assert_eq!(other.reason("sdb"), Reason::ResidualData);
}

#[test]
fn no_token_approves_a_signature_or_a_copy_of_an_owner() {
    let mut bench = approved();
    bench.content("sdb").signature = Fact::Known(ext4(GUID));
    assert_eq!(bench.reason("sdb"), Reason::Signature);
    let copy = |wiped| {
        let mut bench = approved();
        bench.scan("sdb").traces = vec![Trace {
            kind: "xfs".to_owned(),
            at: 1 << 30,
            wiped,
        }];
        bench
    };
    assert_eq!(copy(false).refusal("sdb").code(), "signature:xfs");
    assert!(copy(true).is_provisioned("sdb"), "its owner was wiped");
}

#[test]
fn an_approval_lifts_nothing_else() {
    type Other = fn(&mut Bench);
    let others: [(Reason, Other); 4] = [
        (Reason::TooSmall, |b| b.dev("sdb").size = Fact::Known(GB)),
        (Reason::Denied, |b| b.policy.deny = rules(&["name=sdb"])),
        (Reason::Busy, |b| b.content("sdb").busy = Fact::Known(true)),
        (Reason::SourcesDisagree, |b| {
            b.udev("sdb").filesystem = Some("ext4".to_owned())
        }),
    ];
    for (reason, change) in others {
        let mut bench = approved();
        change(&mut bench);
        assert_eq!(bench.reason("sdb"), reason);
    }
}

#[test]
fn a_disk_that_nothing_tells_from_another_cannot_be_approved() {
    for number in [None, Some("0000".to_owned())] {
        let mut bench = approved();
        bench.dev("sdb").serial = Fact::Known(number.clone());
        bench.dev("sdb").wwn = Fact::Known(number);
        assert_eq!(bench.reason("sdb"), Reason::ResidualData);
    }
}

#[test]
fn a_token_that_holds_for_two_disks_approves_neither() {
    let mut bench = approved();
    bench.add_blank("sdc", 32);
    bench.scan("sdc").residue = Some(4096);
    bench.content("sdc").approvals = vec![token("a")];
    for disk in ["sdb", "sdc"] {
        assert_eq!(bench.reason(disk), Reason::ResidualData, "{disk}");
    }
}

#[test]
fn a_used_token_counts_only_for_the_disk_that_was_begun_with_it() {
    let mut bench = approved();
    bench.standing().used_approvals.insert(token("a"));
    assert_eq!(bench.reason("sdb"), Reason::ResidualData);

    let begun = |token| {
        let mut entry = entry(claim_id(), Filesystem::Ext4);
        let ends = Ends::zeroed(entry.geometry).expect("ends");
        entry.approval = Some(Approved::new(token, &ends, String::new()));
        entry.serial = Some("S16".to_owned());
        entry
    };
    bench.inventory.journal = Fact::Known(vec![begun(token("a"))]);
    let provision = bench.provision("sdb");
    assert_eq!(provision.begun, Some(claim_id()));
    assert_eq!(provision.approval, Some(token("a")));
    bench.inventory.journal = Fact::Known(vec![begun(token("b"))]);
    assert_eq!(bench.reason("sdb"), Reason::ResidualData);
}
