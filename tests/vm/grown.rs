//! Disks of ours that are enlarged, cut or copied: what is grown, what is left
//! alone, and that nothing on them is lost.

use anyhow::{Result, ensure};
use vm_fixtures::{Bus, Disk, Lab};
use vm_tests::{Disks, Node, Untouched, data_disks};

use crate::Case;

pub const CASES: &[Case] = &[
    (
        "an_enlarged_disk_is_grown_with_partition_and_filesystem_while_it_is_used",
        while_used,
    ),
    (
        "xfs_and_a_disk_with_sectors_of_4096_bytes_are_grown_as_well",
        xfs_and_large_sectors,
    ),
    (
        "a_disk_that_was_enlarged_while_the_machine_was_off_is_grown_after_the_boot",
        while_off,
    ),
    (
        "growing_that_is_switched_off_frozen_or_would_take_used_space_is_withheld",
        withheld,
    ),
    (
        "a_disk_that_was_cut_and_an_enlarged_copy_are_refused_and_not_written",
        cut_and_copied,
    ),
];

pub const GIB: u64 = 1 << 30;

/// Writes files to a disk and notes their checksums.
pub fn fill(node: &mut Node, path: &str) -> Result<()> {
    node.vm
        .sh(&format!(
            "cd {path} && for i in 1 2 3 4; do head -c 4000000 /dev/urandom > file$i; done
             sha256sum file? > sums && sync"
        ))
        .map(drop)
}

/// What must not change by growing: files, GUID of the partition, UUID of the
/// filesystem, name of the partition.
pub fn identity(node: &mut Node, device: &str, path: &str) -> Result<String> {
    node.vm.sh(&format!(
        "cd {path} && sha256sum --quiet -c sums && cat sums
         udevadm settle; lsblk -dnro PARTUUID,PARTLABEL /dev/{device}; blkid -p -o value -s UUID /dev/{device}"
    ))
}

/// Waits until the filesystem at a path has at least so many bytes, all but a
/// twentieth of what its disk has, and no work is left to do.
pub fn wait_grown(node: &mut Node, disk: &str, path: &str, bytes: u64) -> Result<()> {
    node.wait_until(&format!("{disk} is grown to {bytes}"), |disks| {
        let row = disks.row(disk);
        let settled = row.is_some_and(|row| {
            row.get("growth").is_none()
                && row.get("operation").is_none()
                && row.get("size").and_then(serde_json::Value::as_u64) == Some(bytes)
        });
        settled && disks.mounted().contains(&path.to_owned())
    })?;
    let size = node
        .vm
        .sh(&format!("df --output=size -B1 {path} | tail -n 1"))?;
    let size: u64 = size.trim().parse()?;
    ensure!(size > bytes / 20 * 19, "{path} has {size} of {bytes}");
    sound_table(node, disk)
}

/// Two other programs find nothing wrong with the table.
fn sound_table(node: &mut Node, disk: &str) -> Result<()> {
    let said = node.vm.sh(&format!(
        "sgdisk -v /dev/{disk} 2>&1; sfdisk --verify /dev/{disk} 2>&1"
    ))?;
    ensure!(
        said.contains("No problems found") && said.contains("No errors detected"),
        "{said}"
    );
    Ok(())
}

/// What withholds the growth of a disk.
fn withheld_by<'a>(disks: &'a Disks, disk: &str) -> &'a str {
    let row = disks.row(disk);
    row.and_then(|row| row.pointer("/growth/reason")?.as_str())
        .unwrap_or_default()
}

/// Checks a filesystem that is not mounted.
pub fn check_filesystem(node: &mut Node, device: &str, path: &str) -> Result<()> {
    node.vm
        .sh(&format!(
            "systemctl stop disk-discovery && umount {path}
             case $(blkid -p -o value -s TYPE /dev/{device}) in
                 ext4) e2fsck -fn /dev/{device} ;;
                 xfs) xfs_repair -n /dev/{device} ;;
                 *) exit 1 ;;
             esac"
        ))
        .map(drop)
}

