//! What an operator allows, forbids, limits and approves.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use vm_fixtures::{Disk, Lab};
use vm_tests::{Disks, Node};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_wiped_disk_is_taken_with_the_token_of_its_state_once_and_not_without",
        approved_once,
    ),
    (
        "a_power_cut_while_an_approved_disk_is_written_is_resumed",
        approved_and_interrupted,
    ),
    (
        "a_filesystem_that_comes_back_beside_a_pending_claim_is_not_formatted",
        restored,
    ),
    (
        "a_token_of_another_state_or_another_disk_approves_nothing",
        token_of_another,
    ),
    (
        "rules_pick_new_disks_and_a_usb_disk_needs_its_transport_named",
        rules,
    ),
    (
        "limits_hold_over_a_restart_and_a_freeze_until_it_is_lifted",
        limits_and_freeze,
    ),
    (
        "explain_repeats_a_proof_and_finds_a_disk_by_its_link",
        explain,
    ),
];

/// As somebody recycles a disk: a filesystem with files, then `wipefs`.
const WIPED: &str = "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /media && cp -r /usr/share/perl* /media \
     && umount /media && wipefs -qa /dev/vdb && sync && udevadm settle";

fn explained(node: &mut Node, device: &str) -> Result<Value> {
    let text = node
        .vm
        .sh(&format!("disk-discovery explain {device} -o json"))?;
    serde_json::from_str(&text).with_context(|| text)
}

fn token(node: &mut Node, device: &str) -> Result<String> {
    let explained = explained(node, device)?;
    let token = explained.pointer("/approval/token").and_then(Value::as_str);
    let token = token.with_context(|| format!("no token in {explained:#}"))?;
    Ok(token.to_owned())
}

fn approve(node: &mut Node, token: &str) -> Result<()> {
    node.configure(&format!(
        "mode: enforce\ninterval: 1h\napprove:\n  - {token}\n"
    ))?;
    node.vm.sh("systemctl restart disk-discovery").map(drop)
}

fn wait_reason(node: &mut Node, device: &str, reason: &str) -> Result<Disks> {
    node.wait_until(&format!("{device} is {reason}"), |disks| {
        disks.field(device, "reason") == reason
    })
}

fn approved_once(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("approved").disk(Disk::virtio("alpha").gib(12)))?;
    node.vm.sh(WIPED)?;
    let before = node.vm.digest("alpha")?;
    node.start_agent()?;
    let disks = wait_reason(&mut node, "vdb", "residual-data")?;
    ensure!(
        disks.field("vdb", "detail").contains("ext4 was wiped"),
        "{:#}",
        disks.0
    );
    let token = token(&mut node, "vdb")?;
    ensure!(
        before == node.vm.digest("alpha")?,
        "written without a token"
    );
    // To bring the very same state back later.
    let copy = node.vm.run_dir().join("copy");
    let disk = node.vm.disk_path("alpha")?;
    crate::host_to(
        "cp",
        &["--sparse=always", &disk.to_string_lossy()],
        "",
        &copy,
    )?;

    approve(&mut node, &token)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    let ledger = node.vm.sh("cat /var/lib/disk-discovery/ledger.json")?;
    ensure!(ledger.contains(&token), "{ledger}");
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1 && e2fsck -fn /dev/vdb1")?;

    // The same disk with the same contents once more.
    node.vm.unplug("alpha")?;
    node.vm
        .plug(Disk::virtio("again").gib(12).serial("alpha").file(&copy))?;
    node.vm.settle()?;
    let again = node.vm.kernel_name("again")?;
    let before = node.vm.digest("again")?;
    ensure!(
        !explained(&mut node, &again)?["approval"].is_null(),
        "the state is not the one that was approved, so this shows nothing"
    );
    node.start_agent()?;
    wait_reason(&mut node, &again, "residual-data")?;
    ensure!(
        before == node.vm.digest("again")?,
        "a token was used a second time"
    );
    Ok(())
}

fn approved_and_interrupted(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("approved-cut")
            .disk(Disk::virtio("alpha").gib(12)),
    )?;
    // Something in every block that the table is written over, and beside it.
    node.vm.sh(
        "yes residue | tr '\\n' ' ' | dd of=/dev/vdb bs=1M count=24 iflag=fullblock status=none
         yes residue | tr '\\n' ' ' | dd of=/dev/vdb bs=1M seek=12264 count=24 iflag=fullblock status=none
         sync; udevadm settle",
    )?;
    let token = token(&mut node, "vdb")?;
    throttled_until_mkfs(&mut node, &token)?;
    std::thread::sleep(Duration::from_millis(500));
    let mut node = Node::again(node.vm.power_cut()?)?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.wait_logged(&["resume"])?;
    node.vm
        .sh("systemctl stop disk-discovery && umount /mnt/longhorn/vdb1 && e2fsck -fn /dev/vdb1")
        .map(drop)
}

