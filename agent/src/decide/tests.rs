//! Each gate by example; [`properties`] has what must hold for any inventory.

mod adopted;
mod bench;
mod copies;
mod growth;
mod permitted;
mod properties;
mod released;

use std::{collections::BTreeMap, sync::Arc};

use uuid::uuid;

use self::bench::*;
use super::{
    Adoption, Claimed, Left, Managed, Provision, Reason, Resume, Verdict, claimed, shortlist,
};
use crate::{
    claim::{Claim, ClaimId, Geometry, Resized, Stage, Table, TableImage},
    fact::Fact,
    journal::Entry,
    observe::{
        Device, Inventory, Mountpoint, Transport,
        longhorn_disk::LonghornDisk,
        medium::{Depth, Inside},
        resectored::Resectored,
        signature::Signature,
        superblock::Progress,
        tables::Mount,
    },
    units::{Bytes, Filesystem},
};

/// A disk inside the machine of which everything is known.
pub(crate) fn example_disk() -> Device {
    disk("sdb", 16)
}

/// A host with its root on `sda1` and a blank disk `sdb`.
pub(crate) fn example_host() -> Inventory {
    Bench::new().inventory
}

// ---------------------------------------------------------------------------
// Every reason, and how it comes about.

type Change = fn(&mut Bench);

/// A reason, the device that gets it, and what makes the difference.
const EXAMPLES: &[(Reason, &str, Change)] = &[
    (Reason::Partition, "sda1", |_| {}),
    (Reason::UnsupportedKind, "sr0", |b| b.add(disk("sr0", 200))),
    (Reason::HiddenPath, "sdb", |b| {
        b.dev("sdb").hidden = Fact::Known(true)
    }),
    (Reason::DuplicateIdentity, "sdb", |b| {
        b.add_blank("sdc", 32);
        b.dev("sdc").wwn = b.dev("sdb").wwn.clone();
    }),
    (Reason::Copy, "sdb", copies::left_alone),
    (Reason::ArrayMember, "sdb", |b| {
        adopted::lodge(b, "sdb", adopted::named("sdh1"));
        adopted::beside(b, "sdb", found("isw_raid_member", None));
    }),
    (Reason::SectorSize, "sdb", |b| {
        b.medium("sdb").resectored = Some(Resectored {
            claim: Claim {
                id: claim_id(),
                stage: Stage::Committed,
            },
            sector: 4096,
        });
    }),
    (Reason::SystemDisk, "sda", |_| {}),
    (Reason::SystemDiskUnresolved, "sdb", |b| b.mounts().clear()),
    (Reason::LonghornVolume, "sdb", |b| {
        b.udev("sdb").id_path = Some("ip-10.0.0.1-iscsi-iqn.2019-10.io.longhorn:v-lun-1".to_owned())
    }),
    (Reason::NetworkTransport, "sdb", |b| {
        b.dev("sdb").transport = Fact::Known(Transport::Iscsi)
    }),
    (Reason::Removable, "sdb", |b| {
        b.dev("sdb").removable = Fact::Known(true)
    }),
    (Reason::CsiVolume, "sdb", |b| {
        b.dev("sdb").vendor = Fact::Known(Some("HC".to_owned()));
        b.dev("sdb").model = Fact::Known(Some("Volume".to_owned()));
    }),
    (Reason::Denied, "sdb", |b| {
        b.policy.deny = rules(&["name=sd*"])
    }),
    (Reason::NotAllowed, "sdb", |b| {
        b.policy.allow = rules(&["name=vd*"])
    }),
    (Reason::Frozen, "sdb", |b| {
        b.standing().frozen = Some("moving house".to_owned())
    }),
    (Reason::DiskLimit, "sdb", |b| b.policy.max_disks = Some(0)),
    (Reason::FormatLimit, "sdb", |b| {
        b.policy.max_formats_per_hour = Some(0)
    }),
    (Reason::NotAnswering, "sdb", |b| {
        b.inventory.media.remove("sdb");
        b.inventory.not_answering.insert("sdb".to_owned());
    }),
    (Reason::TooSmall, "sdb", |b| {
        b.dev("sdb").size = Fact::Known(GB)
    }),
    (Reason::ReadOnly, "sdb", |b| {
        b.dev("sdb").read_only = Fact::Known(true)
    }),
    (Reason::Mounted, "sdb", |b| {
        b.mounts().push(mount(devno(8, 16), "/data"))
    }),
    (Reason::Swap, "sdb", |b| {
        b.inventory.swaps = Fact::Known(vec![swap("/dev/sdb")])
    }),
    (Reason::Stacked, "sdb", |b| {
        b.dev("sdb").holders = Fact::Known(vec!["dm-0".to_owned()])
    }),
    (Reason::MultipathMember, "sdb", |b| {
        b.udev("sdb").multipath_member = true
    }),
    (Reason::Partitioned, "sdb", |b| {
        b.add(partition("sdb", 1, devno(8, 17)))
    }),
    (Reason::Busy, "sdb", |b| {
        b.content("sdb").busy = Fact::Known(true)
    }),
    (Reason::UnknownTransport, "sdb", |b| {
        b.dev("sdb").transport = Fact::Known(Transport::Other)
    }),
    (Reason::UdevPending, "sdb", |b| {
        b.udev("sdb").initialized = false
    }),
    (Reason::Unreadable, "sdb", |b| b.dev("sdb").size = lost()),
    (Reason::ProbeFailed, "sdb", |b| {
        b.content("sdb").signature = lost()
    }),
    (Reason::Signature, "sdb", |b| {
        b.content("sdb").signature = Fact::Known(ext4(GUID))
    }),
    (Reason::AmbivalentSignatures, "sdb", |b| {
        b.content("sdb").signature = Fact::Known(Signature::Ambivalent)
    }),
    (Reason::ResidualData, "sdb", |b| {
        b.scan("sdb").residue = Some(4096)
    }),
    (Reason::SourcesDisagree, "sdb", |b| {
        b.udev("sdb").filesystem = Some("xfs".to_owned())
    }),
    (Reason::ClaimDamaged, "sdb", |b| {
        b.claim("sdb", claim_id(), Stage::Pending, found("xfs", None))
    }),
    (Reason::FilesystemDamaged, "sdb", |b| {
        b.claim("sdb", claim_id(), Stage::Committed, Signature::Nothing)
    }),
    (Reason::DiskShrunk, "sdb", |b| {
        *b = Bench::managed();
        b.resized("sdb", false, Resized::Shrunk { from: 2 * SIZE });
    }),
    (Reason::MountedElsewhere, "sdb", |b| {
        *b = Bench::managed();
        b.mounts().push(mount(devno(8, 17), "/data"));
    }),
    (Reason::MountPathTaken, "sdb", |b| {
        *b = Bench::managed();
        b.mounts().push(mount(devno(8, 33), "/mnt/longhorn/sdb1"));
    }),
    (Reason::AnotherNode, "sdb", |b| {
        let id = claim_id().made_on("another");
        b.claim("sdb", id, Stage::Pending, Signature::Nothing);
    }),
    (Reason::NotAdopted, "sdb", |b| {
        adopted::lodge(b, "sdb", adopted::named("sdh1"));
        b.policy.adopt = Adoption::None;
    }),
    (Reason::NamelessLonghornDisk, "sdb", |b| {
        adopted::lodge(b, "sdb", LonghornDisk::Nameless)
    }),
    (Reason::Released, "sdb", |b| {
        *b = Bench::managed();
        released::leave(b, GUID, "sdb1");
    }),
    (Reason::NoName, "sdaaaaaaaaaaaaaaaaaaaaaaaaa", |b| {
        b.add_blank("sdaaaaaaaaaaaaaaaaaaaaaaaaa", 48)
    }),
];

