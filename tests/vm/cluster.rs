//! The agent as a node of a cluster: what becomes of real disks in Longhorn.

mod guest;
mod member;
mod pod;

use anyhow::{Result, ensure};
use cluster_fixtures::server::Mood;
use serde_json::{Value, json};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::Case;
use member::{Member, NODE};

pub const CASES: &[Case] = &[
    (
        "a_blank_disk_becomes_storage_of_longhorn_and_is_the_same_after_a_reboot",
        becomes_storage,
    ),
    (
        "a_registered_disk_that_is_pulled_gets_no_more_replicas_until_it_is_back",
        pulled,
    ),
    (
        "a_registered_disk_is_released_when_its_replicas_have_left_and_not_before",
        released,
    ),
    (
        "a_disk_that_comes_while_the_api_server_is_away_is_in_use_and_registered_later",
        without_api_server,
    ),
    (
        "in_a_pod_with_the_mounts_of_the_manifest_a_disk_is_mounted_on_the_host_and_outlives_the_pod",
        in_a_pod,
    ),
];

const ENFORCE: &str = "mode: enforce\ninterval: 1h\n";

fn becomes_storage(lab: &Lab) -> Result<()> {
    let machine = lab.machine("member").disk(Disk::virtio("alpha").gib(12));
    let member = Member::join(machine, ENFORCE)?;
    member.guest.with(Node::start_agent)?;
    member.wait_in_use("vdb1")?;
    let entry = member.entry("vdb1");
    ensure!(
        entry.pointer("/path") == Some(&json!("/mnt/longhorn/vdb1")),
        "{entry}"
    );
    let uuid = member.uuid("vdb1")?;
    member.wait_told("DiskProvisioned", 1)?;
    let paths = member.at("/metadata/annotations/node.longhorn.io~1paths");
    ensure!(paths == "/mnt/longhorn/vdb1", "{paths}");
    let summary = member.at("/metadata/annotations/disk-discovery~1summary");
    let summary: Value = serde_json::from_str(summary.as_str().unwrap_or_default())?;
    let part = |pointer| summary.pointer(pointer).cloned().unwrap_or_default();
    ensure!(
        (part("/ok"), part("/disks"), part("/mounted")) == (json!(true), json!(1), json!(1)),
        "{summary}"
    );
    let generation = member.at("/metadata/generation");

    // The node is off, and its manager with it.
    member.manager.pause();
    let server = member.cluster.server();
    member.guest.reboot(|| server.forget_requests())?;
    member.manager.resume();
    member.wait_in_use("vdb1")?;
    ensure!(member.entry("vdb1") == entry, "{}", member.entry("vdb1"));
    ensure!(
        member.at("/metadata/generation") == generation,
        "the entry was written meanwhile"
    );
    ensure!(member.uuid("vdb1")? == uuid, "another UUID than {uuid}");
    member.wait_told("DiskProvisioned", 1)?;
    let requests = member.cluster.requests();
    ensure!(
        requests.iter().any(|seen| seen.verb == "watch"),
        "the agent has not looked since: {requests:?}"
    );
    Ok(())
}

fn pulled(lab: &Lab) -> Result<()> {
    let machine = lab
        .machine("member-pulled")
        .disk(Disk::scsi("alpha").gib(12));
    let configuration = format!("{ENFORCE}on-missing: stop-scheduling\n");
    let member = Member::join(machine, &configuration)?;
    member.guest.with(Node::start_agent)?;
    member.wait_in_use("sda1")?;
    let uuid = member.uuid("sda1")?;
    let alpha = member.guest.with(|node| node.vm.yank("alpha"))?;
    member.until("the agent misses it", || {
        let (code, said) = member.readyz()?;
        Ok(code == 503 && said.contains("[-] longhorn: sda1: disk-missing"))
    })?;
    member.until("nothing more is placed on it", || {
        Ok(member.entry("sda1").pointer("/allowScheduling") == Some(&json!(false)))
    })?;
    member.wait_told("DiskMissing", 1)?;
    member.until("Longhorn misses it", || {
        Ok(member.readiness("sda1") == "False")
    })?;
    let below = member.sh("ls -A /mnt/longhorn/sda1")?;
    ensure!(below.is_empty(), "written on the system's disk: {below}");
    member.guest.with(|node| node.vm.plug(alpha))?;
    member.wait_in_use("sda1")?;
    ensure!(member.uuid("sda1")? == uuid, "another UUID than {uuid}");
    member.wait_told("DiskReturned", 1)
}

