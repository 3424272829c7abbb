//! Disks' files as the host looks at them.

use std::{fs::File, os::unix::fs::FileExt, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

/// Where every partition of the agent begins.
const PARTITION: u64 = 1 << 20;
const PIECE: u64 = 1 << 20;

/// Checks the filesystem in the partition of a disk that is not in use;
/// nothing is repaired. The text is what the checker printed when it found
/// something.
pub fn check_filesystem(disk: &Path, filesystem: &str) -> Result<Result<(), String>> {
    let partition = tempfile::NamedTempFile::new_in(disk.parent().context("a directory")?)?;
    copy_data(&File::open(disk)?, PARTITION, partition.as_file())?;
    let (program, options): (_, &[&str]) = match filesystem {
        "ext4" => ("e2fsck", &["-fn"]),
        _ => ("xfs_repair", &["-n", "-f"]),
    };
    let checked = Command::new(program)
        .args(options)
        .arg(partition.path())
        .output()
        .with_context(|| format!("run {program}"))?;
    Ok(if checked.status.success() {
        Ok(())
    } else {
        let [out, err] =
            [&checked.stdout, &checked.stderr].map(|text| String::from_utf8_lossy(text));
        Err(format!("{program}: {}\n{out}{err}", checked.status))
    })
}

/// A copy of a disk that is as sparse as it is.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_data(&File::open(from)?, 0, &File::create_new(to)?)
}

/// Copies what is behind an offset to the beginning of another file.
fn copy_data(from: &File, offset: u64, to: &File) -> Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size - offset)?;
    let mut piece = vec![0; usize::try_from(PIECE)?];
    let mut at = offset;
    while let Some(start) = seek(from, at, Whence::SeekData)? {
        let end = seek(from, start, Whence::SeekHole)?.unwrap_or(size);
        at = start;
        while at < end {
            let len = usize::try_from(PIECE.min(end - at))?;
            from.read_exact_at(&mut piece[..len], at)?;
            to.write_all_at(&piece[..len], at - offset)?;
            at += len as u64;
        }
    }
    Ok(())
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<Option<u64>> {
    match lseek(file, i64::try_from(at)?, whence) {
        Ok(found) => Ok(Some(u64::try_from(found)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Which of the agent's filesystems is in the partition. Where the journal is
/// lost, an unfinished one is made again as the policy says.
pub fn filesystem(disk: &Path) -> Result<&'static str> {
    let xfs = bytes(disk, PARTITION, 4)? == b"XFSB";
    Ok(if xfs { "xfs" } else { "ext4" })
}

/// What tells this filesystem from one that is made again with the same UUID:
/// for ext4 the random seed of its directory hashes (`s_hash_seed`), for XFS
/// the moment at which the root inode was made (`di_crtime`).
pub fn birth(disk: &Path, filesystem: &str) -> Result<Vec<u8>> {
    match filesystem {
        "ext4" => bytes(disk, PARTITION + 1024 + 0xec, 16),
        _ => bytes(disk, PARTITION + 0x10000 + 144, 8),
    }
}

/// UUID of the filesystem in the partition.
pub fn uuid(disk: &Path, filesystem: &str) -> Result<String> {
    let at = if filesystem == "ext4" {
        1024 + 0x68
    } else {
        32
    };
    let digits = bytes(disk, PARTITION + at, 16)?;
    let digits: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits[part].to_owned());
    Ok(parts.join("-"))
}

/// Whether a sector of a committed table is on the disk.
pub fn is_committed(disk: &Path) -> Result<bool> {
    let wanted: Vec<u8> = "longhorn:"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let size = disk.metadata()?.len();
    let ends = [
        bytes(disk, 0, 32 << 10)?,
        bytes(disk, size - (32 << 10), 32 << 10)?,
    ];
    let found = |end: &Vec<u8>| end.windows(wanted.len()).any(|window| window == wanted);
    Ok(ends.iter().any(found))
}

/// Digest of a disk with nothing but zeroes.
pub fn blank_digest(size: u64) -> Result<String> {
    let blank = tempfile::NamedTempFile::new()?;
    blank.as_file().set_len(size)?;
    vm_fixtures::digest_file(blank.path())
}

fn bytes(disk: &Path, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let file = File::open(disk)?;
    file.read_exact_at(&mut bytes, at)?;
    ensure!(bytes.len() == len);
    Ok(bytes)
}
