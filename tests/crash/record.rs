//! Disks that the agent takes and a user writes to, with a log of every write.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use vm_fixtures::{Bus, Disk, Lab, WriteLog, digest_file, log_writes_to};
use vm_tests::{Disks, Node};

/// Bytes of every disk: the smallest that the default policy takes, and a little.
pub const SIZE: u64 = 12 << 30;
/// Filesystems that are recorded, in this order.
const FILESYSTEMS: [&str; 2] = ["ext4", "xfs"];
/// Keeps a link to each journal entry, which the agent removes when it is done.
/// It is there for as long as mkfs takes.
const KEEPER: &str = "mkdir -p /var/lib/disk-discovery/kept
perl -e 'while (1) {
    for my $entry (glob \"/var/lib/disk-discovery/journal/*.json\") {
        link $entry, \"/var/lib/disk-discovery/kept/\" . ($entry =~ s{.*/}{}r);
    }
    select undef, undef, undef, 0.01;
}' >/dev/null 2>&1 </dev/null &";

/// What a user does. `durable` was synced when the first script ends, `second`
/// when the second does; the third is synced only in parts, or not at all.
const USER: [&str; 3] = [
    "yes \"$disk\" | head -c 40000 >durable
    sync durable .",
    "echo unsynced >later
    mkdir inner
    mv durable inner/renamed
    yes \"second $disk\" | head -c 20000 >inner/second
    sync inner/second inner .",
    "rm later
    head -c 3000000 /dev/urandom >big
    echo more >>inner/second
    sync -f .
    mv big inner/big",
];

/// A disk that was provisioned and used.
#[derive(Debug)]
pub struct Recorded {
    /// Serial number.
    pub serial: String,
    /// How it was attached.
    pub bus: Bus,
    /// Bytes in a logical sector.
    pub sector: u32,
    /// World-wide name, if it had one.
    pub wwn: Option<u64>,
    /// What was made on it.
    pub filesystem: &'static str,
    /// Entry of the journal.
    pub entry: Vec<u8>,
    /// Everything that was written to it.
    pub log: WriteLog,
    /// Entries of the log when each script of the user had ended.
    pub marks: [usize; 3],
}

impl Recorded {
    /// Its name by the journal.
    pub fn name(&self) -> Result<String> {
        self.claimed("name")
    }

    /// GUID of its partition, which is the UUID of its filesystem.
    pub fn guid(&self) -> Result<String> {
        self.claimed("partition_guid")
    }

    fn claimed(&self, field: &str) -> Result<String> {
        let entry: Value = serde_json::from_slice(&self.entry)?;
        let text = entry.pointer(&format!("/claim/{field}"));
        let text = text.and_then(Value::as_str);
        Ok(text.context("an entry without a claim")?.to_owned())
    }

    /// The disk, with this content, at a SCSI controller or as it was.
    pub fn disk(&self, bus: Bus, file: &Path) -> Disk {
        let mut disk = Disk::on(bus, &self.serial).file(file);
        if self.sector != 512 {
            disk = disk.logical_block_size(self.sector);
        }
        match self.wwn {
            Some(wwn) if bus == Bus::Scsi => disk.wwn(wwn),
            Some(_) | None => disk,
        }
    }
}

/// Provisions this many disks with each filesystem, and keeps the logs in a
/// directory.
pub fn record(lab: &Lab, each: usize, dir: &Path) -> Result<()> {
    let mut node = Node::boot(lab.machine("record"))?;
    node.vm.sh(KEEPER)?;
    let mut all = Vec::new();
    for filesystem in FILESYSTEMS {
        // Or it takes the next disks with the last filesystem.
        node.vm.sh("systemctl stop disk-discovery")?;
        let disks: Vec<Value> = (0..each).map(|at| declared(filesystem, at)).collect();
        for declared in &disks {
            plug(&mut node, declared, dir)?;
        }
        node.vm.settle()?;
        node.configure(&format!(
            "mode: enforce\ninterval: 1h\nfilesystem: {filesystem}\n"
        ))?;
        node.vm.sh("systemctl restart disk-discovery")?;
        all.extend(disks);
        let wanted = all.len();
        node.wait_until("every disk is mounted", |seen| {
            seen.mounted().len() == wanted
        })?;
        let names = names(&mut node)?;
        for declared in all.iter_mut().rev().take(each) {
            let serial = text(declared, "serial")?.to_owned();
            let name = names.get(&serial).context("a disk without a name")?;
            let mut marks = Vec::new();
            for script in USER {
                node.vm.sh(&format!(
                    "set -e; disk={serial}; cd /mnt/longhorn/{name}\n{script}"
                ))?;
                marks.push(fs::metadata(log_path(dir, &serial))?.len());
            }
            declared["marks"] = json!(marks);
        }
    }
    node.vm.sh("sync; systemctl stop disk-discovery")?;
    let kept = node.vm.sh("cat /var/lib/disk-discovery/kept/*.json")?;
    node.vm.stop()?;
    for serial in FILESYSTEMS.map(|filesystem| format!("{filesystem}-00")) {
        let log = WriteLog::read(&log_path(dir, &serial))?;
        let digest = node.vm.digest(&serial)?;
        ensure!(
            rebuilt(&log, dir)? == digest,
            "{serial} is not what its log makes of an empty disk"
        );
    }
    drop(node.vm.power_cut()?);
    for entry in serde_json::Deserializer::from_str(&kept).into_iter::<Value>() {
        let entry = entry?;
        let serial = text(&entry, "serial")?;
        fs::write(dir.join(format!("{serial}.json")), entry.to_string())?;
    }
    fs::write(dir.join("recording.json"), Value::from(all).to_string())?;
    Ok(())
}

