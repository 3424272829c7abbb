//! Members of storage systems that Debian has no tool for, or none that works
//! without a cluster.

use anyhow::Result;

use crate::{
    canvas::{Canvas, crc32c},
    row::{Row, by_hand},
};

pub const ROWS: &[Row] = &[
    by_hand(
        "a_ceph_bluestore_disk_is_left_alone",
        64,
        &["signature:ceph_bluestore"],
        bluestore,
    ),
    // libblkid does not know it: what is left is that it is not empty.
    by_hand(
        "an_spdk_logical_volume_store_is_left_alone",
        64,
        &["signature:spdk_blobstore"],
        spdk,
    ),
    by_hand("vdo_is_left_alone", 64, &["signature:vdo"], vdo),
    by_hand(
        "a_stratis_disk_is_left_alone",
        64,
        &["signature:stratis"],
        stratis,
    ),
    by_hand(
        "a_stratis_disk_whose_first_superblock_is_gone_is_left_alone",
        64,
        &["signature:stratis"],
        stratis_second,
    ),
    by_hand(
        "bcachefs_is_left_alone",
        64,
        &["signature:bcachefs"],
        bcachefs,
    ),
    by_hand(
        "a_physical_volume_of_lvm1_is_left_alone",
        64,
        &["signature:LVM1_member"],
        lvm1,
    ),
    by_hand(
        "the_data_log_of_a_drbd_proxy_is_left_alone",
        64,
        &["signature:drbdproxy_datalog"],
        drbd_proxy,
    ),
    by_hand(
        "a_member_of_a_windows_dynamic_disk_is_left_alone",
        64,
        &["partitioned"],
        dynamic_disk,
    ),
];

/// The label of Ceph's BlueStore.cc: 60 bytes of text that people can read,
/// then its encoding.
pub fn bluestore_label() -> Vec<u8> {
    let mut label = b"bluestore block device\n4f1c0f0a-7f6b-4e52-9a57-0c6f7e8d9a10\n".to_vec();
    label.extend([2, 1, 0x16, 1, 0, 0]);
    label
}

fn bluestore(disk: &mut Canvas) -> Result<()> {
    disk.put(0, bluestore_label())?;
    disk.put_random(64 << 10, 64 << 10)
}

/// SPDK, lib/blob/blobstore.h: the first page, with its checksum at the end.
fn spdk(disk: &mut Canvas) -> Result<()> {
    let mut page = [0; 4096];
    page[..8].copy_from_slice(b"SPDKBLOB");
    page[8..12].copy_from_slice(&3_u32.to_le_bytes());
    page[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    page[16..20].copy_from_slice(&1_u32.to_le_bytes());
    page[28..32].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    page[56..65].copy_from_slice(b"LVOLSTORE");
    let checksum = crc32c(&page[..4092]);
    page[4092..].copy_from_slice(&checksum.to_le_bytes());
    disk.put(0, page)
}

/// Linux, drivers/md/dm-vdo/encodings.h: the geometry block.
fn vdo(disk: &mut Canvas) -> Result<()> {
    disk.put(0, b"dmvdo001")?;
    disk.put(8, [5, 0, 0, 0, 4, 0, 0, 0])?;
    disk.put_random(40, 16)
}

/// Stratis, "Stratis Software Design": the static header, in sectors 1 and 9.
fn stratis_header(disk: &Canvas) -> [u8; 512] {
    let mut header = [0; 512];
    header[4..20].copy_from_slice(b"!Stra0tis\x86\xff\x02^\x41rh");
    header[20..28].copy_from_slice(&(disk.size() / 512).to_le_bytes());
    header[32..64].copy_from_slice(b"1c3f0a2b4d5e6f708192a3b4c5d6e7f8");
    header[64..96].copy_from_slice(b"9b8a7f6e5d4c3b2a1908f7e6d5c4b3a2");
    header[96..104].copy_from_slice(&8192_u64.to_le_bytes());
    let checksum = crc32c(&header[4..]);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn stratis(disk: &mut Canvas) -> Result<()> {
    disk.put(512, stratis_header(disk))?;
    stratis_second(disk)
}

fn stratis_second(disk: &mut Canvas) -> Result<()> {
    disk.put(9 * 512, stratis_header(disk))
}

/// Linux, fs/bcachefs/bcachefs_format.h: the superblock in sector 8, its magic
/// after checksum and versions.
fn bcachefs(disk: &mut Canvas) -> Result<()> {
    disk.put(
        4096 + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    )
}

/// The first sector of LVM1's liblvm.h.
fn lvm1(disk: &mut Canvas) -> Result<()> {
    disk.put(0, b"HM\x01\x00")?;
    disk.put(44, b"Fd8pXoSyY8OCqLPUVrjUUQ4vVvNHBE6V")
}

/// drbd-proxy's data log, as libblkid describes it.
fn drbd_proxy(disk: &mut Canvas) -> Result<()> {
    disk.put(0, b"DRBDdlh*\x01")?;
    disk.put_random(16, 16)
}

/// A partition of type 0x42 and the private header in sector 6 (Linux,
/// block/partitions/ldm.h). The rest of the database is at the disk's end.
fn dynamic_disk(disk: &mut Canvas) -> Result<()> {
    let sectors = u32::try_from(disk.size() / 512 - 63).unwrap();
    disk.put(446, [0, 1, 1, 0, 0x42, 0xfe, 0xff, 0xff])?;
    disk.put(454, 63_u32.to_le_bytes())?;
    disk.put(458, sectors.to_le_bytes())?;
    disk.put(510, [0x55, 0xaa])?;
    disk.put(6 * 512, b"PRIVHEAD")?;
    disk.put(disk.size() - 512, b"PRIVHEAD")?;
    disk.put(disk.size() - (1 << 20), b"TOCBLOCK")
}
