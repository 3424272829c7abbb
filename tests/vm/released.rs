//! Disks that a person releases and takes back, without Longhorn.

use anyhow::{Result, ensure};
use serde_json::Value;
use vm_fixtures::{Disk, Lab};
use vm_tests::{Disks, Node};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "a_released_disk_is_unmounted_and_stays_so_over_a_reboot_until_it_is_taken_back",
        there_and_back,
    ),
    (
        "a_released_disk_that_is_in_use_waits_and_is_never_forced",
        in_use,
    ),
    (
        "a_released_disk_that_another_container_has_mounted_is_not_told_to_be_unmounted",
        kept_alive,
    ),
    (
        "a_released_disk_that_is_pulled_and_plugged_in_stays_unmounted",
        pulled,
    ),
    (
        "a_release_is_finished_by_the_next_start_wherever_the_agent_was_killed",
        killed,
    ),
];

/// The words about a disk that is in use where no mount table shows it.
const ELSEWHERE: &str = "still mounted in another container";

const PLACE: &str = "/mnt/longhorn/vdb1";

/// What `/v1/disks` has of the release of a disk: state and detail.
fn release_of(disks: &Disks, name: &str) -> Option<(String, String)> {
    let releases = disks.0.get("releases")?.as_array()?;
    let row = releases
        .iter()
        .find(|row| row.get("name").is_some_and(|there| there == name))?;
    let text = |field: &str| {
        row.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Some((text("state"), text("detail")))
}

fn is(disks: &Disks, name: &str, state: &str) -> bool {
    release_of(disks, name).is_some_and(|(there, _)| there == state)
}

/// The disk is nowhere, nothing can be written in its stead, and all is well.
fn check_gone(node: &mut Node, device: &str, place: &str) -> Result<()> {
    node.wait_refused(device, "released")?;
    let name = place.rsplit('/').next().unwrap_or_default();
    let disks = node.wait_until("it is unmounted", |disks| is(disks, name, "unmounted"))?;
    ensure!(disks.field(device, "detail") == name, "{:#}", disks.0);
    let mounted = node
        .vm
        .run(&format!("grep -q '/{device}1 ' /proc/1/mountinfo"))?;
    ensure!(!mounted.success(), "still mounted");
    let written = node.vm.run(&format!("touch {place}/file"))?;
    ensure!(!written.success(), "written below the bare mountpoint");
    // After a boot another disk may be about to be mounted.
    node.wait_for("all is well", |node| {
        let asked = "curl -sS --fail --max-time 120 'localhost:9807/readyz?verbose'";
        Ok(node.vm.run(asked)?.success())
    })
}

/// Runs `release`, which must succeed.
fn release(node: &mut Node, arguments: &str) -> Result<String> {
    node.vm.sh(&format!("disk-discovery release {arguments}"))
}

fn there_and_back(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(lab.machine("released").disk(Disk::virtio("alpha").gib(12)))?;
    node.configure("mode: enforce\ninterval: 1h\nmount-units: /etc/systemd/system\n")?;
    node.start_agent()?;
    node.wait_mounted(&[PLACE])?;
    let unit = "/etc/systemd/system/mnt-longhorn-vdb1.mount";
    let wanted = "/etc/systemd/system/multi-user.target.wants/mnt-longhorn-vdb1.mount";
    node.vm.sh(&format!(
        "echo precious > {PLACE}/data && sync
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do [ -e {unit} ] && [ -L {wanted} ] && exit; sleep 0.1; done; exit 1"
    ))?;
    let refused = node.vm.run("disk-discovery release vdz1")?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("there is no disk vdz1"),
        "{refused:?}"
    );
    let said = release(&mut node, "vdb1")?;
    ensure!(
        said.contains("vdb1: unmounted") && said.contains("are kept"),
        "{said}"
    );
    check_gone(&mut node, "vdb", PLACE)?;
    node.vm.sh(&format!(
        "[ ! -e {unit} ] && [ ! -L {wanted} ] && [ -z \"$(ls /var/lib/disk-discovery/requests)\" ]"
    ))?;
    // Asked again it is as it was, and another disk gets another name.
    release(&mut node, "vdb1")?;
    node.takes_another()?;
    check_gone(&mut node, "vdb", PLACE)?;

    let mut node = Node::again(node.vm.shutdown()?)?;
    node.start_agent()?;
    check_gone(&mut node, "vdb", PLACE)?;
    node.vm
        .sh("systemctl kill -s KILL disk-discovery; systemctl stop disk-discovery; systemctl start disk-discovery")?;
    check_gone(&mut node, "vdb", PLACE)?;

    let said = release(&mut node, "--cancel vdb1")?;
    ensure!(said.contains("vdb1: in-use"), "{said}");
    node.wait_mounted(&[PLACE, "/mnt/longhorn/vdc1"])?;
    let there = node.vm.sh(&format!("cat {PLACE}/data"))?;
    ensure!(there == "precious\n", "{there}");
    node.vm.sh(&format!(
        "while [ $SECONDS -lt 100 ]; do [ -e {unit} ] && [ -L {wanted} ] && exit; sleep 0.1; done; exit 1"
    ))?;

    // Who mounted it does not matter to the person who releases it.
    node.vm.sh(&format!(
        "systemctl stop disk-discovery && umount {PLACE} && mount /dev/vdb1 {PLACE} && systemctl start disk-discovery"
    ))?;
    node.wait_mounted(&[PLACE, "/mnt/longhorn/vdc1"])?;
    release(&mut node, "vdb1")?;
    check_gone(&mut node, "vdb", PLACE)
}

