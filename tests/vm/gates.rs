//! Blank disks that one gate alone keeps from being formatted. The agent runs
//! in mode `enforce` and must leave them; then the evidence of that gate is
//! falsified, and the decision must come out otherwise: so each gate is needed,
//! and these disks would show it if one were lost.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use disk_discovery::{
    decide::{Policy, Verdict, decide},
    fact::Fact,
    observe::{Device, Inventory, Transport, UdevRecord},
};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Node, evidence};

use crate::Case;

pub const CASES: &[Case] = &[(
    "each_gate_alone_keeps_a_blank_disk_and_is_missed_when_its_evidence_is_falsified",
    each_gate,
)];

const CONFIG: &str = "mode: enforce\ninterval: 1h\nmin-size: 1GB\ndeny:\n  - serial: DENIED\n";

/// What a gate sees is made to look harmless.
type Falsify = fn(&mut Inventory, &mut Policy, &str);

struct Gate {
    /// Name and serial number of the disk.
    disk: &'static str,
    /// How it is attached.
    attach: fn(&str) -> Disk,
    /// What is done in the guest; `$d` is the kernel's name.
    script: &'static str,
    /// Why it is left alone.
    reason: &'static str,
    falsify: Falsify,
}

fn plain(name: &str) -> Disk {
    Disk::scsi(name).gib(2)
}

const GATES: &[Gate] = &[
    Gate {
        disk: "LONGHORN",
        attach: |name| plain(name).vendor("IET").product("VIRTUAL-DISK"),
        script: "",
        reason: "longhorn-volume",
        falsify: |inventory, _, disk| device(inventory, disk).vendor = text("ATA"),
    },
    Gate {
        disk: "CSI",
        attach: |name| plain(name).vendor("HC").product("Volume"),
        script: "",
        reason: "csi-volume",
        falsify: |inventory, _, disk| device(inventory, disk).vendor = text("ATA"),
    },
    Gate {
        disk: "STICK",
        attach: |name| Disk::usb(name).gib(2),
        script: "",
        reason: "removable",
        falsify: |inventory, _, disk| {
            device(inventory, disk).transport = Fact::Known(Transport::Scsi);
        },
    },
    Gate {
        disk: "CARTRIDGE",
        attach: |name| plain(name).property("removable", true),
        script: "",
        reason: "removable",
        falsify: |inventory, _, disk| device(inventory, disk).removable = Fact::Known(false),
    },
    Gate {
        disk: "DENIED",
        attach: plain,
        script: "",
        reason: "denied",
        falsify: |_, policy, _| policy.deny.clear(),
    },
    Gate {
        disk: "SMALL",
        attach: |name| Disk::scsi(name).bytes(1_000_000_000),
        script: "",
        reason: "too-small",
        falsify: |inventory, _, disk| device(inventory, disk).size = Fact::Known(1_000_000_512),
    },
    Gate {
        disk: "LOCKED",
        attach: |name| plain(name).read_only(),
        script: "",
        reason: "read-only",
        falsify: |inventory, _, disk| device(inventory, disk).read_only = Fact::Known(false),
    },
    Gate {
        disk: "RAW",
        attach: plain,
        script: "touch /run/raw && mount --bind /dev/$d /run/raw",
        reason: "mounted",
        falsify: |inventory, _, _| {
            for table in [&mut inventory.host_mounts, &mut inventory.own_mounts] {
                if let Fact::Known(mounts) = table {
                    mounts.retain(|mount| mount.mountpoint != "/run/raw");
                }
            }
        },
    },
    Gate {
        disk: "MAPPED",
        attach: plain,
        script: "echo 0 2048 linear /dev/$d 0 | dmsetup create mapped",
        reason: "stacked",
        falsify: |inventory, _, disk| {
            device(inventory, disk).holders = Fact::Known(Vec::new());
            silence_witness(inventory, disk);
        },
    },
    Gate {
        disk: "PARTED",
        attach: plain,
        // The kernel knows a partition that no table on the disk speaks of.
        script: "addpart /dev/$d 1 2048 4096",
        reason: "partitioned",
        falsify: |inventory, _, disk| {
            let part = |device: &Device| device.parent.as_deref() == Some(disk);
            inventory.devices.retain(|_, device| !part(device));
            silence_witness(inventory, disk);
        },
    },
    Gate {
        disk: "PATH",
        attach: plain,
        script: "echo E:DM_MULTIPATH_DEVICE_PATH=1 >> /run/udev/data/b$(cat /sys/block/$d/dev)",
        reason: "multipath-member",
        falsify: |inventory, _, disk| record(inventory, disk).multipath_member = false,
    },
    Gate {
        disk: "TWIN-A",
        attach: |name| plain(name).wwn(0x5000_c500_15ea_71ac),
        script: "",
        reason: "duplicate-identity",
        falsify: |inventory, _, disk| device(inventory, disk).wwn = text("naa.other"),
    },
    Gate {
        disk: "TWIN-B",
        attach: |name| plain(name).wwn(0x5000_c500_15ea_71ac),
        script: "",
        reason: "duplicate-identity",
        falsify: |inventory, _, disk| device(inventory, disk).wwn = text("naa.other"),
    },
    Gate {
        disk: "HELD",
        attach: plain,
        script: "perl -MFcntl -e 'sysopen(D, shift, O_RDONLY|O_EXCL) or die $!; open(R, q(>/run/held)); sleep 100000' /dev/$d </dev/null >/dev/null 2>&1 &
            until [ -e /run/held ]; do sleep 0.1; done",
        reason: "busy",
        falsify: |inventory, _, disk| {
            let medium = inventory.media.get_mut(disk).map(Arc::make_mut);
            if let Some(Fact::Known(medium)) = medium
                && let Some(content) = &mut medium.content
            {
                content.busy = Fact::Known(false);
            }
        },
    },
    Gate {
        disk: "UNSEEN",
        attach: plain,
        script: "rm /run/udev/data/b$(cat /sys/block/$d/dev)",
        reason: "udev-pending",
        falsify: |inventory, _, disk| {
            device(inventory, disk).udev = Fact::Known(Some(UdevRecord {
                initialized: true,
                ..UdevRecord::default()
            }));
        },
    },
    Gate {
        disk: "RECORDED",
        attach: plain,
        script: "echo E:ID_FS_TYPE=ext4 >> /run/udev/data/b$(cat /sys/block/$d/dev)",
        reason: "sources-disagree",
        falsify: |inventory, _, disk| {
            record(inventory, disk).filesystem = None;
            silence_witness(inventory, disk);
        },
    },
];