/// Approves `alpha`, lets nothing be written quickly, waits for mkfs.
fn throttled_until_mkfs(node: &mut Node, token: &str) -> Result<()> {
    let id = "/machine/peripheral/disk-alpha/virtio-backend";
    let limits = json!({"id": id, "bps": 0, "bps_rd": 0, "bps_wr": 500_000, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    node.vm.qmp("block_set_io_throttle", limits)?;
    approve(node, token)?;
    for _ in 0..600 {
        if node.vm.run("pgrep -x mkfs.ext4")?.success() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("mkfs was not seen: {}", node.log()?)
}

/// As when somebody thinks better of an approval: btrfs keeps its superblock
/// where our table does not reach.
fn restored(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("restored").disk(Disk::virtio("alpha").gib(12)))?;
    node.vm.sh(
        "mkfs.btrfs -q /dev/vdb && mount /dev/vdb /media && echo precious > /media/data && umount /media
         dd if=/dev/vdb of=/root/superblock bs=4096 skip=16 count=1 status=none
         wipefs -qa /dev/vdb; sync; udevadm settle",
    )?;
    let token = token(&mut node, "vdb")?;
    throttled_until_mkfs(&mut node, &token)?;
    node.vm.sh("systemctl stop disk-discovery")?;
    let lifted = json!({"id": "/machine/peripheral/disk-alpha/virtio-backend", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    node.vm.qmp("block_set_io_throttle", lifted)?;
    node.vm.sh(
        "while [ $SECONDS -lt 100 ]; do pgrep -x mkfs.ext4 || break; sleep 0.1; done
         dd if=/root/superblock of=/dev/vdb bs=4096 seek=16 conv=notrunc,fsync status=none; udevadm settle",
    )?;
    let before = node.vm.digest("alpha")?;
    node.start_agent()?;
    wait_reason(&mut node, "vdb", "claim-damaged")?;
    node.vm.sh("systemctl stop disk-discovery; sync")?;
    ensure!(before == node.vm.digest("alpha")?, "it was written to");
    Ok(())
}

fn token_of_another(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("other-token")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::virtio("beta").gib(12)),
    )?;
    // The same contents on both: only the identity differs.
    node.vm.sh("for d in vdb vdc; do echo residue | dd of=/dev/$d bs=1 seek=5000 status=none; done; sync; udevadm settle")?;
    let of_beta = token(&mut node, "vdc")?;
    let of_alpha = token(&mut node, "vdb")?;
    node.vm
        .sh("echo more | dd of=/dev/vdb bs=1 seek=6000 status=none; sync; udevadm settle")?;
    node.vm.unplug("beta")?;
    let before = node.vm.digest("alpha")?;
    node.configure(&format!(
        "mode: enforce\ninterval: 1h\napprove:\n  - {of_beta}\n  - {of_alpha}\n"
    ))?;
    node.start_agent()?;
    wait_reason(&mut node, "vdb", "residual-data")?;
    node.vm.sh("systemctl restart disk-discovery")?;
    wait_reason(&mut node, "vdb", "residual-data")?;
    ensure!(before == node.vm.digest("alpha")?, "the disk was written");
    Ok(())
}

fn rules(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("rules")
            .disk(Disk::virtio("alpha").gib(12).serial("KEEP-1"))
            .disk(Disk::virtio("beta").gib(12).serial("DATA-1"))
            .disk(Disk::usb("stick").gib(12).serial("STICK")),
    )?;
    node.configure(
        "mode: enforce\ninterval: 1h\nallow:\n  - name: '*'\ndeny:\n  - serial: 'KEEP-*'\n",
    )?;
    node.start_agent()?;
    let disks = node.wait_mounted(&["/mnt/longhorn/vdc1"])?;
    ensure!(disks.field("vdb", "reason") == "denied", "{:#}", disks.0);
    let stick = node.vm.kernel_name("stick")?;
    ensure!(
        disks.field(&stick, "reason") == "removable",
        "{:#}",
        disks.0
    );
    node.vm.sh("systemctl stop disk-discovery")?;
    node.configure(
        "mode: enforce\ninterval: 1h\nallow:\n  - transport: usb\n    by-id: '*STICK*'\n",
    )?;
    node.start_agent()?;
    let at_stick = format!("/mnt/longhorn/{stick}1");
    // The disk that no rule matches any more stays mounted: it is ours.
    let disks = node.wait_mounted(&[at_stick.as_str(), "/mnt/longhorn/vdc1"])?;
    ensure!(
        disks.field("vdb", "reason") == "not-allowed",
        "{:#}",
        disks.0
    );
    Ok(())
}

fn limits_and_freeze(lab: &Lab) -> Result<()> {
    let mut machine = lab.machine("limits");
    for name in ["alpha", "beta", "gamma"] {
        machine = machine.disk(Disk::virtio(name).gib(12));
    }
    let mut node = Node::boot(machine)?;
    node.configure("mode: enforce\ninterval: 1h\nmax-formats-per-hour: 1\n")?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
    node.vm.sh("systemctl restart disk-discovery")?;
    wait_reason(&mut node, "vdc", "format-limit")?;
    ensure!(
        node.disks()?.mounted() == ["/mnt/longhorn/vdb1"],
        "one more"
    );

    node.configure("mode: enforce\ninterval: 1h\nmax-disks: 2\n")?;
    node.vm.sh(
        "echo 'moving house' > /var/lib/disk-discovery/frozen; systemctl restart disk-discovery",
    )?;
    let disks = wait_reason(&mut node, "vdc", "frozen")?;
    ensure!(
        disks.field("vdc", "detail") == "moving house",
        "{:#}",
        disks.0
    );
    ensure!(disks.degraded() == ["frozen"], "{:?}", disks.degraded());
    node.vm.sh("curl -sS --fail http://localhost:9807/readyz")?;
    // Nobody tells the agent that the file is gone: the next round sees it.
    node.vm
        .sh("rm /var/lib/disk-discovery/frozen; echo change > /sys/block/vdd/uevent")?;
    node.wait_mounted(&["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"])?;
    wait_reason(&mut node, "vdd", "disk-limit")?;
    let writes = node.vm.sh("awk '{print $5}' /sys/block/vdd/stat")?;
    ensure!(writes.trim() == "0", "{writes} writes to the third disk");
    Ok(())
}

fn explain(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("explain")
            .disk(Disk::scsi("alpha").gib(12).serial("ALPHA"))
            .disk(Disk::virtio("foreign").mib(320)),
    )?;
    node.vm
        .sh("echo residue | dd of=/dev/sda bs=1 seek=5000 status=none; mkfs.xfs -q /dev/vdb; sync; udevadm settle")?;
    let by_id = node.vm.sh("ls /dev/disk/by-id/ | grep -m1 ALPHA")?;
    let device = format!("/dev/disk/by-id/{}", by_id.trim());
    let first = explained(&mut node, &device)?;
    ensure!(first["device"] == "sda", "{first:#}");
    ensure!(first["reason"] == "residual-data", "{first:#}");
    let scan = |explained: &Value| {
        explained
            .pointer("/medium/known/content/scan/known")
            .cloned()
    };
    let of_first = scan(&first).context("no scan")?;
    let seed = of_first["seed"].as_str().context("no seed")?.to_owned();
    let again = node
        .vm
        .sh(&format!("disk-discovery explain sda -o json --seed {seed}"))?;
    let again: Value = serde_json::from_str(&again)?;
    ensure!(scan(&again) == Some(of_first), "{again:#}");
    ensure!(again["approval"] == first["approval"], "{again:#}");
    let unasked = explained(&mut node, "/dev/sda")?;
    ensure!(unasked["approval"] == first["approval"], "other places");
    let elsewhere = node
        .vm
        .sh("disk-discovery explain sda -o json --seed 0123456789abcdef")?;
    let elsewhere: Value = serde_json::from_str(&elsewhere)?;
    ensure!(elsewhere["approval"] != first["approval"], "{elsewhere:#}");

    // What explain says of erasing makes the disk blank.
    let command = "disk-discovery explain vdb -o json --min-size 100MB";
    let explained =
        |node: &mut Node| -> Result<Value> { Ok(serde_json::from_str(&node.vm.sh(command)?)?) };
    let foreign = explained(&mut node)?;
    ensure!(foreign["reason"] == "signature:xfs", "{foreign:#}");
    ensure!(foreign["approval"].is_null(), "{foreign:#}");
    // The first step takes away who owned it, the second all that is left.
    let mut erased = foreign.clone();
    for (step, outcome) in [("erase", "residual-data"), ("overwrite", "")] {
        let commands: Vec<&str> = foreign[step]
            .as_array()
            .context("no commands")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        node.vm.sh(&format!("set -e\n{}", commands.join("\n")))?;
        erased = explained(&mut node)?;
        let reason = erased["reason"].as_str().unwrap_or_default();
        ensure!(reason == outcome, "after {step}: {erased:#}");
    }
    ensure!(erased["verdict"] == "provision", "{erased:#}");
    let missing = node.vm.run("disk-discovery explain sdz")?;
    ensure!(
        missing.code == 1 && missing.stderr.contains(" sda, "),
        "{missing:?}"
    );
    Ok(())
}
