//! What `observe` reads off trees in the form that Linux 6.1 gives them, built
//! in a temporary directory: right, with absent kept apart from unreadable,
//! and again only where something may have changed.
//!
//! A device node cannot be faked, so no disk here gets past its medium:
//! `probe-failed` is the best verdict there is.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "everything in this file is a test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use disk_discovery::{
    decide::{Policy, Reason, Verdict},
    fact::Fact,
    look::Look,
    observe::{Device, Dirty, Host, Inventory, Mountpoint, Observer, Transport, witness},
    report::degraded,
    state::State,
    units::DevNo,
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;

/// Where the devices of different buses hang.
const ATA: &str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
const VIRTIO: &str = "pci0000:00/0000:00:02.0/virtio1";
const NVME: &str = "pci0000:00/0000:00:03.0/nvme/nvme0";
const SECTORS: u64 = 25_165_824;

/// The trees of a host.
struct Tree {
    root: TempDir,
}

impl Tree {
    /// A host with its root on `sda1` and udevd running.
    fn new() -> Self {
        let tree = Self {
            root: tempfile::tempdir().expect("a directory"),
        };
        for directory in ["sys/class/block", "sys/block", "run/udev/data", "dev"] {
            fs::create_dir_all(tree.at(directory)).expect(directory);
        }
        tree.write("run/udev/control", "");
        tree.write(
            "proc/swaps",
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        );
        tree.mounts(&["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]);
        tree.disk(ATA, "sda", 8, 0);
        tree.partition("sda", 1, 8, 1);
        tree
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("its directory");
        fs::write(&path, text).expect("a file");
    }

    fn remove(&self, path: impl AsRef<Path>) {
        let path = self.at(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).expect("a directory less");
        } else {
            fs::remove_file(path).expect("a file less");
        }
    }

    /// Makes an attribute one that exists and cannot be read, also by root.
    fn spoil(&self, path: impl AsRef<Path>) {
        let path = self.at(path);
        if path.exists() {
            self.remove(&path);
        }
        fs::create_dir_all(path).expect("a directory in place of a file");
    }

    /// Both processes' mount tables.
    fn mounts(&self, lines: &[&str]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write("proc/1/mountinfo", &text);
        self.write("proc/self/mountinfo", &text);
    }

    /// Path of a device's directory in the tree.
    fn sys(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.at("sys/class/block").join(name)).expect("a device")
    }

    fn link_class(&self, name: &str, target: &str) {
        let target = format!("../../devices/{target}");
        symlink(target, self.at("sys/class/block").join(name)).expect("a link in class/block");
    }

    fn device(&self, path: &str, name: &str, uevent: &str) {
        let directory = Path::new("sys/devices").join(path);
        self.write(directory.join("uevent"), uevent);
        self.write(directory.join("size"), &format!("{SECTORS}\n"));
        self.write(directory.join("ro"), "0\n");
        fs::create_dir_all(self.at(directory.join("holders"))).expect("holders");
        self.link_class(name, path);
    }

    /// A whole disk without anything that depends on its bus.
    fn disk(&self, bus: &str, name: &str, major: u32, minor: u32) {
        let sequence = minor + 7;
        let path = if bus.contains("/nvme") {
            format!("{bus}/{name}")
        } else {
            format!("{bus}/block/{name}")
        };
        let node = name.replace('!', "/");
        let uevent = format!(
            "MAJOR={major}\nMINOR={minor}\nDEVNAME={node}\nDEVTYPE=disk\nDISKSEQ={sequence}\n"
        );
        self.device(&path, name, &uevent);
        let directory = self.sys(name);
        self.write(directory.join("dev"), &format!("{major}:{minor}\n"));
        self.write(directory.join("removable"), "0\n");
        self.write(directory.join("hidden"), "0\n");
        self.write(directory.join("queue/logical_block_size"), "512\n");
        self.write(directory.join("queue/rotational"), "0\n");
        fs::create_dir_all(directory.join("slaves")).expect("slaves");
        if !bus.starts_with("virtual/") {
            let above = Path::new("sys/devices").join(bus);
            fs::create_dir_all(self.at(&above)).expect("the bus device");
            let up = if bus.contains("/nvme") { ".." } else { "../.." };
            symlink(up, directory.join("device")).expect("a link to the bus device");
        }
        symlink(
            format!("../class/block/{name}"),
            self.at("sys/block").join(name),
        )
        .expect("a link in block");
        self.record(
            major,
            minor,
            "I:1000\nE:ID_PATH=pci-0000:00:1f.2\nG:systemd\n",
        );
    }