/// Reasons that no inventory leads to, with why; none at present.
const NOT_FROM_DECIDE: &[(Reason, &str)] = &[];

#[test]
fn every_reason_comes_about_by_an_example() {
    for reason in Reason::ALL {
        let example = EXAMPLES.iter().any(|(of, _, _)| of == reason);
        let excused = NOT_FROM_DECIDE.iter().any(|(of, _)| of == reason);
        assert!(
            example != excused,
            "{reason} needs an example or a reason why there is none"
        );
    }
}

#[test]
fn every_example_gets_its_reason() {
    for (reason, device, change) in EXAMPLES {
        let bench = Bench::with(change);
        assert_eq!(bench.reason(device), *reason, "{reason}");
    }
}

// ---------------------------------------------------------------------------
// What is taken.

#[test]
fn a_blank_disk_of_twelve_gigabytes_is_provisioned_under_its_partition_name() {
    let expected = Provision {
        name: name("sdb1"),
        filesystem: Filesystem::Ext4,
        begun: None,
        approval: None,
    };
    assert_eq!(Bench::new().provision("sdb"), expected);
}

#[test]
fn a_disk_whose_name_ends_in_a_digit_gets_a_p_before_the_number() {
    let bench = Bench::with(|b| b.add_blank("nvme1n1", 48));
    assert_eq!(bench.provision("nvme1n1").name, name("nvme1n1p1"));
}

#[test]
fn a_disk_of_exactly_ten_gigabytes_is_refused_and_one_sector_more_is_taken() {
    let sized = |size| Bench::with(|b| b.dev("sdb").size = Fact::Known(size));
    assert_eq!(sized(10 * GB).reason("sdb"), Reason::TooSmall);
    assert!(sized(10 * GB + 512).is_provisioned("sdb"));
}

#[test]
fn the_policy_says_which_filesystem_and_which_size() {
    let bench = Bench::with(|b| {
        b.policy.filesystem = Filesystem::Xfs;
        b.policy.min_size = Bytes(SIZE - 1);
    });
    assert_eq!(bench.provision("sdb").filesystem, Filesystem::Xfs);
    let bench = Bench::with(|b| b.policy.min_size = Bytes(SIZE));
    assert_eq!(bench.reason("sdb"), Reason::TooSmall);
}

// ---------------------------------------------------------------------------
// Kinds.

#[test]
fn only_names_of_whole_disks_are_a_supported_kind() {
    for good in ["sdz", "sdaa", "vdb", "xvdc", "nvme0n12", "mmcblk1"] {
        let bench = Bench::with(|b| b.add_blank(good, 48));
        assert!(bench.is_provisioned(good), "{good}");
    }
    for bad in [
        "loop0",
        "ram0",
        "zram0",
        "zd0",
        "nbd0",
        "rbd0",
        "drbd0",
        "dm-0",
        "md0",
        "md127",
        "sr0",
        "fd0",
        "mmcblk0boot0",
        "mmcblk0rpmb",
        "nvme0",
        "nvme0c0n1",
        "sd",
        "vd",
        "sdB",
        "sd_b",
        "mtdblock0",
        "pmem0",
        "bcache0",
        "dasda",
        "cciss!c0d0",
        "",
    ] {
        let bench = Bench::with(|b| b.add_blank(bad, 48));
        assert!(
            matches!(
                bench.reason(bad),
                Reason::UnsupportedKind | Reason::HiddenPath
            ),
            "{bad}"
        );
    }
}

#[test]
fn a_loop_device_is_a_disk_only_where_the_policy_says_so() {
    let mut bench = Bench::with(|b| b.add_blank("loop7", 48));
    assert_eq!(bench.reason("loop7"), Reason::UnsupportedKind);
    bench.policy.allow_loop = true;
    assert_eq!(bench.provision("loop7").name, name("loop7p1"));
}

#[test]
fn a_partition_is_judged_with_its_disk_even_when_its_name_is_that_of_a_disk() {
    let bench = Bench::with(|b| b.dev("sdb").parent = Some("sda".to_owned()));
    assert_eq!(bench.reason("sdb"), Reason::Partition);
}

// ---------------------------------------------------------------------------
// System disks.

