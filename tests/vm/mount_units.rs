//! Units by which systemd mounts the disks at boot, without the agent.

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

use crate::Case;

pub const CASES: &[Case] = &[(
    "with_mount_units_a_boot_without_the_agent_mounts_the_disks_before_k3s_starts",
    without_the_agent,
)];

/// Lets a boot wait for a disk that is there, on a machine that takes long for it.
const PATIENCE: &str = "[Unit]\nJobTimeoutSec=600\n";

/// Stands for k3s: notes what is mounted when it is started.
const K3S: &str = "[Service]
Type=oneshot
ExecStart=/bin/sh -c 'findmnt -rno TARGET,FSTYPE,OPTIONS | grep /mnt/longhorn > /run/k3s-saw; touch /run/k3s-saw'
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
";

/// Where a unit is given [`PATIENCE`].
fn patience(disk: &str) -> String {
    format!("/etc/systemd/system/mnt-longhorn-{disk}.mount.d/patience.conf")
}

/// What k3s saw, once it has started.
fn k3s_saw(node: &mut Node) -> Result<String> {
    node.vm.sh(
        "while [ $SECONDS -lt 200 ]; do
             systemctl is-active -q k3s && systemctl is-active -q multi-user.target && exec cat /run/k3s-saw
             sleep 0.1
         done; systemctl list-jobs; systemctl status 'mnt-*' k3s; exit 1",
    )
}

fn without_the_agent(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("mount-units")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::scsi("beta").gib(12)),
    )?;
    node.configure("mode: enforce\ninterval: 1h\nmount-units: /etc/systemd/system\n")?;
    node.vm
        .write_file("/etc/systemd/system/k3s.service", K3S, 0o644)?;
    // A device that does not come is waited for without end: so the units have
    // a limit of their own, or nothing below is reached.
    node.vm.write_file(
        "/etc/systemd/system.conf.d/device.conf",
        "[Manager]\nDefaultDeviceTimeoutSec=infinity\n",
        0o644,
    )?;
    node.start_agent()?;
    let paths = ["/mnt/longhorn/sda1", "/mnt/longhorn/vdb1"];
    node.wait_mounted(&paths)?;
    let units = "mnt-longhorn-sda1.mount mnt-longhorn-vdb1.mount";
    node.vm.sh(&format!(
        "cd /etc/systemd/system
         while [ $SECONDS -lt 100 ]; do ls {units} multi-user.target.wants/mnt-* >/dev/null 2>&1 && break; sleep 0.1; done
         said=$(systemd-analyze verify --man=no --recursive-errors=no {units} 2>&1) && [ -z \"$said\" ] || {{ echo \"$said\" >&2; exit 1; }}"
    ))?;
    node.wait_for("each has its unit", |node| {
        let ready = node.vm.run("curl -sS 'localhost:9807/readyz?verbose'")?;
        Ok(ready.stdout.contains("[+] mount-units: each"))
    })?;
    for disk in ["sda1", "vdb1"] {
        node.vm.write_file(&patience(disk), PATIENCE, 0o644)?;
    }
    let by_the_agent = node
        .vm
        .sh("findmnt -rno TARGET,FSTYPE,OPTIONS | grep /mnt/longhorn | sort")?;
    node.vm
        .sh("echo kept > /mnt/longhorn/vdb1/file; systemctl disable -q disk-discovery; systemctl enable -q k3s")?;

    let mut node = Node::again(node.vm.shutdown()?)?;
    let saw = k3s_saw(&mut node)?;
    let mut saw: Vec<&str> = saw.lines().collect();
    saw.sort_unstable();
    ensure!(
        saw.join("\n") == by_the_agent.trim_end(),
        "{saw:?} instead of {by_the_agent}"
    );
    node.vm.sh("grep -qx kept /mnt/longhorn/vdb1/file")?;

    // With the agent nothing is mounted twice.
    node.start_agent()?;
    node.wait_mounted(&paths)?;
    let mounts = node.vm.sh("findmnt -rno TARGET | grep -c /mnt/longhorn/")?;
    ensure!(mounts.trim() == "2", "{mounts} mounts");
    ensure!(!node.log()?.contains(" mounted disk="), "{}", node.log()?);

    // A disk that is away keeps its unit and holds nobody up, by the unit alone.
    node.vm.sh(&format!("rm {}", patience("vdb1")))?;
    let mut off = node.vm.shutdown()?;
    off.remove("alpha")?;
    let mut node = Node::again(off)?;
    let saw = k3s_saw(&mut node)?;
    ensure!(
        saw.contains("sda1") && !saw.contains("vdb1"),
        "k3s saw {saw}"
    );
    node.vm
        .sh(&format!("cd /etc/systemd/system && ls {units}"))?;
    Ok(())
}