    fn partition(&self, disk: &str, number: u32, major: u32, minor: u32) -> String {
        let digit = disk.ends_with(|c: char| c.is_ascii_digit());
        let name = format!("{disk}{}{number}", if digit { "p" } else { "" });
        let devices = fs::canonicalize(self.at("sys/devices")).expect("devices");
        let above = self.sys(disk);
        let above = above.strip_prefix(devices).expect("below devices");
        let path = format!("{}/{name}", above.display());
        let uevent = format!(
            "MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVTYPE=partition\nDISKSEQ=7\nPARTN={number}\n"
        );
        self.device(&path, &name, &uevent);
        self.write(self.sys(&name).join("dev"), &format!("{major}:{minor}\n"));
        self.write(self.sys(&name).join("start"), "2048\n");
        self.write(self.sys(&name).join("partition"), &format!("{number}\n"));
        name
    }

    /// Device mapper on others: `holders` and `slaves` are links by name.
    fn mapper(&self, name: &str, minor: u32, on: &[&str]) {
        self.disk("virtual", name, 253, minor);
        for below in on {
            let (upper, lower) = (self.sys(name), self.sys(below));
            symlink(&lower, upper.join("slaves").join(below)).expect("a slave");
            symlink(&upper, lower.join("holders").join(name)).expect("a holder");
        }
    }

    fn unmap(&self, name: &str, on: &[&str]) {
        for below in on {
            self.remove(self.sys(below).join("holders").join(name));
        }
        self.unplug(name);
    }

    /// The device and its links are gone.
    fn unplug(&self, name: &str) {
        let directory = self.sys(name);
        fs::remove_dir_all(directory).expect("the device");
        self.remove(Path::new("sys/class/block").join(name));
        let root = Path::new("sys/block").join(name);
        if self.at(&root).is_symlink() {
            self.remove(root);
        }
    }

    /// udevd's record of a device.
    fn record(&self, major: u32, minor: u32, text: &str) {
        self.write(format!("run/udev/data/b{major}:{minor}"), text);
    }

    fn host(&self) -> Host {
        Host::at(self.root.path())
    }

    fn observer(&self) -> Observer {
        let journal = State::below(&self.at("state"));
        Observer::new(self.host(), self.at("mnt"), journal)
    }

    fn inventory(&self) -> Inventory {
        self.observer().observe(&Dirty::Everything)
    }

    fn read(&self, name: &str) -> Device {
        let inventory = self.inventory();
        Device::clone(inventory.devices.get(name).expect("the device"))
    }

    fn verdicts(&self) -> BTreeMap<String, Verdict> {
        let mut look = Look::new(self.host(), Policy::default(), self.observer());
        look.look(&Dirty::Everything, &BTreeSet::new()).verdicts
    }

    fn reason(&self, name: &str) -> Reason {
        match self.verdicts().remove(name).expect("a verdict") {
            Verdict::Refused(refusal) => refusal.reason,
            other @ (Verdict::Managed(_)
            | Verdict::Adopt(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_)) => {
                panic!("{name}: {other:?}")
            }
        }
    }
}

fn text(value: &str) -> Fact<Option<String>> {
    Fact::Known(Some(value.to_owned()))
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn dirty(devices: &[&str]) -> Dirty {
    Dirty::Devices(names(devices))
}

fn holders(inventory: &Inventory, name: &str) -> Vec<String> {
    let device = inventory.devices.get(name).expect("the device");
    device.holders.known().expect("its holders").clone()
}

// ---------------------------------------------------------------------------
// Facts of each bus.

#[test]
fn a_virtio_disk_is_read_as_it_is() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.write(tree.sys("vdb").join("serial"), "backup-1");
    tree.write(tree.sys("vdb").join("device/vendor"), "0x1af4\n");
    tree.write(tree.sys("vdb").join("queue/rotational"), "1\n");
    let disk = tree.read("vdb");
    let (major, minor) = (254, 16);
    assert_eq!(disk.devno, Fact::Known(DevNo { major, minor }));
    assert_eq!(disk.devname, Fact::Known("vdb".to_owned()));
    assert_eq!(disk.size, Fact::Known(SECTORS * 512));
    assert_eq!(disk.sector, Fact::Known(Some(512)));
    assert_eq!(disk.diskseq, Fact::Known(Some(23)));
    assert_eq!(disk.serial, text("backup-1"));
    assert_eq!(disk.vendor, text("0x1af4"));
    assert_eq!(disk.model, Fact::Known(None));
    assert_eq!(disk.wwn, Fact::Known(None));
    assert_eq!(disk.rotational, Fact::Known(Some(true)));
    assert_eq!(disk.transport, Fact::Known(Transport::Virtio));
    assert_eq!(disk.parent, None);
    assert_eq!(
        disk.path,
        Fact::Known(format!("/devices/{VIRTIO}/block/vdb"))
    );
    assert!(disk.holders.is_known_and(Vec::is_empty));
    assert!(disk.slaves.is_known_and(Vec::is_empty));
    assert_eq!(
        (disk.read_only, disk.removable, disk.hidden),
        (Fact::Known(false), Fact::Known(false), Fact::Known(false))
    );
}

