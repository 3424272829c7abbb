//! `longhorn-disk.cfg`, by which a filesystem says that it belongs to Longhorn.
//! It is Longhorn's own file: read here, written nowhere.

use std::{
    fs::File,
    io::{self, Read},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the file at the root of the filesystem.
pub const FILE: &str = "longhorn-disk.cfg";
/// Longhorn's own are a tenth of a kilobyte.
const LONGEST: u64 = 64 * 1024;

/// What a filesystem says of Longhorn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LonghornDisk {
    /// There is no such file.
    None,
    /// There is one, but it names no disk: `{}`, as some write by hand, or not
    /// even JSON.
    Nameless,
    /// It belongs to a disk that Longhorn knows.
    Named {
        /// `diskUUID`.
        uuid: String,
        /// `diskName`: the key in `spec.disks` when Longhorn wrote it.
        name: Option<String>,
    },
}

/// Reads what an open file says.
///
/// # Errors
/// When it cannot be read.
pub fn read(file: File) -> io::Result<LonghornDisk> {
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(parse(&bytes))
}

/// What the contents of the file say.
pub fn parse(bytes: &[u8]) -> LonghornDisk {
    let Ok(Value::Object(fields)) = serde_json::from_slice(bytes) else {
        return LonghornDisk::Nameless;
    };
    let text = |key| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    match text("diskUUID").filter(|uuid| !uuid.trim().is_empty()) {
        Some(uuid) => LonghornDisk::Named {
            uuid,
            name: text("diskName"),
        },
        None => LonghornDisk::Nameless,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_longhorn_writes_is_read_whatever_else_it_comes_to_say() {
        let text = br#"{"diskName":"sdh1","diskUUID":"1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3","diskDriver":"","state":"ready","later":[1]}"#;
        let named = LonghornDisk::Named {
            uuid: "1fa0e2c8-7f1c-4f9d-bb3c-e2d0b4b8a1f3".to_owned(),
            name: Some("sdh1".to_owned()),
        };
        assert_eq!(parse(text), named);
    }

    #[test]
    fn a_file_without_a_disk_uuid_names_no_disk() {
        for text in [
            "{}",
            r#"{"diskUUID":""}"#,
            r#"{"diskUUID":" "}"#,
            r#"{"diskName":"sdh1"}"#,
            r#"{"diskUUID":null}"#,
            "",
            "[]",
            r#"["a","b"]"#,
            r#"{"diskUUID":7}"#,
            "{",
        ] {
            assert_eq!(parse(text.as_bytes()), LonghornDisk::Nameless, "{text}");
        }
    }
}
