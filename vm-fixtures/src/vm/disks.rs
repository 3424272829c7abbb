//! Disks of a running machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{RUN_WITHIN, Vm};
use crate::attach::Attached;
use crate::digest::digest_file;
use crate::disk::{Bus, Disk};
use crate::off::root_digest;

const UNPLUG_WITHIN: Duration = Duration::from_secs(120);
/// How long the shell functions below wait for a disk, and udev's word on it.
const DISK_WITHIN: Duration = Duration::from_secs(110);
/// A guest is dead that takes longer for its disks, however many they are.
const SETTLED_WITHIN: Duration = Duration::from_secs(1800);

/// Shell function: waits for the whole disk at a pattern in sysfs, prints its directory.
const WAIT_DISK: &str = "wait_disk() {
    local dir
    while :; do
        for dir in $1; do
            if [ -e \"$dir/dev\" ]; then echo \"$dir\"; return; fi
        done
        if [ $SECONDS -ge 110 ]; then echo \"no disk appeared at $1\" >&2; dmesg | tail -n 30 >&2; return 1; fi
        sleep 0.02
    done
}
";

/// Shell function: waits until udev is done with the whole disk at each pattern. A device is in
/// sysfs a moment before its event is out, so an empty queue alone does not say that udev saw it.
/// Each disk has its time: many take long, and a slow one is no fault of those after it.
const WAIT_UDEV: &str = "wait_udev() {
    local pattern dir
    for pattern in \"$@\"; do
        SECONDS=0
        dir=$(wait_disk \"$pattern\") || return
        until [ -e \"/run/udev/data/b$(<\"$dir/dev\")\" ]; do
            if [ $SECONDS -ge 110 ]; then echo \"udev did not handle $dir\" >&2; return 1; fi
            sleep 0.02
        done
    done
    udevadm settle --timeout=180
}
";

/// Shell function: waits until there is no disk at a pattern. At first it looks without a pause.
const WAIT_GONE: &str = "wait_gone() {
    local dir left
    while :; do
        left=
        for dir in $1; do
            if [ -e \"$dir\" ]; then left=$dir; fi
        done
        if [ -z \"$left\" ]; then return; fi
        if [ $SECONDS -ge 280 ]; then echo \"$left stays\" >&2; dmesg | tail -n 30 >&2; return 1; fi
        sleep 0.02
    done
}
";

impl Vm {
    /// Attaches a disk while the guest runs; returns when QEMU has it. [`Vm::settle`] and
    /// [`Vm::kernel_name`] wait for the guest; wait between NVMe or virtio disks, or an NVMe disk
    /// may rarely fail to start under emulation.
    pub fn plug(&mut self, disk: Disk) -> Result<()> {
        let attached = Attached::new(disk, self.chassis.dir.path(), &self.disks)?;
        for node in attached.nodes() {
            self.qmp("blockdev-add", node)?;
        }
        self.qmp("device_add", attached.device())?;
        self.disks.push(attached);
        Ok(())
    }

    /// Takes a disk away as an operator would, and waits until it is gone. On virtio and NVMe the
    /// guest is asked and its driver lets go first; SCSI and USB disks go at once, and the guest,
    /// which has to run for that, follows. Returns the disk, to be plugged again with its content.
    pub fn unplug(&mut self, name: &str) -> Result<Disk> {
        let attached = self.attached(name)?.clone();
        let device = attached.device_id();
        self.qmp("device_del", json!({ "id": device }))?;
        self.wait_event("DEVICE_DELETED", json!({ "device": device }), UNPLUG_WITHIN)?;
        for node in attached.nodes().iter().rev() {
            if let Some(node) = node.get("node-name") {
                self.qmp("blockdev-del", json!({ "node-name": node }))?;
            }
        }
        self.disks.retain(|other| other.disk.name != name);
        if matches!(attached.disk.bus, Bus::Scsi | Bus::Usb) {
            // Whoever is plugged in its place before would be taken for it.
            let pattern = attached.place.sysfs(attached.disk.bus);
            self.sh(&format!("{WAIT_GONE}wait_gone '{pattern}'"))?;
        }
        Ok(attached.detach())
    }

    /// Takes a disk away without a word to the guest: SCSI and USB only. QEMU cannot do that to a
    /// PCI device (virtio, NVMe), which leaves only with the guest's consent.
    pub fn yank(&mut self, name: &str) -> Result<Disk> {
        match self.attached(name)?.disk.bus {
            Bus::Scsi | Bus::Usb => self.unplug(name),
            bus @ (Bus::Virtio | Bus::Nvme) => {
                bail!("disk {name}: QEMU cannot yank a {bus:?} disk")
            }
        }
    }

    /// Changes the size of a disk under the guest, which is told.
    pub fn resize(&mut self, name: &str, bytes: u64) -> Result<()> {
        let node = self.attached(name)?.node();
        self.qmp("block_resize", json!({ "node-name": node, "size": bytes }))
            .map(drop)
    }

    /// Waits until the guest has every disk and udev has handled every event.
    pub fn settle(&mut self) -> Result<()> {
        let patterns: Vec<String> = self
            .disks
            .iter()
            .map(|attached| format!("'{}'", attached.place.sysfs(attached.disk.bus)))
            .collect();
        let script = format!("{WAIT_DISK}{WAIT_UDEV}wait_udev {}", patterns.join(" "));
        let disks = u32::try_from(patterns.len())?;
        let limit = (RUN_WITHIN + DISK_WITHIN * disks).min(SETTLED_WITHIN);
        self.sh_within(limit, &script).map(drop)
    }

    /// The name the guest's kernel gave a disk (`vdb`, `sda`, `nvme0n1`), waiting until it has
    /// one. Found by the place of the disk, so also without a serial or with another's.
    pub fn kernel_name(&mut self, name: &str) -> Result<String> {
        let attached = self.attached(name)?;
        let pattern = attached.place.sysfs(attached.disk.bus);
        let dir = self.sh(&format!("{WAIT_DISK}wait_disk '{pattern}'"))?;
        match dir.trim_end().rsplit('/').next() {
            Some(node) if !node.is_empty() => Ok(node.to_owned()),
            Some(_) | None => bail!("no kernel name in {dir:?}"),
        }
    }

    /// The file of a disk on the host.
    pub fn disk_path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.attached(name)?.path.clone())
    }

    /// The digest of a disk's content as the host sees it: what the guest has written so far, not
    /// what waits in its page cache (`sync` in the guest first). See [`digest_file`].
    pub fn digest(&self, name: &str) -> Result<String> {
        digest_file(&self.attached(name)?.path)
    }

    /// The same of the system disk. The guest stands still meanwhile, which also makes QEMU write
    /// out the tables of the overlay.
    pub fn root_digest(&mut self) -> Result<String> {
        self.stop()?;
        let digest = root_digest(self.chassis.dir.path());
        self.cont()?;
        digest
    }

    /// What QEMU counts for a disk: `rd_bytes`, `wr_operations`, `unmap_bytes` ... as in
    /// `query-blockstats`.
    pub fn block_stats(&mut self, name: &str) -> Result<Value> {
        let device = self.attached(name)?.device_id();
        let all = self.qmp("query-blockstats", json!({}))?;
        let of_device = |entry: &&Value| {
            entry
                .get("qdev")
                .and_then(Value::as_str)
                .is_some_and(|path| path.split('/').any(|part| part == device))
        };
        match all.as_array().and_then(|all| all.iter().find(of_device)) {
            Some(entry) => Ok(entry.get("stats").cloned().unwrap_or_default()),
            None => bail!("QEMU counts nothing for disk {name}"),
        }
    }
}