#[test]
fn a_scsi_disk_says_who_made_it_without_the_padding() {
    let tree = Tree::new();
    let bus = tree.sys("sda").join("device");
    tree.write(bus.join("vendor"), "ATA     \n");
    tree.write(bus.join("model"), "QEMU HARDDISK   \n");
    tree.write(bus.join("wwid"), "naa.5000c500a1b2c3d4\n");
    let disk = tree.read("sda");
    assert_eq!(disk.vendor, text("ATA"));
    assert_eq!(disk.model, text("QEMU HARDDISK"));
    assert_eq!(disk.wwn, text("naa.5000c500a1b2c3d4"));
    // sysfs has the serial number of a SCSI disk only in binary form.
    assert_eq!(disk.serial, Fact::Known(None));
    assert_eq!(disk.transport, Fact::Known(Transport::Scsi));
    assert_eq!(
        disk.udev
            .known()
            .expect("a record")
            .as_ref()
            .map(|record| (record.initialized, record.id_path.clone())),
        Some((true, Some("pci-0000:00:1f.2".to_owned())))
    );
}

/// Page 80h of vital product data, with padding as disks have it.
fn page_80(serial: &str) -> Vec<u8> {
    let length = u16::try_from(serial.len()).expect("short").to_be_bytes();
    [&[0, 0x80], &length[..], serial.as_bytes()].concat()
}

#[test]
fn the_serial_number_of_a_scsi_disk_is_read_off_its_page_of_vital_product_data() {
    let tree = Tree::new();
    let page = tree.sys("sda").join("device/vpd_pg80");
    assert_eq!(tree.read("sda").serial, Fact::Known(None));
    for (bytes, serial) in [
        (page_80("    WD-WX1234"), text("WD-WX1234")),
        (page_80("S1\0\0"), text("S1")),
        (page_80("   "), Fact::Known(None)),
    ] {
        fs::write(&page, bytes).expect("a page");
        assert_eq!(tree.read("sda").serial, serial);
    }
    for damaged in [&b""[..], b"\0\x80", b"\0\x83\0\x02S1"] {
        fs::write(&page, damaged).expect("a page");
        assert!(tree.read("sda").serial.known().is_err(), "{damaged:?}");
    }
}

#[test]
fn an_nvme_disk_is_read_with_sectors_of_4096_bytes_and_a_size_in_units_of_512() {
    let tree = Tree::new();
    tree.disk(NVME, "nvme0n1", 259, 0);
    let disk = tree.sys("nvme0n1");
    tree.write(disk.join("wwid"), "eui.0025385b71b0a1c3\n");
    tree.write(disk.join("queue/logical_block_size"), "4096\n");
    let controller = disk.join("device");
    tree.write(
        controller.join("model"),
        &format!("{:40}\n", "QEMU NVMe Ctrl"),
    );
    tree.write(controller.join("serial"), &format!("{:20}\n", "deadbeef"));
    tree.write(controller.join("transport"), "pcie\n");
    let disk = tree.read("nvme0n1");
    assert_eq!(disk.size, Fact::Known(SECTORS * 512));
    assert_eq!(disk.sector, Fact::Known(Some(4096)));
    assert_eq!(disk.model, text("QEMU NVMe Ctrl"));
    assert_eq!(disk.serial, text("deadbeef"));
    assert_eq!(disk.wwn, text("eui.0025385b71b0a1c3"));
    assert_eq!(disk.transport, Fact::Known(Transport::Nvme));
    let name = tree.partition("nvme0n1", 2, 259, 2);
    assert_eq!(tree.read(&name).parent.as_deref(), Some("nvme0n1"));
}

#[test]
fn a_partition_knows_its_disk_its_number_and_its_place() {
    let tree = Tree::new();
    let part = tree.read("sda1");
    assert_eq!(part.parent.as_deref(), Some("sda"));
    assert_eq!(part.partition_number, Fact::Known(Some(1)));
    assert_eq!(part.start, Fact::Known(Some(1 << 20)));
    assert_eq!(part.sector, Fact::Known(None));
    assert_eq!(part.removable, Fact::Known(false));
    // A partition has no directory `slaves`, which is no error.
    assert!(part.slaves.is_known_and(Vec::is_empty));
    assert_eq!(tree.read("sda").partition_number, Fact::Known(None));
}

#[test]
fn device_mapper_on_partitions_shows_on_both_sides() {
    let tree = Tree::new();
    tree.mapper("dm-0", 0, &["sda1"]);
    let inventory = tree.inventory();
    assert_eq!(holders(&inventory, "sda1"), ["dm-0"]);
    let mapper = tree.read("dm-0");
    assert_eq!(mapper.slaves, Fact::Known(vec!["sda1".to_owned()]));
    assert_eq!(mapper.transport, Fact::Known(Transport::Virtual));
    assert_eq!(mapper.parent, None);
}

