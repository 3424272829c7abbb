//! What must hold for any inventory at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use uuid::Uuid;

use super::bench::*;
use crate::{
    claim::{Claim, ClaimId, Resized, Stage, Table},
    decide::{Reason, Verdict, shortlist},
    fact::Fact,
    observe::{
        Device, Medium, Mountpoint, Transport, UdevRecord,
        longhorn_disk::LonghornDisk,
        medium::{Content, Depth, Inside, Lodger},
        scan::Scan,
        signature::Signature,
        superblock::Progress,
        tables::Mount,
        traces::Trace,
    },
    units::{DiskName, Filesystem},
};

/// A fact that mostly permits, sometimes does not, and sometimes was not read.
fn mostly<T: Clone + std::fmt::Debug + 'static>(good: T, others: Vec<T>) -> BoxedStrategy<Fact<T>> {
    prop_oneof![
        40 => Just(Fact::Known(good)),
        1 => proptest::sample::select(others).prop_map(Fact::Known),
        1 => Just(lost()),
    ]
    .boxed()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Places of a generated host, one device each.
const PLACES: [&str; 7] = ["sdb", "sdc", "vda", "nvme0n1", "mmcblk0", "loop0", "zram0"];

fn any_device(at: usize) -> BoxedStrategy<Device> {
    let minor = 16 * u32::try_from(at).expect("a small number") + 16;
    let base = disk(PLACES[at], minor);
    let record = UdevRecord {
        initialized: true,
        ..UdevRecord::default()
    };
    let odd_records = vec![
        None,
        Some(UdevRecord::default()),
        Some(UdevRecord {
            filesystem: some("ext4"),
            ..record.clone()
        }),
        Some(UdevRecord {
            table: some("gpt"),
            ..record.clone()
        }),
        Some(UdevRecord {
            multipath_member: true,
            ..record.clone()
        }),
        Some(UdevRecord {
            id_path: some("ip-1-iscsi-iqn.2019-10.io.longhorn:x"),
            ..record.clone()
        }),
    ];
    let names = |text: &str| vec![vec![text.to_owned()]];
    let transports = vec![
        Transport::Virtio,
        Transport::Nvme,
        Transport::Usb,
        Transport::Iscsi,
        Transport::FibreChannel,
        Transport::NvmeFabrics,
        Transport::Srp,
        Transport::TargetLoop,
    ];
    let numbers = (
        mostly(devno(8, minor), vec![devno(8, 1)]),
        mostly(PLACES[at].to_owned(), vec!["other".to_owned()]),
        mostly(Some(u64::from(minor)), vec![None]),
        mostly(SIZE, vec![0, 10 * GB, 10 * GB + 512, u64::MAX]),
        mostly(Some(512), vec![None, Some(4096), Some(520)]),
        mostly(None, vec![Some(1)]),
        mostly(Some(false), vec![Some(true), None]),
    );
    let flags = (
        mostly(false, vec![true]),
        mostly(false, vec![true]),
        mostly(false, vec![true]),
        mostly(Vec::new(), names("dm-0")),
        mostly(Vec::new(), names("sda")),
        mostly(Transport::Scsi, transports),
    );
    // Two values that disks share, so that there are duplicates.
    let texts = (
        mostly(some("ATA"), vec![None, some("IET")]),
        mostly(
            some("SSD 12"),
            vec![None, some("VIRTUAL-DISK"), some("SPDK bdev Controller")],
        ),
        mostly(
            some(&format!("S{minor}")),
            vec![None, some("S16"), some("0000"), some("twin")],
        ),
        mostly(
            some(&format!("naa.{minor}")),
            vec![None, some("naa.16"), some("naa.twin")],
        ),
        mostly(Some(record), odd_records),
        mostly("/devices/of/no/importance".to_owned(), vec![String::new()]),
    );
    (numbers, flags, texts)
        .prop_map(move |(numbers, flags, texts)| Device {
            name: base.name.clone(),
            parent: None,
            partition_number: Fact::Known(None),
            devno: numbers.0,
            devname: numbers.1,
            diskseq: numbers.2,
            size: numbers.3,
            sector: numbers.4,
            start: numbers.5,
            rotational: numbers.6,
            read_only: flags.0,
            removable: flags.1,
            hidden: flags.2,
            holders: flags.3,
            slaves: flags.4,
            backing: Fact::Known(None),
            transport: flags.5,
            vendor: texts.0,
            model: texts.1,
            serial: texts.2,
            wwn: texts.3,
            udev: texts.4,
            path: texts.5,
        })
        .boxed()
}

