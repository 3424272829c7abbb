//! The mount table: a mount that is passed over, or read as another, looks
//! like a disk that is not in use.

use disk_discovery::observe::tables::{Mount, parse_mountinfo};

use crate::text::{escape, line_in, unescape};

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines: Vec<&str> = text.lines().collect();
    match parse_mountinfo(&text) {
        Ok(mounts) => {
            assert_eq!(mounts.len(), lines.len(), "a mount for each line");
            for (mount, line) in mounts.iter().zip(&lines) {
                assert!(reads(line, mount), "{line:?} is not {mount:?}");
            }
            let again: String = mounts.iter().map(render).collect();
            assert_eq!(parse_mountinfo(&again), Ok(mounts));
        }
        Err(error) => {
            let line = line_in(&error.to_string());
            let alone = format!("{}\n", lines[line - 1]);
            assert!(parse_mountinfo(&alone).is_err(), "{line}");
            let before = lines[..line - 1].iter().map(|line| format!("{line}\n"));
            let before = before.collect::<String>();
            let before = parse_mountinfo(&before).map(|mounts| mounts.len());
            assert_eq!(before, Ok(line - 1), "an earlier line is bad");
        }
    }
}

/// A second reader, by the numbers of proc_pid_mountinfo(5).
fn reads(line: &str, mount: &Mount) -> bool {
    let fields: Vec<&str> = line.split(' ').collect();
    // (7) is any number of optional fields, (8) a hyphen that ends them.
    let Some(hyphen) = fields.iter().skip(6).position(|field| *field == "-") else {
        return false;
    };
    let behind = &fields[6 + hyphen + 1..];
    let read_only = fields[5].split(',').any(|option| option == "ro");
    let number = |text: &str| text.parse::<u32>().ok();
    let devno = fields[2].split_once(':');
    devno.is_some_and(|(major, _)| number(major) == Some(mount.devno.major))
        && devno.is_some_and(|(_, minor)| number(minor) == Some(mount.devno.minor))
        && unescape(fields[3]) == mount.root
        && unescape(fields[4]) == mount.mountpoint
        && read_only == mount.read_only
        && unescape(behind[0]) == mount.filesystem
        && unescape(behind[1]) == mount.source
        && unescape(&behind[2..].join(" ")) == mount.super_options
}

fn render(mount: &Mount) -> String {
    format!(
        "1 1 {} {} {} {} shared:1 - {} {} {}\n",
        mount.devno,
        escape(&mount.root),
        escape(&mount.mountpoint),
        if mount.read_only { "ro" } else { "rw" },
        escape(&mount.filesystem),
        escape(&mount.source),
        escape(&mount.super_options),
    )
}
