//! Reads the kernel's tables of mounts and swap areas.
//!
//! A line that cannot be understood makes the whole table unreadable: a mount
//! that was passed over would look like a disk that is not in use.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{fact::Fact, units::DevNo};

/// One line of `mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Device number as the filesystem reports it; major 0 for filesystems
    /// without a block device of their own, btrfs among them.
    pub devno: DevNo,
    /// Part of the filesystem that is mounted.
    pub root: String,
    /// Where, as the process sees it.
    pub mountpoint: String,
    /// Mounted read-only here.
    pub read_only: bool,
    /// Filesystem type.
    pub filesystem: String,
    /// What was mounted, often a device node.
    pub source: String,
    /// Options of the filesystem itself.
    pub super_options: String,
}

/// One line of `/proc/swaps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Device node or file.
    pub path: String,
}

/// A line that is not as the manual describes.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} is not understood: {text:?}")]
pub struct BadLine {
    line: usize,
    text: String,
}

/// Reads a `mountinfo` file.
pub fn read_mounts(file: &Path) -> Fact<Vec<Mount>> {
    read(file, parse_mountinfo)
}

/// Reads `/proc/swaps`.
pub fn read_swaps(file: &Path) -> Fact<Vec<Swap>> {
    read(file, parse_swaps)
}

fn read<T>(file: &Path, parse: fn(&str) -> Result<Vec<T>, BadLine>) -> Fact<Vec<T>> {
    // Mount points may hold any bytes; a replaced one still names its device.
    let text = match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return Fact::unreadable(file.display(), error),
    };
    match parse(&text) {
        Ok(rows) => Fact::Known(rows),
        Err(error) => Fact::unreadable(file.display(), error),
    }
}

/// Parses `mountinfo`.
///
/// # Errors
/// The first line that is not understood.
pub fn parse_mountinfo(text: &str) -> Result<Vec<Mount>, BadLine> {
    rows(text, 0, |line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let (_id, _parent) = (fields.next()?, fields.next()?);
        let devno = fields.next()?.parse().ok()?;
        let root = unescape(fields.next()?);
        let mountpoint = unescape(fields.next()?);
        let options = fields.next()?;
        let mut fields = after.splitn(3, ' ');
        Some(Mount {
            devno,
            root,
            mountpoint,
            read_only: options.split(',').any(|option| option == "ro"),
            filesystem: unescape(fields.next()?),
            source: unescape(fields.next()?),
            super_options: unescape(fields.next().unwrap_or_default()),
        })
    })
}

/// Parses `/proc/swaps`.
///
/// # Errors
/// The first line that is not understood.
pub fn parse_swaps(text: &str) -> Result<Vec<Swap>, BadLine> {
    // Without its heading it is not the kernel's table, empty or not.
    if !text.starts_with("Filename") {
        let text = text.lines().next().unwrap_or_default().to_owned();
        return Err(BadLine { line: 1, text });
    }
    rows(text, 1, |line| {
        // Any other white space is part of the path.
        let path = line.split([' ', '\t']).next()?;
        let path = unescape(path);
        path.starts_with('/').then_some(Swap { path })
    })
}

fn rows<T>(text: &str, skip: usize, row: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, BadLine> {
    text.lines()
        .enumerate()
        .skip(skip)
        .map(|(at, line)| {
            row(line).ok_or_else(|| BadLine {
                line: at + 1,
                text: line.to_owned(),
            })
        })
        .collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            // A sign would be taken as well, which the kernel never writes.
            .filter(|digits| byte == b'\\' && digits.iter().all(u8::is_ascii_digit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = octal {
            bytes.push(value);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "36 35 254:1 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/vda1 rw,errors=remount-ro";

    #[test]
    fn a_mount_with_optional_fields_and_escapes_is_read() {
        let mounts = parse_mountinfo(LINE).expect("a line");
        assert_eq!(
            mounts[0].devno,
            DevNo {
                major: 254,
                minor: 1
            }
        );
        assert_eq!(mounts[0].mountpoint, "/mnt/a b");
        assert_eq!(mounts[0].source, "/dev/vda1");
        assert!(!mounts[0].read_only);
    }

    #[test]
    fn only_three_octal_digits_are_an_escape() {
        for (field, text) in [
            ("a\\040b", "a b"),
            ("\\134040", "\\040"),
            ("\\+40", "\\+40"),
            ("\\400", "\\400"),
            ("\\08", "\\08"),
            ("end\\", "end\\"),
        ] {
            assert_eq!(unescape(field), text, "{field:?}");
        }
    }

    #[test]
    fn one_bad_line_makes_the_table_unreadable() {
        let text = format!("{LINE}\nnonsense\n{LINE}");
        let error = parse_mountinfo(&text).expect_err("the second line");
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn swaps_are_read_without_their_heading() {
        let text = "Filename\t\t\t\tType\t\tSize\n/dev/sda2                               partition\t8388604\n/swap\\040file file 1\n";
        let swaps = parse_swaps(text).expect("two areas");
        assert_eq!(swaps[0].path, "/dev/sda2");
        assert_eq!(swaps[1].path, "/swap file");
        let odd = parse_swaps("Filename\n/swap\rfile\u{c} file 1\n").expect("an area");
        assert_eq!(odd[0].path, "/swap\rfile\u{c}");
        assert!(parse_swaps("Filename\nrubbish").is_err());
        assert!(parse_swaps("").is_err());
    }

    #[test]
    fn the_tables_of_this_machine_are_read() {
        assert!(
            read_mounts(Path::new("/proc/self/mountinfo"))
                .known()
                .is_ok()
        );
        assert!(read_swaps(Path::new("/proc/swaps")).known().is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC*", lines in "([0-9: /\\\\-]{0,30}\n){0,5}") {
            for text in [&text, &lines] {
                prop_assert!(parse_mountinfo(text).is_ok_and(|_| true) || parse_mountinfo(text).is_err());
                prop_assert!(parse_swaps(text).is_ok_and(|_| true) || parse_swaps(text).is_err());
            }
        }
    }
}