#[test]
fn a_disk_under_lvm_on_md_under_root_is_a_system_disk() {
    let bench = Bench::with(|b| {
        *b.mounts() = vec![mount(devno(253, 0), "/")];
        for (disk_name, minor) in [("sdc", 32), ("sdd", 48)] {
            b.add_blank(disk_name, minor);
            b.add(partition(disk_name, 2, devno(8, minor + 2)));
        }
        b.add(stacked("md127", devno(9, 127), &["sdc2", "sdd2"]));
        b.add(stacked("dm-0", devno(253, 0), &["md127"]));
    });
    for disk in ["sdc", "sdd"] {
        assert_eq!(bench.reason(disk), Reason::SystemDisk, "{disk}");
    }
    assert!(bench.is_provisioned("sdb"));
}

#[test]
fn a_disk_below_a_directory_of_the_system_is_a_system_disk() {
    for at in [
        "/boot",
        "/boot/efi",
        "/usr",
        "/var",
        "/etc",
        "/var/lib/kubelet",
        "/var/lib/rancher",
        "/var/lib/containerd",
    ] {
        let bench = Bench::with(|b| b.mounts().push(mount(devno(8, 16), at)));
        assert_eq!(bench.reason("sdb"), Reason::SystemDisk, "{at}");
    }
}

#[test]
fn when_the_host_mounts_cannot_be_read_no_disk_is_taken() {
    let bench = Bench::with(|b| b.inventory.host_mounts = lost());
    assert_eq!(bench.reason("sdb"), Reason::SystemDiskUnresolved);
}

#[test]
fn a_mount_table_without_a_root_refuses_every_disk() {
    let bench = Bench::with(|b| *b.mounts() = vec![mount(devno(8, 1), "/home")]);
    assert_eq!(bench.reason("sdb"), Reason::SystemDiskUnresolved);
}

#[test]
fn an_overlay_root_that_cannot_be_resolved_refuses_every_disk() {
    let bench = Bench::with(|b| {
        let overlay = Mount {
            filesystem: "overlay".to_owned(),
            source: "overlay".to_owned(),
            ..mount(devno(0, 57), "/")
        };
        *b.mounts() = vec![overlay];
    });
    let refusal = bench.refusal("sdb");
    assert_eq!(refusal.reason, Reason::SystemDiskUnresolved);
    assert!(refusal.detail.contains("overlay"), "{refusal}");
}

#[test]
fn a_root_in_memory_needs_no_disk_and_lets_disks_be_taken() {
    let bench = Bench::with(|b| {
        let ram = Mount {
            filesystem: "tmpfs".to_owned(),
            ..mount(devno(0, 20), "/")
        };
        *b.mounts() = vec![ram];
    });
    assert!(bench.is_provisioned("sdb"));
}

#[test]
fn when_what_lies_under_the_root_cannot_be_read_every_disk_is_refused() {
    let lvm = |slaves| {
        Bench::with(|b| {
            *b.mounts() = vec![mount(devno(253, 0), "/")];
            b.add(stacked("dm-0", devno(253, 0), &["sda1"]));
            b.dev("dm-0").slaves = slaves;
        })
    };
    let missing = Fact::Known(vec!["sdq1".to_owned()]);
    for slaves in [lost(), missing] {
        assert_eq!(lvm(slaves).reason("sdb"), Reason::SystemDiskUnresolved);
    }
    let sound = lvm(Fact::Known(vec!["sda1".to_owned()]));
    assert!(sound.is_provisioned("sdb"));
    assert_eq!(sound.reason("sda"), Reason::SystemDisk);
}

#[test]
fn devices_stacked_in_a_circle_refuse_every_disk_instead_of_hanging() {
    let bench = Bench::with(|b| {
        *b.mounts() = vec![mount(devno(253, 0), "/")];
        b.add(stacked("dm-0", devno(253, 0), &["dm-1"]));
        b.add(stacked("dm-1", devno(253, 1), &["dm-0"]));
    });
    assert_eq!(bench.reason("sdb"), Reason::SystemDiskUnresolved);
}

// ---------------------------------------------------------------------------
// Longhorn's volumes and disks that come from elsewhere.

#[test]
fn a_longhorn_volume_is_never_taken() {
    let v1 = Bench::with(|b| {
        b.dev("sdb").vendor = Fact::Known(Some("IET".to_owned()));
        b.dev("sdb").model = Fact::Known(Some("VIRTUAL-DISK".to_owned()));
    });
    assert_eq!(v1.reason("sdb"), Reason::LonghornVolume);
    let v2 =
        Bench::with(|b| b.dev("sdb").model = Fact::Known(Some("SPDK bdev Controller".to_owned())));
    assert_eq!(v2.reason("sdb"), Reason::LonghornVolume);
}

#[test]
fn a_longhorn_volume_is_told_from_any_other_disk_on_a_network() {
    let bench = Bench::with(|b| {
        b.dev("sdb").transport = Fact::Known(Transport::Iscsi);
        b.udev("sdb").id_path = Some("ip-1-iscsi-iqn.2019-10.io.longhorn:pvc-1-lun-1".to_owned());
    });
    assert_eq!(bench.reason("sdb"), Reason::LonghornVolume);
}

#[test]
fn a_disk_on_a_network_or_on_usb_is_refused() {
    for (transport, reason) in [
        (Transport::Iscsi, Reason::NetworkTransport),
        (Transport::FibreChannel, Reason::NetworkTransport),
        (Transport::NvmeFabrics, Reason::NetworkTransport),
        (Transport::Srp, Reason::NetworkTransport),
        (Transport::TargetLoop, Reason::NetworkTransport),
        (Transport::Usb, Reason::Removable),
    ] {
        let bench = Bench::with(|b| b.dev("sdb").transport = Fact::Known(transport));
        assert_eq!(bench.reason("sdb"), reason, "{transport:?}");
    }
}

// ---------------------------------------------------------------------------
// Use.

#[test]
fn a_mount_that_only_this_process_sees_is_use_as_well() {
    let bench = Bench::with(|b| {
        b.inventory.own_mounts = Fact::Known(vec![mount(devno(8, 16), "/tmp/look")])
    });
    assert_eq!(bench.reason("sdb"), Reason::Mounted);
}