#[test]
fn a_loop_device_is_virtual_and_has_no_maker() {
    let tree = Tree::new();
    tree.disk("virtual", "loop0", 7, 0);
    let device = tree.read("loop0");
    assert_eq!(device.transport, Fact::Known(Transport::Virtual));
    assert_eq!(device.vendor, Fact::Known(None));
    assert_eq!(device.serial, Fact::Known(None));
    assert_eq!(tree.reason("loop0"), Reason::UnsupportedKind);
}

#[test]
fn the_node_of_a_device_in_a_directory_of_dev_is_found_by_its_kernel_name() {
    let tree = Tree::new();
    tree.disk("pci0000:00/0000:00:04.0", "cciss!c0d0", 104, 0);
    let device = tree.read("cciss!c0d0");
    assert_eq!(device.devname, Fact::Known("cciss/c0d0".to_owned()));
}

#[test]
fn the_bus_of_a_disk_is_read_off_its_path() {
    for (bus, name, transport) in [
        (
            "platform/host3/session1/target3:0:0/3:0:0:1",
            "sdc",
            Transport::Iscsi,
        ),
        (
            "pci0000:00/0000:00:05.0/host4/rport-4:0-1/target4:0:0/4:0:0:0",
            "sdc",
            Transport::FibreChannel,
        ),
        (
            "pci0000:00/0000:00:06.0/usb1/1-1/1-1:1.0/host5/target5:0:0/5:0:0:0",
            "sdc",
            Transport::Usb,
        ),
        (
            "platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001",
            "mmcblk0",
            Transport::Mmc,
        ),
        ("vbd-51728", "xvdb", Transport::Other),
    ] {
        let tree = Tree::new();
        tree.disk(bus, name, 8, 32);
        assert_eq!(tree.read(name).transport, Fact::Known(transport), "{bus}");
    }
}

/// Of these the path shows no more than of a disk in the machine.
#[test]
fn scsi_disks_of_other_machines_are_told_by_the_driver_of_their_host() {
    const SRP: &str = "pci0000:00/0000:00:05.0/infiniband/mlx5_0/host6";
    const LOOP: &str = "tcm_loop_0/tcm_loop_adapter_0/host6";
    const SAS: &str = "pci0000:00/0000:00:06.0/host6";
    for (host, driver, transport) in [
        (SRP, Some("ib_srp\n"), Transport::Srp),
        (LOOP, Some("tcm_loopback\n"), Transport::TargetLoop),
        (SAS, Some("mpt3sas\n"), Transport::Scsi),
        (SAS, Some("(null)\n"), Transport::Scsi),
        (SAS, None, Transport::Scsi),
    ] {
        for below in [
            "target6:0:1/6:0:1:0",
            "port-6:0/end_device-6:0/target6:0:1/6:0:1:0",
        ] {
            let tree = Tree::new();
            tree.disk(&format!("{host}/{below}"), "sdc", 8, 32);
            tree.partition("sdc", 1, 8, 33);
            if let Some(driver) = driver {
                let attribute = format!("sys/devices/{host}/scsi_host/host6/proc_name");
                tree.write(attribute, driver);
            }
            for name in ["sdc", "sdc1"] {
                let read = tree.read(name).transport;
                assert_eq!(read, Fact::Known(transport), "{driver:?} {below}");
            }
        }
    }
}

#[test]
fn a_driver_of_a_scsi_host_that_cannot_be_read_is_not_one_of_this_machine() {
    let tree = Tree::new();
    tree.spoil("sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/scsi_host/host0/proc_name");
    assert!(tree.read("sda").transport.known().is_err());
}

/// The kernel calls neither removable.
#[test]
fn a_card_in_a_slot_can_be_taken_out_and_a_chip_on_the_board_cannot() {
    const SLOT: &str = "platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001";
    let read = |kind: Option<&str>| {
        let tree = Tree::new();
        tree.disk(SLOT, "mmcblk0", 179, 0);
        match kind {
            Some("unreadable") => tree.spoil(format!("sys/devices/{SLOT}/type")),
            Some(kind) => tree.write(format!("sys/devices/{SLOT}/type"), kind),
            None => {}
        }
        tree.read("mmcblk0").removable
    };
    assert_eq!(read(Some("SD\n")), Fact::Known(true));
    assert_eq!(read(Some("SDcombo\n")), Fact::Known(true));
    assert_eq!(read(Some("MMC\n")), Fact::Known(false));
    assert!(read(None).known().is_err());
    assert!(read(Some("unreadable")).known().is_err());
}