fn any_inside(guid: Uuid) -> BoxedStrategy<Signature> {
    let others = vec![
        Signature::Nothing,
        Signature::Ambivalent,
        ext4(GUID),
        found("xfs", Some(guid)),
        found("btrfs", None),
    ];
    prop_oneof![Just(ext4(guid)), proptest::sample::select(others)].boxed()
}

fn any_claim(at: usize) -> BoxedStrategy<Medium> {
    let guid = Uuid::from_u128(at as u128 + 1);
    let own = ClaimId {
        disk_guid: Uuid::from_u128(at as u128 + 1001),
        partition_guid: guid,
        name: name(&format!("disk{at}")),
    };
    // Now and then the claim or only the name of another.
    let renamed = ClaimId {
        name: name("sdb1"),
        ..own.clone()
    };
    let id = prop_oneof![20 => Just(own), 1 => Just(claim_id()), 1 => Just(renamed)];
    let stage = prop_oneof![Just(Stage::Pending), Just(Stage::Committed)];
    let signature = prop_oneof![9 => any_inside(guid).prop_map(Fact::Known), 1 => Just(lost())];
    let place = || prop_oneof![6 => Just(Some(Fact::Known(None))), 1 => Just(Some(Fact::Known(Some(4096)))), 1 => Just(Some(lost())), 1 => Just(None)];
    let progress = prop_oneof![
        4 => Just(Some(Fact::Known(Progress::Unused))),
        1 => Just(Some(Fact::Known(Progress::Finished))),
        1 => Just(Some(lost())),
        1 => Just(None),
    ];
    let extent = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Fact::Known(extent(SIZE - (2 << 20))))),
        1 => Just(Some(Fact::Known(extent(SIZE / 2)))),
        1 => Just(Some(lost())),
    ];
    let inside = (
        (signature, progress, place(), place()),
        (place(), extent),
        any::<bool>(),
    )
        .prop_map(
            |((signature, progress, residue, around), (beyond, extent), journalled)| Inside {
                signature,
                progress,
                residue,
                around,
                beside: Some(Fact::Known(Signature::Nothing)),
                beyond,
                extent,
                journalled,
            },
        );
    let resized = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Resized::Grown { partition_end: SIZE / 2, moved: false })),
        1 => Just(Some(Resized::Shrunk { from: SIZE * 2 })),
    ];
    (
        id,
        stage,
        (any::<bool>(), any::<bool>(), resized),
        proptest::option::weighted(0.95, inside),
    )
        .prop_map(
            |(id, stage, (whole, only_ours, resized), partition)| Medium {
                table: Fact::Known(Table::Ours {
                    claim: Claim { id, stage },
                    whole,
                    only_ours,
                    resized,
                }),
                partition,
                content: None,
                lodger: None,
                resectored: None,
            },
        )
        .boxed()
}

/// What a partition may hold that is not ours.
fn any_lodger(at: usize) -> impl Strategy<Value = Lodger> {
    let guid = Uuid::from_u128(0x1000 + at as u128);
    let named = LonghornDisk::Named {
        uuid: format!("uuid-{at}"),
        name: Some(format!("old{at}")),
    };
    let signature = mostly(ext4(guid), vec![Signature::Nothing, found("dos", None)]);
    let longhorn = mostly(named, vec![LonghornDisk::None, LonghornDisk::Nameless]);
    (signature, proptest::option::weighted(0.9, longhorn)).prop_map(|(signature, longhorn)| {
        Lodger {
            signature,
            longhorn,
            beside: Some(Fact::Known(Signature::Nothing)),
        }
    })
}