fn while_used(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("grown")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::scsi("beta").gib(12)),
    )?;
    node.start_agent()?;
    let disks = [
        ("alpha", "vdb", "vdb1", "/mnt/longhorn/vdb1"),
        ("beta", "sda", "sda1", "/mnt/longhorn/sda1"),
    ];
    node.wait_mounted(&["/mnt/longhorn/sda1", "/mnt/longhorn/vdb1"])?;
    // Somebody writes all the while.
    node.vm.sh(
        "for d in sda1 vdb1; do
             (while :; do head -c 300000 /dev/urandom > /mnt/longhorn/$d/busy; sync -f /mnt/longhorn/$d/busy; done) >/dev/null 2>&1 &
             echo $! >> /run/writers
         done",
    )?;
    for (name, disk, device, path) in disks {
        fill(&mut node, path)?;
        let before = identity(&mut node, device, path)?;
        // Twice: the second time over what the first has left.
        for size in [20, 28] {
            node.vm.resize(name, size * GIB)?;
            wait_grown(&mut node, disk, path, size * GIB)?;
            let after = identity(&mut node, device, path)?;
            ensure!(before == after, "{before} became {after}");
        }
        node.wait_logged(&["grown", disk])?;
    }
    // New inode tables are zeroed for minutes, which is not what is counted here.
    node.vm.sh("kill $(cat /run/writers)
         for d in sda1 vdb1; do mount -o remount,noinit_itable /mnt/longhorn/$d; done")?;
    node.vm.sh("systemctl stop disk-discovery")?;
    let counters = node.wait_quiet()?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/sda1", "/mnt/longhorn/vdb1"])?;
    node.vm.sh("systemctl stop disk-discovery")?;
    let after = node.write_counters()?;
    ensure!(
        data_disks(&counters) == data_disks(&after),
        "a second start wrote: {counters} became {after}"
    );
    for (_, _, device, path) in disks {
        check_filesystem(&mut node, device, path)?;
    }
    Ok(())
}

fn xfs_and_large_sectors(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("grown-xfs")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::scsi("beta").gib(12).logical_block_size(4096)),
    )?;
    node.configure("mode: enforce\ninterval: 1h\nfilesystem: xfs\n")?;
    node.start_agent()?;
    node.wait_mounted(&["/mnt/longhorn/sda1", "/mnt/longhorn/vdb1"])?;
    for (name, disk, device, path) in [
        ("alpha", "vdb", "vdb1", "/mnt/longhorn/vdb1"),
        ("beta", "sda", "sda1", "/mnt/longhorn/sda1"),
    ] {
        fill(&mut node, path)?;
        let before = identity(&mut node, device, path)?;
        node.vm.resize(name, 20 * GIB)?;
        wait_grown(&mut node, disk, path, 20 * GIB)?;
        let after = identity(&mut node, device, path)?;
        ensure!(before == after, "{before} became {after}");
        check_filesystem(&mut node, device, path)?;
        node.start_agent()?;
    }
    Ok(())
}

fn while_off(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("grown-off")
            .disk(Disk::nvme("alpha").gib(12))
            .disk(Disk::on(Bus::Scsi, "beta").gib(12).logical_block_size(4096)),
    )?;
    node.start_agent()?;
    let paths = ["/mnt/longhorn/nvme0n1p1", "/mnt/longhorn/sda1"];
    node.wait_mounted(&paths)?;
    for path in paths {
        fill(&mut node, path)?;
    }
    let before = [
        identity(&mut node, "nvme0n1p1", paths[0])?,
        identity(&mut node, "sda1", paths[1])?,
    ];
    let off = node.vm.shutdown()?;
    for name in ["alpha", "beta"] {
        crate::host("truncate", &["-s", "20G"], &off.disk_path(name)?)?;
    }
    let mut node = Node::again(off)?;
    wait_grown(&mut node, "nvme0n1", paths[0], 20 * GIB)?;
    wait_grown(&mut node, "sda", paths[1], 20 * GIB)?;
    let after = [
        identity(&mut node, "nvme0n1p1", paths[0])?,
        identity(&mut node, "sda1", paths[1])?,
    ];
    ensure!(before == after, "{before:?} became {after:?}");
    Ok(())
}

