//! A digest of a disk's content that does not depend on how sparse its file is.
//!
//! SHA-256 over the size in bytes, then, for every 64 KiB block that holds anything but zeroes,
//! its offset and its bytes (offsets and size as 64-bit little endian; the last block may be
//! shorter). Same content, same digest; a block of zeroes equals a hole. Holes are skipped
//! through `SEEK_DATA`, so an empty 12 GiB disk costs nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};

use crate::key::hex;

const BLOCK: u64 = 64 * 1024;
static ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// The digest of a raw disk image, in hexadecimal.
pub fn digest_file(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file
        .metadata()
        .with_context(|| format!("look at {}", path.display()))?
        .len();
    let mut content = ContentDigest::new(size);
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    while let Some(found) = next_data(&file, at, size)? {
        // Blocks are counted from the start of the disk, wherever its data begin.
        at = found - found % BLOCK;
        let length = BLOCK.min(size - at);
        let bytes = block
            .get_mut(..length as usize)
            .context("a block is longer than its buffer")?;
        file.read_exact_at(bytes, at)
            .with_context(|| format!("read {} at {at}", path.display()))?;
        content.block(at, bytes);
        at += length;
    }
    Ok(content.finish())
}

/// Where the next byte that may not be zero is, at or after `at`.
fn next_data(file: &File, at: u64, size: u64) -> Result<Option<u64>> {
    if at >= size {
        return Ok(None);
    }
    match lseek(file, at as i64, Whence::SeekData) {
        Ok(found) => Ok(Some(found as u64).filter(|&found| found < size)),
        Err(Errno::ENXIO) => Ok(None),
        // A file system without SEEK_DATA: all of it may be data.
        Err(Errno::EINVAL) => Ok(Some(at)),
        Err(error) => Err(error).context("seek to the next data"),
    }
}

/// The digest in the making; blocks come in the order of their offsets.
#[derive(Debug)]
struct ContentDigest {
    hash: Sha256,
}

impl ContentDigest {
    fn new(size: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(size.to_le_bytes());
        Self { hash }
    }

    fn block(&mut self, at: u64, bytes: &[u8]) {
        // One comparison of memory, and not a loop, which is slow in a build for debugging.
        if !ZEROES.starts_with(bytes) {
            self.hash.update(at.to_le_bytes());
            self.hash.update(bytes);
        }
    }

    fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SIZE: u64 = 5 * BLOCK + 512;

    fn disk(writes: &[(u64, &[u8])]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        for (at, bytes) in writes {
            file.as_file().write_all_at(bytes, *at).unwrap();
        }
        digest_file(file.path()).unwrap()
    }

    #[test]
    fn a_sparse_disk_equals_a_dense_one_of_the_same_content() {
        let zeroes = vec![0; SIZE as usize];
        let words: (u64, &[u8]) = (3 * BLOCK + 17, b"words");
        assert_eq!(disk(&[words]), disk(&[(0, &zeroes), words]));
        assert_eq!(disk(&[]), disk(&[(0, &zeroes)]));
    }

    #[test]
    fn content_place_and_size_all_count() {
        let one = disk(&[(BLOCK, b"x")]);
        assert_ne!(one, disk(&[]));
        assert_ne!(one, disk(&[(BLOCK, b"y")]));
        assert_ne!(one, disk(&[(2 * BLOCK, b"x")]));
        assert_ne!(one, disk(&[(BLOCK + 1, b"x")]));
        let longer = tempfile::NamedTempFile::new().unwrap();
        longer.as_file().set_len(SIZE + 512).unwrap();
        longer.as_file().write_all_at(b"x", BLOCK).unwrap();
        assert_ne!(one, digest_file(longer.path()).unwrap());
    }

    #[test]
    fn the_short_block_at_the_end_counts() {
        assert_ne!(disk(&[(SIZE - 1, b"z")]), disk(&[]));
    }
}