fn in_use(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("released-in-use")
            .disk(Disk::virtio("alpha").gib(12)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&[PLACE])?;
    let pid = node.vm.sh(&format!(
        "echo precious > {PLACE}/data && sync && (sleep 10000 < {PLACE}/data > /dev/null 2>&1 & echo $!)"
    ))?;
    node.vm
        .sh("(disk-discovery release vdb1 > /run/said 2>&1 &)")?;
    let waits = |disks: &Disks| {
        release_of(disks, "vdb1")
            .is_some_and(|(state, detail)| state == "unmounting" && detail.contains("is in use"))
    };
    node.wait_until("it waits for its user", waits)?;
    // The user sees nothing of it.
    let there = node
        .vm
        .sh(&format!("cat {PLACE}/data /proc/{}/fd/0", pid.trim()))?;
    ensure!(there == "precious\nprecious\n", "{there}");

    // Taken back, it was never away.
    let mount = format!("awk '$5 == \"{PLACE}\" {{print $1}}' /proc/1/mountinfo");
    let before = node.vm.sh(&mount)?;
    release(&mut node, "--cancel vdb1")?;
    node.wait_until("it is ours again", |disks| {
        disks.field("vdb", "verdict") == "managed" && disks.mounted() == [PLACE]
    })?;
    ensure!(node.vm.sh(&mount)? == before, "it was mounted anew");

    // With somebody's mount on top of it, it is not unmounted either.
    node.vm.sh(&format!("mount -t tmpfs theirs {PLACE}"))?;
    node.wait_refused("vdb", "mount-path-taken")?;
    node.vm.sh(&format!("umount {PLACE}"))?;
    node.wait_mounted(&[PLACE])?;
    // The first to follow it may not have ended yet.
    node.vm
        .sh(": > /run/said-again; (disk-discovery release vdb1 > /run/said-again 2>&1 &)")?;
    node.wait_until("it waits once more", waits)?;
    node.wait_for("who released it is told", |node| {
        let said = node.vm.run("grep -q unmounting /run/said-again")?;
        Ok(said.success())
    })?;
    // An attempt that is just under way takes what lies on top, which is theirs.
    node.vm.sh(&format!(
        "mount -t tmpfs theirs {PLACE} && sleep 2
         [ $(grep -c ' {PLACE} ' /proc/1/mountinfo) = 2 ] || mount -t tmpfs theirs {PLACE}
         kill {pid}"
    ))?;
    node.wait_until("it lies below another mount", |disks| {
        release_of(disks, "vdb1")
            .is_some_and(|(state, detail)| state == "unmounting" && detail.contains("by others"))
    })?;
    let theirs = node
        .vm
        .sh(&format!("grep -c ' {PLACE} ' /proc/1/mountinfo"))?;
    ensure!(theirs.trim() == "2", "{theirs} mounts");
    node.vm.sh(&format!("umount {PLACE}"))?;
    node.wait_until("it is unmounted", |disks| is(disks, "vdb1", "unmounted"))?;
    check_gone(&mut node, "vdb", PLACE)?;
    let said = node.vm.sh(
        "while pgrep -x disk-discovery -a | grep -q release; do sleep 0.2; done; cat /run/said-again",
    )?;
    ensure!(
        said.contains("unmounting") && said.contains("are kept"),
        "{said}"
    );
    Ok(())
}