/// `disk-discovery` in the machine, left to go on: it may wait for Longhorn,
/// which needs the machine meanwhile.
struct Command<'a> {
    member: &'a Member,
    /// Where it writes what it says, and its exit code.
    name: &'static str,
}

impl<'a> Command<'a> {
    fn begin(member: &'a Member, name: &'static str, arguments: &str) -> Result<Self> {
        // It is looked into from now on, and who goes on in the background may begin late.
        member.sh(&format!(
            ": > /run/{name}.said
             ( (disk-discovery {arguments} > /run/{name}.said 2>&1; echo $? > /run/{name}.code) >/dev/null 2>&1 & )"
        ))?;
        Ok(Self { member, name })
    }

    fn said(&self) -> Result<String> {
        self.member.sh(&format!("cat /run/{}.said", self.name))
    }

    /// Waits until it has said this.
    fn wait_said(&self, words: &str) -> Result<()> {
        let what = format!("{} says {words:?}", self.name);
        self.member
            .until(&what, || Ok(self.said()?.contains(words)))
    }

    /// Waits until it has ended: what it has said, if that is its exit code.
    fn ended(&self, wanted: &str) -> Result<String> {
        let mut code = String::new();
        self.member.until(&format!("{} ends", self.name), || {
            // There is no such file before it has ended.
            code = self
                .member
                .sh(&format!("cat /run/{}.code || true", self.name))?;
            Ok(!code.is_empty())
        })?;
        let said = self.said()?;
        ensure!(code.trim_end() == wanted, "{}: {code}{said}", self.name);
        Ok(said)
    }
}

fn released(lab: &Lab) -> Result<()> {
    let machine = lab
        .machine("member-released")
        .disk(Disk::virtio("alpha").gib(12));
    let member = Member::join(machine, ENFORCE)?;
    member.guest.with(Node::start_agent)?;
    member.wait_in_use("vdb1")?;
    let entry = member.entry("vdb1");
    member.sh("echo precious > /mnt/longhorn/vdb1/replicas/data && sync")?;

    // Longhorn says of a disk that is not ready that nothing is on it.
    member.manager.set_node_down(NODE, true);
    member.until(
        "it is not ready",
        || Ok(member.readiness("vdb1") == "False"),
    )?;
    let said = Command::begin(&member, "unready", "release vdb1")?.ended("1")?;
    ensure!(
        said.contains("not released") && said.contains("not ready"),
        "{said}"
    );
    ensure!(member.entry("vdb1") == entry, "{}", member.entry("vdb1"));
    member.manager.set_node_down(NODE, false);
    member.wait_in_use("vdb1")?;

    // Called off on the way, all is as it was.
    member.manager.evictions_hang(true);
    member.manager.place_replica(NODE, "vdb1", 1 << 30)?;
    let kept = Command::begin(&member, "kept", "release vdb1")?;
    kept.wait_said("1 replica")?;
    let leaving = member.entry("vdb1");
    ensure!(
        leaving.pointer("/allowScheduling") == Some(&json!(false))
            && leaving.pointer("/evictionRequested") == Some(&json!(true)),
        "{leaving}"
    );
    let said = Command::begin(&member, "cancel", "release --cancel vdb1")?.ended("0")?;
    ensure!(said.contains("in-use"), "{said}");
    ensure!(member.entry("vdb1") == entry, "{}", member.entry("vdb1"));
    kept.ended("1")?;

    // With room elsewhere the replica leaves, and the disk after it.
    let leaves = Command::begin(&member, "leaves", "release vdb1")?;
    leaves.wait_said("1 replica")?;
    member.manager.evictions_hang(false);
    let said = leaves.ended("0")?;
    ensure!(
        said.contains("vdb1: unmounted") && said.contains("are kept"),
        "{said}"
    );
    ensure!(member.entry("vdb1").is_null(), "{}", member.entry("vdb1"));
    let replicas = member.manager.replicas(NODE)?;
    ensure!(replicas.is_empty(), "{replicas:?}");
    let (code, ready) = member.readyz()?;
    ensure!(code == 200, "{ready}");
    let data = member.sh(
        "! grep -q '/vdb1 ' /proc/1/mountinfo && mkdir /run/look && mount -o ro /dev/vdb1 /run/look
         cat /run/look/replicas/data && umount /run/look",
    )?;
    ensure!(data == "precious\n", "{data}");
    Ok(())
}

