//! Disks of Longhorn's and of other nodes, and whose name is whose.

use std::{path::PathBuf, sync::Arc};

use uuid::{Uuid, uuid};

use super::{Change, bench::*};
use crate::{
    claim::{ClaimId, Stage, Table},
    decide::{Adopt, Adoption, Managed, Reason, Source, Verdict, dead_mounts, shortlist},
    fact::Fact,
    ledger::{Kept, Mounting},
    observe::{
        Hardware, Inventory, Medium, Mountpoint, Transport,
        longhorn_disk::LonghornDisk,
        medium::{Lodger, Window},
        signature::Signature,
    },
    units::{DevNo, Filesystem},
};

const OTHER: Uuid = uuid!("0f0f0f0f-0b0e-4f0c-9d9b-5e1f0a7c2b11");

pub(super) fn named(name: &str) -> LonghornDisk {
    LonghornDisk::Named {
        uuid: "1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3".to_owned(),
        name: Some(name.to_owned()),
    }
}

/// Makes a disk one with an ext4 in its only partition, whoever made that.
pub(super) fn lodge(bench: &mut Bench, disk: &str, longhorn: LonghornDisk) {
    lodge_as(bench, disk, GUID, Some(Fact::Known(longhorn)));
}

/// What is found on the whole disk besides its table.
pub(super) fn beside(bench: &mut Bench, disk: &str, signature: Signature) {
    let medium = bench.inventory.media.get_mut(disk).expect("read");
    let Fact::Known(medium) = Arc::make_mut(medium) else {
        panic!("{disk} cannot be read");
    };
    let beside = Some(Fact::Known(signature));
    match (&mut medium.partition, &mut medium.lodger) {
        (Some(inside), _) => inside.beside = beside,
        (None, Some(lodger)) => lodger.beside = beside,
        (None, None) => panic!("nothing is beside anything"),
    }
}

fn lodge_as(bench: &mut Bench, disk: &str, uuid: Uuid, longhorn: Option<Fact<LonghornDisk>>) {
    let medium = Medium {
        table: Fact::Known(Table::Foreign),
        partition: None,
        content: None,
        lodger: Some(Lodger {
            signature: Fact::Known(ext4(uuid)),
            longhorn,
            beside: Some(Fact::Known(Signature::Nothing)),
        }),
        resectored: None,
    };
    let medium = Arc::new(Fact::Known(medium));
    bench.inventory.media.insert(disk.to_owned(), medium);
    let DevNo { major, minor } = *bench.dev(disk).devno.known().expect("a device number");
    bench.add(partition(disk, 1, devno(major, minor + 1)));
}

/// A disk of Longhorn's, known by nothing but what is on it.
fn longhorns() -> Bench {
    Bench::with(|b| lodge(b, "sdb", named("sdh1")))
}

fn keep(bench: &mut Bench, uuid: Uuid, called: &str, mounted: Option<DevNo>) {
    let kept = Kept {
        mounted: mounted.map(|devno| Mounting {
            devno,
            boot: "this boot".to_owned(),
        }),
        ..Kept::named(name(called))
    };
    bench.standing().disks.insert(uuid, kept);
}

fn adopt(bench: &Bench, disk: &str) -> Adopt {
    match bench.verdict(disk) {
        Verdict::Adopt(adopt) => adopt,
        other @ (Verdict::Managed(_)
        | Verdict::Provision(_)
        | Verdict::Resume(_)
        | Verdict::Refused(_)) => panic!("{disk} is not adopted: {other:?}"),
    }
}

fn managed(bench: &Bench, disk: &str) -> Managed {
    match bench.verdict(disk) {
        Verdict::Managed(managed) => managed,
        other @ (Verdict::Adopt(_)
        | Verdict::Provision(_)
        | Verdict::Resume(_)
        | Verdict::Refused(_)) => panic!("{disk} is not managed: {other:?}"),
    }
}

fn of_node(node: &str) -> ClaimId {
    claim_id().made_on(node)
}

/// A committed disk from a node.
fn moved(node: &str) -> Bench {
    Bench::with(|b| b.claim("sdb", of_node(node), Stage::Committed, ext4(GUID)))
}

// ---------------------------------------------------------------------------
// Longhorn's.