/// What a scan may find.
fn dirty_scans() -> Vec<Scan> {
    let residue = |at| Scan {
        residue: Some(at),
        ..zeroes()
    };
    let copy = |wiped| Scan {
        traces: vec![Trace {
            kind: "ext4".to_owned(),
            at: 1 << 27,
            wiped,
        }],
        ..residue(1 << 27)
    };
    vec![residue(0), residue(SIZE - 1), copy(false), copy(true)]
}

fn any_medium(at: usize) -> BoxedStrategy<Option<Fact<Medium>>> {
    let content = (
        mostly(
            Signature::Nothing,
            vec![Signature::Ambivalent, ext4(GUID), found("dos", None)],
        ),
        mostly(zeroes(), dirty_scans()),
        proptest::option::weighted(0.97, Just(())),
        mostly(false, vec![true]),
    )
        .prop_map(|(signature, scan, scanned, busy)| Content {
            signature,
            scan: scanned.map(|()| scan),
            approvals: Vec::new(),
            busy,
        });
    let unclaimed = (
        mostly(Table::Absent, vec![Table::Foreign]),
        proptest::option::weighted(0.97, content),
        proptest::option::weighted(0.2, any_lodger(at)),
    )
        .prop_map(|(table, content, lodger)| Medium {
            table,
            partition: None,
            content,
            lodger,
            resectored: None,
        });
    prop_oneof![
        40 => unclaimed.prop_map(|medium| Some(Fact::Known(medium))),
        10 => any_claim(at).prop_map(|medium| Some(Fact::Known(medium))),
        1 => Just(Some(lost())),
        1 => Just(None),
    ]
    .boxed()
}

/// A place of the host: perhaps a device, its partitions and its medium.
type Place = (Device, Option<Fact<Medium>>, Vec<u32>);

fn any_place(at: usize) -> BoxedStrategy<Option<Place>> {
    let partitions = prop_oneof![
        8 => Just(Vec::new()),
        1 => Just(vec![1]),
        1 => Just(vec![1, 2]),
    ];
    proptest::option::weighted(0.8, (any_device(at), any_medium(at), partitions)).boxed()
}

/// Mounts below different directories, of devices that may exist.
fn any_mounts() -> BoxedStrategy<Vec<Mount>> {
    let minors = proptest::collection::vec(0..200_u32, 0..4);
    minors
        .prop_map(|minors| {
            let places = ["/data", "/mnt/longhorn/disk1", "/mnt/longhorn/sdb1", "/srv"];
            let mounts = minors.into_iter().zip(places);
            mounts
                .map(|(minor, at)| mount(devno(8, minor), at))
                .collect()
        })
        .boxed()
}

fn any_bench() -> BoxedStrategy<Bench> {
    let places: Vec<_> = (0..PLACES.len()).map(any_place).collect();
    let swaps = proptest::sample::subsequence(vec!["/dev/sdb", "/dev/vda1", "/swapfile"], 0..=1);
    let kept = vec![
        (name("sdb1"), Mountpoint::Reserved),
        (name("disk0"), Mountpoint::Occupied),
        (name("vda1"), Mountpoint::Empty),
        (name("sdb1-2"), Mountpoint::Reserved),
    ];
    let kept = proptest::sample::subsequence(kept, 0..=4);
    let witness = BTreeMap::from([("sdc".to_owned(), "carries part sdc1".to_owned())]);
    let journal = vec![entry(claim_id(), Filesystem::Xfs)];
    let tables = (
        any_mounts(),
        any_mounts(),
        swaps,
        kept,
        mostly(BTreeMap::new(), vec![witness]),
        mostly(Vec::new(), vec![journal]),
        prop_oneof![8 => Just(Fact::Known(true)), 1 => Just(Fact::Known(false)), 1 => Just(lost())],
        any::<bool>(),
        0..60_u8,
    );
    (places, tables)
        .prop_map(|(places, tables)| {
            let (mounts, own, swaps, kept, witness, journal, udevd, allow_loop, blind) = tables;
            let mut bench = Bench::new();
            bench.inventory.devices.remove("sdb");
            bench.inventory.media.clear();
            for (device, medium, partitions) in places.into_iter().flatten() {
                let disk = device.name.clone();
                if let Some(medium) = medium {
                    bench.inventory.media.insert(disk.clone(), Arc::new(medium));
                }
                let first = device.devno.known().map_or(240, |devno| devno.minor);
                for number in partitions {
                    bench.add(partition(&disk, number, devno(8, first + number)));
                }
                bench.add(device);
            }
            bench.mounts().extend(mounts);
            bench.inventory.own_mounts = Fact::Known(own);
            bench.inventory.swaps = Fact::Known(swaps.into_iter().map(swap).collect());
            bench.inventory.mountpoints = Fact::Known(kept.into_iter().collect());
            bench.inventory.witness = witness;
            bench.inventory.journal = journal;
            bench.inventory.udevd = udevd;
            bench.policy.allow_loop = allow_loop;
            match blind {
                0 => bench.inventory.host_mounts = lost(),
                1 => bench.inventory.own_mounts = lost(),
                2 => bench.inventory.swaps = lost(),
                3 => bench.inventory.mountpoints = lost(),
                _ => {}
            }
            bench
        })
        .boxed()
}