#[test]
fn an_nvme_disk_on_a_network_is_told_by_the_transport_of_its_controller() {
    for transport in ["tcp", "rdma", "fc", "loop"] {
        let tree = Tree::new();
        tree.disk("virtual/nvme-fabrics/ctl/nvme1", "nvme1n1", 259, 5);
        let controller = tree.at("sys/devices/virtual/nvme-fabrics/ctl/nvme1");
        tree.write(controller.join("transport"), &format!("{transport}\n"));
        symlink("..", tree.sys("nvme1n1").join("device")).expect("a link to the controller");
        let read = tree.read("nvme1n1").transport;
        assert_eq!(read, Fact::Known(Transport::NvmeFabrics), "{transport}");
        assert_eq!(tree.reason("nvme1n1"), Reason::NetworkTransport);
    }
}

/// With native multipath, which is the kernel's default, the disk hangs below
/// a subsystem that has a link to each of its controllers.
fn behind_a_subsystem(transport: &str) -> Tree {
    let tree = Tree::new();
    let subsystem = "virtual/nvme-subsystem/nvme-subsys0";
    tree.disk(subsystem, "nvme0n1", 259, 0);
    symlink("..", tree.sys("nvme0n1").join("device")).expect("a link to the subsystem");
    let controller = tree.at("sys/devices/pci0000:00/0000:00:03.0/nvme/nvme0");
    tree.write(controller.join("transport"), &format!("{transport}\n"));
    let subsystem = tree.at("sys/devices").join(subsystem);
    tree.write(subsystem.join("model"), "a model\n");
    symlink(controller, subsystem.join("nvme0")).expect("a link to the controller");
    tree
}

#[test]
fn an_nvme_disk_on_a_network_is_told_behind_native_multipath_as_well() {
    let tree = behind_a_subsystem("tcp");
    let read = tree.read("nvme0n1").transport;
    assert_eq!(read, Fact::Known(Transport::NvmeFabrics));
    assert_eq!(tree.reason("nvme0n1"), Reason::NetworkTransport);
}

#[test]
fn an_nvme_disk_in_the_machine_is_local_behind_native_multipath_as_well() {
    let tree = behind_a_subsystem("pcie");
    let read = tree.read("nvme0n1").transport;
    assert_eq!(read, Fact::Known(Transport::Nvme));
}

// ---------------------------------------------------------------------------
// Absent is not unreadable.

#[test]
fn an_attribute_that_a_device_does_not_have_is_absent() {
    let tree = Tree::new();
    let disk = tree.sys("sda");
    tree.remove(disk.join("hidden"));
    tree.remove(disk.join("queue/rotational"));
    tree.write(disk.join("device/wwid"), "\n");
    let read = tree.read("sda");
    assert_eq!(read.wwn, Fact::Known(None));
    assert_eq!(read.vendor, Fact::Known(None));
    assert_eq!(read.rotational, Fact::Known(None));
    assert_eq!(read.hidden, Fact::Known(false));
}

#[test]
fn an_attribute_that_each_disk_has_is_unreadable_when_it_is_absent() {
    let tree = Tree::new();
    let disk = tree.sys("sda");
    for attribute in ["size", "ro", "removable", "holders", "slaves"] {
        tree.remove(disk.join(attribute));
    }
    let read = tree.read("sda");
    assert!(read.size.known().is_err());
    assert!(read.read_only.known().is_err());
    assert!(read.removable.known().is_err());
    assert!(read.holders.known().is_err());
    assert!(read.slaves.known().is_err());
}

#[test]
fn an_attribute_that_cannot_be_read_is_unreadable_and_names_the_file() {
    let tree = Tree::new();
    let disk = tree.sys("sda");
    for attribute in [
        "device/wwid",
        "device/vendor",
        "device/model",
        "device/serial",
        "queue/rotational",
        "queue/logical_block_size",
        "hidden",
    ] {
        tree.spoil(disk.join(attribute));
    }
    let read = tree.read("sda");
    let wwn = read.wwn.known().expect_err("no identity");
    assert!(wwn.what.ends_with("sda/device/wwid"), "{wwn}");
    assert!(read.vendor.known().is_err());
    assert!(read.model.known().is_err());
    assert!(read.serial.known().is_err());
    assert!(read.rotational.known().is_err());
    assert!(read.sector.known().is_err());
    assert!(read.hidden.known().is_err());
    // One that cannot even be opened.
    tree.remove(disk.join("device/wwid"));
    symlink("wwid", disk.join("device/wwid")).expect("a link to itself");
    assert!(tree.read("sda").wwn.known().is_err());
    // The others are not drawn in.
    assert_eq!(read.size, Fact::Known(SECTORS * 512));
}

#[test]
fn what_is_no_number_and_no_flag_is_unreadable() {
    let tree = Tree::new();
    let disk = tree.sys("sda");
    for (size, what) in [("many\n", "a word"), ("36028797018963968\n", "too many")] {
        tree.write(disk.join("size"), size);
        assert!(tree.read("sda").size.known().is_err(), "{what}");
    }
    tree.write(disk.join("ro"), "2\n");
    tree.write(disk.join("uevent"), "MAJOR=8\nMINOR=x\nDEVTYPE=disk\n");
    let read = tree.read("sda");
    assert!(read.read_only.known().is_err());
    assert!(read.devno.known().is_err());
    assert!(read.devname.known().is_err());
}

