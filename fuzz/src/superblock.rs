//! How far a filesystem of our own has come. `Unused` permits to make it again.

use disk_discovery::{
    observe::superblock::{Progress, Told, parse},
    units::Filesystem,
};

/// What is read off a partition.
const LEN: usize = 2048;

pub fn check(input: &[u8]) {
    // struct ext4_super_block at byte 1024.
    let ext4 = (little(input, 1024 + 0x38, 2) == Some(0xef53)).then(|| {
        let mounted =
            little(input, 1024 + 0x2c, 4) != Some(0) || little(input, 1024 + 0x34, 2) != Some(0);
        Told::Now(if mounted {
            Progress::Finished
        } else {
            Progress::Unused
        })
    });
    assert_eq!(parse(input, Filesystem::Ext4), ext4);
    xfs(input, parse(input, Filesystem::Xfs));

    // What lies behind the superblock says nothing.
    if input.len() > LEN {
        for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
            assert_eq!(
                parse(&input[..LEN], filesystem),
                parse(input, filesystem),
                "{filesystem}"
            );
        }
    }
}

/// struct xfs_dsb, in the order of a network.
fn xfs(input: &[u8], told: Option<Told>) {
    let told_unused = told == Some(Told::Now(Progress::Unused));
    let magic = little(input, 0, 4) == Some(u64::from(u32::from_le_bytes(*b"XFSB")));
    let in_progress = big(input, 126, 1);
    match told {
        None => {}
        Some(Told::Now(Progress::Unused)) => assert!(magic && in_progress > Some(0)),
        // Its log is on another device.
        Some(Told::Now(Progress::Finished)) => assert_eq!(big(input, 48, 8), Some(0)),
        Some(Told::InLog(range)) => {
            assert!(magic && in_progress == Some(0));
            assert!(range.start < range.end && range.end - range.start <= 64 << 10);
            let field = |at, len| u128::from(big(input, at, len).expect("it was read"));
            let block = field(4, 4);
            // Behind the record, and no further than the log goes.
            let bits = field(124, 1);
            let number = field(48, 8);
            let first = (number >> bits) * field(84, 4) + (number & ((1 << bits) - 1));
            assert!(u128::from(range.start) >= first * block + 1024);
            assert!(u128::from(range.end) <= (first + field(96, 4)) * block);
        }
    }
    if magic && in_progress > Some(0) {
        assert!(told_unused);
    }
}

fn little(input: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = input.get(at..at + len)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

fn big(input: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = input.get(at..at + len)?;
    Some(
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}