/// A container that got a copy of the host's mounts when it was started keeps
/// the filesystem alive, and no unmount in the host's namespace reaches it.
fn kept_alive(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("released-kept-alive")
            .disk(Disk::virtio("alpha").gib(12)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&[PLACE])?;
    let pid = node.vm.sh(
        "unshare -m --propagation private sleep 10000 > /dev/null 2>&1 & pid=$!
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do [ \"$(cat /proc/$pid/comm)\" = sleep ] && break; sleep 0.1; done; echo $pid",
    )?;
    let pid = pid.trim();
    // Not synced: the kernel writes it out after half a minute at the earliest.
    node.vm.sh(&format!(
        "echo 60000 > /proc/sys/vm/dirty_expire_centisecs; echo 60000 > /proc/sys/vm/dirty_writeback_centisecs
         echo precious > {PLACE}/data; (disk-discovery release vdb1 > /run/said 2>&1 &)"
    ))?;
    let waits = |disks: &Disks| {
        release_of(disks, "vdb1")
            .is_some_and(|(state, detail)| state == "unmounting" && detail.contains(ELSEWHERE))
    };
    node.wait_until("it waits for the container", waits)?;
    let mounted = node
        .vm
        .run(&format!("grep -q ' {PLACE} ' /proc/1/mountinfo"))?;
    ensure!(!mounted.success(), "the host has it mounted");
    // Without the bitmaps (`-c`): while ext4 initializes itself, what is right of
    // them may be in the journal only, which debugfs does not read.
    node.vm
        .sh("said=$(debugfs -c -D -R 'cat /data' /dev/vdb1 2>&1)
         case $said in
             *precious*) ;;
             *) echo \"not on the disk: $said\" >&2; exit 1 ;;
         esac")?;
    // One that is started now knows nothing of the unmount.
    node.vm.sh("systemctl restart disk-discovery")?;
    node.wait_until("it waits after a restart", waits)?;
    // Some process of those that are listed is gone again when it is looked at.
    let holders = node
        .vm
        .sh("grep -ls ' /dev/vdb1 ' /proc/[0-9]*/mountinfo || true")?;
    ensure!(
        holders.trim() == format!("/proc/{pid}/mountinfo"),
        "{holders}"
    );
    node.vm.sh(&format!("kill {pid}"))?;
    check_gone(&mut node, "vdb", PLACE)
}

