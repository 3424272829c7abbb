//! What a disk says of itself, whatever the kernel calls it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Device, sample::Seed};
use crate::fact::{Fact, Unreadable};

/// Vendor, model, serial number and world-wide name, as far as it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    vendor: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    wwn: Option<String>,
}

/// What a sample is taken for. Each purpose looks at places of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To decide.
    Decision,
    /// To prove it again on the exclusively held disk.
    Proof,
}

impl Identity {
    /// As it was read.
    ///
    /// # Errors
    /// The fact that could not be read.
    pub fn of(device: &Device) -> Result<Self, Unreadable> {
        let text = |fact: &Fact<Option<String>>| fact.known().cloned().map_err(Clone::clone);
        Ok(Self {
            vendor: text(&device.vendor)?,
            model: text(&device.model)?,
            serial: text(&device.serial)?,
            wwn: text(&device.wwn)?,
        })
    }

    /// Adds all of it to a digest, each text with its length, so that two
    /// cannot be taken for one.
    pub(crate) fn hash_into(&self, hash: &mut Sha256) {
        for text in [&self.vendor, &self.model, &self.serial, &self.wwn] {
            let bytes = text.as_ref().map_or(&[0xff][..], |text| text.as_bytes());
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }

    /// Where the sample of this disk is taken: always at the same places, for
    /// as long as it says the same of itself. A sample that was thrown again
    /// each time somebody looks would miss in the end what it saw before.
    pub fn seed(&self, size: u64, purpose: Purpose) -> Seed {
        let mut hash = Sha256::new();
        hash.update(match purpose {
            Purpose::Decision => b"decision",
            Purpose::Proof => b"theproof",
        });
        hash.update(size.to_le_bytes());
        self.hash_into(&mut hash);
        let digest = hash.finalize();
        let first = digest.iter().take(8);
        Seed(first.fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
    }
}

/// What tells a disk from every other, as far as it can be read and there is
/// anything of the kind. A number of zeroes is no number.
pub fn identity_keys(disk: &Device) -> Vec<String> {
    let telling = |fact: &Fact<Option<String>>| telling(fact.known().ok()?.as_ref()?);
    let wwn = telling(&disk.wwn).map(|wwn| format!("WWN {wwn}"));
    let model = telling(&disk.model).unwrap_or_default();
    let serial = telling(&disk.serial).map(|serial| format!("serial {serial} of {model:?}"));
    [wwn, serial].into_iter().flatten().collect()
}

/// A number that is one.
fn telling(text: &str) -> Option<String> {
    let zeroes = text.trim_matches(['0', ' ', '-']).is_empty();
    (!zeroes).then(|| text.to_owned())
}

/// By what a disk is known again whatever it holds: a copy holds the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hardware {
    /// World-wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
}

impl Hardware {
    /// As it was read.
    ///
    /// # Errors
    /// The fact that could not be read.
    pub fn of(device: &Device) -> Result<Self, Unreadable> {
        let text = |fact: &Fact<Option<String>>| {
            let text = fact.known().map_err(Clone::clone)?;
            Ok(text.as_deref().and_then(telling))
        };
        Ok(Self {
            wwn: text(&device.wwn)?,
            serial: text(&device.serial)?,
        })
    }

    /// Whether two are one disk. The world-wide name says so where both have
    /// one, else the serial number. Two that say nothing of themselves cannot be
    /// told apart.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.wwn, &other.wwn, &self.serial, &other.serial) {
            (Some(one), Some(other), _, _) | (_, _, Some(one), Some(other)) => one == other,
            (None, None, None, None) => true,
            (Some(_), None, _, _)
            | (None, Some(_), _, _)
            | (None, None, Some(_), None)
            | (None, None, None, Some(_)) => false,
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.serial, &self.wwn) {
            (Some(serial), Some(wwn)) => write!(f, "serial number {serial}, WWN {wwn}"),
            (Some(serial), None) => write!(f, "serial number {serial}"),
            (None, Some(wwn)) => write!(f, "WWN {wwn}"),
            (None, None) => f.write_str("no serial number and no WWN"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::example_disk;

    fn disk(serial: Option<&str>, wwn: Option<&str>) -> Device {
        Device {
            serial: Fact::Known(serial.map(str::to_owned)),
            wwn: Fact::Known(wwn.map(str::to_owned)),
            ..example_disk()
        }
    }

    fn identity(serial: Option<&str>, wwn: Option<&str>) -> Identity {
        Identity::of(&disk(serial, wwn)).expect("readable")
    }

    #[test]
    fn a_fact_that_cannot_be_read_identifies_nothing() {
        let mut device = example_disk();
        device.serial = Fact::unreadable("serial", "Input/output error");
        assert!(Identity::of(&device).is_err());
    }

    #[test]
    fn only_a_serial_number_or_a_world_wide_name_tells_a_disk_from_others() {
        assert_eq!(identity_keys(&disk(Some("S1"), Some("naa.5"))).len(), 2);
        assert_eq!(identity_keys(&disk(Some("S1"), None)).len(), 1);
        for nothing in [None, Some("0000"), Some("  "), Some("00-00")] {
            assert_eq!(identity_keys(&disk(nothing, nothing)), Vec::<String>::new());
        }
    }

    #[test]
    fn a_disk_is_known_again_by_its_world_wide_name_or_else_its_serial_number() {
        let hardware =
            |serial, wwn| Hardware::of(&disk(serial, wwn)).expect("everything can be read");
        let both = hardware(Some("S1"), Some("naa.5"));
        for same in [
            both.clone(),
            hardware(None, Some("naa.5")),
            hardware(Some("S2"), Some("naa.5")),
            hardware(Some("S1"), None),
            hardware(Some("S1"), Some("00")),
        ] {
            assert!(both.is_same(&same) && same.is_same(&both), "{same}");
        }
        for other in [
            hardware(Some("S1"), Some("naa.6")),
            hardware(Some("S2"), None),
            hardware(None, None),
        ] {
            assert!(!both.is_same(&other) && !other.is_same(&both), "{other}");
        }
        let silent = hardware(Some("000"), None);
        assert!(silent.is_same(&hardware(None, None)));
        let mut unread = disk(None, None);
        unread.wwn = Fact::unreadable("wwid", "Input/output error");
        assert!(Hardware::of(&unread).is_err());
    }

    #[test]
    fn the_places_of_a_sample_are_the_disks_own_and_differ_by_purpose() {
        let disk = identity(Some("S1"), None);
        let seed = disk.seed(12 << 30, Purpose::Decision);
        assert_eq!(seed, disk.seed(12 << 30, Purpose::Decision));
        assert_ne!(seed, disk.seed(12 << 30, Purpose::Proof));
        assert_ne!(seed, disk.seed(13 << 30, Purpose::Decision));
        let others = [identity(Some("S2"), None), identity(None, Some("S1"))];
        for other in others {
            assert_ne!(seed, other.seed(12 << 30, Purpose::Decision));
        }
    }
}