fn provisioned(bench: &Bench) -> Vec<String> {
    let verdicts = bench.verdicts().into_iter();
    verdicts
        .filter(|(_, verdict)| matches!(verdict, Verdict::Provision(_)))
        .map(|(name, _)| name)
        .collect()
}

/// What must be known, and what it must say, for a disk to be provisioned:
/// the promises written down a second time, gate by gate. Names what is amiss.
fn objections(bench: &Bench, disk: &Device) -> Vec<&'static str> {
    let (inventory, policy) = (&bench.inventory, &bench.policy);
    let absent = |fact: &Fact<Vec<String>>| fact.is_known_and(Vec::is_empty);
    let record =
        |test: fn(&UdevRecord) -> bool| disk.udev.is_known_and(|r| r.as_ref().is_some_and(test));
    let recorded = disk.udev.is_known_and(Option::is_some);
    let mounted = |table: &Fact<Vec<Mount>>| {
        table.is_known_and(|mounts| {
            mounts
                .iter()
                .any(|mount| disk.devno.is_known_and(|devno| *devno == mount.devno))
        })
    };
    let medium = inventory.media.get(&disk.name);
    let medium = medium.and_then(|medium| medium.known().ok());
    let content = medium.and_then(|medium| medium.content.as_ref());
    let is_text = |fact: &Fact<Option<String>>, text: &str| {
        fact.is_known_and(|known| known.as_deref() == Some(text))
    };
    let twin = inventory.devices.values().any(|other| {
        other.name != disk.name
            && disk.wwn.is_known_and(Option::is_some)
            && other.wwn == disk.wwn
            && other.hidden != Fact::Known(true)
    });
    let carries = |other: &Arc<Device>| other.parent.as_ref() == Some(&disk.name);
    let checks = [
        (disk.parent.is_none(), "a partition"),
        (disk.name != "zram0", "no disk"),
        (policy.allow_loop || disk.name != "loop0", "a loop device"),
        (disk.hidden == Fact::Known(false), "hidden"),
        (disk.removable == Fact::Known(false), "removable"),
        (disk.read_only == Fact::Known(false), "read-only"),
        (
            disk.size.is_known_and(|size| *size > policy.min_size.0),
            "size",
        ),
        (absent(&disk.holders), "holders"),
        (absent(&disk.slaves), "slaves"),
        (disk.devno.known().is_ok(), "device number"),
        (disk.devname.known().is_ok(), "node"),
        (disk.vendor.known().is_ok(), "vendor"),
        (disk.model.known().is_ok(), "model"),
        (disk.wwn.known().is_ok(), "wwn"),
        (disk.serial.known().is_ok(), "serial"),
        (disk.diskseq.known().is_ok(), "diskseq"),
        (disk.sector.known().is_ok(), "sector"),
        (!twin, "twin"),
        (
            !is_text(&disk.vendor, "IET") || !is_text(&disk.model, "VIRTUAL-DISK"),
            "a longhorn volume of v1",
        ),
        (
            !is_text(&disk.model, "SPDK bdev Controller"),
            "a longhorn volume of v2",
        ),
        (
            disk.transport.is_known_and(|transport| {
                matches!(
                    transport,
                    Transport::Scsi | Transport::Virtio | Transport::Nvme
                )
            }),
            "transport",
        ),
        (disk.udev.known().is_ok(), "udev"),
        (
            inventory.udevd == Fact::Known(false) || record(|r| r.initialized),
            "udev pending",
        ),
        (
            !recorded || record(|r| r.filesystem.is_none() && r.table.is_none()),
            "udev sees contents",
        ),
        (!recorded || record(|r| !r.multipath_member), "multipath"),
        (
            !recorded || record(|r| !r.id_path.as_ref().is_some_and(|p| p.contains("longhorn"))),
            "a longhorn path",
        ),
        (inventory.host_mounts.known().is_ok(), "mounts unknown"),
        (inventory.swaps.known().is_ok(), "swaps unknown"),
        (inventory.journal.known().is_ok(), "journal unknown"),
        (inventory.mountpoints.known().is_ok(), "mountpoints unknown"),
        (!mounted(&inventory.host_mounts), "mounted"),
        (!mounted(&inventory.own_mounts), "mounted here"),
        (
            inventory.swaps.is_known_and(|swaps| {
                swaps.iter().all(|swap| {
                    disk.devname
                        .is_known_and(|name| swap.path != format!("/dev/{name}"))
                })
            }),
            "swap",
        ),
        (!inventory.devices.values().any(carries), "partitions"),
        (
            medium.is_some_and(|medium| medium.table == Fact::Known(Table::Absent)),
            "table",
        ),
        (
            content.is_some_and(|content| content.signature == Fact::Known(Signature::Nothing)),
            "signature",
        ),
        (
            content.is_some_and(|content| {
                content.scan.as_ref().is_some_and(|scan| {
                    scan.is_known_and(|scan| scan.residue.is_none() && scan.traces.is_empty())
                })
            }),
            "residue",
        ),
        (
            content.is_some_and(|content| content.busy == Fact::Known(false)),
            "busy",
        ),
        (
            inventory
                .witness
                .is_known_and(|seen| !seen.contains_key(&disk.name)),
            "witness",
        ),
    ];
    checks
        .into_iter()
        .filter_map(|(holds, what)| (!holds).then_some(what))
        .collect()
}

