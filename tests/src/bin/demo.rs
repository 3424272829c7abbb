//! The demo of the README: a node with disks of every kind, before and after.

use std::time::Instant;

use anyhow::{Result, ensure};
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;

fn main() -> Result<()> {
    let began = Instant::now();
    let say = |text: &str| {
        println!(
            "\n\x1b[1m== {text}\x1b[0m ({} s)",
            began.elapsed().as_secs()
        )
    };

    say(
        "A virtual machine: Debian's kernel, systemd, udevd. First its images, kept for the next time.",
    );
    let lab = Lab::open()?;
    say("It boots with a system disk, two blank disks, a small one and one with somebody's ext4.");
    let mut node = Node::boot(
        lab.machine("demo")
            .disk(Disk::virtio("blank-a").gib(12))
            .disk(
                Disk::scsi("blank-b")
                    .gib(20)
                    .wwn(0x5000_c500_15ea_71ac)
                    .vendor("ACME")
                    .product("DISK1"),
            )
            .disk(Disk::virtio("small").gib(5))
            .disk(Disk::virtio("foreign").gib(12)),
    )?;
    let foreign = node.vm.kernel_name("foreign")?;
    node.vm.sh(&format!(
        "mkfs.ext4 -q /dev/{foreign} && mount /dev/{foreign} /media &&
         echo 'the only copy' > /media/photos && umount /media && sync"
    ))?;
    node.vm.settle()?;
    let before = node.vm.digest("foreign")?;

    say("disk-discovery plan: what would be done with each device, and why. Nothing is written.");
    print!("{}", shown(&node.vm.sh("disk-discovery plan")?));

    say("disk-discovery run --mode enforce, as a systemd service.");
    node.start_agent()?;
    let blank = [
        node.vm.kernel_name("blank-a")?,
        node.vm.kernel_name("blank-b")?,
    ];
    let mut paths: Vec<String> = blank
        .iter()
        .map(|name| format!("/mnt/longhorn/{name}1"))
        .collect();
    paths.sort();
    node.wait_mounted(&paths.iter().map(String::as_str).collect::<Vec<_>>())?;

    say("While it runs, an NVMe disk is plugged in.");
    node.vm.plug(Disk::nvme("late").gib(16))?;
    let late = node.vm.kernel_name("late")?;
    paths.push(format!("/mnt/longhorn/{late}p1"));
    paths.sort();
    let disks = node.wait_mounted(&paths.iter().map(String::as_str).collect::<Vec<_>>())?;

    say("The mounts after:");
    print!("{}", node.vm.sh("findmnt -o TARGET,SOURCE,FSTYPE,OPTIONS,SIZE,AVAIL -t ext4,xfs | grep -E 'TARGET|longhorn'")?);
    say("What the agent logged:");
    let log = node.log()?;
    for line in log.lines().filter(|line| !line.contains("loop")) {
        println!("{line}");
    }
    say("curl localhost:9807/healthz and /readyz?verbose on the node:");
    print!(
        "{}",
        node.vm
            .sh("curl -sS localhost:9807/healthz; curl -sS 'localhost:9807/readyz?verbose'")?
    );
    say("curl localhost:9807/v1/disks on the node, the fields that matter:");
    print!(
        "{}",
        node.vm.sh(
            "curl -sS localhost:9807/v1/disks |
             jq -c '.disks[] | select(.reason != \"partition\" and (.device | startswith(\"loop\") | not)) |
                    {device, verdict, reason, mountPath, mounted, advice}'"
        )?
    );

    say("The foreign disk is byte for byte what it was:");
    let after = node.vm.digest("foreign")?;
    println!("before {before}\nafter  {after}");
    ensure!(before == after, "the foreign disk changed");
    ensure!(
        disks.field(&foreign, "reason") == "signature:ext4",
        "{:#}",
        disks.0
    );
    print!(
        "{}",
        node.vm.sh(&format!(
            "mount -o ro,noload /dev/{foreign} /media && cat /media/photos"
        ))?
    );
    say("Done.");
    Ok(())
}

/// Without the loop devices that every Linux has.
fn shown(table: &str) -> String {
    table
        .lines()
        .filter(|line| !line.starts_with("loop"))
        .map(|line| format!("{line}\n"))
        .collect()
}
