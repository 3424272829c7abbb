//! What is told by Events, from what holds in a step.

use std::collections::BTreeMap;

use super::super::{disks::OurDisk, events::Notice, finding::Finding};
use crate::{decide::Verdict, report::Round, units::DiskName};

/// What it is about, how to tell it, and how to tell that it is over.
pub(super) type Holding = BTreeMap<String, (Notice, Option<Notice>)>;

/// What holds: findings, and disks that people may have meant to be used.
pub(super) fn holding(round: &Round, findings: &[Finding]) -> Holding {
    let found = findings.iter().map(|finding| {
        let kind = finding.kind;
        let note = format!(
            "{finding}: {}. To do: {}.",
            kind.explanation(),
            kind.advice()
        );
        let notice = Notice::warning(kind.event(), "Audit", note);
        let about = finding.disk.as_ref();
        let about = about.map_or("this node", DiskName::as_str);
        let over = Notice::normal(
            kind.event_when_over(),
            "Audit",
            format!("{about}: {kind} is over"),
        );
        (format!("{:?}", finding.key()), (notice, Some(over)))
    });
    let refused = round.verdicts.iter().filter_map(|(name, verdict)| {
        let Verdict::Refused(refusal) = verdict else {
            return None;
        };
        let device = round.inventory.devices.get(name)?;
        if device.is_partition() || !refusal.reason.is_news() {
            return None;
        }
        let serial = device.serial.known().map_or(None, Option::as_deref);
        let serial = serial.unwrap_or_default();
        let note = format!(
            "{name}: {refusal}. {} {}",
            refusal.reason.explanation(),
            refusal.reason.advice()
        );
        let notice = Notice::warning("DiskRefused", "Decide", note);
        Some((
            format!("refused {name} {serial} {}", refusal.code()),
            (notice, None),
        ))
    });
    found.chain(refused).collect()
}

/// Longest list of disks in a note, in bytes: Kubernetes takes no note of more
/// than 1 KiB.
const LIST: usize = 900;

/// That disks have got their entries by one write, and whom each notice is
/// about. Those of a kind are told of together, because every Event is a
/// request: a node may come with dozens of disks.
pub(super) fn registered<'a>(disks: impl Iterator<Item = &'a OurDisk>) -> Vec<(String, Notice)> {
    let (adopted, made): (Vec<&OurDisk>, Vec<&OurDisk>) = disks.partition(|disk| disk.adopted);
    let groups = [made, adopted].into_iter().flat_map(groups);
    groups
        .map(|disks| {
            let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
            (names.join(","), together(&disks))
        })
        .collect()
}

/// As many in each as fit into a note.
fn groups(disks: Vec<&OurDisk>) -> Vec<Vec<&OurDisk>> {
    let mut groups = Vec::<Vec<&OurDisk>>::new();
    let mut room = 0_usize;
    for disk in disks {
        let length = listed(disk).len() + ", ".len();
        match groups.last_mut().filter(|_| length <= room) {
            Some(group) => group.push(disk),
            None => {
                groups.push(vec![disk]);
                room = LIST;
            }
        }
        room = room.saturating_sub(length);
    }
    groups
}

fn together(disks: &[&OurDisk]) -> Notice {
    if let [disk] = disks {
        return alone(disk);
    }
    let count = disks.len();
    let list: Vec<String> = disks.iter().map(|disk| listed(disk)).collect();
    let list = list.join(", ");
    if disks.iter().all(|disk| disk.adopted) {
        let note = format!("{count} disks are mounted as they are, and registered: {list}");
        Notice::normal("DiskAdopted", "Register", note)
    } else {
        let note = format!("{count} disks are mounted and registered: {list}");
        Notice::normal("DiskProvisioned", "Register", note)
    }
}

fn listed(disk: &OurDisk) -> String {
    let (name, filesystem) = (&disk.name, disk.filesystem);
    match disk.size {
        Some(size) => {
            let size = bytesize::ByteSize::b(size).display().si();
            format!("{name} ({filesystem}, {size})")
        }
        None => format!("{name} ({filesystem})"),
    }
}

fn alone(disk: &OurDisk) -> Notice {
    let size = disk.size.map_or_else(String::new, |size| {
        format!(" of {}", bytesize::ByteSize::b(size).display().si())
    });
    let (name, path, filesystem) = (&disk.name, &disk.path, disk.filesystem);
    if disk.adopted {
        let note = format!(
            "{name}: a disk{size} that held {filesystem} is mounted at {path} as it is, and registered"
        );
        Notice::normal("DiskAdopted", "Register", note)
    } else {
        let note =
            format!("{name}: a disk{size} with {filesystem} is mounted at {path} and registered");
        Notice::normal("DiskProvisioned", "Register", note)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn disk(name: &str, adopted: bool) -> OurDisk {
        OurDisk {
            name: name.parse().expect("a name"),
            path: format!("/mnt/longhorn/{name}"),
            mounted: None,
            ailment: None,
            adopted,
            filesystem: "ext4",
            size: Some(12_000_000_000),
            rotational: None,
            transport: None,
        }
    }

    #[test]
    fn disks_that_come_together_are_told_of_together() {
        let two = [disk("sdb1", false), disk("sdc1", false)];
        let told = registered(two.iter());
        let [(about, notice)] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!(about, "sdb1,sdc1");
        assert_eq!(
            notice.note,
            "2 disks are mounted and registered: sdb1 (ext4, 12.0 GB), sdc1 (ext4, 12.0 GB)"
        );
        let mixed = [disk("sdb1", false), disk("sdc1", true)];
        let reasons: Vec<&str> = registered(mixed.iter())
            .iter()
            .map(|(_, notice)| notice.reason)
            .collect();
        assert_eq!(reasons, ["DiskProvisioned", "DiskAdopted"]);
        assert!(registered([].iter()).is_empty());
    }

    #[test]
    fn two_hundred_disks_are_all_named_in_notes_that_kubernetes_takes() {
        let disks: Vec<OurDisk> = (0..200)
            .map(|n| disk(&format!("nvme{n}n1p1"), false))
            .collect();
        let told = registered(disks.iter());
        assert!(told.iter().all(|(_, notice)| notice.note.len() <= 1024));
        assert!(told.len() < 10, "{}", told.len());
        let named: BTreeSet<&str> = told
            .iter()
            .flat_map(|(about, _)| about.split(','))
            .collect();
        assert_eq!(named.len(), 200);
        let notes: String = told
            .iter()
            .map(|(_, notice)| notice.note.as_str())
            .collect();
        assert!(disks.iter().all(|disk| notes.contains(disk.name.as_str())));
    }
}