/// Ways to lose a fact that a disk needs to be provisioned. Not among them:
/// `udevd` (without it the medium alone decides), `own_mounts` (can only prove
/// use), and of a disk `path`, `rotational`, `start` and `partition_number`,
/// which no decision on a whole disk is made by.
type Blinding = fn(&mut Bench, &str);
const BLINDINGS: &[(&str, Blinding)] = &[
    ("devno", |b, d| b.dev(d).devno = lost()),
    ("devname", |b, d| b.dev(d).devname = lost()),
    ("diskseq", |b, d| b.dev(d).diskseq = lost()),
    ("size", |b, d| b.dev(d).size = lost()),
    ("sector", |b, d| b.dev(d).sector = lost()),
    ("read_only", |b, d| b.dev(d).read_only = lost()),
    ("removable", |b, d| b.dev(d).removable = lost()),
    ("hidden", |b, d| b.dev(d).hidden = lost()),
    ("holders", |b, d| b.dev(d).holders = lost()),
    ("slaves", |b, d| b.dev(d).slaves = lost()),
    ("backing of a loop device", |b, _| {
        b.add(loop_device(lost()));
    }),
    ("vendor", |b, d| b.dev(d).vendor = lost()),
    ("model", |b, d| b.dev(d).model = lost()),
    ("serial", |b, d| b.dev(d).serial = lost()),
    ("wwn", |b, d| b.dev(d).wwn = lost()),
    ("transport", |b, d| b.dev(d).transport = lost()),
    ("udev", |b, d| b.dev(d).udev = lost()),
    ("medium", |b, d| {
        b.inventory.media.insert(d.to_owned(), Arc::new(lost()));
    }),
    ("table", |b, d| b.medium(d).table = lost()),
    ("signature", |b, d| b.content(d).signature = lost()),
    ("scan", |b, d| b.content(d).scan = Some(lost())),
    ("no scan", |b, d| b.content(d).scan = None),
    ("standing", |b, _| b.inventory.standing = lost()),
    ("busy", |b, d| b.content(d).busy = lost()),
    ("host_mounts", |b, _| b.inventory.host_mounts = lost()),
    ("swaps", |b, _| b.inventory.swaps = lost()),
    ("mountpoints", |b, _| b.inventory.mountpoints = lost()),
    ("journal", |b, _| b.inventory.journal = lost()),
    ("witness", |b, _| b.inventory.witness = lost()),
];

