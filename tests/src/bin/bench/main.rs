//! Figures against what an operator would use instead, in the same machine,
//! both sides measured in turns. Fails when one misses its aim.

mod figures;

use std::{path::Path, process::Command, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use cluster_fixtures::longhorn_cluster::manifest;
use figures::{Aim, Figures};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use serde_json::{Value, json};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

/// Measurements of each side; medians are quoted.
const TURNS: usize = 7;

type Bench = fn(&Lab) -> Result<Vec<Figures>>;

const BENCHES: &[(&[&str], Bench)] = &[
    (&["provision-1"], provision_one),
    (&["provision-16-faulty"], provision_among_faulty),
    (&["scan", "scan-one-changed"], scan),
    (&["rss"], resident),
    (&["blank-16t"], blank),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for name in &wanted {
        if !BENCHES
            .iter()
            .any(|(names, _)| names.contains(&name.as_str()))
        {
            let all: Vec<&str> = BENCHES
                .iter()
                .flat_map(|(names, _)| names.iter().copied())
                .collect();
            bail!("there is no bench {name:?}; there are {}", all.join(", "));
        }
    }
    let lab = Lab::open()?;
    let mut missed = Vec::new();
    for (names, bench) in BENCHES {
        if wanted.is_empty()
            || names
                .iter()
                .any(|name| wanted.iter().any(|wanted| wanted == name))
        {
            for figures in bench(&lab)? {
                if !figures.tell()? {
                    missed.push(figures.name);
                }
            }
        }
    }
    ensure!(missed.is_empty(), "missed its aim: {}", missed.join(", "));
    Ok(())
}

/// Seconds that a command takes in the guest, by the guest's clock.
fn seconds(node: &mut Node, command: &str) -> Result<f64> {
    let script = format!("a=$EPOCHREALTIME\n{command}\nb=$EPOCHREALTIME\necho; echo $a $b");
    let out = node.vm.sh_within(Duration::from_mins(5), &script)?;
    let times: Vec<f64> = out
        .lines()
        .last()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|time| time.parse().ok())
        .collect();
    match times.as_slice() {
        [before, after] => Ok(after - before),
        _ => bail!("no times in {out:?}"),
    }
}

/// From udevd's last word on a new disk until the agent has logged its mount,
/// against bare mkfs and mount of a partition that is there already.
fn provision_one(lab: &Lab) -> Result<Vec<Figures>> {
    let mut node = Node::boot(lab.machine("provision-1"))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first turn of each side warms the page cache and does not count.
    for turn in 0..=TURNS {
        let name = format!("theirs{turn}");
        node.vm.plug(Disk::scsi(&name).gib(12))?;
        let device = node.vm.kernel_name(&name)?;
        node.vm.sh(&format!(
            "sgdisk -n 1 /dev/{device} >/dev/null && udevadm settle"
        ))?;
        let command = format!(
            "mkfs.ext4 -q -E nodiscard /dev/{device}1 </dev/null && mount -o noatime /dev/{device}1 /media"
        );
        let taken = seconds(&mut node, &command)?;
        node.vm.sh("umount /media; udevadm settle")?;
        node.vm.unplug(&name)?;
        if turn > 0 {
            theirs.push(taken);
        }

        node.start_agent()?;
        node.wait_until("it answers", |_| true)?;
        let name = format!("ours{turn}");
        node.vm.plug(Disk::scsi(&name).gib(12))?;
        // No question to the guest meanwhile: answering costs it more than
        // what is measured.
        thread::sleep(Duration::from_secs(5));
        let device = node.vm.kernel_name(&name)?;
        node.wait_mounted(&[&format!("/mnt/longhorn/{device}1")])?;
        let taken = visible_to_mounted(&mut node, &device)?;
        node.vm.sh(&format!(
            "systemctl stop disk-discovery; umount /mnt/longhorn/{device}1
             chattr -i /mnt/longhorn/{device}1; rmdir /mnt/longhorn/{device}1; udevadm settle"
        ))?;
        node.vm.unplug(&name)?;
        if turn > 0 {
            ours.push(taken);
        }
    }
    let baseline = "mkfs.ext4 and mount of an existing partition";
    Ok(vec![Figures {
        name: "provision-1",
        unit: "s",
        baseline,
        aim: Aim::None,
        ours,
        theirs,
    }])
}

