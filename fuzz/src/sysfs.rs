//! A device in sysfs. The kernel is trusted, but names, models and serial
//! numbers are whatever a disk says, and a partition that is taken for a disk
//! leaves its disk without it.

use std::{cell::RefCell, fs, io, os::unix::fs::symlink, path::Path};

use disk_discovery::{
    fact::Fact,
    observe::{
        Host, Transport,
        device::{self, Device},
    },
};
use tempfile::TempDir;

/// Where a device lies, its disk if it is a partition, and its transport where
/// the place alone says it.
struct Place {
    path: &'static str,
    disk: Option<&'static str>,
    transport: Option<Transport>,
}

const PLACES: [Place; 6] = [
    Place {
        path: "devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0/block/sda",
        disk: None,
        transport: Some(Transport::Scsi),
    },
    Place {
        path: "devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0/block/sda/sda1",
        disk: Some("sda"),
        transport: Some(Transport::Scsi),
    },
    Place {
        path: "devices/pci0000:00/0000:00:06.0/nvme/nvme0/nvme0n1",
        disk: None,
        transport: None,
    },
    Place {
        path: "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p1",
        disk: Some("nvme0n1"),
        transport: None,
    },
    Place {
        path: "devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sdb",
        disk: None,
        transport: Some(Transport::Iscsi),
    },
    Place {
        path: "devices/pci0000:00/0000:00:07.0/usb1/1-1/1-1:1.0/host4/target4:0:0/4:0:0:0/block/sdc",
        disk: None,
        transport: Some(Transport::Usb),
    },
];

/// In the order in which an input has their contents, separated by NUL. One
/// that is missing in the input is missing in the directory.
const ATTRIBUTES: [&str; 13] = [
    "uevent",
    "size",
    "start",
    "ro",
    "removable",
    "hidden",
    "queue/logical_block_size",
    "queue/rotational",
    "device/model",
    "device/serial",
    "device/wwid",
    "device/transport",
    // Binary: the last one, so that it may have NULs.
    "device/vpd_pg80",
];

pub fn check(input: &[u8]) {
    let Some((choice, contents)) = input.split_first() else {
        return;
    };
    let choice = usize::from(*choice) % PLACES.len();
    let place = &PLACES[choice];
    let contents = contents.splitn(ATTRIBUTES.len(), |byte| *byte == 0);
    let contents: Vec<&[u8]> = contents.collect();
    let device = TREE.with_borrow_mut(|tree| tree.read(choice, &contents));
    let device = device.expect("a tree");

    let text = |attribute: &str| -> Option<String> {
        let at = ATTRIBUTES.iter().position(|known| *known == attribute);
        let bytes = contents.get(at.expect("an attribute"))?;
        // The kernel gives no more than a page.
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let uevent = text("uevent").unwrap_or_default();
    kind(place, &device, &uevent);
    numbers(&device, &uevent, &text);
    if place.disk.is_none() && !device.is_partition() {
        assert_eq!(device.model, Fact::Known(text("device/model")));
        let page = contents.get(12).copied();
        serial(&device, text("device/serial"), page);
    }
    if let Some(transport) = place.transport {
        assert_eq!(device.transport, Fact::Known(transport));
    } else {
        let local = device.transport == Fact::Known(Transport::Nvme);
        let said = text("device/transport").is_some_and(|text| text == "pcie");
        assert_eq!(local, said, "{:?}", device.transport);
    }
}

/// Every place, with the attributes of the last input that was there.
struct Tree {
    root: TempDir,
    planted: [Vec<Option<Vec<u8>>>; PLACES.len()],
}

thread_local! {
    // Made once, because making it takes a thousand times longer than reading.
    static TREE: RefCell<Tree> = RefCell::new(Tree::new().expect("a tree"));
}

impl Tree {
    fn new() -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        let links = root.path().join("sys/class/block");
        fs::create_dir_all(&links)?;
        for place in &PLACES {
            let directory = root.path().join("sys").join(place.path);
            for below in ["queue", "device", "holders", "slaves"] {
                fs::create_dir_all(directory.join(below))?;
            }
            symlink(
                Path::new("../..").join(place.path),
                links.join(place.name()),
            )?;
        }
        let planted = [const { vec![] }; PLACES.len()];
        Ok(Self { root, planted })
    }

    /// Plants the attributes and reads the device.
    fn read(&mut self, choice: usize, contents: &[&[u8]]) -> io::Result<Device> {
        let place = &PLACES[choice];
        let directory = self.root.path().join("sys").join(place.path);
        let planted = &mut self.planted[choice];
        planted.resize(ATTRIBUTES.len(), None);
        for (at, (attribute, before)) in ATTRIBUTES.iter().zip(planted).enumerate() {
            let now = contents.get(at).copied();
            if before.as_deref() == now {
                continue;
            }
            match now {
                Some(content) => fs::write(directory.join(attribute), content)?,
                None => fs::remove_file(directory.join(attribute))?,
            }
            *before = now.map(<[u8]>::to_vec);
        }
        Ok(device::read(&Host::at(self.root.path()), place.name()))
    }
}