/// Adds to a list, which is known from then on.
fn push<T>(fact: &mut Fact<Vec<T>>, value: T) {
    match fact {
        Fact::Known(values) => values.push(value),
        Fact::Unreadable(_) => *fact = Fact::Known(vec![value]),
    }
}

fn set_content(bench: &mut Bench, disk: &str, change: impl FnOnce(&mut Content)) {
    let medium = bench.inventory.media.get_mut(disk).map(Arc::make_mut);
    if let Some(Fact::Known(medium)) = medium
        && let Some(content) = &mut medium.content
    {
        change(content);
    }
}

fn set_scan(bench: &mut Bench, disk: &str, change: impl FnOnce(&mut Scan)) {
    set_content(bench, disk, |content| {
        if let Some(Fact::Known(scan)) = &mut content.scan {
            change(scan);
        }
    });
}

fn set_record(bench: &mut Bench, disk: &str, change: impl FnOnce(&mut UdevRecord)) {
    if let Fact::Known(record) = &mut bench.dev(disk).udev {
        change(record.get_or_insert_default());
    }
}

/// Evidence that a disk is used or holds something, each enough by itself.
type Evidence = fn(&mut Bench, &str);
const EVIDENCE: &[(&str, Evidence)] = &[
    ("a mount of the host", |b, d| {
        if let Ok(devno) = b.dev(d).devno.known().copied() {
            push(&mut b.inventory.host_mounts, mount(devno, "/somewhere"));
        }
    }),
    ("a mount of this process", |b, d| {
        if let Ok(devno) = b.dev(d).devno.known().copied() {
            push(&mut b.inventory.own_mounts, mount(devno, "/somewhere"));
        }
    }),
    ("swap", |b, d| {
        if let Ok(node) = b.dev(d).devname.known().cloned() {
            push(&mut b.inventory.swaps, swap(&format!("/dev/{node}")));
        }
    }),
    ("a holder", |b, d| {
        push(&mut b.dev(d).holders, "dm-9".to_owned())
    }),
    ("a slave", |b, d| {
        push(&mut b.dev(d).slaves, "sda1".to_owned())
    }),
    ("a loop device", |b, d| {
        if let Ok(node) = b.dev(d).devname.known().cloned() {
            b.add(loop_device(on(&format!("/dev/{node}"), None)));
        }
    }),
    ("a partition", |b, d| b.add(partition(d, 9, devno(259, 9)))),
    ("a multipath path", |b, d| {
        set_record(b, d, |r| r.multipath_member = true)
    }),
    ("a filesystem that udev knows", |b, d| {
        set_record(b, d, |r| r.filesystem = some("ext4"))
    }),
    ("a table that udev knows", |b, d| {
        set_record(b, d, |r| r.table = some("gpt"))
    }),
    ("a signature", |b, d| {
        set_content(b, d, |c| c.signature = Fact::Known(ext4(GUID)))
    }),
    ("two signatures", |b, d| {
        set_content(b, d, |c| c.signature = Fact::Known(Signature::Ambivalent))
    }),
    ("residue", |b, d| {
        set_scan(b, d, |scan| scan.residue = Some(1))
    }),
    ("a copy of an owner", |b, d| {
        set_scan(b, d, |scan| *scan = dirty_scans().remove(2))
    }),
    ("a copy of an owner that was wiped", |b, d| {
        set_scan(b, d, |scan| *scan = dirty_scans().remove(3))
    }),
    ("a freeze", |b, _| {
        if let Fact::Known(standing) = &mut b.inventory.standing {
            standing.frozen = some("why");
        }
    }),
    ("a rule against it", |b, d| {
        b.policy.deny = rules(&[&format!("name={d}")])
    }),
    ("a rule for others", |b, _| {
        b.policy.allow = rules(&["name=none"])
    }),
    ("a read that does not come back", |b, d| {
        b.inventory.media.remove(d);
        b.inventory.not_answering.insert(d.to_owned());
    }),
    ("a holder of the exclusive right", |b, d| {
        set_content(b, d, |c| c.busy = Fact::Known(true))
    }),
    ("a second witness", |b, d| {
        if let Fact::Known(seen) = &mut b.inventory.witness {
            seen.insert(d.to_owned(), "carries part".to_owned());
        }
    }),
];

