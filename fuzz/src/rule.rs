//! A rule of the policy: it can lift a hazard, so it must not hold for a disk
//! of which the property that it speaks of is not known.

use disk_discovery::{
    decide::Rule,
    fact::Fact,
    observe::{Device, Transport},
};

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(rule) = text.parse::<Rule>() else {
        return;
    };
    let shown = rule.to_string();
    assert_eq!(shown.parse(), Ok(rule.clone()), "{shown:?}");
    let conditions: Vec<(&str, &str)> = shown
        .split(',')
        .map(|condition| condition.split_once('=').expect("property=value"))
        .collect();
    assert!(!conditions.is_empty());

    // The name is all that is known of this disk.
    let by_name = conditions.iter().all(|(property, _)| *property == "name");
    let unknown = rule.matches(&unread());
    assert!(by_name || unknown != Fact::Known(true), "{shown:?}");

    let plugged = Device {
        transport: Fact::Known(Transport::Usb),
        removable: Fact::Known(true),
        size: Fact::Known(12_000_000_000),
        ..unread()
    };
    let elsewhere = conditions.iter().any(|condition| {
        let (property, value) = *condition;
        (property == "transport" && value != "usb") || (property == "removable" && value != "true")
    });
    assert!(
        !elsewhere || rule.matches(&plugged) == Fact::Known(false),
        "{shown:?}"
    );
}

fn unread() -> Device {
    fn nothing<T>() -> Fact<T> {
        Fact::unreadable("attribute", "Input/output error")
    }
    Device {
        name: "sdb".to_owned(),
        path: nothing(),
        parent: None,
        devno: nothing(),
        devname: nothing(),
        partition_number: nothing(),
        diskseq: nothing(),
        size: nothing(),
        start: nothing(),
        sector: nothing(),
        read_only: nothing(),
        removable: nothing(),
        hidden: nothing(),
        rotational: nothing(),
        holders: nothing(),
        slaves: nothing(),
        backing: nothing(),
        vendor: nothing(),
        model: nothing(),
        serial: nothing(),
        wwn: nothing(),
        transport: nothing(),
        udev: nothing(),
    }
}
