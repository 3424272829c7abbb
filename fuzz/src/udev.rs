//! udevd's record of a device: nothing may be in it that the text does not
//! say, and nothing may be missing that it says.

use disk_discovery::observe::udev_db::parse;

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let record = parse(&text);
    let last = |mark: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let found = lines.iter().rev().find_map(|line| line.strip_prefix(mark));
        found.map(str::to_owned)
    };
    for (property, read) in [
        ("E:ID_FS_TYPE=", &record.filesystem),
        ("E:ID_PART_TABLE_TYPE=", &record.table),
        ("E:ID_PATH=", &record.id_path),
        ("E:ID_BUS=", &record.bus),
    ] {
        assert_eq!(last(property), *read, "{property}");
    }
    let multipath = last("E:DM_MULTIPATH_DEVICE_PATH=")
        .as_deref()
        .is_some_and(|value| value != "0");
    assert_eq!(record.multipath_member, multipath);
    let links = text.lines().filter_map(|line| line.strip_prefix("S:disk/"));
    let kept = |link: &&str| link.starts_with("by-id/") || link.starts_with("by-path/");
    assert_eq!(record.links, links.filter(kept).collect::<Vec<_>>());
    let finished = last("I:").is_some_and(|time| !time.is_empty());
    assert_eq!(record.initialized, finished);
}