#[test]
fn a_device_that_went_while_it_was_read_is_unreadable_and_not_blank() {
    let tree = Tree::new();
    tree.link_class("sdx", "pci0000:00/gone/block/sdx");
    let read = tree.read("sdx");
    assert!(read.size.known().is_err());
    assert!(read.devno.known().is_err());
    assert!(read.holders.known().is_err());
    assert!(read.udev.known().is_err());
    assert_eq!(tree.reason("sdx"), Reason::Unreadable);
}

#[test]
fn a_record_of_udevd_is_absent_pending_or_unreadable() {
    let tree = Tree::new();
    let file = Path::new("run/udev/data/b8:0");
    tree.write(file, "E:ID_BUS=ata\n");
    let pending = tree.read("sda").udev;
    assert!(pending.is_known_and(|record| record.as_ref().is_some_and(|r| !r.initialized)));
    tree.remove(file);
    assert_eq!(tree.read("sda").udev, Fact::Known(None));
    tree.spoil(file);
    assert!(tree.read("sda").udev.known().is_err());
}

#[test]
fn whether_udevd_serves_the_host_is_told_by_its_control_socket() {
    let tree = Tree::new();
    assert_eq!(tree.inventory().udevd, Fact::Known(true));
    tree.remove("run/udev/control");
    let inventory = tree.inventory();
    assert_eq!(inventory.udevd, Fact::Known(false));
    let codes: Vec<_> = degraded(&inventory).iter().map(|d| d.code).collect();
    assert_eq!(codes, ["udev-missing"]);
}

#[test]
fn a_host_without_sysfs_has_no_devices_and_says_so() {
    let tree = Tree::new();
    tree.remove("sys/class/block");
    let inventory = tree.inventory();
    assert!(inventory.devices.is_empty());
    let codes: Vec<_> = degraded(&inventory).iter().map(|d| d.code).collect();
    assert_eq!(codes, ["no-devices"]);
}

#[test]
fn directories_below_the_mount_root_are_told_apart() {
    let tree = Tree::new();
    assert_eq!(
        tree.inventory().mountpoints,
        Fact::Known(BTreeMap::new()),
        "an absent mount root keeps no names"
    );
    for name in ["sdb1", "sdc1", "sdd1", "Not-A-Name"] {
        fs::create_dir_all(tree.at("mnt").join(name)).expect("a directory");
    }
    let mode = fs::Permissions::from_mode(0o000);
    fs::set_permissions(tree.at("mnt/sdb1"), mode).expect("its mode");
    tree.write("mnt/sdd1/file", "");
    tree.write("mnt/sde1", "a file");
    let expected = [
        ("sdb1", Mountpoint::Reserved),
        ("sdc1", Mountpoint::Empty),
        ("sdd1", Mountpoint::Occupied),
        ("sde1", Mountpoint::Occupied),
    ];
    let expected = expected.map(|(name, kind)| (name.parse().expect("a name"), kind));
    assert_eq!(
        tree.inventory().mountpoints,
        Fact::Known(BTreeMap::from(expected))
    );
    tree.remove("mnt");
    tree.write("mnt", "a file in its place");
    assert!(tree.inventory().mountpoints.known().is_err());
}

// ---------------------------------------------------------------------------
// Changes.

#[test]
fn when_nothing_happened_no_device_is_read_again() {
    let tree = Tree::new();
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    assert_eq!(observer.last_read(), &names(&["sda", "sda1"]));
    observer.observe(&Dirty::nothing());
    assert_eq!(observer.last_read(), &names(&[]));
}

#[test]
fn a_new_disk_is_read_without_being_asked_for_and_alone() {
    let tree = Tree::new();
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    tree.disk(VIRTIO, "vdb", 254, 16);
    let inventory = observer.observe(&Dirty::nothing());
    assert!(inventory.devices.contains_key("vdb"));
    assert_eq!(observer.last_read(), &names(&["vdb"]));
}

#[test]
fn a_disk_that_went_is_forgotten_and_its_partitions_with_it() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.partition("vdb", 1, 254, 17);
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    tree.unplug("vdb1");
    tree.unplug("vdb");
    let inventory = observer.observe(&Dirty::nothing());
    let left: Vec<&String> = inventory.devices.keys().collect();
    assert_eq!(left, ["sda", "sda1"]);
    assert_eq!(observer.last_read(), &names(&[]));
}

