//! Data without any format that a disk may have, at either end and in the
//! middle.
//!
//! The middle of a disk is sampled: 256 pieces of 16 KiB, one from each of 256
//! equal parts. Data that fill one part are always found; data scattered over a
//! tenth of the middle are missed once in a million million times. Less than
//! that can be missed: a single file of a few KiB in the middle of a disk that
//! is zero everywhere else. No format is known that leaves such a disk.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    canvas::Canvas,
    row::{Row, by_hand, by_tool},
};

const MIB: u64 = 1 << 20;
/// Bytes at either end that must be zero.
const END: u64 = 8 * MIB;

pub const ROWS: &[Row] = &[
    by_hand("text_is_left_alone", 64, &["residual-data"], text),
    by_tool(
        "a_tar_archive_is_left_alone",
        64,
        &["residual-data"],
        "tar -cf image files && put image",
    ),
    by_tool(
        "a_database_file_is_left_alone",
        64,
        &["residual-data"],
        r"sqlite3 image 'CREATE TABLE t (x); INSERT INTO t VALUES (1)' && put image",
    ),
    by_tool(
        "a_compressed_stream_is_left_alone",
        64,
        &["residual-data"],
        "tar -cz files >image && put image",
    ),
    by_hand(
        "a_qcow2_image_is_left_alone",
        64,
        &["residual-data"],
        |disk| image(disk, "qcow2"),
    ),
    by_hand(
        "a_vmdk_image_is_left_alone",
        64,
        &["residual-data"],
        |disk| image(disk, "vmdk"),
    ),
    by_hand(
        "a_vdi_image_is_left_alone",
        64,
        &["residual-data"],
        |disk| image(disk, "vdi"),
    ),
    by_hand(
        "a_vhdx_image_is_left_alone",
        64,
        &["residual-data"],
        |disk| image(disk, "vhdx"),
    ),
    by_hand(
        "random_bytes_are_left_alone",
        64,
        &["residual-data"],
        random,
    ),
    by_hand(
        "flash_that_reads_as_ones_is_left_alone",
        64,
        &["residual-data"],
        ones,
    ),
    by_hand(
        "boot_code_without_a_table_is_left_alone",
        64,
        &["residual-data"],
        |disk| disk.put(0, b"\xeb\x3c\x90boot code"),
    ),
    by_hand(
        "a_single_byte_in_the_first_8_mib_is_left_alone",
        64,
        &["residual-data"],
        |disk| scrap(disk, 1, false),
    ),
    by_hand(
        "a_single_byte_in_the_last_8_mib_is_left_alone",
        64,
        &["residual-data"],
        |disk| scrap(disk, 1, true),
    ),
    by_hand(
        "one_kib_in_the_first_8_mib_is_left_alone",
        64,
        &["residual-data"],
        |disk| scrap(disk, 1024, false),
    ),
    by_hand(
        "one_kib_in_the_last_8_mib_is_left_alone",
        64,
        &["residual-data"],
        |disk| scrap(disk, 1024, true),
    ),
    by_hand(
        "the_first_byte_alone_is_left_alone",
        64,
        &["residual-data"],
        |disk| disk.put(0, [1]),
    ),
    by_hand(
        "the_last_byte_alone_is_left_alone",
        64,
        &["residual-data"],
        |disk| disk.put(disk.size() - 1, [1]),
    ),
    by_hand(
        "the_last_byte_of_the_first_8_mib_is_left_alone",
        64,
        &["residual-data"],
        |disk| disk.put(END - 1, [1]),
    ),
    by_hand(
        "the_first_byte_of_the_last_8_mib_is_left_alone",
        64,
        &["residual-data"],
        |disk| disk.put(disk.size() - END, [1]),
    ),
    by_hand(
        "a_tenth_of_the_middle_in_one_piece_is_left_alone",
        256,
        &["residual-data"],
        middle,
    ),
    by_hand(
        "a_tenth_of_the_middle_in_many_pieces_is_left_alone",
        256,
        &["residual-data"],
        scattered,
    ),
    // Two formats at once: nobody can say which of them is the owner.
    by_tool(
        "a_disk_with_two_formats_is_left_alone",
        64,
        &["ambivalent-signatures"],
        r"mkfs.ext4 -q -F -b 1024 $disk
        genisoimage -quiet -o image files
        dd if=image of=$disk bs=2K skip=16 seek=16 count=4 conv=notrunc,fsync",
    ),
];

fn text(disk: &mut Canvas) -> Result<()> {
    disk.put(0, "The only copy of something.\n".repeat(1000))
}

fn random(disk: &mut Canvas) -> Result<()> {
    disk.put_random(0, usize::try_from(disk.size())?)
}

fn ones(disk: &mut Canvas) -> Result<()> {
    disk.put(0, vec![0xff; usize::try_from(disk.size())?])
}

/// Bytes at a random place in one of the ends.
fn scrap(disk: &mut Canvas, len: u64, tail: bool) -> Result<()> {
    let start = if tail { disk.size() - END } else { 0 };
    let at = disk.place(start..start + END - len + 1);
    disk.note(format!("{len} bytes at byte {at}"));
    disk.put_random(at, usize::try_from(len)?)
}

fn middle(disk: &mut Canvas) -> Result<()> {
    let inner = disk.size() - 2 * END;
    let at = disk.place(END..disk.size() - END - inner / 10);
    disk.note(format!("{} bytes at byte {at}", inner / 10));
    disk.put_random(at, usize::try_from(inner / 10)?)
}

/// A tenth of the blocks of 4 KiB, each chosen by chance.
fn scattered(disk: &mut Canvas) -> Result<()> {
    const BLOCK: u64 = 4096;
    for block in END / BLOCK..(disk.size() - END) / BLOCK {
        if disk.place(0..10) == 0 {
            disk.put_random(block * BLOCK, usize::try_from(BLOCK)?)?;
        }
    }
    Ok(())
}

/// An image of a virtual machine, copied onto the disk by mistake.
fn image(disk: &mut Canvas, format: &str) -> Result<()> {
    let raw = tempfile::NamedTempFile::new()?;
    std::fs::write(raw.path(), "precious\n".repeat(1000))?;
    let image = tempfile::NamedTempFile::new()?;
    convert(raw.path(), image.path(), format)?;
    let bytes = std::fs::read(image.path())?;
    disk.put(0, bytes)
}

fn convert(raw: &Path, image: &Path, format: &str) -> Result<()> {
    let out = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", format])
        .args([raw, image])
        .output()
        .context("run qemu-img of the package qemu-utils")?;
    ensure!(out.status.success(), "qemu-img: {out:?}");
    Ok(())
}