#[test]
fn a_disk_of_longhorns_is_adopted_under_the_name_that_longhorn_gave_it() {
    let expected = Adopt {
        uuid: GUID,
        name: name("sdh1"),
        filesystem: Filesystem::Ext4,
        from: Source::Longhorn,
        mounted: false,
        ailment: None,
    };
    assert_eq!(adopt(&longhorns(), "sdb"), expected);
}

#[test]
fn a_disk_of_longhorns_that_somebody_mounted_in_its_place_keeps_that_name() {
    let mut bench = longhorns();
    bench
        .mounts()
        .push(mount(devno(8, 17), "/mnt/longhorn/sdx1"));
    let adopted = adopt(&bench, "sdb");
    assert_eq!((adopted.name, adopted.mounted), (name("sdx1"), true));
    let window = shortlist(&bench.inventory, &bench.policy)["sdb"]
        .window
        .clone();
    assert_eq!(
        window,
        Some(Window::Mounted(PathBuf::from("/mnt/longhorn/sdx1")))
    );
}

#[test]
fn a_disk_of_longhorns_in_use_elsewhere_is_left_alone_and_not_looked_into() {
    let window = |change: fn(&mut Bench)| {
        let mut bench = longhorns();
        change(&mut bench);
        (
            bench.reason("sdb"),
            shortlist(&bench.inventory, &bench.policy)["sdb"]
                .window
                .clone(),
        )
    };
    let mounted = window(|b| b.mounts().push(mount(devno(8, 17), "/srv")));
    assert_eq!(mounted, (Reason::MountedElsewhere, None));
    let stacked = window(|b| b.dev("sdb1").holders = Fact::Known(vec!["dm-0".to_owned()]));
    assert_eq!(stacked, (Reason::Stacked, None));
    let looped = window(|b| b.add(loop_device(on("/dev/sdb1", Some(devno(8, 17))))));
    assert_eq!(looped, (Reason::Stacked, None));
    let network = window(|b| b.dev("sdb").transport = Fact::Known(Transport::Iscsi));
    assert_eq!(network, (Reason::NetworkTransport, Some(Window::Closed)));
    let system = window(|b| b.mounts().push(mount(devno(8, 17), "/var")));
    assert_eq!(system, (Reason::SystemDisk, None));
}

#[test]
fn a_name_that_is_taken_here_is_numbered_and_two_newcomers_get_two_names() {
    let mut bench = longhorns();
    keep(&mut bench, OTHER, "sdh1", None);
    assert_eq!(adopt(&bench, "sdb").name, name("sdh1-2"));
    let mut bench = longhorns();
    bench.add_blank("sdc", 32);
    lodge_as(&mut bench, "sdc", OTHER, Some(Fact::Known(named("sdh1"))));
    assert_eq!(adopt(&bench, "sdb").name, name("sdh1"));
    assert_eq!(adopt(&bench, "sdc").name, name("sdh1-2"));
}

#[test]
fn a_directory_that_waits_for_a_disk_is_its_place() {
    for waiting in [Mountpoint::Empty, Mountpoint::Reserved] {
        let mut bench = longhorns();
        bench.inventory.mountpoints = Fact::Known([(name("sdh1"), waiting)].into());
        assert_eq!(adopt(&bench, "sdb").name, name("sdh1"));
        let mut bench = moved("another");
        bench.inventory.mountpoints = Fact::Known([(name("sdb1"), waiting)].into());
        assert_eq!(adopt(&bench, "sdb").name, name("sdb1"));
    }
    let mut bench = longhorns();
    bench.inventory.mountpoints = Fact::Known([(name("sdh1"), Mountpoint::Occupied)].into());
    assert_eq!(bench.reason("sdb"), Reason::MountPathTaken);
}

#[test]
fn a_new_disk_does_not_take_the_name_that_one_of_longhorns_brings() {
    let mut bench = Bench::new();
    bench.add_blank("sdc", 32);
    lodge(&mut bench, "sdc", named("sdb1"));
    assert_eq!(adopt(&bench, "sdc").name, name("sdb1"));
    assert_eq!(bench.provision("sdb").name, name("sdb1-2"));
}

#[test]
fn what_the_ledger_has_named_is_not_renamed_for_anybody() {
    let mut bench = Bench::pending();
    bench.add_blank("sdc", 32);
    lodge_as(&mut bench, "sdc", OTHER, None);
    keep(&mut bench, OTHER, "sdb1", None);
    assert_eq!(adopt(&bench, "sdc").name, name("sdb1"));
}