/// Digest of a disk with all that a log has.
fn rebuilt(log: &WriteLog, dir: &Path) -> Result<String> {
    let file = tempfile::NamedTempFile::new_in(dir)?;
    file.as_file().set_len(SIZE)?;
    for entry in 0..log.entries().len() {
        log.apply(entry, file.as_file())?;
    }
    digest_file(file.path())
}

/// Reads what [`record`] left in a directory.
pub fn read(dir: &Path) -> Result<Vec<Recorded>> {
    let listed = fs::read(dir.join("recording.json")).context("there is no recording")?;
    let listed: Vec<Value> = serde_json::from_slice(&listed)?;
    let recorded = listed.iter().map(|declared| {
        let serial = text(declared, "serial")?.to_owned();
        let log = WriteLog::read(&log_path(dir, &serial))?;
        let entry = fs::read(dir.join(format!("{serial}.json")))
            .with_context(|| format!("the journal entry of {serial} was not caught"))?;
        let mark = |at: usize| {
            let bytes = declared["marks"][at].as_u64().context("no mark")?;
            anyhow::Ok(log.count_within(bytes))
        };
        let filesystem = text(declared, "filesystem")?;
        let filesystem = FILESYSTEMS.into_iter().find(|known| *known == filesystem);
        let marks = [mark(0)?, mark(1)?, mark(2)?];
        ensure!(marks.is_sorted() && marks[0] > 0, "{serial}: {marks:?}");
        Ok(Recorded {
            bus: bus(declared)?,
            sector: u32::try_from(declared["sector"].as_u64().context("no sector")?)?,
            wwn: declared["wwn"].as_u64(),
            filesystem: filesystem.context("an unknown filesystem")?,
            entry,
            marks,
            log,
            serial,
        })
    });
    recorded.collect()
}

/// Half of the disks are virtio, the others SCSI; every fourth has large
/// sectors; some SCSI disks have a world-wide name.
fn declared(filesystem: &str, at: usize) -> Value {
    let scsi = at % 2 == 1;
    json!({
        "serial": format!("{filesystem}-{at:02}"),
        "filesystem": filesystem,
        "bus": if scsi { "scsi" } else { "virtio" },
        "sector": if at % 4 == 2 { 4096 } else { 512 },
        "wwn": (at % 4 == 3).then(|| 0x5000_c500_0000_0000_u64 + at as u64 + (filesystem.len() as u64) * 256),
    })
}

fn plug(node: &mut Node, declared: &Value, dir: &Path) -> Result<()> {
    let serial = text(declared, "serial")?;
    let bus = bus(declared)?;
    let mut disk = Disk::on(bus, serial)
        .bytes(SIZE)
        .filter(log_writes_to(&log_path(dir, serial))?);
    if declared["sector"] == 4096 {
        disk = disk.logical_block_size(4096);
    }
    if let Some(wwn) = declared["wwn"].as_u64() {
        disk = disk.wwn(wwn);
    }
    node.vm.plug(disk)?;
    if bus == Bus::Virtio {
        node.vm.kernel_name(serial)?;
    }
    Ok(())
}

fn bus(declared: &Value) -> Result<Bus> {
    match text(declared, "bus")? {
        "scsi" => Ok(Bus::Scsi),
        "virtio" => Ok(Bus::Virtio),
        other => bail!("a disk at {other}"),
    }
}

fn log_path(dir: &Path, serial: &str) -> PathBuf {
    dir.join(format!("{serial}.log"))
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    let text = value.get(field).and_then(Value::as_str);
    text.with_context(|| format!("no {field} in {value}"))
}

/// Kernel names by serial numbers.
pub fn devices(node: &mut Node) -> Result<BTreeMap<String, String>> {
    let listed = node.vm.sh("lsblk -dnro SERIAL,NAME")?;
    let pairs = listed
        .lines()
        .filter_map(|line| line.trim().split_once(' '));
    Ok(pairs
        .map(|(serial, name)| (serial.to_owned(), name.to_owned()))
        .collect())
}

/// The disks' own names by serial numbers.
fn names(node: &mut Node) -> Result<BTreeMap<String, String>> {
    let disks: Disks = node.disks()?;
    let devices = devices(node)?;
    let named = devices.into_iter().map(|(serial, device)| {
        let name = disks.field(&device, "diskName").to_owned();
        (serial, name)
    });
    Ok(named.collect())
}
