//! What a person is told of a disk, and that no token is offered where none
//! would be taken.

use super::*;
use crate::{
    decide::Refusal,
    observe::{medium::Content, sample::Seed, scan::Scan, signature::Signature, traces::Trace},
    report::row,
};

pub(super) fn medium(scan: Scan) -> Medium {
    Medium {
        lodger: None,
        resectored: None,
        table: Fact::Known(crate::claim::Table::Absent),
        partition: None,
        content: Some(Content {
            signature: Fact::Known(Signature::Nothing),
            scan: Some(Fact::Known(scan)),
            approvals: Vec::new(),
            busy: Fact::Known(false),
        }),
    }
}

fn scan(residue: u64, traces: Vec<Trace>) -> Scan {
    Scan {
        seed: Seed(0xfeed),
        residue: Some(residue),
        traces,
        digest: "ab".repeat(32),
        bytes: 20 << 20,
        reads: 300,
    }
}

fn explained(refusal: Refusal, medium: &Medium) -> (String, serde_json::Value) {
    explained_of(crate::decide::example_disk(), refusal, medium)
}

fn explained_of(
    mut device: Device,
    refusal: Refusal,
    medium: &Medium,
) -> (String, serde_json::Value) {
    if let Fact::Known(Some(record)) = &mut device.udev {
        record.links = vec![
            "by-path/pci-1".to_owned(),
            "by-id/ata-SSD_12_S16".to_owned(),
        ];
    }
    let mut inventory = crate::decide::example_host();
    inventory.media.insert(
        device.name.clone(),
        std::sync::Arc::new(Fact::Known(medium.clone())),
    );
    let verdict = Verdict::Refused(refusal);
    let row = row(&device, &verdict, None, "/mnt/longhorn");
    let explanation = Explanation::of(&inventory, &device, &verdict, row);
    (
        explanation.text(),
        serde_json::to_value(&explanation).expect("JSON"),
    )
}

#[test]
fn residual_data_are_shown_with_a_token_that_is_read_back() {
    let refusal = Refusal::new(Reason::ResidualData, "first at byte 4096");
    let (text, json) = explained(refusal, &medium(scan(4096, Vec::new())));
    let token = json["approval"]["token"].as_str().expect("a token");
    assert!(
        token
            .parse::<Token>()
            .is_ok_and(|token| token.seed() == Seed(0xfeed))
    );
    for words in [
        "sdb: refused (residual-data)",
        "first at byte 4096",
        "seed 000000000000feed",
        "approve:",
        token,
        "flock /dev/disk/by-id/ata-SSD_12_S16 sh -ec",
        "bs=16M",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
}

#[test]
fn a_disk_that_nothing_tells_from_another_is_told_why_it_gets_no_token() {
    let mut device = crate::decide::example_disk();
    (device.serial, device.wwn) = (Fact::Known(None), Fact::Known(None));
    let refusal = Refusal::new(Reason::ResidualData, "first at byte 4096");
    let (text, json) = explained_of(device, refusal, &medium(scan(4096, Vec::new())));
    assert!(json["approval"].is_null(), "{json}");
    assert!(text.contains("neither a serial number nor"), "{text}");
}

#[test]
fn a_signature_gets_no_token_and_the_places_to_erase() {
    let copy = Trace {
        kind: "xfs".to_owned(),
        at: 3_000_000_512,
        wiped: false,
    };
    let refusal = Refusal::signature("xfs", "at byte 3000000512");
    let (text, json) = explained(refusal, &medium(scan(3_000_000_512, vec![copy])));
    assert!(
        json["approval"].is_null() && !text.contains("approve:"),
        "{text}"
    );
    let erase = json["erase"].to_string();
    // Both ends and the copy, from blocks of 4096 bytes on.
    for place in [
        "seek=0 iflag=count_bytes count=8388608 ",
        "seek=732422 iflag=count_bytes count=8192 ",
        "seek=2927639 ",
    ] {
        assert!(erase.contains(place), "{place} is not in {erase}");
    }
}

#[test]
fn overwriting_all_of_it_is_told_apart_from_what_is_enough_for_most() {
    let refusal = Refusal::new(Reason::ResidualData, "first at byte 4096");
    let (text, json) = explained(refusal, &medium(scan(4096, Vec::new())));
    let (erase, overwrite) = (json["erase"].to_string(), json["overwrite"].to_string());
    assert!(!erase.contains("bs=16M"), "{erase}");
    assert!(overwrite.contains("bs=16M"), "{overwrite}");
    let between = text
        .split("udevadm trigger --settle")
        .nth(1)
        .expect("a part behind the first step");
    assert!(
        between.contains("\n\n  If it is refused as residual-data after that"),
        "{text}"
    );
}

#[test]
fn a_disk_that_is_not_refused_for_what_it_holds_is_not_to_be_erased() {
    for reason in [
        Reason::SystemDisk,
        Reason::Mounted,
        Reason::TooSmall,
        Reason::ClaimDamaged,
    ] {
        let (text, json) = explained(reason.into(), &medium(scan(0, Vec::new())));
        assert!(
            json["erase"].is_null() && json["approval"].is_null(),
            "{reason}"
        );
        assert!(!text.contains("dd "), "{text}");
    }
}

#[test]
fn what_could_not_be_read_is_shown_with_its_error() {
    let mut medium = medium(scan(0, Vec::new()));
    if let Some(content) = &mut medium.content {
        content.scan = Some(Fact::unreadable("/dev/sdb", "Input/output error"));
    }
    let refusal = Refusal::new(Reason::ProbeFailed, "x");
    let (text, _) = explained(refusal, &medium);
    assert!(
        text.contains("unreadable: /dev/sdb: Input/output error"),
        "{text}"
    );
}
