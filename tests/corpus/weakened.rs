//! Whether the corpus would notice the loss of a guard. The agent's evidence
//! on the finished disks is falsified, one guard at a time, and decided on
//! again: some row must then fail, or the corpus guards nothing there.

use std::{collections::BTreeMap, sync::Arc};

use disk_discovery::{
    claim::Table,
    decide::{Policy, Verdict, decide},
    fact::Fact,
    observe::{
        Inventory, Medium,
        scan::Scan,
        signature::{Found, Signature},
        superblock::Progress,
    },
};
use vm_tests::evidence;

use crate::{machine::POLICY, outcome::Run, row::Row};

/// Something that stands between a foreign disk and a write.
pub struct Guard {
    /// What is lost; part of the name of its test.
    pub name: &'static str,
    lose: fn(&mut Inventory),
}

/// Every guard that looks at what a disk holds. Those that look at anything
/// else have a blank disk each, in `tests/vm/gates.rs`.
pub const GUARDS: &[Guard] = &[
    Guard {
        name: "libblkid",
        lose: lose_libblkid,
    },
    Guard {
        // libblkid sees only what has a protective MBR.
        name: "the two readers of foreign partition tables",
        lose: lose_tables,
    },
    Guard {
        name: "the kernel's list of partitions",
        lose: lose_partitions,
    },
    Guard {
        name: "the search for copies of a damaged owner",
        lose: |inventory| each_scan(inventory, |scan| scan.traces.clear()),
    },
    Guard {
        name: "the search for anything but zeroes",
        lose: |inventory| each_scan(inventory, |scan| scan.residue = None),
    },
    Guard {
        name: "the reader of claims",
        lose: |inventory| {
            each_medium(inventory, |medium| {
                if medium.table.is_known_and(is_ours) {
                    medium.table = Fact::Known(Table::Absent);
                    medium.partition = None;
                }
            });
        },
    },
    Guard {
        name: "the look into a claimed partition",
        lose: |inventory| {
            each_medium(inventory, |medium| {
                let guid = medium.table.known().ok().and_then(|table| match table {
                    Table::Ours { claim, .. } => Some(claim.id.partition_guid),
                    Table::Absent | Table::Foreign => None,
                });
                if let (Some(inside), Some(guid)) = (&mut medium.partition, guid) {
                    // As if the filesystem that belongs there were there.
                    inside.signature = Fact::Known(Signature::Found(Found {
                        kind: "ext4".to_owned(),
                        uuid: Some(guid.to_string()),
                    }));
                    inside.progress = Some(Fact::Known(Progress::Unused));
                }
            });
        },
    },
];

fn is_ours(table: &Table) -> bool {
    matches!(table, Table::Ours { .. })
}

fn each_medium(inventory: &mut Inventory, change: impl Fn(&mut Medium)) {
    for medium in inventory.media.values_mut() {
        if let Fact::Known(medium) = Arc::make_mut(medium) {
            change(medium);
        }
    }
}

fn each_scan(inventory: &mut Inventory, change: impl Fn(&mut Scan)) {
    each_medium(inventory, |medium| {
        let content = medium.content.as_mut();
        if let Some(Fact::Known(scan)) = content.and_then(|content| content.scan.as_mut()) {
            change(scan);
        }
    });
}

fn lose_libblkid(inventory: &mut Inventory) {
    each_medium(inventory, |medium| {
        if let Some(content) = &mut medium.content {
            content.signature = Fact::Known(Signature::Nothing);
        }
    });
}

fn lose_tables(inventory: &mut Inventory) {
    each_medium(inventory, |medium| {
        if medium.table == Fact::Known(Table::Foreign) {
            medium.table = Fact::Known(Table::Absent);
        }
    });
    each_scan(inventory, |scan| {
        scan.traces.retain(|trace| trace.kind != "gpt");
    });
}

/// Of the disks of the corpus; without those of the system disk, all others
/// would be refused because of it.
fn lose_partitions(inventory: &mut Inventory) {
    let foreign = |disk: &String| disk.starts_with("sd");
    inventory
        .devices
        .retain(|_, device| !device.parent.as_ref().is_some_and(foreign));
}