#[test]
fn a_disk_is_in_use_when_one_of_its_partitions_is() {
    let with_partition = |change: fn(&mut Bench)| {
        Bench::with(|b| {
            b.add(partition("sdb", 3, devno(8, 19)));
            change(b);
        })
    };
    let mounted = with_partition(|b| b.mounts().push(mount(devno(8, 19), "/data")));
    assert_eq!(mounted.reason("sdb"), Reason::Mounted);
    let swapped = with_partition(|b| b.inventory.swaps = Fact::Known(vec![swap("/dev/sdb3")]));
    assert_eq!(swapped.reason("sdb"), Reason::Swap);
    let held = with_partition(|b| b.dev("sdb3").holders = Fact::Known(vec!["dm-0".to_owned()]));
    assert_eq!(held.reason("sdb"), Reason::Stacked);
}

#[test]
fn a_disk_built_on_another_device_is_refused() {
    let bench = Bench::with(|b| b.dev("sdb").slaves = Fact::Known(vec!["sdc".to_owned()]));
    assert_eq!(bench.reason("sdb"), Reason::Stacked);
}

#[test]
fn a_disk_under_a_loop_device_is_refused_by_number_or_by_name() {
    let under = |backing| {
        Bench::with(|b| {
            b.add(partition("sdb", 1, devno(8, 17)));
            b.add(loop_device(backing));
        })
    };
    for backing in [
        on("/dev/disk-of-mine", Some(devno(8, 16))),
        on("/dev/disk-of-mine", Some(devno(8, 17))),
        on("/dev/sdb", None),
        on("/dev/sdb1", None),
        on("/dev/sdb1 (deleted)", None),
        on("/srv/container/dev/sdb", None),
        // The root of a devtmpfs that nobody sees.
        on("/sdb1", None),
    ] {
        let refusal = under(backing.clone()).refusal("sdb");
        assert_eq!(refusal.reason, Reason::Stacked, "{backing:?}");
        assert!(refusal.detail.ends_with("under loop7"), "{refusal}");
    }
}

#[test]
fn a_loop_device_on_a_file_or_on_another_disk_refuses_nothing() {
    for backing in [
        Fact::Known(None),
        on("/var/lib/snapd/snaps/core22_1380.snap", None),
        on("/var/lib/images/sdb", None),
        on("/dev/shm/sdb", None),
        on("/dev/sdc", Some(devno(8, 32))),
        on("/dev/sdbb", None),
    ] {
        let bench = Bench::with(|b| b.add(loop_device(backing.clone())));
        assert!(bench.is_provisioned("sdb"), "{backing:?}");
    }
}

#[test]
fn a_loop_device_that_does_not_say_what_it_lies_on_lets_no_new_disk_be_taken() {
    let bench = Bench::with(|b| b.add(loop_device(lost())));
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
    // What is ours and mounted is not asked, nor what is ours and to be mounted:
    // that asks again before it mounts.
    let mut managed = Bench::managed();
    managed.add(loop_device(lost()));
    assert!(matches!(managed.verdict("sdb"), Verdict::Managed(_)));
}

#[test]
fn swap_is_recognised_by_the_name_of_the_node_and_not_of_the_kernel() {
    let bench = Bench::with(|b| {
        b.dev("sdb").devname = Fact::Known("disks/b".to_owned());
        b.inventory.swaps = Fact::Known(vec![swap("/dev/disks/b")]);
    });
    assert_eq!(bench.reason("sdb"), Reason::Swap);
}

#[test]
fn when_the_swap_areas_cannot_be_read_no_disk_is_taken() {
    let bench = Bench::with(|b| b.inventory.swaps = lost());
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}

#[test]
fn a_disk_whose_device_number_is_unknown_cannot_be_looked_up_in_the_mount_table_and_is_refused() {
    let bench = Bench::with(|b| {
        b.mounts().push(mount(devno(8, 16), "/data"));
        b.dev("sdb").devno = lost();
    });
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}

#[test]
fn an_interrupted_disk_with_a_partition_that_cannot_be_looked_up_is_not_gone_on_with() {
    let mut bench = Bench::pending();
    bench.mounts().push(mount(devno(8, 17), "/data"));
    assert_eq!(bench.reason("sdb"), Reason::Mounted);
    bench.dev("sdb1").devno = lost();
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}

// ---------------------------------------------------------------------------
// Identity.

#[test]
fn unknown_identity_never_equals_unknown() {
    let unknown: [fn() -> Option<String>; 4] = [
        || None,
        || Some(String::new()),
        || Some("0000000000000000".to_owned()),
        || Some("00-00 00".to_owned()),
    ];
    for identity in unknown {
        let bench = Bench::with(|b| {
            b.add_blank("sdc", 32);
            for name in ["sdb", "sdc"] {
                b.dev(name).wwn = Fact::Known(identity());
                b.dev(name).serial = Fact::Known(identity());
            }
        });
        for name in ["sdb", "sdc"] {
            assert!(bench.is_provisioned(name), "{name} with {:?}", identity());
        }
    }
}

#[test]
fn one_serial_number_on_two_disks_of_one_model_is_a_duplicate() {
    let twins = |model: &str| {
        Bench::with(|b| {
            b.add_blank("sdc", 32);
            b.dev("sdc").serial = b.dev("sdb").serial.clone();
            b.dev("sdc").model = Fact::Known(Some(model.to_owned()));
        })
    };
    for name in ["sdb", "sdc"] {
        assert_eq!(twins("SSD 12").reason(name), Reason::DuplicateIdentity);
        assert!(twins("of another maker").is_provisioned(name));
    }
}

#[test]
fn a_copy_of_a_disk_that_is_in_use_is_refused_too() {
    let bench = Bench::with(|b| b.dev("sda").wwn = b.dev("sdb").wwn.clone());
    assert_eq!(bench.reason("sdb"), Reason::DuplicateIdentity);
}

#[test]
fn the_hidden_path_of_an_nvme_disk_is_no_copy_of_it() {
    let bench = Bench::with(|b| {
        b.add_blank("nvme0n1", 48);
        let path = Device {
            name: "nvme0c0n1".to_owned(),
            hidden: Fact::Known(true),
            devno: Fact::unreadable("nvme0c0n1", "no device number"),
            ..disk("nvme0n1", 48)
        };
        b.add(path);
    });
    assert_eq!(bench.provision("nvme0n1").name, name("nvme0n1p1"));
    assert_eq!(bench.reason("nvme0c0n1"), Reason::HiddenPath);
}

