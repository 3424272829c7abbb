//! Reads one block device of sysfs, every error kept.
//!
//! A pass over a thousand disks is bound by the number of system calls, so the
//! directory is opened once and each attribute costs open, read and close.

use std::{
    ffi::OsString,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    str::FromStr,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat, readlink},
    sys::stat::Mode,
};

use super::{
    Host,
    device::{Device, Transport, is_part_of},
    loops::{self, Backing},
    transport, udev_db,
};
use crate::{fact::Fact, units::DevNo};

/// Longest attribute that is read whole; sysfs never gives more than a page.
const PAGE: usize = 4096;

/// Reads a device by its link in `/sys/class/block`.
pub(super) fn read_device(host: &Host, name: &str) -> Device {
    let link = host.class_block().join(name);
    let path = canonical_path(&link);
    let directory = Directory::open(&link);
    let uevent = directory
        .attribute("uevent")
        .map(|text| text.unwrap_or_default());
    let devno = device_number(&uevent, &link);
    let partition_number = number_in(&uevent, "PARTN", &link);
    // Either of two sources is enough: a partition that is taken for a disk, or
    // for nothing, would leave its disk without it.
    let above = path.known().ok().and_then(|path| parent_name(path));
    let numbered = partition_number.is_known_and(Option::is_some);
    let parent = above.filter(|above| numbered || (above != name && is_part_of(name, above)));
    let is_partition = parent.is_some();
    let udev = devno
        .clone()
        .and_then(|devno| udev_db::read(&host.udev_database(), devno));
    let for_disks = |name: &str| {
        if is_partition {
            Fact::Known(None)
        } else {
            directory.attribute(name)
        }
    };
    let transport = path
        .clone()
        .and_then(|path| transport::read(&path, name, &directory));
    let virtio = matches!(transport, Fact::Known(Transport::Virtio));
    let nvme = name.starts_with("nvme");
    Device {
        name: name.to_owned(),
        parent,
        devno,
        devname: value_in(&uevent, "DEVNAME").and_then(|name| {
            name.map_or_else(
                || Fact::unreadable(link.display(), "no DEVNAME"),
                Fact::Known,
            )
        }),
        diskseq: number_in(&uevent, "DISKSEQ", &link),
        partition_number,
        size: directory
            .number::<u64>("size")
            .and_then(|sectors| match sectors {
                // The kernel counts in units of 512 bytes whatever the sector size.
                Some(sectors) => sectors.checked_mul(512).map_or_else(
                    || Fact::unreadable(link.display(), "size overflows"),
                    Fact::Known,
                ),
                None => Fact::unreadable(link.display(), "no attribute size"),
            }),
        start: if is_partition {
            directory
                .number::<u64>("start")
                .map(|sectors| sectors.and_then(|n| n.checked_mul(512)))
        } else {
            Fact::Known(None)
        },
        sector: if is_partition {
            Fact::Known(None)
        } else {
            directory.number("queue/logical_block_size")
        },
        read_only: directory.flag("ro"),
        removable: if is_partition {
            Fact::Known(false)
        } else {
            let flag = directory.flag("removable");
            flag.and_then(|flag| transport::is_card(name, &directory).map(|card| flag || card))
        },
        hidden: if is_partition {
            Fact::Known(false)
        } else {
            directory.optional_flag("hidden")
        },
        rotational: for_disks("queue/rotational").map(|text| text.map(|text| text == "1")),
        holders: directory.names("holders"),
        slaves: if is_partition {
            Fact::Known(Vec::new())
        } else {
            directory.names("slaves")
        },
        backing: if loops::is_loop(name) {
            backing(&directory, host)
        } else {
            Fact::Known(None)
        },
        vendor: for_disks("device/vendor"),
        // virtio-blk has a PCI vendor id and no model in these places.
        model: if virtio {
            Fact::Known(None)
        } else {
            for_disks("device/model")
        },
        serial: for_disks(if virtio { "serial" } else { "device/serial" }).and_then(
            // SCSI has it in a page of vital product data only.
            |serial| match serial {
                None if name.starts_with("sd") && !is_partition => directory.unit_serial(),
                other => Fact::Known(other),
            },
        ),
        wwn: for_disks(if nvme { "wwid" } else { "device/wwid" }),
        transport,
        path,
        udev,
    }
}