fn withheld(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("not-grown")
            .disk(Disk::virtio("alpha").gib(12))
            .disk(Disk::virtio("beta").gib(12)),
    )?;
    node.configure("mode: enforce\ninterval: 1h\ngrow: false\n")?;
    node.start_agent()?;
    let paths = ["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"];
    node.wait_mounted(&paths)?;
    fill(&mut node, paths[1])?;
    let before = identity(&mut node, "vdc1", paths[1])?;
    // As if a small disk of ours had been copied onto a larger one that holds
    // something: far behind what was copied.
    let beta = node.vm.disk_path("beta")?;
    node.vm.resize("beta", 24 * GIB)?;
    let foreign = [
        "if=/dev/urandom",
        "bs=1M",
        "seek=14000",
        "count=2000",
        "conv=notrunc",
        "status=none",
    ];
    crate::host_to("dd", &foreign, "of=", &beta)?;
    node.vm.resize("alpha", 20 * GIB)?;
    let off = |disks: &Disks| ["vdb", "vdc"].map(|disk| withheld_by(disks, disk)) == ["off"; 2];
    node.wait_until("growing is off", off)?;
    node.wait_mounted(&paths)?;

    node.vm
        .sh("systemctl stop disk-discovery && echo moving > /var/lib/disk-discovery/frozen")?;
    node.configure("mode: enforce\ninterval: 1h\n")?;
    node.start_agent()?;
    let frozen = |disks: &Disks| withheld_by(disks, "vdb") == "frozen";
    node.wait_until("growing is frozen", frozen)?;
    let ends = "for at in 0 12582896 25165808; do dd if=/dev/vdc bs=1k skip=$at count=16 status=none iflag=direct | sha256sum; done";
    let ends_before = node.vm.sh(ends)?;

    node.vm
        .sh("systemctl stop disk-discovery && rm /var/lib/disk-discovery/frozen")?;
    node.start_agent()?;
    wait_grown(&mut node, "vdb", paths[0], 20 * GIB)?;
    let used = |disks: &Disks| {
        withheld_by(disks, "vdc") == "not-blank" && disks.mounted().contains(&paths[1].to_owned())
    };
    let disks = node.wait_until("the used space is not taken", used)?;
    ensure!(disks.field("vdc", "verdict") == "managed", "{:#}", disks.0);
    ensure!(node.vm.sh(ends)? == ends_before, "a table was written");
    ensure!(
        identity(&mut node, "vdc1", paths[1])? == before,
        "it changed"
    );
    let size = node.vm.sh("blockdev --getsize64 /dev/vdc1")?;
    ensure!(size.trim().parse::<u64>()? < 12 * GIB, "{size}");
    // Nothing to do is nothing that fails.
    let ready = node.vm.sh("curl -sS 'localhost:9807/readyz?verbose'")?;
    ensure!(ready.contains("[+] operations"), "{ready}");
    let plan = node
        .vm
        .sh("disk-discovery plan; disk-discovery explain vdc")?;
    ensure!(plan.contains("not grown (not-blank)"), "{plan}");
    Ok(())
}

fn cut_and_copied(lab: &Lab) -> Result<()> {
    let mut node = Node::boot(
        lab.machine("cut")
            .disk(Disk::virtio("alpha").gib(14))
            .disk(Disk::virtio("beta").gib(12)),
    )?;
    node.start_agent()?;
    let paths = ["/mnt/longhorn/vdb1", "/mnt/longhorn/vdc1"];
    node.wait_mounted(&paths)?;
    fill(&mut node, paths[0])?;
    let before = identity(&mut node, "vdb1", paths[0])?;
    let off = node.vm.shutdown()?;
    // Nothing of alpha lies where it is cut; it only says that it is larger.
    let [alpha, beta] = [off.disk_path("alpha")?, off.disk_path("beta")?];
    crate::host("truncate", &["-s", "13G"], &alpha)?;
    crate::host("truncate", &["-s", "20G"], &beta)?;
    let copy = beta.with_file_name("copy.img");
    crate::host_to(
        "cp",
        &["--sparse=always", &beta.to_string_lossy()],
        "",
        &copy,
    )?;
    let mut node = Node::again(off.attach(Disk::virtio("gamma").file(copy)))?;
    node.wait_refused("vdb", "disk-shrunk")?;
    for disk in ["vdc", "vdd"] {
        node.wait_refused(disk, "duplicate-identity")?;
    }
    let untouched = Untouched::note(&mut node, &["alpha", "beta", "gamma"])?;
    node.takes_another()?;
    untouched.check(&mut node)?;
    // With its size it has everything again.
    node.vm.resize("alpha", 14 * GIB)?;
    node.wait_until("it is mounted again", |disks| {
        disks.field("vdb", "verdict") == "managed" && disks.mounted().contains(&paths[0].to_owned())
    })?;
    let after = identity(&mut node, "vdb1", paths[0])?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}