#[test]
fn two_disks_with_one_claim_are_both_refused() {
    let bench = Bench::with(|b| {
        b.add(disk("sdc", 32));
        for disk in ["sdb", "sdc"] {
            b.claim(disk, claim_id(), Stage::Committed, ext4(GUID));
        }
    });
    for disk in ["sdb", "sdc"] {
        assert_eq!(bench.reason(disk), Reason::DuplicateIdentity, "{disk}");
    }
}

#[test]
fn two_disks_that_claim_one_name_are_both_refused() {
    let other = uuid!("aaaaaaaa-0b0e-4f0c-9d9b-5e1f0a7c2b11");
    let bench = Bench::with(|b| {
        b.add(disk("sdc", 32));
        b.claim("sdb", claim_id(), Stage::Committed, ext4(GUID));
        let id = ClaimId {
            disk_guid: uuid!("bbbbbbbb-0b0e-4f0c-9d9b-5e1f0a7c2b11"),
            partition_guid: other,
            name: name("sdb1"),
        };
        b.claim("sdc", id, Stage::Committed, ext4(other));
    });
    for disk in ["sdb", "sdc"] {
        assert_eq!(bench.reason(disk), Reason::DuplicateIdentity, "{disk}");
    }
}

// ---------------------------------------------------------------------------
// Blankness and its witnesses.

#[test]
fn udev_pending_is_said_before_anything_about_the_medium() {
    let bench = Bench::with(|b| {
        b.udev("sdb").initialized = false;
        b.scan("sdb").residue = Some(0);
    });
    assert_eq!(bench.reason("sdb"), Reason::UdevPending);
    let no_record = Bench::with(|b| b.dev("sdb").udev = Fact::Known(None));
    assert_eq!(no_record.reason("sdb"), Reason::UdevPending);
}

#[test]
fn without_udevd_the_medium_alone_decides() {
    let mut bench = Bench::with(|b| {
        b.inventory.udevd = Fact::Known(false);
        b.dev("sdb").udev = Fact::Known(None);
    });
    assert!(bench.is_provisioned("sdb"));
    bench.scan("sdb").residue = Some(0);
    assert_eq!(bench.reason("sdb"), Reason::ResidualData);
}

#[test]
fn without_udevd_an_old_record_of_a_filesystem_still_counts() {
    let bench = Bench::with(|b| {
        b.inventory.udevd = Fact::Known(false);
        b.udev("sdb").filesystem = Some("LVM2_member".to_owned());
    });
    assert_eq!(bench.reason("sdb"), Reason::SourcesDisagree);
}

#[test]
fn when_udev_sees_what_the_medium_does_not_show_the_sources_disagree() {
    let table = Bench::with(|b| b.udev("sdb").table = Some("dos".to_owned()));
    let refusal = table.refusal("sdb");
    assert_eq!(refusal.reason, Reason::SourcesDisagree);
    assert!(refusal.detail.contains("dos"), "{refusal}");
}

#[test]
fn what_the_medium_shows_counts_although_udev_does_not_see_it() {
    let bench = Bench::with(|b| {
        b.content("sdb").signature = Fact::Known(found("zfs_member", None));
    });
    assert_eq!(bench.refusal("sdb").code(), "signature:zfs_member");
    let both = Bench::with(|b| {
        b.content("sdb").signature = Fact::Known(found("zfs_member", None));
        b.udev("sdb").filesystem = Some("ext4".to_owned());
    });
    assert_eq!(both.refusal("sdb").code(), "signature:zfs_member");
}

#[test]
fn a_second_witness_that_sees_use_or_cannot_look_is_a_veto() {
    let sees = Bench::with(|b| {
        let seen = BTreeMap::from([("sdb".to_owned(), "sdb9 mounted at /x".to_owned())]);
        b.inventory.witness = Fact::Known(seen);
    });
    assert_eq!(sees.reason("sdb"), Reason::SourcesDisagree);
    let blind = Bench::with(|b| b.inventory.witness = lost());
    assert_eq!(blind.reason("sdb"), Reason::Unreadable);
}

#[test]
fn a_disk_that_was_not_read_or_could_not_be_opened_is_not_blank() {
    let unread = Bench::with(|b| {
        b.inventory.media.clear();
    });
    assert_eq!(unread.reason("sdb"), Reason::ProbeFailed);
    let unopened = Bench::with(|b| {
        b.inventory.media.insert("sdb".to_owned(), Arc::new(lost()));
    });
    assert_eq!(unopened.reason("sdb"), Reason::ProbeFailed);
    let claim_only = Bench::with(|b| b.medium("sdb").content = None);
    assert_eq!(claim_only.reason("sdb"), Reason::ProbeFailed);
}

#[test]
fn a_partition_table_of_somebody_else_is_a_signature_even_if_libblkid_finds_nothing() {
    let bench = Bench::with(|b| b.medium("sdb").table = Fact::Known(Table::Foreign));
    assert_eq!(bench.refusal("sdb").code(), "signature:gpt");
}

#[test]
fn a_disk_is_not_taken_while_the_journal_cannot_be_read() {
    let bench = Bench::with(|b| b.inventory.journal = lost());
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}

// ---------------------------------------------------------------------------
// Names.

#[test]
fn a_taken_name_is_numbered() {
    let reserved = |taken: &[&str], kind| {
        let taken = taken.iter().map(|&text| (name(text), kind)).collect();
        Bench::with(|b| b.inventory.mountpoints = Fact::Known(taken))
    };
    // An empty directory may wait for a disk of an older setup.
    for kind in [
        Mountpoint::Reserved,
        Mountpoint::Occupied,
        Mountpoint::Empty,
    ] {
        let bench = reserved(&["sdb1"], kind);
        assert_eq!(bench.provision("sdb").name, name("sdb1-2"), "{kind:?}");
    }
    let bench = reserved(&["sdb1", "sdb1-2", "sdb1-3"], Mountpoint::Reserved);
    assert_eq!(bench.provision("sdb").name, name("sdb1-4"));
}

