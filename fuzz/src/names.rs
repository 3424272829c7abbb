//! Names and quantities: each is used in a place that others rely on.

use disk_discovery::{
    approval::Token,
    claim::{Stage, parse_partition_name, partition_name},
    config::Span,
    observe::device::is_part_of,
    units::{Bytes, DevNo, DiskName, Filesystem, Limit},
};

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    disk_name(&text);
    device_number(&text);
    size(&text);
    part_of(&text);
    token(&text);
    limit(&text);
    // The clock of the round: no text may bring it down.
    drop(text.parse::<Span>());
    if let Some(filesystem) = Filesystem::from_name(&text) {
        assert_eq!(filesystem.name(), text);
    }
}

fn disk_name(text: &str) {
    let allowed = |c| matches!(c, 'a'..='z' | '0'..='9' | '-');
    let fits = (1..=25).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-');
    let name = text.parse::<DiskName>();
    assert_eq!(name.is_ok(), fits, "{text:?}");
    if let Ok(name) = name {
        assert_eq!(name.as_str(), text);
        for stage in [Stage::Pending, Stage::Committed] {
            let label = partition_name(&name, stage);
            assert!(label.encode_utf16().count() <= 36, "{label}");
            let read = parse_partition_name(&label);
            assert_eq!(read, Some((name.clone(), stage)));
        }
        for number in [2, 999] {
            if let Ok(numbered) = name.numbered(number) {
                assert_ne!(numbered, name);
            }
        }
    }
    if let Some((name, stage)) = parse_partition_name(text) {
        assert_eq!(partition_name(&name, stage), text);
    }
}

fn device_number(text: &str) {
    let Ok(number) = text.parse::<DevNo>() else {
        return;
    };
    assert_eq!(number.to_string().parse(), Ok(number));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (major, minor) = text.split_once(':').expect("two numbers");
    assert!(digits(major) && digits(minor), "{text:?}");
}

fn size(text: &str) {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let Ok(Bytes(size)) = text.parse() else {
        // What people write is understood.
        let whole: Option<u64> = trimmed.parse().ok();
        let plain = digits == trimmed.len() && whole.is_some_and(|n| n <= 1_000_000_000_000_000);
        assert!(!plain, "{text:?} is refused");
        return;
    };
    assert!(digits > 0, "{text:?}");
    assert!(size <= 1_000_000_000_000_000_000, "{text:?}");
    let (number, unit) = trimmed.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" | "K" => 1000,
        "M" | "MB" => 1000_u64.pow(2),
        "G" | "GB" => 1000_u64.pow(3),
        "T" | "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        // Decimals, and spellings that nobody documented.
        _ => return,
    };
    let number: u64 = number.parse().expect("what was accepted");
    assert_eq!(number.checked_mul(factor), Some(size), "{text:?}");
}

fn token(text: &str) {
    if let Ok(token) = text.parse::<Token>() {
        // Digits in capitals are the same number.
        assert_eq!(token.to_string(), text.trim().to_ascii_lowercase());
    }
}

fn limit(text: &str) {
    if let Ok(Limit(limit)) = text.parse() {
        let shown = limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
        let plain = text.trim_start_matches('0');
        assert!(shown == text || plain == shown || shown == "0", "{text:?}");
    }
}

/// Two kernel names with a slash, which no kernel name has, between them.
fn part_of(text: &str) {
    let Some((name, disk)) = text.split_once('/') else {
        return;
    };
    assert!(is_part_of(disk, disk));
    if name == disk || !is_part_of(name, disk) {
        return;
    }
    let number = name.strip_prefix(disk).expect("it begins like its disk");
    // Between two numbers there must be a letter: nvme0n11 is another disk.
    let ends_in_digit = disk.bytes().last().is_some_and(|b| b.is_ascii_digit());
    let number = if ends_in_digit {
        number.strip_prefix('p').expect("a separator")
    } else {
        number
    };
    assert!(number.bytes().all(|b| b.is_ascii_digit()) && !number.is_empty());
    assert!(!is_part_of(disk, name), "each is part of the other");
}