/// Reads only what a loop device lies on.
pub(super) fn read_backing(host: &Host, name: &str) -> Fact<Option<Backing>> {
    backing(&Directory::open(&host.class_block().join(name)), host)
}

/// A loop device that is not in use does not have the attribute, or an empty one.
fn backing(directory: &Directory, host: &Host) -> Fact<Option<Backing>> {
    // The kernel takes it away with the file: whoever is about to read it then
    // is told that there is no such device.
    let path = directory.read("loop/backing_file", &[Errno::ENODEV]);
    path.map(text)
        .map(|path| Some(Backing::at(path?, &host.nodes())))
}

fn canonical_path(link: &Path) -> Fact<String> {
    match readlink(link) {
        Ok(target) => {
            let target = target.to_string_lossy().into_owned();
            let path = target.find("devices/").and_then(|at| target.get(at..));
            path.map_or_else(
                || Fact::unreadable(link.display(), format!("points to {target}")),
                |path| Fact::Known(format!("/{path}")),
            )
        }
        Err(error) => Fact::unreadable(link.display(), error),
    }
}

/// The disk of a partition is the directory above it.
fn parent_name(path: &str) -> Option<String> {
    path.rsplit('/').nth(1).map(str::to_owned)
}

fn device_number(uevent: &Fact<String>, link: &Path) -> Fact<DevNo> {
    let major = number_in::<u32>(uevent, "MAJOR", link);
    let minor = number_in::<u32>(uevent, "MINOR", link);
    major.and_then(|major| {
        minor.and_then(|minor| match (major, minor) {
            (Some(major), Some(minor)) => Fact::Known(DevNo { major, minor }),
            (None, _) | (_, None) => Fact::unreadable(link.display(), "no device number"),
        })
    })
}

fn value_in(uevent: &Fact<String>, key: &str) -> Fact<Option<String>> {
    uevent.clone().map(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    })
}

fn number_in<T: FromStr>(uevent: &Fact<String>, key: &str, link: &Path) -> Fact<Option<T>> {
    value_in(uevent, key).and_then(|value| match value.as_deref().map(str::parse) {
        None => Fact::Known(None),
        Some(Ok(number)) => Fact::Known(Some(number)),
        Some(Err(_not_a_number)) => Fact::unreadable(link.display(), format!("{key} is no number")),
    })
}

