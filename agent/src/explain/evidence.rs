//! Evidence as lines of text, errors included.

use std::fmt::Display;

use crate::{
    claim::{Resized, Stage, Table},
    fact::Fact,
    observe::{
        Device, Medium,
        longhorn_disk::{self, LonghornDisk},
        medium::{Content, Inside},
        scan::Scan,
        signature::Signature,
        superblock::Extent,
    },
    units::Bytes,
};

type Line = (&'static str, String);

/// What was read, a line for each fact.
pub(super) fn lines(device: &Device, medium: Option<&Fact<Medium>>) -> Vec<Line> {
    let mut lines = of_device(device);
    match medium {
        None => lines.push((
            "medium",
            "not read: the decision did not need it".to_owned(),
        )),
        Some(Fact::Unreadable(why)) => lines.push(("medium", format!("unreadable: {why}"))),
        Some(Fact::Known(medium)) => {
            lines.push(("claim", shown(&medium.table, table)));
            if let Some(inside) = &medium.partition {
                of_partition(inside, &mut lines);
            }
            if let Some(lodger) = &medium.lodger {
                lines.push(("in partition", shown(&lodger.signature, signature)));
                if let Some(longhorn) = &lodger.longhorn {
                    lines.push((longhorn_disk::FILE, shown(longhorn, longhorn_disk)));
                }
            }
            if let Some(content) = &medium.content {
                of_content(content, &mut lines);
            }
        }
    }
    lines
}

fn of_device(device: &Device) -> Vec<Line> {
    let names = |names: &Vec<String>| {
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(" ")
        }
    };
    vec![
        ("number", shown(&device.devno, ToString::to_string)),
        (
            "size",
            shown(&device.size, |size| {
                format!("{} ({size} bytes)", Bytes(*size))
            }),
        ),
        ("sector", optional(&device.sector)),
        (
            "transport",
            shown(&device.transport, |transport| transport.name().to_owned()),
        ),
        ("vendor", optional(&device.vendor)),
        ("model", optional(&device.model)),
        ("serial", optional(&device.serial)),
        ("wwn", optional(&device.wwn)),
        ("rotational", optional(&device.rotational)),
        ("removable", shown(&device.removable, ToString::to_string)),
        ("read-only", shown(&device.read_only, ToString::to_string)),
        ("holders", shown(&device.holders, names)),
        ("slaves", shown(&device.slaves, names)),
        (
            "udev",
            shown(&device.udev, |record| match record {
                None => "no record".to_owned(),
                Some(record) => {
                    let done = if record.initialized {
                        "done"
                    } else {
                        "not done yet"
                    };
                    let seen = record.filesystem.as_ref().or(record.table.as_ref());
                    match seen {
                        Some(seen) => format!("{done}, sees {seen}"),
                        None => format!("{done}, sees nothing"),
                    }
                }
            }),
        ),
    ]
}

fn of_partition(inside: &Inside, lines: &mut Vec<Line>) {
    lines.push(("in partition", shown(&inside.signature, signature)));
    if let Some(residue) = &inside.residue {
        lines.push(("its ends", shown(residue, |at| zero_or(*at))));
    }
    if let Some(around) = &inside.around {
        lines.push(("around it", shown(around, |at| zero_or(*at))));
    }
    if let Some(beyond) = &inside.beyond {
        lines.push(("behind it", shown(beyond, |at| zero_or(*at))));
    }
    if let Some(extent) = &inside.extent {
        let uses = |extent: &Extent| format!("{} ({} bytes)", Bytes(extent.bytes), extent.bytes);
        lines.push(("filesystem", shown(extent, uses)));
    }
    let journalled = if inside.journalled {
        "knows the claim"
    } else {
        "does not know the claim"
    };
    lines.push(("journal", journalled.to_owned()));
}

fn longhorn_disk(found: &LonghornDisk) -> String {
    match found {
        LonghornDisk::None => "not there".to_owned(),
        LonghornDisk::Nameless => "there, but names no disk".to_owned(),
        LonghornDisk::Named { uuid, name } => {
            let name = name.as_deref().unwrap_or("without a name");
            format!("disk {uuid} ({name})")
        }
    }
}

fn of_content(content: &Content, lines: &mut Vec<Line>) {
    lines.push(("libblkid", shown(&content.signature, signature)));
    match &content.scan {
        None => lines.push(("scan", "not needed".to_owned())),
        Some(Fact::Unreadable(why)) => lines.push(("scan", format!("unreadable: {why}"))),
        Some(Fact::Known(scan)) => of_scan(scan, lines),
    }
    lines.push((
        "held",
        shown(&content.busy, |busy| {
            if *busy {
                "by somebody, exclusively"
            } else {
                "by nobody"
            }
            .to_owned()
        }),
    ));
}

fn of_scan(scan: &Scan, lines: &mut Vec<Line>) {
    lines.push(("not zero", zero_or(scan.residue)));
    for trace in &scan.traces {
        let wiped = if trace.wiped {
            ", its first copy was wiped"
        } else {
            ""
        };
        lines.push((
            "copy",
            format!("{} at byte {}{wiped}", trace.kind, trace.at),
        ));
    }
    lines.push((
        "read",
        format!(
            "{} in {} requests, seed {}",
            Bytes(scan.bytes),
            scan.reads,
            scan.seed
        ),
    ));
    lines.push(("digest", scan.digest.clone()));
}

fn table(table: &Table) -> String {
    match table {
        Table::Absent => "none".to_owned(),
        Table::Foreign => "none, but a GPT".to_owned(),
        Table::Ours {
            claim,
            whole,
            resized,
            ..
        } => format!(
            "{}, {}{}",
            claim.id.name,
            match claim.stage {
                Stage::Pending => "pending",
                Stage::Committed => "committed",
            },
            match (resized, whole) {
                (Some(Resized::Grown { .. }), _) => ", for a smaller disk",
                (Some(Resized::Shrunk { .. }), _) => ", for a larger disk",
                (None, true) => "",
                (None, false) => ", torn",
            }
        ),
    }
}

fn signature(signature: &Signature) -> String {
    match signature {
        Signature::Nothing => "nothing".to_owned(),
        Signature::Ambivalent => "more than one format".to_owned(),
        Signature::Found(found) => match &found.uuid {
            Some(uuid) => format!("{}, UUID {uuid}", found.kind),
            None => found.kind.clone(),
        },
    }
}

fn zero_or(at: Option<u64>) -> String {
    at.map_or_else(
        || "nothing found".to_owned(),
        |at| format!("first at byte {at}"),
    )
}

fn shown<T>(fact: &Fact<T>, show: impl FnOnce(&T) -> String) -> String {
    match fact {
        Fact::Known(value) => show(value),
        Fact::Unreadable(why) => format!("unreadable: {why}"),
    }
}

fn optional<T: Display>(fact: &Fact<Option<T>>) -> String {
    shown(fact, |value| match value {
        Some(value) => value.to_string(),
        None => "none".to_owned(),
    })
}
