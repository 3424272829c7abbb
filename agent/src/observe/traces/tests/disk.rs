//! A disk made of a sparse file, of which parts read as zero.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    claim::Geometry,
    observe::traces::{Trace, find},
};

const MIB: u64 = 1 << 20;

/// A file that lies somewhere on an otherwise blank disk.
pub struct Disk {
    file: tempfile::NamedTempFile,
    geometry: Geometry,
    start: u64,
    len: u64,
    erased: Vec<Range<u64>>,
}

impl Disk {
    /// All of the disk is the file.
    pub fn whole(size: u64) -> Self {
        Self::with_partition(size, 0, size)
    }

    /// The file is a partition from `start` to `end` on a disk of that size.
    pub fn with_partition(size: u64, start: u64, end: u64) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(end - start).expect("its size");
        Self {
            file,
            geometry: Geometry { size, sector: 512 },
            start,
            len: end - start,
            erased: Vec::new(),
        }
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Runs a program on the file.
    pub fn made_by(self, program: &str, arguments: &[&str]) -> Self {
        run(Command::new(program).args(arguments).arg(self.path()));
        self
    }

    /// Writes to the file.
    pub fn with(self, at: u64, bytes: &[u8]) -> Self {
        self.file().write_all_at(bytes, at).expect("a write");
        self
    }

    /// What `dd if=/dev/zero` does to both ends of the disk.
    pub fn without_ends(self) -> Self {
        let size = self.geometry.size;
        self.without(0..8 * MIB).without(size - 8 * MIB..size)
    }

    /// Zeroes a part of the disk.
    pub fn without(mut self, range: Range<u64>) -> Self {
        self.erased.push(range);
        self
    }

    /// What `wipefs -a` leaves of the partition.
    pub fn wiped(self) -> Self {
        run(Command::new("wipefs").arg("-a").arg(self.path()));
        self
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = at + len as u64;
        assert!(
            end <= self.geometry.size,
            "{len} bytes at {at} are beyond the end"
        );
        let mut bytes = vec![0; len];
        let from = at.max(self.start);
        let to = end.min(self.start + self.len);
        if from < to {
            let part = &mut bytes[(from - at) as usize..(to - at) as usize];
            self.file().read_exact_at(part, from - self.start)?;
        }
        for range in &self.erased {
            let from = range.start.max(at);
            let to = range.end.min(end);
            if from < to {
                bytes[(from - at) as usize..(to - at) as usize].fill(0);
            }
        }
        Ok(bytes)
    }

    pub fn traces(&self) -> Vec<Trace> {
        find(self.geometry, &mut |at, len| self.read(at, len)).expect("a disk that can be read")
    }
}

pub fn run(command: &mut Command) {
    let made = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(made.status.success(), "{command:?}: {made:?}");
}