#[test]
fn only_devices_that_an_event_named_are_read_again() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.disk(VIRTIO, "vdc", 254, 32);
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    for disk in ["vdb", "vdc"] {
        tree.write(tree.sys(disk).join("ro"), "1\n");
    }
    let inventory = observer.observe(&dirty(&["vdb", "not-there"]));
    let read_only = |inventory: &Inventory, disk| {
        let device = inventory.devices.get(disk).expect("a disk");
        *device.read_only.known().expect("the flag")
    };
    assert!(read_only(&inventory, "vdb"));
    assert!(!read_only(&inventory, "vdc"));
    assert_eq!(observer.last_read(), &names(&["vdb"]));
    // The full pass finds what no event told.
    let inventory = observer.observe(&Dirty::Everything);
    assert!(read_only(&inventory, "vdc"));
}

#[test]
fn an_event_of_a_disk_reads_its_partitions_again() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    let partition = tree.partition("vdb", 1, 254, 17);
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    tree.write(tree.sys(&partition).join("size"), "4096\n");
    let inventory = observer.observe(&dirty(&["vdb"]));
    assert_eq!(observer.last_read(), &names(&["vdb", "vdb1"]));
    let device = inventory.devices.get("vdb1").expect("the partition");
    assert_eq!(device.size, Fact::Known(4096 * 512));
}

#[test]
fn a_disk_that_was_exchanged_under_the_same_name_is_read_anew() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    tree.unplug("vdb");
    tree.disk("pci0000:00/0000:00:09.0/virtio9", "vdb", 254, 48);
    let inventory = observer.observe(&dirty(&["vdb"]));
    let disk = inventory.devices.get("vdb").expect("a disk");
    assert_eq!(disk.diskseq, Fact::Known(Some(55)));
    assert!(disk.path.is_known_and(|path| path.contains("virtio9")));
}

#[test]
fn a_mapped_device_that_appears_or_goes_refreshes_what_it_is_built_on() {
    let tree = Tree::new();
    let mut observer = tree.observer();
    let before = observer.observe(&Dirty::Everything);
    assert!(holders(&before, "sda1").is_empty());
    tree.mapper("dm-0", 0, &["sda1"]);
    let with = observer.observe(&Dirty::nothing());
    assert_eq!(holders(&with, "sda1"), ["dm-0"]);
    assert_eq!(observer.last_read(), &names(&["dm-0", "sda1"]));
    tree.unmap("dm-0", &["sda1"]);
    let without = observer.observe(&Dirty::nothing());
    assert!(holders(&without, "sda1").is_empty());
    assert!(observer.last_read().contains("sda1"));
    assert!(!without.devices.contains_key("dm-0"));
}

#[test]
fn an_event_of_a_mapped_device_refreshes_what_it_was_and_is_built_on() {
    let tree = Tree::new();
    for (name, minor) in [("vdb", 16), ("vdc", 32)] {
        tree.disk(VIRTIO, name, 254, minor);
    }
    tree.mapper("dm-0", 0, &["vdb"]);
    let mut observer = tree.observer();
    observer.observe(&Dirty::Everything);
    // The volume moved from one disk to the other.
    tree.unmap("dm-0", &["vdb"]);
    tree.mapper("dm-0", 0, &["vdc"]);
    let inventory = observer.observe(&dirty(&["dm-0"]));
    assert!(holders(&inventory, "vdb").is_empty());
    assert_eq!(holders(&inventory, "vdc"), ["dm-0"]);
}

#[test]
fn dirty_devices_add_up_and_everything_stays_everything() {
    let both = dirty(&["a"]).and(dirty(&["b"]));
    assert_eq!(both, dirty(&["a", "b"]));
    assert_eq!(both.and(Dirty::Everything), Dirty::Everything);
    assert_eq!(Dirty::Everything.and(Dirty::nothing()), Dirty::Everything);
}

#[test]
fn a_disk_that_cannot_be_read_is_not_read_again_because_something_else_changed() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.record(254, 16, "I:1\n");
    let mut look = Look::new(tree.host(), Policy::default(), tree.observer());
    let mut why = |dirty: &Dirty| {
        let seen = look.look(dirty, &BTreeSet::new());
        assert!(seen.again.is_some(), "it is never read again");
        match seen.verdicts.get("vdb") {
            Some(Verdict::Refused(refusal)) if refusal.reason == Reason::ProbeFailed => {
                refusal.detail.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    // An event of its own is a reason, and each failure makes the wait longer.
    for _ in 0..8 {
        why(&dirty(&["vdb"]));
    }
    let absent = why(&Dirty::Everything);
    tree.write("dev/vdb", "no block device");
    assert_eq!(why(&Dirty::nothing()), absent);
    assert_eq!(why(&dirty(&["sda"])), absent);
    assert_eq!(why(&Dirty::Everything), absent);
    assert_ne!(why(&dirty(&["vdb"])), absent);
    tree.remove("dev/vdb");
    assert_eq!(why(&Dirty::Lost), absent);
}

#[test]
fn a_disk_that_may_be_read_again_while_a_look_is_under_way_is_read_by_the_next() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.record(254, 16, "I:1\n");
    let mut look = Look::new(tree.host(), Policy::default(), tree.observer());
    let mut again = |dirty: &Dirty| look.look(dirty, &BTreeSet::new()).again;
    assert!(again(&Dirty::Everything).is_some(), "it cannot be read");
    // The next look waits for a word until that is due: a second, and a quarter of it.
    fs::create_dir_all(tree.at("state")).expect("a directory");
    let pipe = tree.at("state/frozen");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let word = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1_300));
        fs::write(pipe, "for a while").expect("heard");
    });
    assert!(again(&Dirty::nothing()).is_some(), "nobody would read it");
    word.join().expect("said");
}

