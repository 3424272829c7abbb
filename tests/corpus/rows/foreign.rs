//! Filesystems and encryption of other systems that Debian has no tool for:
//! the fields that mark them, where libblkid, the kernel or the format's own
//! description says they are.

use anyhow::Result;

use crate::{
    canvas::Canvas,
    row::{Row, by_hand},
};

pub const ROWS: &[Row] = &[
    by_hand(
        "hfs_plus_is_left_alone",
        64,
        &["signature:hfsplus"],
        hfs_plus,
    ),
    by_hand("refs_is_left_alone", 64, &["signature:ReFS"], refs),
    by_hand("hpfs_is_left_alone", 64, &["signature:hpfs"], hpfs),
    by_hand("vxfs_is_left_alone", 64, &["signature:vxfs"], vxfs),
    by_hand("vmfs_is_left_alone", 64, &["signature:VMFS"], vmfs),
    by_hand(
        "a_member_of_a_vmfs_volume_is_left_alone",
        64,
        &["signature:VMFS_volume_member"],
        vmfs_member,
    ),
    by_hand(
        "bitlocker_is_left_alone",
        64,
        &["signature:BitLocker"],
        bitlocker,
    ),
    by_hand("veracrypt_is_left_alone", 64, &["residual-data"], veracrypt),
    by_hand(
        "a_disk_of_oracle_asm_is_left_alone",
        64,
        &["signature:oracleasm"],
        oracle_asm,
    ),
    // It writes no magic number in a place of its own: a few words at the end
    // of each disk (MS-STORSPACE has none either).
    by_hand(
        "a_disk_of_windows_storage_spaces_is_left_alone",
        64,
        &["residual-data"],
        storage_spaces,
    ),
];

/// The volume header of Apple's Technical Note TN1150: at 1024 bytes, and
/// again 1024 bytes before the end.
pub fn hfs_plus_header(disk: &Canvas) -> [u8; 512] {
    const BLOCK: u32 = 4096;
    let blocks = u32::try_from(disk.size() / u64::from(BLOCK)).unwrap();
    let mut header = [0; 512];
    header[..4].copy_from_slice(b"H+\0\x04");
    header[4..8].copy_from_slice(&0x100_u32.to_be_bytes());
    header[8..12].copy_from_slice(b"10.0");
    header[32..36].copy_from_slice(&12_u32.to_be_bytes());
    header[36..40].copy_from_slice(&3_u32.to_be_bytes());
    header[40..44].copy_from_slice(&BLOCK.to_be_bytes());
    header[44..48].copy_from_slice(&blocks.to_be_bytes());
    header[48..52].copy_from_slice(&(blocks / 2).to_be_bytes());
    header[104..112].copy_from_slice(b"volumeid");
    header
}

fn hfs_plus(disk: &mut Canvas) -> Result<()> {
    let header = hfs_plus_header(disk);
    disk.put(1024, header)?;
    disk.put(disk.size() - 1024, header)
}

/// libfsrefs, "Resilient File System (ReFS)", volume header.
fn refs(disk: &mut Canvas) -> Result<()> {
    let mut header = [0; 512];
    header[3..11].copy_from_slice(b"ReFS\0\0\0\0");
    header[16..20].copy_from_slice(b"FSRS");
    header[20..22].copy_from_slice(&512_u16.to_le_bytes());
    header[24..32].copy_from_slice(&(disk.size() / 512).to_le_bytes());
    disk.put(0, header)?;
    disk.put(disk.size() - 512, header)
}

/// Linux, fs/hpfs/hpfs.h.
fn hpfs(disk: &mut Canvas) -> Result<()> {
    disk.put(3, b"OS2 20.0")?;
    disk.put(38, [0x28])?;
    disk.put(54, b"HPFS    ")?;
    disk.put(510, [0x55, 0xaa])?;
    disk.put(0x2000, [0x49, 0xe8, 0x95, 0xf9, 0xc5, 0xe9, 0x53, 0xfa, 2])?;
    disk.put(0x2200, [0x49, 0x18, 0x91, 0xf9, 0xc5, 0x29, 0x52, 0xfa])
}

/// Linux, fs/freevxfs/vxfs.h: magic, version, and the block size further down.
fn vxfs(disk: &mut Canvas) -> Result<()> {
    disk.put(1024, 0xa501_fcf5_u32.to_le_bytes())?;
    disk.put(1024 + 4, 4_u32.to_le_bytes())?;
    disk.put(1024 + 32, 1024_u32.to_le_bytes())
}

/// vmfs-tools, vmfs_fs.h.
fn vmfs(disk: &mut Canvas) -> Result<()> {
    disk.put(2 << 20, 0x2fab_f15e_u32.to_le_bytes())?;
    disk.put((2 << 20) + 4, 5_u32.to_le_bytes())?;
    disk.put_random((2 << 20) + 9, 16)
}

/// vmfs-tools, vmfs_volume.h.
fn vmfs_member(disk: &mut Canvas) -> Result<()> {
    disk.put(1 << 20, 0xc001_d00d_u32.to_le_bytes())?;
    disk.put((1 << 20) + 4, 4_u32.to_le_bytes())?;
    disk.put_random((1 << 20) + 130, 16)?;
    vmfs(disk)
}

/// libbde, "BitLocker Drive Encryption (BDE)": volume header of Windows 7 and
/// the three metadata blocks that it points to.
fn bitlocker(disk: &mut Canvas) -> Result<()> {
    disk.put(0, b"\xeb\x58\x90-FVE-FS-\x00\x02\x08")?;
    disk.put(
        160,
        b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01",
    )?;
    disk.put(510, [0x55, 0xaa])?;
    for (at, block) in [(176, 32 << 20), (184, 40 << 20), (192, 48 << 20)] {
        disk.put(at, u64::to_le_bytes(block))?;
        disk.put(block, b"-FVE-FS-\x00\x02\x02\x00")?;
    }
    disk.put_random(1 << 20, 1 << 20)
}

/// VeraCrypt, "Volume Format Specification": salt and encrypted headers in the
/// first 128 KiB and a backup in the last 128 KiB, all of it as good as random.
fn veracrypt(disk: &mut Canvas) -> Result<()> {
    disk.put_random(0, 256 << 10)?;
    disk.put_random(disk.size() - (128 << 10), 128 << 10)
}

/// What `oracleasm createdisk` writes: blkid's own definition.
fn oracle_asm(disk: &mut Canvas) -> Result<()> {
    disk.put(0, [1, 0x82, 1, 1])?;
    disk.put(32, b"ORCLDISKDATA01")
}

fn storage_spaces(disk: &mut Canvas) -> Result<()> {
    disk.put(disk.size() - 4096, b"SPACEDB ")
}