/// Everything that speaks of what the disks hold.
fn lose_all<'a>(
    inventory: &mut Inventory,
    disks: impl Iterator<Item = &'a String>,
    blank: &Arc<Fact<Medium>>,
) {
    lose_partitions(inventory);
    for disk in disks {
        let medium = inventory.media.get(disk);
        let claimed = |medium: &Medium| medium.table.is_known_and(is_ours);
        // Also where an earlier guard refused it, so that it was not read.
        if !medium.is_some_and(|medium| medium.is_known_and(claimed)) {
            inventory.media.insert(disk.clone(), Arc::clone(blank));
        }
    }
    for device in inventory.devices.values_mut() {
        if let Fact::Known(Some(record)) = &mut Arc::make_mut(device).udev {
            record.filesystem = None;
            record.table = None;
        }
    }
    inventory.witness = Fact::Known(BTreeMap::new());
}

/// The evidence of a run, and what the rows promise.
pub struct Weakened {
    inventory: Inventory,
    policy: Policy,
    /// Kernel name of each foreign disk and the reason it must be refused for.
    promised: BTreeMap<String, &'static str>,
}

impl Weakened {
    /// From a run.
    ///
    /// # Errors
    /// When its evidence is not understood.
    pub fn of(run: &Run, rows: &[Row]) -> Result<Self, String> {
        let text = run.captured.get("evidence").ok_or("no evidence was kept")?;
        let words = |error: anyhow::Error| format!("{error:?}");
        let inventory = evidence::inventory(text).map_err(words)?;
        let promised = rows
            .iter()
            // A row that fails anyway says so itself.
            .filter(|row| run.judge(row).is_ok())
            .filter_map(|row| Some((run.seen.get(row.name)?, row.reasons)))
            .flat_map(|(seen, reasons)| seen.disks.iter().zip(reasons))
            .map(|(disk, reason)| (disk.device.clone(), *reason))
            // The evidence is of a single look, which waits for no disk for long.
            .filter(|(disk, _)| !inventory.not_answering.contains(disk))
            .collect();
        Ok(Self {
            inventory,
            policy: evidence::policy(POLICY).map_err(words)?,
            promised,
        })
    }

    /// Disks for which a row would fail, with what they would get.
    fn failing(&self, inventory: &Inventory) -> Vec<(String, Verdict)> {
        let mut verdicts = decide(inventory, &self.policy);
        self.promised
            .iter()
            .filter_map(|(disk, reason)| {
                let verdict = verdicts.remove(disk)?;
                let kept =
                    matches!(&verdict, Verdict::Refused(refusal) if refusal.code() == **reason);
                (!kept).then(|| (disk.clone(), verdict))
            })
            .collect()
    }

    /// The evidence as it is leads to what the machine said.
    ///
    /// # Errors
    /// The disks for which it does not.
    pub fn honest(&self) -> Result<(), String> {
        let failing = self.failing(&self.inventory);
        if failing.is_empty() && !self.promised.is_empty() {
            return Ok(());
        }
        Err(format!("{failing:?}"))
    }

    /// Without a guard some row fails.
    ///
    /// # Errors
    /// When none does.
    pub fn without(&self, guard: &Guard) -> Result<(), String> {
        let mut inventory = self.inventory.clone();
        (guard.lose)(&mut inventory);
        let failing = self.failing(&inventory).len();
        eprintln!("without {}: {failing} rows fail", guard.name);
        if failing > 0 {
            Ok(())
        } else {
            Err("no row fails".to_owned())
        }
    }

    /// Without all of them, nearly every disk would be formatted.
    ///
    /// # Errors
    /// When something else keeps the disks, so that the corpus would show
    /// nothing about the guards.
    pub fn without_all(&self) -> Result<(), String> {
        let mut inventory = self.inventory.clone();
        let is_blank = |medium: &&Arc<Fact<Medium>>| {
            let blank = |medium: &Medium| {
                medium
                    .content
                    .as_ref()
                    .is_some_and(|content| content.signature == Fact::Known(Signature::Nothing))
            };
            medium.is_known_and(blank)
        };
        let blank = inventory.media.values().find(is_blank);
        let mut blank = Arc::clone(blank.ok_or("no disk without a signature was read")?);
        if let Fact::Known(medium) = Arc::make_mut(&mut blank)
            && let Some(content) = &mut medium.content
            && let Some(Fact::Known(scan)) = &mut content.scan
        {
            scan.residue = None;
            scan.traces.clear();
        }
        lose_all(&mut inventory, self.promised.keys(), &blank);
        let formatted = self
            .failing(&inventory)
            .into_iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::Provision(_)))
            .count();
        eprintln!(
            "without any guard: {formatted} of {} disks would be formatted",
            self.promised.len()
        );
        if formatted * 10 >= self.promised.len() * 8 {
            Ok(())
        } else {
            Err(format!(
                "only {formatted} of {} disks depend on the guards",
                self.promised.len()
            ))
        }
    }
}