/// A verdict without the name that a new disk would get and without details.
fn outcome(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Provision(provision) => format!("provision {}", provision.filesystem),
        Verdict::Refused(refusal) => refusal.reason.code().to_owned(),
        other @ (Verdict::Managed(_) | Verdict::Adopt(_) | Verdict::Resume(_)) => {
            format!("{other:?}")
        }
    }
}

fn outcomes(bench: &Bench) -> BTreeMap<String, String> {
    let verdicts = bench.verdicts().into_iter();
    verdicts
        .map(|(name, verdict)| (name, outcome(&verdict)))
        .collect()
}

#[test]
fn each_fact_lost_and_each_piece_of_evidence_refuses_the_usual_disk() {
    assert!(Bench::new().is_provisioned("sdb"));
    for (what, blind) in BLINDINGS {
        let bench = Bench::with(|b| blind(b, "sdb"));
        assert!(!bench.is_provisioned("sdb"), "without {what}");
    }
    for (what, evidence) in EVIDENCE {
        let bench = Bench::with(|b| evidence(b, "sdb"));
        assert!(!bench.is_provisioned("sdb"), "with {what}");
    }
}

/// The properties below would hold of anything that provisions nothing.
#[test]
fn generated_hosts_have_disks_of_every_verdict() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..400 {
        let bench = any_bench().new_tree(&mut runner).expect("a host").current();
        for verdict in bench.verdicts().values() {
            let kind = match verdict {
                Verdict::Managed(_) => "managed",
                Verdict::Adopt(_) => "adopt",
                Verdict::Provision(_) => "provision",
                Verdict::Resume(_) => "resume",
                Verdict::Refused(refusal) => refusal.reason.code(),
            };
            *seen.entry(kind).or_default() += 1;
        }
    }
    for (kind, least) in [
        ("provision", 100),
        ("managed", 5),
        ("adopt", 5),
        ("resume", 5),
        ("unreadable", 50),
        ("duplicate-identity", 3),
        ("mounted", 3),
        ("probe-failed", 10),
    ] {
        let count = seen.get(kind).copied().unwrap_or(0);
        assert!(count >= least, "{kind}: {count} of {seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_provisioned_has_every_permitting_fact_known_and_permitting(bench in any_bench()) {
        for name in provisioned(&bench) {
            let disk = &bench.inventory.devices[&name];
            prop_assert_eq!(objections(&bench, disk), Vec::<&str>::new(), "{}", name);
        }
    }

    #[test]
    fn a_fact_that_is_lost_never_permits(bench in any_bench()) {
        for name in provisioned(&bench) {
            for (what, blind) in BLINDINGS {
                let mut blinded = bench.clone();
                blind(&mut blinded, &name);
                prop_assert!(!blinded.is_provisioned(&name), "{} without {}", name, what);
            }
        }
    }

    #[test]
    fn evidence_of_use_never_permits_and_always_refuses(bench in any_bench()) {
        let before = bench.verdicts();
        for name in bench.inventory.devices.keys() {
            for (what, evidence) in EVIDENCE {
                let mut used = bench.clone();
                evidence(&mut used, name);
                let after = used.verdict(name);
                prop_assert!(!matches!(after, Verdict::Provision(_)), "{} with {}", name, what);
                if matches!(before[name], Verdict::Provision(_)) {
                    prop_assert!(matches!(after, Verdict::Refused(_)), "{} with {}", name, what);
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_tables_does_not_matter(bench in any_bench()) {
        let mut turned = bench.clone();
        for mounts in [&mut turned.inventory.host_mounts, &mut turned.inventory.own_mounts] {
            if let Fact::Known(mounts) = mounts {
                mounts.reverse();
            }
        }
        if let Fact::Known(swaps) = &mut turned.inventory.swaps {
            swaps.reverse();
        }
        prop_assert_eq!(outcomes(&bench), outcomes(&turned));
    }

    #[test]
    fn an_unrelated_disk_changes_no_other_verdict(
        bench in any_bench(),
        stranger in any_device(0),
        medium in any_medium(77),
    ) {
        let mut more = bench.clone();
        let stranger = Device {
            name: "sdz".to_owned(),
            devno: Fact::Known(devno(65, 144)),
            devname: Fact::Known("sdz".to_owned()),
            serial: Fact::Known(some("stranger")),
            wwn: Fact::Known(some("naa.stranger")),
            ..stranger
        };
        // One with a claim of its own; with another's it would not be unrelated.
        let related = medium.as_ref().is_some_and(|medium| medium.is_known_and(|medium| {
            medium.table.is_known_and(|table| match table {
                Table::Ours { claim, .. } => claim.id.name != name("disk77"),
                Table::Absent | Table::Foreign => false,
            })
        }));
        prop_assume!(!related);
        more.add(stranger);
        if let Some(medium) = medium {
            more.inventory.media.insert("sdz".to_owned(), Arc::new(medium));
        }
        let mut with_it = outcomes(&more);
        with_it.remove("sdz");
        prop_assert_eq!(outcomes(&bench), with_it);
    }

    #[test]
    fn every_device_has_a_verdict_and_every_refusal_a_known_code(bench in any_bench()) {
        let verdicts = bench.verdicts();
        prop_assert!(verdicts.keys().eq(bench.inventory.devices.keys()));
        let codes: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        for verdict in verdicts.values() {
            if let Verdict::Refused(refusal) = verdict {
                let code = refusal.code();
                let plain = code.split(':').next().unwrap_or_default();
                prop_assert!(codes.contains(plain), "{}", code);
            }
        }
    }

    #[test]
    fn no_two_disks_get_one_name_and_no_name_is_given_twice(bench in any_bench()) {
        let verdicts = bench.verdicts();
        let new: Vec<&DiskName> = verdicts
            .values()
            .filter_map(|verdict| match verdict {
                Verdict::Provision(provision) => Some(&provision.name),
                Verdict::Adopt(adopt) => Some(&adopt.name),
                Verdict::Managed(_) | Verdict::Resume(_) | Verdict::Refused(_) => None,
            })
            .collect();
        let different: BTreeSet<&DiskName> = new.iter().copied().collect();
        prop_assert_eq!(different.len(), new.len(), "{:?}", new);
        let claimed = bench.inventory.media.values().filter_map(|medium| {
            match medium.known().ok()?.table.known().ok()? {
                Table::Ours { claim, .. } => Some(&claim.id.name),
                Table::Absent | Table::Foreign => None,
            }
        });
        for name in claimed {
            prop_assert!(!different.contains(name), "{} belongs to a disk", name);
        }
    }

    #[test]
    fn what_is_provisioned_was_chosen_to_be_read_whole(bench in any_bench()) {
        let chosen = shortlist(&bench.inventory, &bench.policy);
        for name in provisioned(&bench) {
            prop_assert_eq!(chosen[&name].depth, Depth::Blankness, "{}", name);
        }
    }
}