// ---------------------------------------------------------------------------
// From the trees to a verdict.

#[test]
fn a_disk_with_nothing_against_it_is_refused_only_because_it_has_no_node() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    assert_eq!(tree.reason("vdb"), Reason::ProbeFailed);
    assert_eq!(tree.reason("sda"), Reason::SystemDisk);
    assert_eq!(tree.reason("sda1"), Reason::Partition);
    // A file in place of the node is no disk either.
    tree.write("dev/vdb", "");
    assert_eq!(tree.reason("vdb"), Reason::ProbeFailed);
}

#[test]
fn a_mount_table_with_a_line_that_is_not_understood_refuses_every_disk() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    let root = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw";
    for bad in ["nonsense", "", "23 22 254:x / /data rw - ext4 /dev/vdb rw"] {
        tree.mounts(&[root, bad, root]);
        for disk in ["sda", "vdb"] {
            assert_eq!(tree.reason(disk), Reason::SystemDiskUnresolved, "{bad:?}");
        }
        let inventory = tree.inventory();
        assert!(inventory.host_mounts.known().is_err());
        let codes: Vec<_> = degraded(&inventory).iter().map(|d| d.code).collect();
        assert_eq!(codes, ["mounts-unreadable"]);
    }
}

#[test]
fn swap_areas_that_cannot_be_read_refuse_every_new_disk() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.spoil("proc/swaps");
    assert_eq!(tree.reason("vdb"), Reason::Unreadable);
    tree.remove("proc/swaps");
    tree.write("proc/swaps", "Filename\tType\n/dev/vdb partition 8\n");
    assert_eq!(tree.reason("vdb"), Reason::Swap);
}

#[test]
fn a_mount_and_a_partition_are_found_by_their_device_numbers() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    let root = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw";
    tree.partition("vdb", 1, 254, 17);
    // It may be a disk of ours, and its node cannot be opened here.
    assert_eq!(tree.reason("vdb"), Reason::ProbeFailed);
    tree.partition("vdb", 2, 254, 18);
    assert_eq!(tree.reason("vdb"), Reason::Partitioned);
    tree.mounts(&[
        root,
        "23 22 254:17 / /a\\040b rw - xfs /dev/disk/by-uuid/x rw",
    ]);
    assert_eq!(tree.reason("vdb"), Reason::Mounted);
    tree.mounts(&[root]);
    tree.write(
        "proc/self/mountinfo",
        "23 22 254:17 / /private rw - xfs /dev/vdb1 rw\n",
    );
    assert_eq!(tree.reason("vdb"), Reason::Mounted);
}

#[test]
fn a_root_on_device_mapper_is_resolved_to_its_disk() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.partition("vdb", 3, 254, 19);
    tree.mapper("dm-0", 0, &["vdb3"]);
    tree.mounts(&["22 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw"]);
    assert_eq!(tree.reason("vdb"), Reason::SystemDisk);
    tree.partition("sda", 2, 8, 2);
    assert_eq!(tree.reason("sda"), Reason::Partitioned);
}

#[test]
fn a_btrfs_root_whose_node_cannot_be_found_refuses_every_disk() {
    let tree = Tree::new();
    tree.disk(VIRTIO, "vdb", 254, 16);
    tree.mounts(&["22 1 0:31 /@ / rw - btrfs /dev/sda1 rw,subvol=/@"]);
    assert_eq!(tree.reason("vdb"), Reason::SystemDiskUnresolved);
}

#[test]
fn the_second_witness_sees_partitions_mounts_and_what_udev_knows() {
    let tree = Tree::new();
    for (name, minor) in [("vdb", 16), ("vdc", 32), ("vdd", 48)] {
        tree.disk(VIRTIO, name, 254, minor);
    }
    tree.record(254, 32, "I:1\nE:ID_FS_TYPE=ext4\n");
    tree.mounts(&[
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
        "23 22 254:48 / /data rw - ext4 /dev/vdd rw",
    ]);
    let Fact::Known(seen) = witness::in_use(&tree.host()) else {
        panic!("the witness is blind");
    };
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["sda", "vdc", "vdd"]);
    tree.remove("proc/self/mountinfo");
    assert!(witness::in_use(&tree.host()).known().is_err());
}