/// By the monotonic clock of the guest's kernel: udevd notes when it has
/// finished with a device, journald when a line arrived.
fn visible_to_mounted(node: &mut Node, device: &str) -> Result<f64> {
    let times = node.vm.sh(&format!(
        "udevadm info -q property --property=USEC_INITIALIZED --value /dev/{device}
         journalctl -q -o json -u disk-discovery | jq -r 'select(.MESSAGE | contains(\"mounted disk=\\\"{device}\\\"\")) | .__MONOTONIC_TIMESTAMP' | tail -1"
    ))?;
    let times: Vec<f64> = times
        .split_whitespace()
        .filter_map(|time| time.parse().ok())
        .collect();
    match times.as_slice() {
        [visible, mounted] => Ok((mounted - visible) / 1e6),
        _ => bail!("no times for {device}: {times:?}"),
    }
}

/// Disks that work, and how many of them the figures are about.
const SOUND: usize = 12;

/// From the start of the agent until twelve disks are mounted: beside four that
/// fail, each in another way, against the same machine without those.
fn provision_among_faulty(lab: &Lab) -> Result<Vec<Figures>> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (without, with) = (
            until_sound_mounted(lab, false)?,
            until_sound_mounted(lab, true)?,
        );
        eprintln!("provision-16-faulty: {without:.1} s without, {with:.1} s with faulty ones");
        theirs.push(without);
        ours.push(with);
    }
    Ok(vec![Figures {
        name: "provision-16-faulty",
        unit: "s",
        baseline: "the same twelve disks without four that fail",
        // Four more disks to look at cost something; one that is waited for costs
        // its timeout.
        aim: Aim::Times(1.2),
        ours,
        theirs,
    }])
}

