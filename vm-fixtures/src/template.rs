//! A machine that was booted once and stopped: its memory in a file, the state of its devices in
//! another, what it wrote to the system disk in an overlay. Clones start from there in a second.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::accel::Accel;
use crate::agent::AgentPort;
use crate::cache::Lock;
use crate::hardware::{Hardware, Ram, make_overlay};
use crate::image::{Image, remove};
use crate::key::key_of_words;
use crate::qemu::{Qemu, start_alive, with_wreck};

/// A cold boot takes 10 s under emulation on an idle host.
pub(crate) const BOOT_WITHIN: Duration = Duration::from_secs(600);
const MIGRATE_WITHIN: Duration = Duration::from_secs(300);

/// Run before the template is frozen, so that no clone has to: systemd's jobs done, the drivers
/// of every bus and the usual filesystems loaded, the tools a disk test runs in the page cache.
const PREPARE: &str = "systemctl is-system-running --wait >/dev/null
modprobe -a virtio_scsi sd_mod sg nvme xhci_pci usb_storage uas loop dm_mod ext4 xfs vfat \
    nls_ascii nls_utf8
for tool in /usr/bin/{bash,cat,lsblk,findmnt,mount,umount,udevadm,sleep,sync,stat,ls,dd,cmp} \
    /usr/sbin/{blkid,sfdisk,sgdisk,wipefs,mkfs.ext4,mkfs.xfs,blockdev,modprobe}; do
    cat \"$tool\" >/dev/null
    \"$tool\" --version >/dev/null 2>&1 </dev/null
done
udevadm settle
sync";

#[derive(Debug)]
pub(crate) struct Template {
    dir: PathBuf,
}

impl Template {
    /// The template of this image, QEMU and hardware: the cached one, or a new one.
    pub(crate) fn find_or_build(
        image: &Image,
        hardware: Hardware,
        qemu_version: &str,
    ) -> Result<Self> {
        let key = key(image, hardware, qemu_version)?;
        let dir = image.templates().join(&key);
        if !dir.exists() {
            let _building = Lock::exclusive(&image.templates().join(format!("{key}.lock")))?;
            if !dir.exists() {
                build(image, hardware, &key).with_context(|| format!("make the template {key}"))?;
            }
        }
        Ok(Self { dir })
    }

    pub(crate) fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root.qcow2")
    }
}

fn key(image: &Image, hardware: Hardware, qemu_version: &str) -> Result<String> {
    let arguments = hardware.arguments().join(" ");
    let processor = match hardware.accel {
        Accel::Tcg => String::new(),
        // The state of a host processor does not load on another kind of it.
        Accel::Kvm => std::fs::read_to_string("/proc/cpuinfo")
            .context("read /proc/cpuinfo")?
            .lines()
            .filter(|line| line.starts_with("model name") || line.starts_with("flags"))
            .take(2)
            .collect(),
    };
    Ok(key_of_words(&[
        image.key(),
        qemu_version,
        &arguments,
        PREPARE,
        &processor,
    ]))
}

fn build(image: &Image, hardware: Hardware, key: &str) -> Result<()> {
    let started = Instant::now();
    eprintln!(
        "vm-fixtures: booting the template with {} MiB and {} CPUs under {}",
        hardware.memory_mib,
        hardware.cpus,
        hardware.accel.name()
    );
    let work = image.templates().join(format!("{key}.tmp"));
    remove(&work)?;
    std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    // Relative to the overlay, so that the cache may be moved.
    make_overlay(&work.join("root.qcow2"), "../../root.img".as_ref(), "raw")?;
    let memory = work.join("memory");
    let mut arguments = hardware.arguments();
    arguments.extend(hardware.paths(image, Ram::Template(&memory))?);
    let (mut qemu, mut agent) = start_alive(&format!("the template {key}"), || {
        // A second start does not begin with the memory that the first one left.
        match std::fs::remove_file(&memory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", memory.display()));
            }
            Ok(()) | Err(_) => {}
        }
        Qemu::start(&work, &arguments)
    })?;
    freeze(&mut qemu, &mut agent).map_err(|error| with_wreck(error, &work))?;
    qemu.kill();
    for leftover in ["console", "stderr"] {
        std::fs::remove_file(work.join(leftover))
            .with_context(|| format!("remove the template's {leftover}"))?;
    }
    std::fs::rename(&work, image.templates().join(key)).context("name the finished template")?;
    eprintln!(
        "vm-fixtures: template finished after {:.1?}",
        started.elapsed()
    );
    Ok(())
}

fn freeze(qemu: &mut Qemu, agent: &mut AgentPort) -> Result<()> {
    agent
        .wait_ready(BOOT_WITHIN)
        .context("the guest did not boot")?;
    match agent.run(PREPARE, BOOT_WITHIN)? {
        Some(output) if output.success() => {}
        other => bail!("the guest could not be prepared: {other:?}"),
    }
    qemu.qmp.execute("stop", json!({}))?;
    ignore_shared_memory(qemu)?;
    qemu.qmp
        .execute("migrate", json!({ "uri": "exec:cat >state" }))?;
    let deadline = Instant::now() + MIGRATE_WITHIN;
    loop {
        let answer = qemu.qmp.execute("query-migrate", json!({}))?;
        match answer.get("status").and_then(Value::as_str) {
            Some("completed") => break,
            Some("failed") => bail!("QEMU could not save its state: {answer}"),
            Some(_) | None if Instant::now() > deadline => bail!("QEMU saves no state: {answer}"),
            Some(_) | None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    // A clean end: it closes the overlay and removes the sockets.
    qemu.qmp.execute("quit", json!({}))?;
    qemu.wait_exit(Duration::from_secs(120))?;
    Ok(())
}

/// Loads the state of a template into a QEMU started to wait for it, in whose directory `state`
/// leads to the template's.
pub(crate) fn thaw(qemu: &mut Qemu, agent: &mut AgentPort) -> Result<()> {
    ignore_shared_memory(qemu)?;
    qemu.qmp
        .execute("migrate-incoming", json!({ "uri": "exec:cat state" }))?;
    let deadline = Instant::now() + MIGRATE_WITHIN;
    loop {
        let answer = qemu.qmp.execute("query-status", json!({}))?;
        if answer.get("status").and_then(Value::as_str) != Some("inmigrate") {
            break;
        }
        if Instant::now() > deadline {
            bail!("QEMU loads no state: {answer}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    qemu.qmp.execute("cont", json!({}))?;
    agent.wake()
}

/// The memory is in a file both sides map; only the state of the devices is written and read.
fn ignore_shared_memory(qemu: &mut Qemu) -> Result<()> {
    qemu.qmp.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] }),
    )?;
    Ok(())
}