fn pulled(lab: &Lab) -> Result<()> {
    let place = "/mnt/longhorn/sda1";
    let mut node = Node::boot(
        lab.machine("released-pulled")
            .disk(Disk::scsi("alpha").gib(12)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&[place])?;
    node.vm.sh(&format!("echo precious > {place}/data"))?;
    release(&mut node, "sda1")?;
    check_gone(&mut node, "sda", place)?;
    let alpha = node.vm.yank("alpha")?;
    node.wait_until("it is away", |disks| {
        disks.row("sda").is_none()
            && release_of(disks, "sda1").is_some_and(|(_, detail)| detail.contains("not attached"))
    })?;
    // Another disk has its kernel name now, and not its name.
    node.vm.plug(Disk::scsi("beta").gib(12))?;
    node.wait_mounted(&["/mnt/longhorn/sda1-2"])?;
    node.vm.plug(alpha)?;
    let name = node.vm.kernel_name("alpha")?;
    ensure!(name != "sda", "the name is the same");
    node.wait_refused(&name, "released")?;
    node.vm.settle()?;
    check_gone(&mut node, &name, place)?;
    release(&mut node, "sda1 --cancel")?;
    node.wait_mounted(&[place, "/mnt/longhorn/sda1-2"])?;
    let there = node.vm.sh(&format!("cat {place}/data"))?;
    ensure!(there == "precious\n", "{there}");
    Ok(())
}

/// What a crash leaves is what is on the host's disk at that moment: the request,
/// the ledger before or after each change, and the mount.
fn killed(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("released-killed")
            .disk(Disk::virtio("alpha").gib(12)),
    )?;
    node.start_agent()?;
    node.wait_mounted(&[PLACE])?;
    node.vm
        .sh(&format!("echo precious > {PLACE}/data && sync"))?;
    release(&mut node, "vdb1")?;
    node.vm
        .sh("cp /var/lib/disk-discovery/ledger.json /run/left.json")?;
    release(&mut node, "vdb1 --cancel")?;
    node.wait_mounted(&[PLACE])?;
    let moments = [
        ("it is asked", "touch requests/release-vdb1"),
        (
            "it has left",
            "cp /run/left.json ledger.json; touch requests/release-vdb1",
        ),
        ("it is not unmounted yet", "cp /run/left.json ledger.json"),
        (
            "a half-written request is there, too",
            "cp /run/left.json ledger.json; touch requests/release-vdb1.tmp",
        ),
    ];
    let kill = "systemctl kill -s KILL disk-discovery; systemctl stop disk-discovery";
    for (moment, state) in moments {
        node.vm.sh(&format!(
            "{kill}; cd /var/lib/disk-discovery && {{ {state}; }} && sync && grep -q ' {PLACE} ' /proc/1/mountinfo && systemctl start disk-discovery"
        ))?;
        node.wait_until(moment, |disks| is(disks, "vdb1", "unmounted"))?;
        check_gone(&mut node, "vdb", PLACE)?;
        // A request goes when its answer is shown, a moment later.
        node.vm.sh("while [ $SECONDS -lt 100 ]; do [ -e /var/lib/disk-discovery/requests/release-vdb1 ] || exit 0; sleep 0.1; done; exit 1")?;
        // The way back is interrupted as well.
        node.vm.sh(&format!(
            "{kill}; touch /var/lib/disk-discovery/requests/cancel-vdb1 && systemctl start disk-discovery"
        ))?;
        node.wait_mounted(&[PLACE])?;
        let there = node.vm.sh(&format!("cat {PLACE}/data"))?;
        ensure!(there == "precious\n", "{moment}: {there}");
        node.vm.sh("while [ $SECONDS -lt 100 ]; do [ -e /var/lib/disk-discovery/requests/cancel-vdb1 ] || exit 0; sleep 0.1; done; exit 1")?;
    }
    // What was asked where Longhorn is on is not for this agent to let go.
    let leaving = r#"s/"left"/{"leaving": {"schedulableBefore": null}}/"#;
    node.vm.sh(&format!(
        "{kill}; cd /var/lib/disk-discovery && sed '{leaving}' /run/left.json > ledger.json
         ! cmp -s /run/left.json ledger.json && touch requests/release-vdb1 && systemctl start disk-discovery"
    ))?;
    node.wait_until("it waits for Longhorn", |disks| {
        release_of(disks, "vdb1").is_some_and(|(state, detail)| {
            state == "leaving" && detail.contains("asked while Longhorn was on")
        })
    })?;
    node.wait_mounted(&[PLACE])?;
    // Both at once: nothing is done.
    node.vm.sh(&format!(
        "{kill}; cd /var/lib/disk-discovery/requests && touch release-vdb1 cancel-vdb1 && systemctl start disk-discovery
         SECONDS=0
         while [ $SECONDS -lt 100 ]; do ls | grep -q vdb1$ || exit 0; sleep 0.1; done; exit 1"
    ))?;
    node.wait_mounted(&[PLACE]).map(drop)
}
