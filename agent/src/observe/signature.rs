//! Asks libblkid what is on a device.

use std::{fs::File, os::fd::AsRawFd};

use libblkid_rs::{BlkidErr, BlkidProbe, BlkidSafeprobeRet, BlkidSublks, BlkidSublksFlags};
use serde::{Deserialize, Serialize};

use crate::fact::Fact;

/// What libblkid found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signature {
    /// Neither a superblock nor a partition table that it knows.
    Nothing,
    /// One signature.
    Found(Found),
    /// More than one: it does not say which is right.
    Ambivalent,
}

/// A signature by libblkid's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// `TYPE` of a superblock or `PTTYPE` of a partition table.
    pub kind: String,
    /// `UUID` of a superblock.
    pub uuid: Option<String>,
}

/// Part of a device to look at.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// All of it.
    Whole,
    /// This many bytes from this byte on.
    Range {
        /// First byte.
        start: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// Probes superblocks and partition tables. Superblocks with a bad checksum
/// count: a damaged owner is still an owner.
pub fn probe(device: &File, part: Part) -> Fact<Signature> {
    probed(device, part, true)
}

/// Probes superblocks of the whole device alone: what else is on a disk whose
/// table is known.
pub fn probe_beside_table(device: &File) -> Fact<Signature> {
    probed(device, Part::Whole, false)
}

fn probed(device: &File, part: Part, tables: bool) -> Fact<Signature> {
    match try_probe(device, part, tables) {
        Ok(signature) => Fact::Known(signature),
        Err(error) => Fact::unreadable("libblkid", error),
    }
}

fn try_probe(device: &File, part: Part, tables: bool) -> Result<Signature, BlkidErr> {
    let (offset, size) = match part {
        // 0: libblkid asks the device itself.
        Part::Whole => (0, 0),
        Part::Range { start, length } => (signed(start)?, signed(length)?),
    };
    let mut probe = BlkidProbe::new()?;
    probe.set_device(device.as_raw_fd(), offset, size)?;
    probe.enable_superblocks(true)?;
    probe.set_superblock_flags(BlkidSublksFlags::new(vec![
        BlkidSublks::Type,
        BlkidSublks::Uuid,
        BlkidSublks::Badcsum,
    ]))?;
    probe.enable_partitions(tables)?;
    match probe.do_safeprobe()? {
        BlkidSafeprobeRet::None => Ok(Signature::Nothing),
        BlkidSafeprobeRet::Ambiguous => Ok(Signature::Ambivalent),
        BlkidSafeprobeRet::Success => {
            let kind = match (value(&probe, "TYPE")?, value(&probe, "PTTYPE")?) {
                (Some(kind), _) | (None, Some(kind)) => kind,
                (None, None) => "unnamed".to_owned(),
            };
            // That of a DDF array is not text. What is found is found all the
            // same, and no UUID of ours is like that.
            let uuid = match value(&probe, "UUID") {
                Ok(uuid) => uuid,
                Err(error) => {
                    tracing::debug!(kind, %error, "its UUID cannot be read");
                    None
                }
            };
            Ok(Signature::Found(Found { kind, uuid }))
        }
    }
}

fn signed(bytes: u64) -> Result<i64, BlkidErr> {
    i64::try_from(bytes).map_err(|_overflow| BlkidErr::InvalidConv)
}

/// `lookup_value` cannot tell an absent value from a failure; `has_value` can.
fn value(probe: &BlkidProbe, name: &str) -> Result<Option<String>, BlkidErr> {
    if probe.has_value(name)? {
        // libblkid hands out the terminating NUL as part of the value.
        probe
            .lookup_value(name)
            .map(|text| Some(text.trim_end_matches('\0').to_owned()))
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(size).expect("its size");
        file
    }

    #[test]
    fn zeroes_are_nothing() {
        let file = image(64 << 20);
        assert_eq!(
            probe(file.as_file(), Part::Whole),
            Fact::Known(Signature::Nothing)
        );
    }

    #[test]
    fn a_filesystem_is_found_with_its_uuid_also_inside_a_range() {
        let file = image(64 << 20);
        let uuid = "6b1a2d6c-0b0e-4f0c-9d9b-5e1f0a7c2b11";
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-U", uuid, "-E", "offset=1048576"])
            .arg(file.path())
            .arg("32M")
            .output()
            .expect("mkfs.ext4 of the package e2fsprogs");
        assert!(made.status.success(), "{made:?}");
        let range = Part::Range {
            start: 1 << 20,
            length: 32 << 20,
        };
        let found = Found {
            kind: "ext4".to_owned(),
            uuid: Some(uuid.to_owned()),
        };
        assert_eq!(
            probe(file.as_file(), range),
            Fact::Known(Signature::Found(found))
        );
        assert_eq!(
            probe(file.as_file(), Part::Whole),
            Fact::Known(Signature::Nothing)
        );
    }

    #[test]
    fn a_partition_table_alone_is_found() {
        let file = image(64 << 20);
        let made = Command::new("sfdisk")
            .arg("--quiet")
            .arg(file.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                use std::io::Write;
                child
                    .stdin
                    .take()
                    .expect("stdin")
                    .write_all(b"label: gpt\n")?;
                child.wait()
            })
            .expect("sfdisk of the package fdisk");
        assert!(made.success());
        let Fact::Known(Signature::Found(found)) = probe(file.as_file(), Part::Whole) else {
            panic!("nothing found");
        };
        assert_eq!(found.kind, "gpt");
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        let directory = File::open("/").expect("the root directory");
        assert!(probe(&directory, Part::Whole).known().is_err());
    }
}