#[test]
fn a_claim_that_was_journalled_and_never_written_is_used_and_keeps_its_name() {
    let bench_with = |serial: Option<&str>| {
        let mut bench = Bench::new();
        bench.dev("sdb").serial = Fact::Known(Some("S1".to_owned()));
        bench.dev("sdb").wwn = Fact::Known(None);
        let geometry = Geometry {
            size: SIZE,
            sector: 512,
        };
        let table = |stage| TableImage::build(geometry, &claim_id(), stage).expect("a table");
        let tables = (&table(Stage::Pending), &table(Stage::Committed));
        let identity = (None, serial.map(str::to_owned));
        let entry = Entry::new(
            claim_id(),
            geometry,
            identity,
            Filesystem::Ext4,
            tables,
            None,
        );
        bench.inventory.journal = Fact::Known(vec![entry]);
        bench
    };
    let journalled = |serial: Option<&str>| bench_with(serial).provision("sdb");
    assert_eq!(journalled(Some("S1")).begun, Some(claim_id()));
    // An entry that does not name a disk may be of another: its name stays taken.
    let unnamed = journalled(None);
    assert_eq!((unnamed.begun, unnamed.name), (None, name("sdb1-2")));
    let other = journalled(Some("S2"));
    assert_eq!((other.begun, other.name), (None, name("sdb1-2")));
    // Two disks that the entry names equally: neither gets it.
    let mut two = bench_with(Some("S1"));
    two.add_blank("sdc", 32);
    two.dev("sdc").serial = Fact::Known(Some("S1".to_owned()));
    two.dev("sdc").wwn = Fact::Known(None);
    two.dev("sdc").model = Fact::Known(Some("another model".to_owned()));
    assert_eq!(two.reason("sdb"), Reason::DuplicateIdentity);
    assert_eq!(two.reason("sdc"), Reason::DuplicateIdentity);
    // Its name went to another disk meanwhile: that disk keeps it.
    let mut lost_name = bench_with(Some("S1"));
    lost_name.add(disk("sdc", 32));
    let elsewhere = ClaimId {
        partition_guid: uuid!("11111111-2222-3333-4444-555555555555"),
        disk_guid: uuid!("11111111-2222-3333-4444-555555555556"),
        ..claim_id()
    };
    lost_name.claim(
        "sdc",
        elsewhere,
        Stage::Committed,
        ext4(uuid!("11111111-2222-3333-4444-555555555555")),
    );
    let provision = lost_name.provision("sdb");
    assert_eq!((provision.begun, provision.name), (None, name("sdb1-2")));
}

#[test]
fn the_name_of_a_claimed_disk_that_moved_is_not_given_again() {
    let bench = Bench::with(|b| {
        b.add(disk("sdc", 32));
        b.claim("sdc", claim_id(), Stage::Committed, ext4(GUID));
    });
    assert_eq!(bench.provision("sdb").name, name("sdb1-2"));
}

#[test]
fn a_name_in_the_journal_is_taken() {
    let bench = Bench::with(|b| {
        b.inventory.journal = Fact::Known(vec![entry(claim_id(), Filesystem::Ext4)]);
    });
    assert_eq!(bench.provision("sdb").name, name("sdb1-2"));
}

#[test]
fn when_the_mount_root_cannot_be_read_no_name_is_given() {
    let bench = Bench::with(|b| b.inventory.mountpoints = lost());
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}

#[test]
fn when_every_numbered_name_is_taken_the_disk_is_refused() {
    let bench = Bench::with(|b| {
        let numbered = (2..1000).map(|number| format!("sdb1-{number}"));
        let taken = std::iter::once("sdb1".to_owned()).chain(numbered);
        let taken = taken.map(|text| (name(&text), Mountpoint::Reserved));
        b.inventory.mountpoints = Fact::Known(taken.collect());
    });
    assert_eq!(bench.reason("sdb"), Reason::NoName);
}

// ---------------------------------------------------------------------------
// Ours.

fn managed(mounted: bool) -> Verdict {
    Verdict::Managed(Managed {
        growth: None,
        claim: claim_id(),
        filesystem: Filesystem::Ext4,
        mounted,
        ailment: None,
    })
}

#[test]
fn a_committed_disk_is_managed_and_mounted_once_it_is_in_its_place() {
    let mut bench = Bench::managed();
    assert_eq!(bench.verdict("sdb"), managed(false));
    bench
        .mounts()
        .push(mount(devno(8, 17), "/mnt/longhorn/sdb1"));
    assert_eq!(bench.verdict("sdb"), managed(true));
}

#[test]
fn a_mounted_disk_of_ours_is_managed_even_if_the_filter_changed() {
    let mut bench = Bench::managed();
    bench
        .mounts()
        .push(mount(devno(8, 17), "/mnt/longhorn/sdb1"));
    bench.policy.min_size = Bytes(100 * GB);
    assert_eq!(bench.verdict("sdb"), managed(true));
    assert_eq!(depths(&bench)["sdb"], Depth::Claim);
}

#[test]
fn a_disk_of_ours_keeps_its_name_whatever_the_kernel_calls_it() {
    let bench = Bench::with(|b| {
        b.add(disk("sdq", 64));
        b.claim("sdq", claim_id(), Stage::Committed, ext4(GUID));
    });
    assert_eq!(
        bench.verdict("sdq").disk_name(),
        Some(&name("sdb1")),
        "{:?}",
        bench.verdict("sdq")
    );
}

#[test]
fn of_two_mounts_in_one_place_the_upper_counts() {
    let mut bench = Bench::managed();
    let place = "/mnt/longhorn/sdb1";
    bench.mounts().push(mount(devno(8, 17), place));
    bench.mounts().push(mount(devno(8, 33), place));
    assert_eq!(bench.reason("sdb"), Reason::MountPathTaken);
}

