//! How far a filesystem of our own has come. `Unused` permits to make it again.

use disk_discovery::{
    observe::{
        superblock::{Progress, parse},
        xfslog,
    },
    units::Filesystem,
};

/// What is read off a partition.
const LEN: usize = 2048;

pub fn check(input: &[u8]) {
    let byte = |at: usize| input.get(at).copied();
    let number = |at: usize, len: usize| -> Option<u32> {
        (at..at + len).rev().try_fold(0, |sum: u32, at| {
            Some(sum.wrapping_shl(8) | u32::from(byte(at)?))
        })
    };
    // struct ext4_super_block at byte 1024.
    let ext4 = (number(1024 + 0x38, 2) == Some(0xef53)).then(|| {
        let mounted = number(1024 + 0x2c, 4) != Some(0) || number(1024 + 0x34, 2) != Some(0);
        expected(mounted)
    });
    assert_eq!(parse(input, Filesystem::Ext4), ext4);
    // struct xfs_dsb: sb_inprogress at byte 126.
    let xfs = (number(0, 4) == Some(u32::from_le_bytes(*b"XFSB")))
        .then(|| byte(126).map(|mark| expected(mark == 0)))
        .flatten();
    assert_eq!(parse(input, Filesystem::Xfs), xfs);
    log(input);

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

/// The place of a log may be anywhere, but is never long; what is found there is
/// only compared.
fn log(input: &[u8]) {
    let Some(place) = xfslog::place(input) else {
        return;
    };
    assert!((513..=1 << 20).contains(&place.len), "{place:?}");
    // The superblock is read again where a log would be.
    let record = |block: &[u8]| {
        block.starts_with(&0xfeed_babe_u32.to_be_bytes())
            && block.get(304..320) == Some(&place.uuid)
    };
    let expected = input.chunks(512).enumerate();
    let expected = expected.filter(|(at, block)| *at > 0 && record(block));
    assert_eq!(
        xfslog::tells_of_a_mount(input, &place.uuid),
        expected.count() > 0
    );
}

fn expected(used: bool) -> Progress {
    if used {
        Progress::Finished
    } else {
        Progress::Unused
    }
}
