//! Metadata of RAID controllers and of the BIOS: behind another controller, a
//! member of an array looks empty but for a few bytes, most at its end. Where
//! they are is what libblkid and dmraid know.

use anyhow::Result;

use crate::{
    canvas::Canvas,
    row::{Row, by_hand},
};

pub const ROWS: &[Row] = &[
    by_hand(
        "a_member_of_a_promise_array_is_left_alone",
        64,
        &["signature:promise_fasttrack_raid_member"],
        promise,
    ),
    by_hand(
        "a_member_of_an_nvidia_array_is_left_alone",
        64,
        &["signature:nvidia_raid_member"],
        nvidia,
    ),
    by_hand(
        "a_member_of_an_lsi_array_is_left_alone",
        64,
        &["signature:lsi_mega_raid_member"],
        lsi,
    ),
    by_hand(
        "a_member_of_a_silicon_medley_array_is_left_alone",
        64,
        &["signature:silicon_medley_raid_member"],
        silicon,
    ),
    by_hand(
        "a_member_of_a_highpoint_45x_array_is_left_alone",
        64,
        &["signature:hpt45x_raid_member"],
        highpoint_45x,
    ),
    by_hand(
        "a_member_of_a_highpoint_37x_array_is_left_alone",
        64,
        &["signature:hpt37x_raid_member"],
        highpoint_37x,
    ),
    by_hand(
        "a_member_of_an_adaptec_array_is_left_alone",
        64,
        &["signature:adaptec_raid_member"],
        adaptec,
    ),
    by_hand(
        "a_member_of_a_via_array_is_left_alone",
        64,
        &["signature:via_raid_member"],
        via,
    ),
    by_hand(
        "a_member_of_a_jmicron_array_is_left_alone",
        64,
        &["signature:jmicron_raid_member"],
        jmicron,
    ),
];

/// Byte of a sector counted from the end; 1 is the last.
fn from_end(disk: &Canvas, sectors: u64) -> u64 {
    disk.size() - sectors * 512
}

fn promise(disk: &mut Canvas) -> Result<()> {
    disk.put(from_end(disk, 63), b"Promise Technology, Inc.")
}

fn nvidia(disk: &mut Canvas) -> Result<()> {
    disk.put(from_end(disk, 2), b"NVIDIA  \x1e\0\0\0\0\0\0\0\x64\0")
}

fn lsi(disk: &mut Canvas) -> Result<()> {
    disk.put(from_end(disk, 1), b"$XIDE$")
}

/// The 16-bit words in front of the checksum and the checksum add up to zero.
fn silicon(disk: &mut Canvas) -> Result<()> {
    const CHECKSUM: usize = 0x13e;
    let mut sector = [0; 512];
    sector[0x60..0x64].copy_from_slice(&0x2f00_0000_u32.to_le_bytes());
    sector[0x10a..0x10c].copy_from_slice(&2_u16.to_le_bytes());
    let words = sector[..CHECKSUM].chunks_exact(2);
    let sum = words.fold(0_u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes([word[0], word[1]]))
    });
    sector[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    disk.put(from_end(disk, 1), sector)
}

fn highpoint_45x(disk: &mut Canvas) -> Result<()> {
    disk.put(from_end(disk, 11), 0x5a78_16f3_u32.to_le_bytes())
}

fn highpoint_37x(disk: &mut Canvas) -> Result<()> {
    disk.put(9 * 512 + 32, 0x5a78_16f0_u32.to_le_bytes())
}

fn adaptec(disk: &mut Canvas) -> Result<()> {
    disk.put(from_end(disk, 1), 0x37fc_4d1e_u32.to_be_bytes())?;
    disk.put(from_end(disk, 1) + 256, b"DPTM")
}

/// The byte after the first fifty is their sum.
fn via(disk: &mut Canvas) -> Result<()> {
    let mut sector = [0; 51];
    sector[..3].copy_from_slice(&[0x55, 0xaa, 1]);
    sector[50] = sector
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    disk.put(from_end(disk, 1), sector)
}

fn jmicron(disk: &mut Canvas) -> Result<()> {
    disk.put(from_end(disk, 1), b"JM\x01\x02")
}