impl Place {
    /// The device's kernel name.
    fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

fn kind(place: &Place, device: &Device, uevent: &str) {
    match place.disk {
        Some(disk) => assert_eq!(device.parent.as_deref(), Some(disk), "taken for a disk"),
        None => {
            let numbered = value(uevent, "PARTN").is_some();
            assert!(numbered || device.parent.is_none(), "{:?}", device.parent);
        }
    }
    assert_eq!(device.path, Fact::Known(format!("/{}", place.path)));
}

fn numbers(device: &Device, uevent: &str, text: &dyn Fn(&str) -> Option<String>) {
    if let Fact::Known(number) = device.devno {
        assert_eq!(parsed(value(uevent, "MAJOR")), Some(number.major.into()));
        assert_eq!(parsed(value(uevent, "MINOR")), Some(number.minor.into()));
    }
    if let Fact::Known(Some(sequence)) = device.diskseq {
        assert_eq!(parsed(value(uevent, "DISKSEQ")), Some(sequence));
    }
    let sectors = parsed(text("size"));
    let size = sectors.and_then(|sectors| sectors.checked_mul(512));
    assert_eq!(device.size.known().ok().copied(), size);
    for (flag, attribute) in [(&device.read_only, "ro"), (&device.removable, "removable")] {
        let said = text(attribute);
        match flag {
            Fact::Known(_) if device.is_partition() && attribute == "removable" => {}
            Fact::Known(true) => assert_eq!(said.as_deref(), Some("1"), "{attribute}"),
            Fact::Known(false) => assert_eq!(said.as_deref(), Some("0"), "{attribute}"),
            Fact::Unreadable(_) => {
                assert!(!matches!(said.as_deref(), Some("0" | "1")), "{attribute}");
            }
        }
    }
}

/// The serial number: the attribute, or page 80h of a SCSI disk (SPC-5, 7.7.19).
fn serial(device: &Device, attribute: Option<String>, page: Option<&[u8]>) {
    let page = page.map(|page| &page[..page.len().min(4096)]);
    let expected = match (attribute, page) {
        (None, Some(page)) if device.name.starts_with("sd") => match page {
            [_, 0x80, high, low, rest @ ..] => {
                let len = usize::from(*high) << 8 | usize::from(*low);
                let said = String::from_utf8_lossy(&rest[..len.min(rest.len())]);
                let said = said.trim_matches(|c: char| c.is_whitespace() || c == '\0');
                Some(Some(said.to_owned()).filter(|said| !said.is_empty()))
            }
            _ => None,
        },
        (attribute, _) => Some(attribute),
    };
    assert_eq!(device.serial.known().ok(), expected.as_ref());
}

fn value(uevent: &str, key: &str) -> Option<String> {
    let lines = uevent.lines();
    let mut pairs = lines.filter_map(|line| line.split_once('='));
    let found = pairs.find(|(known, _)| *known == key);
    found.map(|(_, value)| value.to_owned())
}

fn parsed(text: Option<String>) -> Option<u64> {
    text?.parse().ok()
}