fn without_api_server(lab: &Lab) -> Result<()> {
    let member = Member::join_in(Mood::Refusing, lab.machine("member-alone"), ENFORCE)?;
    member.guest.with(|node| {
        node.start_agent()?;
        node.vm.plug(Disk::virtio("alpha").gib(12))?;
        let disks = node.wait_mounted(&["/mnt/longhorn/vdb1"])?;
        let sight = disks.0.pointer("/longhorn/state");
        ensure!(
            sight.is_some_and(|state| state == "unreachable" || state == "connecting"),
            "{:#}",
            disks.0
        );
        node.vm.sh("echo precious > /mnt/longhorn/vdb1/data")?;
        node.check_healthy()
    })?;
    let (code, ready) = member.readyz()?;
    ensure!(code == 200, "{ready}");
    ensure!(member.cluster.node(NODE).is_null(), "it was there");
    member.cluster.server().mood(Mood::Well);
    member.wait_in_use("vdb1")?;
    member.uuid("vdb1")?;
    member.wait_told("DiskProvisioned", 1)?;
    let data = member.sh("cat /mnt/longhorn/vdb1/data")?;
    ensure!(data == "precious\n", "{data}");
    Ok(())
}

fn in_a_pod(lab: &Lab) -> Result<()> {
    let machine = lab
        .machine("member-pod")
        .disk(Disk::virtio("alpha").gib(12));
    let member = Member::join(machine, ENFORCE)?;
    let token = pod::install(&member)?;
    pod::start(&member)?;
    member.wait_in_use("vdb1")?;
    let uuid = member.uuid("vdb1")?;
    // kubelet replaces the token; the first one ends.
    pod::renew(&member)?;
    member.cluster.server().revoke(&token);
    // One that is attached later has no node in the container's own /dev.
    member
        .guest
        .with(|node| node.vm.plug(Disk::scsi("beta").gib(12)))?;
    member.wait_in_use("sda1")?;
    // What it could not tell yet would end with it.
    member.wait_told("DiskProvisioned", 2)?;
    let mounts = "awk '$5 ~ \"^/mnt/longhorn\" {print $1, $5}' /proc/1/mountinfo";
    let before = member.sh(mounts)?;
    ensure!(before.lines().count() == 2, "{before}");
    member.sh("echo precious > /mnt/longhorn/vdb1/data")?;

    pod::kill(&member)?;
    let after = member.sh(mounts)?;
    ensure!(after == before, "{before} became {after}");
    let data = member.sh("cat /mnt/longhorn/vdb1/data && touch /mnt/longhorn/sda1/data")?;
    ensure!(data == "precious\n", "{data}");

    // The next one finds all as it was.
    pod::start(&member)?;
    member.wait_in_use("vdb1")?;
    let again = member.sh(mounts)?;
    ensure!(again == before, "{before} became {again}");
    ensure!(member.uuid("vdb1")? == uuid, "another UUID than {uuid}");
    member.wait_told("DiskProvisioned", 2)
}
