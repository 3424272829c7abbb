//! A disk's file, to be written by hand. All chance comes from one seed, so
//! that a run can be repeated.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

/// A sparse file that becomes a disk.
#[derive(Debug)]
pub struct Canvas {
    file: File,
    size: u64,
    chance: StdRng,
    notes: Vec<String>,
}

impl Canvas {
    /// A new file of that size; `seed` decides what is random in it.
    pub fn create(path: &Path, size: u64, seed: u64) -> Result<Self> {
        let file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        file.set_len(size)?;
        Ok(Self {
            file,
            size,
            chance: StdRng::seed_from_u64(seed),
            notes: Vec::new(),
        })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes bytes.
    pub fn put(&mut self, at: u64, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        assert!(at + bytes.len() as u64 <= self.size, "beyond the disk");
        self.file.write_all_at(bytes, at).context("write the disk")
    }

    /// Writes random bytes, none of them zero.
    pub fn put_random(&mut self, at: u64, len: usize) -> Result<()> {
        let mut bytes = vec![0; len];
        self.chance.fill_bytes(&mut bytes);
        for byte in &mut bytes {
            *byte = (*byte).max(1);
        }
        self.put(at, bytes)
    }

    /// A random place in a range.
    pub fn place(&mut self, range: Range<u64>) -> u64 {
        self.chance.random_range(range)
    }

    /// Remembers what chance chose, to be printed.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// What chance chose.
    pub fn into_notes(self) -> Vec<String> {
        self.notes
    }
}

/// CRC-32C (Castagnoli) as Stratis and SPDK use it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _bit| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    let crc = bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    });
    !crc
}
