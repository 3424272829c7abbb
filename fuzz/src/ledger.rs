//! The ledger: it limits how many disks are begun and remembers which approvals
//! were used.

use disk_discovery::{approval::Token, ledger::parse, units::DiskName};
use serde_json::Value;

pub fn check(input: &[u8]) {
    let Ok(account) = parse(input) else {
        return;
    };
    let written = serde_json::to_vec(&account).expect("it is encoded");
    assert_eq!(parse(&written).expect("what it wrote"), account);

    // Nothing of the text is lost.
    let read: Value = serde_json::from_slice(&written).expect("JSON");
    let said: Value = serde_json::from_slice(input).expect("JSON");
    assert_eq!(read["version"], 1, "another format");
    if !said.is_object() {
        // The same without names, as serde takes it; nobody writes that.
        return;
    }
    if said.get("disks").is_some() {
        let kept = |value: &Value| value["disks"].as_object().map_or(0, serde_json::Map::len);
        assert!(kept(&read) <= kept(&said), "a disk out of nothing");
    }
    // A release that is lost would let a disk be mounted that a person took away.
    let releases = |value: &Value| {
        let releases = value["releases"].as_object();
        releases.map_or(0, serde_json::Map::len)
    };
    assert!(
        releases(&read) <= releases(&said),
        "a release out of nothing"
    );
    assert_eq!(
        releases(&read) == 0,
        releases(&said) == 0,
        "a release is lost"
    );
    assert_eq!(read["formats"], said["formats"]);
    for format in read["formats"].as_array().into_iter().flatten() {
        let name = format["name"].as_str().expect("a name");
        assert!(name.parse::<DiskName>().is_ok(), "{name:?}");
    }
    let used = read["usedApprovals"].as_array().into_iter().flatten();
    let used: Vec<Token> = used.map(token).collect();
    for token in said["usedApprovals"]
        .as_array()
        .into_iter()
        .flatten()
        .map(token)
    {
        assert!(used.contains(&token), "{token} could be used again");
    }
}

fn token(value: &Value) -> Token {
    let text = value.as_str().expect("text");
    text.parse().expect("a token")
}