#[test]
fn a_place_that_holds_files_is_not_mounted_over() {
    let with = |kind| {
        let mut bench = Bench::managed();
        bench.inventory.mountpoints = Fact::Known(BTreeMap::from([(name("sdb1"), kind)]));
        bench
    };
    assert_eq!(
        with(Mountpoint::Occupied).reason("sdb"),
        Reason::MountPathTaken
    );
    for kind in [Mountpoint::Reserved, Mountpoint::Empty] {
        assert_eq!(with(kind).verdict("sdb"), managed(false), "{kind:?}");
    }
}

#[test]
fn a_disk_of_ours_is_not_called_mounted_when_the_mounts_cannot_be_read() {
    let mut bench = Bench::managed();
    bench.inventory.host_mounts = lost();
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}

#[test]
fn what_a_committed_partition_holds_must_be_the_filesystem_of_its_claim() {
    let other = uuid!("aaaaaaaa-0b0e-4f0c-9d9b-5e1f0a7c2b11");
    for inside in [
        Signature::Nothing,
        Signature::Ambivalent,
        ext4(other),
        found("ext4", None),
        found("btrfs", Some(GUID)),
    ] {
        let bench = Bench::with(|b| b.claim("sdb", claim_id(), Stage::Committed, inside.clone()));
        assert_eq!(bench.reason("sdb"), Reason::FilesystemDamaged, "{inside:?}");
    }
}

#[test]
fn a_committed_partition_that_cannot_be_read_is_not_called_damaged() {
    let mut bench = Bench::managed();
    bench.medium("sdb").partition = Some(inside_of(lost()));
    assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
}

#[test]
fn a_disk_whose_claim_cannot_be_read_is_not_called_somebody_elses() {
    let mut bench = Bench::managed();
    bench.medium("sdb").table = lost();
    assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
    bench
        .mounts()
        .push(mount(devno(8, 17), "/mnt/longhorn/sdb1"));
    assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
    bench.inventory.media.remove("sdb");
    bench.inventory.not_answering.insert("sdb".to_owned());
    assert_eq!(bench.reason("sdb"), Reason::NotAnswering);
    // Not even opened, as without the rights of root: then that is not asked.
    bench.inventory.not_answering.clear();
    bench
        .inventory
        .media
        .insert("sdb".to_owned(), Arc::new(lost()));
    assert_eq!(bench.reason("sdb"), Reason::Mounted);
    // Unless the answer would be to erase it.
    bench.mounts().pop();
    assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
}

#[test]
fn an_interrupted_disk_is_gone_on_with_when_nothing_but_our_work_is_inside() {
    let expected = Verdict::Resume(Resume {
        claim: claim_id(),
        filesystem: Filesystem::Ext4,
    });
    assert_eq!(Bench::pending().verdict("sdb"), expected);
    let made = Bench::with(|b| b.claim("sdb", claim_id(), Stage::Pending, ext4(GUID)));
    assert_eq!(made.verdict("sdb"), expected);
}

#[test]
fn an_interrupted_disk_gets_the_filesystem_that_was_begun_and_not_the_policys() {
    let mut bench = Bench::pending();
    bench.inventory.journal = Fact::Known(vec![entry(claim_id(), Filesystem::Xfs)]);
    let Verdict::Resume(resume) = bench.verdict("sdb") else {
        panic!("{:?}", bench.verdict("sdb"));
    };
    assert_eq!(resume.filesystem, Filesystem::Xfs);
}

#[test]
fn an_interrupted_disk_with_something_foreign_inside_is_left_alone() {
    let other = uuid!("aaaaaaaa-0b0e-4f0c-9d9b-5e1f0a7c2b11");
    for inside in [
        Signature::Ambivalent,
        ext4(other),
        found("ext4", None),
        found("crypto_LUKS", Some(GUID)),
    ] {
        let bench = Bench::with(|b| b.claim("sdb", claim_id(), Stage::Pending, inside.clone()));
        assert_eq!(bench.reason("sdb"), Reason::ClaimDamaged, "{inside:?}");
    }
}

#[test]
fn an_interrupted_disk_with_other_data_beside_the_claim_is_left_alone() {
    for whole in [false, true] {
        let mut bench = Bench::pending();
        bench.medium("sdb").table = Fact::Known(Table::Ours {
            claim: Claim {
                id: claim_id(),
                stage: Stage::Pending,
            },
            whole,
            only_ours: false,
            resized: None,
        });
        assert_eq!(bench.reason("sdb"), Reason::ClaimDamaged, "{whole}");
    }
}

#[test]
fn an_interrupted_disk_is_not_written_to_while_it_is_used_protected_or_the_systems() {
    let changed = |change: fn(&mut Bench)| {
        let mut bench = Bench::pending();
        change(&mut bench);
        bench.reason("sdb")
    };
    let mounted = changed(|b| b.mounts().push(mount(devno(8, 17), "/x")));
    assert_eq!(mounted, Reason::Mounted);
    let held = changed(|b| b.dev("sdb1").holders = Fact::Known(vec!["dm-0".to_owned()]));
    assert_eq!(held, Reason::Stacked);
    let looped = changed(|b| b.add(loop_device(on("/dev/sdb", None))));
    assert_eq!(looped, Reason::Stacked);
    let protected = changed(|b| b.dev("sdb").read_only = Fact::Known(true));
    assert_eq!(protected, Reason::ReadOnly);
    let system = changed(|b| b.mounts().push(mount(devno(8, 17), "/var")));
    assert_eq!(system, Reason::SystemDisk);
    let unresolved = changed(|b| b.inventory.host_mounts = lost());
    assert_eq!(unresolved, Reason::SystemDiskUnresolved);
}

#[test]
fn interrupted_work_does_not_go_on_through_a_second_path_to_the_disk() {
    let mut bench = Bench::pending();
    bench.add_blank("sdc", 32);
    bench.dev("sdc").wwn = bench.dev("sdb").wwn.clone();
    assert_eq!(bench.reason("sdb"), Reason::DuplicateIdentity);
}

// ---------------------------------------------------------------------------
// Which disks are read.

fn depths(bench: &Bench) -> BTreeMap<String, Depth> {
    let wanted = shortlist(&bench.inventory, &bench.policy).into_iter();
    wanted.map(|(name, wanted)| (name, wanted.depth)).collect()
}