fn until_sound_mounted(lab: &Lab, faulty: bool) -> Result<f64> {
    let mut machine = lab.machine("provision-16-faulty");
    for at in 0..SOUND {
        machine = machine.disk(Disk::scsi(&format!("sound{at}")).gib(12));
    }
    if faulty {
        let error = |iotype: &str| {
            json!({"driver": "blkdebug", "inject-error": [
                {"event": "none", "iotype": iotype, "errno": 5, "once": false}
            ]})
        };
        machine = machine
            .disk(Disk::virtio("writes-fail").gib(12).filter(error("write")))
            .disk(Disk::virtio("reads-fail").gib(12).filter(error("read")))
            .disk(Disk::virtio("hangs").gib(12))
            .disk(Disk::scsi("vanishes").gib(12));
    }
    let mut node = Node::boot(machine)?;
    if faulty {
        // The first write of each is let through; the second of the one takes
        // for ever, and mkfs on the other so long that it is met.
        for (device, bytes) in [("disk-hangs/virtio-backend", 1), ("disk-vanishes", 300_000)] {
            let limits = json!({
                "id": format!("/machine/peripheral/{device}"),
                "bps": 0, "bps_rd": 0, "bps_wr": bytes, "iops": 0, "iops_rd": 0, "iops_wr": 0,
            });
            node.vm.qmp("block_set_io_throttle", limits)?;
        }
    }
    node.start_agent()?;
    if faulty {
        // Asked of QEMU: the guest is not disturbed. Two writes are the table.
        loop {
            let stats = node.vm.block_stats("vanishes")?;
            let writes = stats.get("wr_operations").and_then(Value::as_u64);
            if writes.context("QEMU counts no writes")? > 4 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        node.vm.yank("vanishes")?;
    }
    let times = node.vm.sh_within(
        Duration::from_mins(5),
        &format!(
            "until [ $(grep -c /mnt/longhorn/sd /proc/self/mountinfo) = {SOUND} ]; do sleep 1; done; sleep 2
             systemctl show -p ExecMainStartTimestampMonotonic --value disk-discovery
             journalctl -q -o json -u disk-discovery | jq -r 'select(.MESSAGE | contains(\" mounted disk=\\\"sd\")) | .__MONOTONIC_TIMESTAMP'"
        ),
    )?;
    let times: Vec<f64> = times
        .split_whitespace()
        .filter_map(|time| time.parse().ok())
        .collect();
    match times.as_slice() {
        [began, .., last] if times.len() == SOUND + 1 => Ok((last - began) / 1e6),
        _ => bail!("not {SOUND} mounts: {times:?}"),
    }
}

/// What `plan` and `/v1/disks` show, as lsblk names it.
const COLUMNS: &str = "NAME,KNAME,PATH,MAJ:MIN,TYPE,SIZE,RO,RM,ROTA,LOG-SEC,VENDOR,MODEL,SERIAL,WWN,TRAN,FSTYPE,PTTYPE,MOUNTPOINTS";

/// A full pass over a thousand disks, and the pass after one has changed.
fn scan(lab: &Lab) -> Result<Vec<Figures>> {
    let mut node = Node::boot(lab.machine("scan").memory_mib(3072))?;
    eprintln!("scan: making 1,000 disks takes some minutes");
    node.vm.sh_within(
        Duration::from_mins(15),
        "modprobe scsi_debug num_tgts=125 max_luns=8 dev_size_mb=8 && udevadm settle --timeout=800",
    )?;
    let count = node.vm.sh("ls /sys/block | grep -c ^sd")?;
    ensure!(count.trim() == "1000", "{count} disks");
    let theirs_command = format!("lsblk --json --bytes -o {COLUMNS} >/run/theirs");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let (a, b) = (
            seconds(&mut node, "disk-discovery plan -o json >/run/ours")?,
            seconds(&mut node, &theirs_command)?,
        );
        if turn > 0 {
            ours.push(a);
            theirs.push(b);
        }
    }
    let rows = node
        .vm
        .sh("jq '.disks | length' /run/ours; jq '.blockdevices | length' /run/theirs")?;
    eprintln!(
        "scan: devices in the answers of both: {}",
        rows.split_whitespace().collect::<Vec<_>>().join(" and ")
    );

    node.configure("mode: observe\ninterval: 1h\n")?;
    node.start_agent()?;
    node.wait_until("the first round", |disks| disks.round("number") > 0)?;
    let mut changed = Vec::new();
    let mut theirs_again = Vec::new();
    for turn in 0..=TURNS {
        // Let rounds that udevd's own work causes pass first.
        thread::sleep(Duration::from_secs(2));
        let before = node.disks()?.round("number");
        node.vm.sh(&format!(
            "echo change > /sys/block/sd{}/uevent && udevadm settle",
            char::from(b'a' + u8::try_from(turn)?)
        ))?;
        let after = node.wait_until("a round", |disks| disks.round("number") > before)?;
        let read = after.round("devicesRead");
        ensure!((1..=2).contains(&read), "{read} devices were read");
        let lsblk = seconds(&mut node, &theirs_command)?;
        if turn > 0 {
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a round")]
            changed.push(after.round("micros") as f64 / 1e6);
            theirs_again.push(lsblk);
        }
    }
    let baseline = "lsblk --json --bytes with the same columns";
    Ok(vec![
        Figures {
            name: "scan",
            unit: "s",
            baseline,
            aim: Aim::None,
            ours,
            theirs,
        },
        Figures {
            name: "scan-one-changed",
            unit: "s",
            baseline,
            aim: Aim::None,
            ours: changed,
            theirs: theirs_again,
        },
    ])
}

/// MiB of memory that the DaemonSet requests for the agent.
fn requested() -> Result<f64> {
    let daemon_set = manifest("disk-discovery-daemonset.yaml");
    let requested = daemon_set.first().and_then(|object| {
        let amount = "/spec/template/spec/containers/0/resources/requests/memory";
        object.pointer(amount)?.as_str()?.strip_suffix("Mi")
    });
    Ok(requested.context("no request for memory in MiB")?.parse()?)
}