#[test]
fn a_name_that_no_directory_may_have_gives_way_to_the_kernels() {
    let bench = Bench::with(|b| lodge(b, "sdb", named("../../etc")));
    assert_eq!(adopt(&bench, "sdb").name, name("sdb1"));
}

#[test]
fn a_disk_that_was_adopted_keeps_its_name_and_stays_whatever_the_policy_says() {
    let mut bench = Bench::with(|b| lodge_as(b, "sdb", GUID, None));
    assert_eq!(bench.reason("sdb"), Reason::Partitioned);
    keep(&mut bench, GUID, "oldname", None);
    bench.policy.adopt = Adoption::None;
    bench.policy.deny = rules(&["name=sd*"]);
    assert_eq!(adopt(&bench, "sdb").name, name("oldname"));
    // It is known by its UUID, and not looked into against the operator's rules.
    let window = shortlist(&bench.inventory, &bench.policy)["sdb"]
        .window
        .clone();
    assert_eq!(window, Some(Window::Closed));
}

#[test]
fn a_partition_that_cannot_be_read_is_not_called_somebody_elses() {
    let mut bench = longhorns();
    if let Some(lodger) = &mut bench.medium("sdb").lodger {
        lodger.signature = lost();
    }
    assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
    // Nor does it make room for another disk.
    bench.add_blank("sdc", 32);
    bench.policy.max_disks = Some(1);
    assert_eq!(bench.reason("sdc"), Reason::DiskLimit);
}

#[test]
fn rules_and_hazards_keep_newcomers_away() {
    let reason = |change: fn(&mut Bench)| {
        let mut bench = longhorns();
        change(&mut bench);
        bench.reason("sdb")
    };
    let denied = reason(|b| b.policy.deny = rules(&["name=sd*"]));
    assert_eq!(denied, Reason::Denied);
    let not_allowed = reason(|b| b.policy.allow = rules(&["name=vd*"]));
    assert_eq!(not_allowed, Reason::NotAllowed);
    let removable = reason(|b| b.dev("sdb").removable = Fact::Known(true));
    assert_eq!(removable, Reason::Removable);
    let protected = reason(|b| b.dev("sdb").read_only = Fact::Known(true));
    assert_eq!(protected, Reason::ReadOnly);
}

#[test]
fn two_disks_with_one_filesystem_are_both_left_alone() {
    let mut bench = longhorns();
    bench.add_blank("sdc", 32);
    lodge(&mut bench, "sdc", named("sdh1"));
    for disk in ["sdb", "sdc"] {
        assert_eq!(bench.reason(disk), Reason::DuplicateIdentity, "{disk}");
    }
}

#[test]
fn a_filesystem_that_longhorn_knows_nothing_of_is_left_alone() {
    let reason = |longhorn| Bench::with(|b| lodge_as(b, "sdb", GUID, longhorn)).reason("sdb");
    assert_eq!(reason(None), Reason::Partitioned);
    assert_eq!(reason(Some(lost())), Reason::ProbeFailed);
    assert_eq!(
        reason(Some(Fact::Known(LonghornDisk::None))),
        Reason::Partitioned
    );
    assert_eq!(
        reason(Some(Fact::Known(LonghornDisk::Nameless))),
        Reason::NamelessLonghornDisk
    );
}

#[test]
fn a_disk_with_two_partitions_is_nobodys_to_adopt() {
    let mut bench = longhorns();
    bench.add(partition("sdb", 2, devno(8, 18)));
    let window = shortlist(&bench.inventory, &bench.policy)
        .get("sdb")
        .and_then(|wanted| wanted.window.clone());
    assert_eq!(window, None);
}

#[test]
fn an_adopted_disk_counts_as_one_of_the_nodes_disks() {
    let mut bench = longhorns();
    bench.add_blank("sdc", 32);
    bench.policy.max_disks = Some(1);
    assert_eq!(bench.reason("sdc"), Reason::DiskLimit);
    bench.policy.max_disks = Some(2);
    assert!(bench.is_provisioned("sdc"));
}

// ---------------------------------------------------------------------------
// Claims of other nodes.