/// What is stacked, partitioned or known to udev is also seen by `blockdev`:
/// only where both are wrong is the disk lost.
fn silence_witness(inventory: &mut Inventory, disk: &str) {
    if let Fact::Known(seen) = &mut inventory.witness {
        seen.remove(disk);
    }
}

fn text(value: &str) -> Fact<Option<String>> {
    Fact::Known(Some(value.to_owned()))
}

fn device<'a>(inventory: &'a mut Inventory, disk: &str) -> &'a mut Device {
    Arc::make_mut(inventory.devices.get_mut(disk).expect("the device"))
}

fn record<'a>(inventory: &'a mut Inventory, disk: &str) -> &'a mut UdevRecord {
    let Fact::Known(Some(record)) = &mut device(inventory, disk).udev else {
        panic!("{disk} has no record");
    };
    record
}

fn each_gate(lab: &Lab) -> Result<()> {
    let mut machine = lab.machine("gates").disk(plain("CONTROL"));
    for gate in GATES {
        machine = machine.disk((gate.attach)(gate.disk));
    }
    let mut node = Node::boot(machine)?;
    node.configure(CONFIG)?;
    let mut names = BTreeMap::new();
    for gate in GATES {
        let name = node.vm.kernel_name(gate.disk)?;
        node.vm.sh(&format!("d={name}\n{}", gate.script))?;
        names.insert(gate.disk, name);
    }
    let control = node.vm.kernel_name("CONTROL")?;
    // Before the control disk is taken: its medium is what a blank one is like.
    let (inventory, policy) = evidence::of(&mut node, CONFIG)?;
    let blank = Arc::clone(inventory.media.get(&control).context("not read")?);

    let before = digests(&node)?;
    node.start_agent()?;
    let disks = node.wait_mounted(&[&format!("/mnt/longhorn/{control}1")])?;
    for gate in GATES {
        let name = &names[gate.disk];
        let reason = disks.field(name, "reason");
        ensure!(
            reason == gate.reason,
            "{}: {reason}: {:#}",
            gate.disk,
            disks.0
        );
    }
    node.vm.sh("systemctl stop disk-discovery && sync")?;
    ensure!(before == digests(&node)?, "a disk was written to");

    for gate in GATES {
        let name = names[gate.disk].as_str();
        let verdict = |falsify: &dyn Fn(&mut Inventory, &mut Policy)| {
            let (mut inventory, mut policy) = (inventory.clone(), policy.clone());
            // It is blank, as its digest says; where an earlier gate refused
            // it, the agent did not even look.
            let unread = inventory
                .media
                .get(name)
                .is_none_or(|medium| !medium.is_known_and(|medium| medium.content.is_some()));
            if unread {
                inventory.media.insert(name.to_owned(), Arc::clone(&blank));
            }
            falsify(&mut inventory, &mut policy);
            decide(&inventory, &policy).remove(name)
        };
        let honest = verdict(&|_, _| {}).context("no verdict")?;
        ensure!(
            matches!(&honest, Verdict::Refused(refusal) if refusal.code() == gate.reason),
            "{}: the evidence leads to {honest:?}",
            gate.disk
        );
        let fooled = verdict(&|inventory, policy| (gate.falsify)(inventory, policy, name));
        ensure!(
            matches!(fooled, Some(Verdict::Provision(_))),
            "{} is kept by more than {}: {fooled:?}",
            gate.disk,
            gate.reason
        );
    }
    Ok(())
}

fn digests(node: &Node) -> Result<Vec<String>> {
    GATES.iter().map(|gate| node.vm.digest(gate.disk)).collect()
}