/// Memory at rest with sixty disks that are ours.
fn resident(lab: &Lab) -> Result<Vec<Figures>> {
    let mut machine = lab.machine("rss").memory_mib(3072);
    for at in 0..60 {
        machine = machine.disk(Disk::scsi(&format!("disk{at}")).gib(11));
    }
    let mut node = Node::boot(machine)?;
    node.configure("mode: enforce\ninterval: 2s\n")?;
    node.start_agent()?;
    node.wait_until("sixty mounts", |disks| disks.mounted().len() == 60)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        thread::sleep(Duration::from_secs(3));
        ours.push(rss(&mut node, "disk-discovery")?);
        theirs.push(rss(&mut node, "systemd-udevd")?);
    }
    Ok(vec![Figures {
        name: "rss",
        unit: "MiB",
        baseline: "systemd-udevd at rest",
        aim: Aim::AtMost(requested()?),
        ours,
        theirs,
    }])
}

/// Processor time of a whole `explain` of a blank disk of 16 TiB, on this
/// machine: a loop device over a sparse file in memory, which is only read.
fn blank(_: &Lab) -> Result<Vec<Figures>> {
    let file = tempfile::Builder::new().tempfile_in("/dev/shm")?;
    file.as_file().set_len(16 << 40)?;
    let device = Loop::over(file.path())?;
    let state = tempfile::tempdir()?;
    let explain = || {
        let mut command = Command::new(vm_tests::binary()?);
        command.args(["explain", "--allow-loop", "-o", "json", "--state-dir"]);
        command.arg(state.path()).arg(&device.0);
        Ok::<_, anyhow::Error>(command)
    };
    let by_hand = || {
        let mut command = Command::new("sh");
        command.args(["-ec", BY_HAND, "sh", &device.0]);
        command
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (seconds, answer) = processor_time(explain()?)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let verdict = answer.get("verdict").and_then(Value::as_str);
        ensure!(verdict == Some("provision"), "{answer:#}");
        let read = answer.pointer("/medium/known/content/scan/known/bytes");
        let read = read.and_then(Value::as_u64).context("no figure")?;
        ensure!(read < 64 << 20, "{read} bytes were read");
        ours.push(seconds);
        theirs.push(processor_time(by_hand())?.0);
    }
    Ok(vec![Figures {
        name: "blank-16t",
        unit: "s",
        baseline: "wipefs --no-act, and cmp of the first and last 8 MiB with zeroes",
        aim: Aim::None,
        ours,
        theirs,
    }])
}

/// Finds out by common tools whether a disk looks blank; less than the agent
/// asks for.
const BY_HAND: &str = "wipefs --no-act $1
    size=$(blockdev --getsize64 $1)
    cmp -n 8388608 $1 /dev/zero
    cmp -n 8388608 -i $((size - 8388608)):0 $1 /dev/zero";

/// A loop device for as long as this lives.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Result<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()?;
        ensure!(made.status.success(), "losetup: {made:?}");
        let name = String::from_utf8(made.stdout)?.trim().to_owned();
        Ok(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let ended = Command::new("losetup").arg("-d").arg(&self.0).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("{} is still there: losetup -d {}", self.0, self.0);
        }
    }
}

/// Seconds of processor time, of user and kernel, that a command and its
/// children take, and what it prints.
fn processor_time(mut command: Command) -> Result<(f64, Vec<u8>)> {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let time = usage.user_time() + usage.system_time();
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a process")]
        let seconds = time.num_microseconds() as f64 / 1e6;
        Ok::<_, anyhow::Error>(seconds)
    };
    let before = used()?;
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok((used()? - before, output.stdout))
}

/// Resident memory of a service's main process, in MiB.
fn rss(node: &mut Node, service: &str) -> Result<f64> {
    let kilobytes = node.vm.sh(&format!(
        "awk '/^VmRSS/ {{print $2}}' /proc/$(systemctl show -p MainPID --value {service})/status"
    ))?;
    Ok(kilobytes
        .trim()
        .parse::<f64>()
        .with_context(|| format!("no figure for {service}: {kilobytes:?}"))?
        / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_the_manifest_requests_is_found() {
        assert!(requested().is_ok_and(|mebibytes| mebibytes > 1.0));
    }
}
