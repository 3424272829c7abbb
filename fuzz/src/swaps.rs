//! The table of swap areas.

use disk_discovery::observe::tables::parse_swaps;

use crate::text::{escape, line_in, unescape};

pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines: Vec<&str> = text.lines().collect();
    match parse_swaps(&text) {
        Ok(swaps) => {
            assert!(lines[0].starts_with("Filename"), "no heading");
            assert_eq!(swaps.len(), lines.len() - 1, "an area for each line");
            for (swap, line) in swaps.iter().zip(&lines[1..]) {
                // Columns are padded with spaces and separated by tabs.
                let path = line.split([' ', '\t']).next().unwrap_or_default();
                assert_eq!(unescape(path), swap.path, "{line:?}");
                assert!(swap.path.starts_with('/'), "{line:?}");
            }
            let rows = swaps
                .iter()
                .map(|swap| format!("{} partition 1 0 -2\n", escape(&swap.path)));
            let again = format!("Filename\n{}", rows.collect::<String>());
            assert_eq!(parse_swaps(&again), Ok(swaps));
        }
        Err(error) => {
            let line = line_in(&error.to_string());
            if line > 1 {
                let alone = format!("Filename\n{}\n", lines[line - 1]);
                assert!(parse_swaps(&alone).is_err(), "{line}");
                let before = lines[..line - 1].iter().map(|line| format!("{line}\n"));
                let before = before.collect::<String>();
                let before = parse_swaps(&before).map(|swaps| swaps.len());
                assert_eq!(before, Ok(line - 2), "an earlier line is bad");
            } else {
                assert!(!text.starts_with("Filename"));
            }
        }
    }
}