/// What an attribute says, without its newline; an empty one says nothing.
fn text(bytes: Option<Vec<u8>>) -> Option<String> {
    let bytes = bytes?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// An open directory of sysfs, or why it could not be opened.
pub(super) struct Directory(Fact<OwnedFd>, String);

impl Directory {
    fn open(path: &Path) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fact = match open(path, flags, Mode::empty()) {
            Ok(fd) => Fact::Known(fd),
            Err(error) => Fact::unreadable(path.display(), error),
        };
        Self(fact, path.display().to_string())
    }

    /// The serial number in the SCSI page 80h, "Unit Serial Number" (SPC): four
    /// bytes of header, the last two the length of what follows.
    fn unit_serial(&self) -> Fact<Option<String>> {
        const PAGE_CODE: u8 = 0x80;
        let name = "device/vpd_pg80";
        self.bytes(name).and_then(|page| {
            let Some(page) = page else {
                return Fact::Known(None);
            };
            match page.split_first_chunk::<4>() {
                Some(([_, PAGE_CODE, high, low], rest)) => {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    let serial = rest.get(..length.min(rest.len())).unwrap_or_default();
                    let text = String::from_utf8_lossy(serial);
                    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
                    Fact::Known((!text.is_empty()).then(|| text.to_owned()))
                }
                Some(_) | None => {
                    Fact::unreadable(format_args!("{}/{name}", self.1), "not the page 80h")
                }
            }
        })
    }

    /// An attribute without its newline; an absent or empty one is `None`.
    pub(super) fn attribute(&self, name: &str) -> Fact<Option<String>> {
        self.bytes(name).map(text)
    }

    /// The bytes of an attribute; `None` when the device does not have it.
    fn bytes(&self, name: &str) -> Fact<Option<Vec<u8>>> {
        self.read(name, &[])
    }

    /// The same, where these errors mean that the device does not have it any
    /// more.
    fn read(&self, name: &str, gone: &[Errno]) -> Fact<Option<Vec<u8>>> {
        let directory = match &self.0 {
            Fact::Known(fd) => fd,
            Fact::Unreadable(why) => return Fact::Unreadable(why.clone()),
        };
        let failed = |error: Errno| Fact::unreadable(format_args!("{}/{name}", self.1), error);
        let file = match openat(
            directory.as_fd(),
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Fact::Known(None),
            Err(error) if gone.contains(&error) => return Fact::Known(None),
            Err(error) => return failed(error),
        };
        let mut page = [0_u8; PAGE];
        match nix::unistd::read(&file, &mut page) {
            Ok(len) => Fact::Known(page.get(..len).map(<[u8]>::to_vec)),
            // The attribute exists but the device has no answer: sd says ENXIO
            // or EINVAL for the wwid of a disk that has none.
            Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP) => Fact::Known(None),
            Err(error) if gone.contains(&error) => Fact::Known(None),
            Err(error) => failed(error),
        }
    }

    fn number<T: FromStr>(&self, name: &str) -> Fact<Option<T>> {
        self.attribute(name)
            .and_then(|text| match text.as_deref().map(str::parse) {
                None => Fact::Known(None),
                Some(Ok(number)) => Fact::Known(Some(number)),
                Some(Err(_not_a_number)) => {
                    Fact::unreadable(format_args!("{}/{name}", self.1), "not a number")
                }
            })
    }

    /// Something that the device must say of itself does not make sense.
    pub(super) fn unreadable<T>(&self, name: &str, why: impl std::fmt::Display) -> Fact<T> {
        Fact::unreadable(format_args!("{}/{name}", self.1), why)
    }

    /// A flag that each block device has.
    fn flag(&self, name: &str) -> Fact<bool> {
        self.attribute(name).and_then(|text| match text.as_deref() {
            Some("0") => Fact::Known(false),
            Some("1") => Fact::Known(true),
            Some(other) => {
                Fact::unreadable(format_args!("{}/{name}", self.1), format!("says {other:?}"))
            }
            None => Fact::unreadable(format_args!("{}/{name}", self.1), "absent"),
        })
    }

    /// A flag that older kernels do not have.
    fn optional_flag(&self, name: &str) -> Fact<bool> {
        self.attribute(name)
            .map(|text| text.as_deref() == Some("1"))
    }

    /// Names in a subdirectory; an absent one is an error, since each disk and
    /// partition has `holders` and each disk `slaves`.
    pub(super) fn names(&self, name: &str) -> Fact<Vec<String>> {
        let directory = match &self.0 {
            Fact::Known(fd) => fd,
            Fact::Unreadable(why) => return Fact::Unreadable(why.clone()),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let listed = nix::dir::Dir::openat(directory.as_fd(), name, flags, Mode::empty()).and_then(
            |mut dir| {
                dir.iter()
                    .map(|entry| {
                        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
                    })
                    .filter(|entry| !matches!(entry.as_deref(), Ok("." | "..")))
                    .collect::<Result<Vec<String>, Errno>>()
            },
        );
        match listed {
            Ok(names) => Fact::Known(names),
            Err(error) => Fact::unreadable(format_args!("{}/{name}", self.1), error),
        }
    }
}

/// Names of all block devices.
pub(super) fn list(class_block: &Path) -> Fact<Vec<String>> {
    let names = std::fs::read_dir(class_block).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<OsString>, _>>()
    });
    match names {
        Ok(names) => Fact::Known(
            names
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
        ),
        Err(error) => Fact::unreadable(class_block.display(), error),
    }
}
