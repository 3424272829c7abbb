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

/// That a disk has got its entry.
pub(super) fn registered(disk: &OurDisk) -> Notice {
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