#[test]
fn a_disk_of_another_node_is_adopted_where_the_policy_says_so() {
    let mut bench = moved("another");
    let adopted = adopt(&bench, "sdb");
    assert_eq!(adopted.from, Source::Claim(of_node_like(&bench)));
    assert_eq!(adopted.name, name("sdb1"));
    bench.policy.adopt = Adoption::None;
    assert_eq!(bench.reason("sdb"), Reason::AnotherNode);
    // Once it was mounted here it stays.
    keep(&mut bench, GUID, "sdb1", None);
    assert_eq!(managed(&bench, "sdb").claim.name, name("sdb1"));
}

fn of_node_like(bench: &Bench) -> ClaimId {
    let medium = bench.inventory.media["sdb"].known().expect("readable");
    match medium.table.known().expect("readable") {
        Table::Ours { claim, .. } => claim.id.clone(),
        other @ (Table::Absent | Table::Foreign) => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_of_this_node_is_managed_also_without_a_ledger_or_a_journal() {
    let mut bench = moved("unknown");
    assert_eq!(managed(&bench, "sdb").claim.name, name("sdb1"));
    bench.policy.adopt = Adoption::None;
    assert_eq!(managed(&bench, "sdb").claim.name, name("sdb1"));
    bench.inventory.standing = lost();
    bench.inventory.journal = lost();
    assert_eq!(managed(&bench, "sdb").claim.name, name("sdb1"));
}

#[test]
fn a_node_that_was_renamed_keeps_its_disks() {
    let mut bench = moved("former");
    bench.policy.adopt = Adoption::None;
    keep(&mut bench, GUID, "sdb1", None);
    assert_eq!(managed(&bench, "sdb").claim.name, name("sdb1"));
    // Also what it has begun and not finished.
    let id = of_node("former");
    let mut bench = Bench::with(|b| b.claim("sdb", id.clone(), Stage::Pending, Signature::Nothing));
    assert_eq!(bench.reason("sdb"), Reason::AnotherNode);
    bench.inventory.journal = Fact::Known(vec![entry(id, Filesystem::Ext4)]);
    assert!(matches!(bench.verdict("sdb"), Verdict::Resume(_)));
}

#[test]
fn a_disk_that_comes_with_the_name_of_another_gets_one_that_is_free() {
    // sdb1 of another node beside sdb1 of this one.
    let mut bench = moved("another");
    bench.add_blank("sdc", 32);
    let own = ClaimId {
        partition_guid: OTHER,
        ..ClaimId::fresh(name("sdb1"))
    };
    bench.claim("sdc", own.clone(), Stage::Committed, ext4(OTHER));
    assert_eq!(managed(&bench, "sdc").claim, own);
    assert_eq!(adopt(&bench, "sdb").name, name("sdb1-2"));
    // The same when this node's own is away.
    let mut bench = moved("another");
    keep(&mut bench, OTHER, "sdb1", None);
    assert_eq!(adopt(&bench, "sdb").name, name("sdb1-2"));
    // And when one of this node's own comes back after its name was given away.
    let mut bench = moved("unknown");
    keep(&mut bench, OTHER, "sdb1", None);
    assert_eq!(adopt(&bench, "sdb").name, name("sdb1-2"));
    keep(&mut bench, GUID, "sdb1-2", None);
    assert_eq!(adopt(&bench, "sdb").name, name("sdb1-2"));
}

#[test]
fn a_clone_of_a_disk_makes_both_doubtful_wherever_they_were_made() {
    for node in ["unknown", "another"] {
        let mut bench = moved(node);
        bench.add_blank("sdc", 32);
        let id = of_node_like(&bench);
        bench.claim("sdc", id, Stage::Committed, ext4(GUID));
        for disk in ["sdb", "sdc"] {
            assert_eq!(bench.reason(disk), Reason::DuplicateIdentity, "{disk}");
        }
    }
}

// ---------------------------------------------------------------------------
// Mounts of disks that are gone, and of disks that cannot be written to.

#[test]
fn only_what_the_agent_mounted_of_a_device_that_is_gone_is_dead() {
    let dead = |change: fn(&mut Bench)| {
        let mut bench = Bench::managed();
        keep(&mut bench, GUID, "sdb1", Some(devno(8, 33)));
        bench
            .mounts()
            .push(mount(devno(8, 33), "/mnt/longhorn/sdb1"));
        change(&mut bench);
        (
            dead_mounts(&bench.inventory, &bench.policy).contains_key(&name("sdb1")),
            bench,
        )
    };
    let (is_dead, bench) = dead(|_| {});
    assert!(is_dead);
    // The disk is back under another name: it waits to be mounted.
    assert!(!managed(&bench, "sdb").mounted);
    let spared: [(&str, Change); 5] = [
        ("the device is there", |b| b.add(disk("sdc", 33))),
        ("a number is unreadable", |b| b.dev("sda").devno = lost()),
        ("another boot", |b| {
            b.standing().boot = "the next boot".to_owned()
        }),
        ("not by the agent", |b| keep(b, GUID, "sdb1", None)),
        ("another device", |b| {
            keep(b, GUID, "sdb1", Some(devno(8, 49)))
        }),
    ];
    for (why, change) in spared {
        assert!(!dead(change).0, "{why}");
    }
    assert_eq!(
        dead(|b| keep(b, GUID, "sdb1", None)).1.reason("sdb"),
        Reason::MountPathTaken
    );
}

#[test]
fn what_is_wrong_with_the_filesystem_of_a_mounted_disk_is_told_with_it() {
    let mut bench = Bench::managed();
    let place = "/mnt/longhorn/sdb1";
    let stopped = "the kernel has stopped writing to it (ro)".to_owned();
    let ailments = &mut bench.inventory.ailments;
    ailments.insert(place.to_owned(), stopped.clone());
    assert_eq!(managed(&bench, "sdb").ailment, None);
    bench.mounts().push(mount(devno(8, 17), place));
    assert_eq!(managed(&bench, "sdb").ailment, Some(stopped));
}

#[test]
fn half_of_a_mirror_is_not_mounted_on_its_own() {
    let kinds = [
        "isw_raid_member",
        "linux_raid_member",
        "LVM2_member",
        "drbd",
    ];
    let unclear = [Signature::Ambivalent];
    let members = kinds.map(|kind| found(kind, None)).into_iter();
    for signature in members.chain(unclear) {
        for change in [
            |b: &mut Bench| lodge(b, "sdb", named("sdb1")),
            |b: &mut Bench| b.claim("sdb", claim_id(), Stage::Committed, ext4(GUID)),
            |b: &mut Bench| b.claim("sdb", of_node("k3s9"), Stage::Committed, ext4(GUID)),
        ] {
            let mut bench = Bench::with(change);
            assert!(!matches!(bench.verdict("sdb"), Verdict::Refused(_)));
            beside(&mut bench, "sdb", signature.clone());
            assert_eq!(bench.reason("sdb"), Reason::ArrayMember, "{signature:?}");
            // Served as long as it is mounted.
            let place = "/mnt/longhorn/sdb1";
            bench.mounts().push(mount(devno(8, 17), place));
            assert!(!matches!(bench.verdict("sdb"), Verdict::Refused(_)));
            // And known by then, so that what is left of an array of the past
            // keeps it from nothing.
            bench.mounts().pop();
            let kept = Kept {
                hardware: Some(Hardware::of(bench.dev("sdb")).expect("readable")),
                ..Kept::named(name("sdb1"))
            };
            bench.standing().disks.insert(GUID, kept.clone());
            assert!(!matches!(bench.verdict("sdb"), Verdict::Refused(_)));
            // A member of an array that was mounted is another disk.
            bench.dev("sdb").serial = Fact::Known(Some("a half".to_owned()));
            bench.dev("sdb").wwn = Fact::Known(None);
            assert_eq!(bench.reason("sdb"), Reason::ArrayMember, "{signature:?}");
        }
    }
}

#[test]
fn what_is_left_of_a_filesystem_on_the_whole_disk_keeps_it_from_nothing() {
    let mut bench = longhorns();
    beside(&mut bench, "sdb", found("btrfs", None));
    assert_eq!(adopt(&bench, "sdb").name, name("sdh1"));
}

#[test]
fn a_disk_whose_other_signatures_cannot_be_read_is_not_mounted() {
    let mut bench = longhorns();
    let medium = bench.inventory.media.get_mut("sdb").expect("read");
    let Fact::Known(medium) = Arc::make_mut(medium) else {
        panic!("it cannot be read");
    };
    for unread in [
        None,
        Some(Fact::unreadable("libblkid", "Input/output error")),
    ] {
        medium.lodger.as_mut().expect("a filesystem").beside = unread;
        let bench = Bench {
            inventory: Inventory {
                media: [("sdb".to_owned(), Arc::new(Fact::Known(medium.clone())))].into(),
                ..longhorns().inventory
            },
            ..longhorns()
        };
        assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
    }
}