#[test]
fn a_changed_rule_does_not_orphan_a_disk_of_ours_whose_table_was_torn() {
    let mut bench = Bench::managed();
    bench.policy.deny = rules(&["name=sd*"]);
    bench.inventory.devices.remove("sdb1");
    bench.udev("sdb").table = Some("gpt".to_owned());
    assert_eq!(depths(&bench)["sdb"], Depth::Claim);
    assert_eq!(bench.verdict("sdb"), managed(false));
}

#[test]
fn only_disks_that_may_be_taken_or_may_be_ours_are_read() {
    let mut bench = Bench::with(|b| {
        b.add(disk("sdc", 32));
        b.add(partition("sdc", 1, devno(8, 33)));
        b.add(disk("sdd", 48));
        for number in [1, 2] {
            b.add(partition("sdd", number, devno(8, 48 + number)));
        }
        b.add(disk("sr0", 64));
        b.add(disk("sde", 80));
        b.dev("sde").size = Fact::Known(GB);
        b.add(disk("sdf", 96));
        b.dev("sdf").size = Fact::Known(GB);
        b.udev("sdf").table = Some("gpt".to_owned());
    });
    // Their partitions keep sda and sdc from being taken, and may be ours; sdf
    // is too small to be taken and has a table that the kernel does not know.
    let expected = [
        ("sda", Depth::Claim),
        ("sdb", Depth::Blankness),
        ("sdc", Depth::Claim),
        ("sdf", Depth::Claim),
    ];
    let expected = expected.map(|(name, depth)| (name.to_owned(), depth));
    assert_eq!(depths(&bench), BTreeMap::from(expected));
    // A disk that the journal speaks of is read although it is in use.
    let geometry_fits = SIZE / 512 * 512;
    bench.dev("sdd").size = Fact::Known(geometry_fits);
    bench.inventory.journal = Fact::Known(vec![entry(claim_id(), Filesystem::Ext4)]);
    assert_eq!(depths(&bench)["sdd"], Depth::Claim);
}

// ---------------------------------------------------------------------------
// A pending claim is no proof that nothing of value came to the disk since.

fn pending_with(inside: Inside) -> Bench {
    let mut bench = Bench::pending();
    bench.medium("sdb").partition = Some(inside);
    bench
}

#[test]
fn a_finished_filesystem_under_a_pending_claim_is_kept() {
    let inside = Inside {
        progress: Some(Fact::Known(Progress::Finished)),
        ..inside_of(Fact::Known(ext4(GUID)))
    };
    let mut bench = pending_with(inside);
    let medium = bench.medium("sdb").clone();
    let Ok(Claimed::Pending { left, .. }) = claimed(&medium) else {
        panic!("not gone on with")
    };
    assert_eq!(left, Left::Finished(Filesystem::Ext4));
}

#[test]
fn a_filesystem_whose_use_cannot_be_told_is_not_made_again() {
    for progress in [Some(lost()), None] {
        let bench = pending_with(Inside {
            progress,
            ..inside_of(Fact::Known(ext4(GUID)))
        });
        assert_eq!(bench.reason("sdb"), Reason::ProbeFailed);
    }
}

#[test]
fn data_of_unknown_origin_under_a_pending_claim_is_refused_without_our_journal() {
    let inside = Inside {
        residue: Some(Fact::Known(Some(4096))),
        ..inside_of(Fact::Known(Signature::Nothing))
    };
    assert_eq!(
        pending_with(inside.clone()).reason("sdb"),
        Reason::ClaimDamaged
    );
    let ours = pending_with(Inside {
        journalled: true,
        ..inside
    });
    assert!(matches!(ours.verdict("sdb"), Verdict::Resume(_)));
}

#[test]
fn data_beside_the_partition_of_a_pending_claim_is_refused() {
    for around in [Some(Fact::Known(Some(65536))), Some(lost()), None] {
        let inside = Inside {
            around,
            journalled: true,
            ..inside_of(Fact::Known(Signature::Nothing))
        };
        let reason = pending_with(inside).reason("sdb");
        assert!(
            matches!(reason, Reason::ClaimDamaged | Reason::ProbeFailed),
            "{reason}"
        );
    }
}

/// As when somebody puts back the magic number of a filesystem that was wiped
/// for an approval.
#[test]
fn a_format_on_the_disk_beside_a_pending_claim_is_refused() {
    let signatures = [
        Some(Fact::Known(found("btrfs", None))),
        Some(Fact::Known(Signature::Ambivalent)),
        Some(lost()),
        None,
    ];
    for beside in signatures {
        let inside = Inside {
            beside,
            journalled: true,
            ..inside_of(Fact::Known(Signature::Nothing))
        };
        let reason = pending_with(inside).reason("sdb");
        assert!(
            matches!(reason, Reason::ClaimDamaged | Reason::ProbeFailed),
            "{reason}"
        );
    }
}

#[test]
fn a_disk_that_is_given_to_a_container_as_a_raw_device_is_in_use() {
    let bench = Bench::with(|b| {
        let raw = Mount {
            root: "/sdb".to_owned(),
            filesystem: "devtmpfs".to_owned(),
            ..mount(
                devno(0, 5),
                "/var/lib/kubelet/plugins/volumeDevices/pv/dev/pod",
            )
        };
        b.mounts().push(raw);
    });
    assert_eq!(bench.reason("sdb"), Reason::Mounted);
}

#[test]
fn a_mount_of_ours_below_a_later_one_does_not_count_as_mounted() {
    let mut bench = Bench::managed();
    bench
        .mounts()
        .push(mount(devno(8, 17), "/mnt/longhorn/sdb1"));
    assert!(matches!(bench.verdict("sdb"), Verdict::Managed(managed) if managed.mounted));
    bench.mounts().push(mount(devno(0, 50), "/mnt"));
    assert_eq!(bench.reason("sdb"), Reason::MountPathTaken);
}

#[test]
fn when_it_cannot_be_told_whether_udevd_runs_no_disk_is_taken() {
    let bench = Bench::with(|b| b.inventory.udevd = lost());
    assert_eq!(bench.reason("sdb"), Reason::Unreadable);
}
