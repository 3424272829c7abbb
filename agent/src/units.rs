//! The few quantities and names that everything else is written in.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Kernel device number of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevNo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DevNo {
    /// From a `dev_t` as `stat(2)` returns it.
    pub fn from_raw(raw: u64) -> Self {
        Self {
            major: libc::major(raw),
            minor: libc::minor(raw),
        }
    }
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Serialize for DevNo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DevNo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Not `major:minor`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a device number of the form major:minor")]
pub struct BadDevNo(String);

impl FromStr for DevNo {
    type Err = BadDevNo;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadDevNo(text.to_owned());
        let (major, minor) = text.split_once(':').ok_or_else(bad)?;
        let number = |part: &str| -> Option<u32> {
            // `u32` would take a sign as well, which the kernel never writes.
            let plain = part.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| part.parse().ok())?
        };
        match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            (None, _) | (_, None) => Err(bad()),
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", bytesize::ByteSize(self.0).display().si())
    }
}

/// Text that is not a size.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a size; write a whole or decimal number with a unit, such as 10GB, 10GiB, 500M or 1.5T"
)]
pub struct BadSize(String);

impl FromStr for Bytes {
    type Err = BadSize;

    /// Decimal units (`10GB`, `500M`) are powers of 1000, `10GiB` of 1024.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadSize(text.to_owned());
        // bytesize reads through f64 and saturates; an exabyte is more than
        // any disk and far below where that would matter.
        let size: bytesize::ByteSize = text.trim().parse().map_err(|_ignored: String| bad())?;
        if text.trim().starts_with(|c: char| c.is_ascii_digit())
            && size.0 <= 1_000_000_000_000_000_000
        {
            Ok(Self(size.0))
        } else {
            Err(bad())
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How many disks there may be; no number: any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<u32>);

/// Text that is not a limit.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a number of disks; write a whole number, such as 12, or unlimited")]
pub struct BadLimit(String);

impl FromStr for Limit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unlimited" {
            return Ok(Self(None));
        }
        let bad = || BadLimit(text.to_owned());
        // `u32` would take a sign.
        if text.starts_with('+') {
            return Err(bad());
        }
        text.parse()
            .map(|number| Self(Some(number)))
            .map_err(|_not_a_number| bad())
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The name a disk keeps for life: the partition's kernel name when it was
/// first provisioned (`sdb1`), the last part of its mount path, and later its
/// key in Longhorn.
///
/// Restricted to what is safe in all three places: `[a-z0-9]` with `-` inside,
/// at most 25 characters, so that `lh-pending:` and the name fit into the 36
/// UTF-16 units of a GPT partition name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DiskName(String);

/// Not usable as a disk name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a disk name; allowed are 1 to 25 of a-z, 0-9 and, inside, -")]
pub struct BadDiskName(String);

impl DiskName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with a number behind it, for when the plain one is taken.
    ///
    /// # Errors
    /// When the result would be too long.
    pub fn numbered(&self, number: u32) -> Result<Self, BadDiskName> {
        format!("{}-{number}", self.0).parse()
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DiskName {
    type Err = BadDiskName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=25).contains(&text.len())
            && text.starts_with(plain)
            && text.ends_with(plain)
            && text.chars().all(|c| plain(c) || c == '-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadDiskName(text.to_owned()))
        }
    }
}

impl<'de> Deserialize<'de> for DiskName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Filesystems that a disk can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4, made by `mkfs.ext4` of e2fsprogs.
    Ext4,
    /// XFS, made by `mkfs.xfs` of xfsprogs.
    Xfs,
}

impl Filesystem {
    /// The type as `mount(2)` and libblkid name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// What it is mounted with, besides `noatime`.
    pub fn mount_options(self) -> Option<&'static str> {
        match self {
            Self::Ext4 => Some("errors=remount-ro"),
            Self::Xfs => None,
        }
    }

    /// The filesystem of that name, if it is one that the agent makes.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs]
            .into_iter()
            .find(|filesystem| filesystem.name() == name)
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_read_only_as_the_kernel_writes_it() {
        let sda = DevNo { major: 8, minor: 0 };
        assert_eq!("8:0".parse(), Ok(sda));
        assert_eq!(sda.to_string(), "8:0");
        for bad in [
            "",
            "8",
            ":",
            "8:",
            ":0",
            "+8:0",
            "8:-0",
            " 8:0",
            "8:0:0",
            "4294967296:0",
        ] {
            assert!(bad.parse::<DevNo>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_decimal_unless_they_say_otherwise() {
        assert_eq!("10GB".parse(), Ok(Bytes(10_000_000_000)));
        assert_eq!("10GiB".parse(), Ok(Bytes(10_737_418_240)));
        assert_eq!("500M".parse(), Ok(Bytes(500_000_000)));
        assert_eq!("1.5T".parse(), Ok(Bytes(1_500_000_000_000)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for bad in [
            "", "ten", "10XB", "-1GB", "+1GB", "1e30GB", "GB", "inf", "NaN",
        ] {
            let error = bad.parse::<Bytes>().expect_err(bad).to_string();
            assert!(error.contains("10GiB"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_limit_is_a_number_or_none_at_all() {
        assert_eq!("12".parse(), Ok(Limit(Some(12))));
        assert_eq!("0".parse(), Ok(Limit(Some(0))));
        assert_eq!("unlimited".parse(), Ok(Limit(None)));
        for bad in ["", "-1", "+1", "many", "1.5", "4294967296"] {
            let error = bad.parse::<Limit>().expect_err(bad).to_string();
            assert!(error.contains("whole number"), "{error}");
        }
    }

    #[test]
    fn disk_names_are_safe_in_paths_and_in_longhorn() {
        for good in ["sdb1", "nvme0n1p1", "vdb1", "sdb1-2", "a"] {
            assert!(good.parse::<DiskName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "../x",
            "a/b",
            "A",
            "a.b",
            "sdb~1",
            &"x".repeat(26),
        ] {
            assert!(bad.parse::<DiskName>().is_err(), "{bad}");
        }
    }
}
