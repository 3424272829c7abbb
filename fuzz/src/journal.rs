//! A journal entry: it decides which torn table is completed.

use disk_discovery::{
    claim::{Claim, Geometry, Stage, Table, TableImage, inspect},
    journal::parse,
};

use serde_json::Value;

use crate::gpt;

pub fn check(input: &[u8]) {
    let Ok(entry) = parse(input) else {
        return;
    };
    let written = serde_json::to_vec(&entry).expect("it is encoded");
    let again = parse(&written).expect("what it wrote");
    assert_eq!(again, entry);
    let fields: Value = serde_json::from_slice(&written).expect("JSON");
    assert!(fields["version"] == 1 || fields["version"] == 2, "{fields}");
    let begun = entry.begun().expect("what a disk is recognised by");
    assert_eq!(begun.id, entry.claim);
    // Without a token nothing may be written over.
    assert_eq!(begun.gaps.is_some(), fields.get("approval").is_some());
    assert!(begun.gaps.is_some() || begun.before.is_empty());

    let (wwn, serial) = (entry.wwn.as_deref(), entry.serial.as_deref());
    assert!(!entry.names(None, None), "unknown equals unknown");
    let other = Geometry {
        size: entry.geometry.size ^ 4096,
        ..entry.geometry
    };
    assert!(
        !entry.may_be_of(other, wwn, serial),
        "a disk of another size"
    );

    if entry.may_be_of(entry.geometry, wwn, serial) {
        let claim = Claim {
            id: entry.claim.clone(),
            stage: Stage::Pending,
        };
        let image = TableImage::build(entry.geometry, &entry.claim, Stage::Pending);
        let image = image.expect("it was built a moment ago");
        let table = gpt::Table::of(entry.geometry, &entry.claim, Stage::Pending);
        assert_eq!(image.ends().head(), table.head);
        assert_eq!(image.ends().tail(), table.tail);
        let found = inspect(image.ends(), &[]);
        let whole = Table::Ours {
            claim,
            whole: true,
            only_ours: true,
            resized: None,
        };
        assert_eq!(found, whole);
    }
}
