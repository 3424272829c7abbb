//! The two ends of a disk, where partition tables live, as one seekable thing.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::Geometry;

/// Bytes of a GPT entry array: 128 entries of 128 bytes, as everybody makes it.
pub(super) const ENTRY_ARRAY: u64 = 128 * 128;

/// Copies of the first and last sectors of a disk: protective MBR, header and
/// entries in front, entries and header behind. Everything in between cannot
/// be reached through it, so a table writer that goes astray gets an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    geometry: Geometry,
    head: Vec<u8>,
    tail: Vec<u8>,
    position: u64,
}

impl Ends {
    /// Bytes in front that belong to a table: MBR, header, entries.
    pub fn head_len(geometry: Geometry) -> u64 {
        2 * u64::from(geometry.sector) + ENTRY_ARRAY
    }

    /// Bytes behind that belong to a table: entries, header.
    pub fn tail_len(geometry: Geometry) -> u64 {
        u64::from(geometry.sector) + ENTRY_ARRAY
    }

    /// Where the tail begins. `None` when the disk is too small for a table
    /// or its geometry makes no sense.
    pub fn tail_start(geometry: Geometry) -> Option<u64> {
        let known_sector = matches!(geometry.sector, 512 | 1024 | 2048 | 4096);
        let whole = known_sector && geometry.size.is_multiple_of(u64::from(geometry.sector));
        // Room for an aligned first mebibyte and something behind it.
        if !whole || geometry.size < 4 * 1024 * 1024 {
            return None;
        }
        geometry.size.checked_sub(Self::tail_len(geometry))
    }

    /// All zero, as on a blank disk.
    pub fn zeroed(geometry: Geometry) -> Option<Self> {
        Self::tail_start(geometry)?;
        let zeroes = |len: u64| usize::try_from(len).ok().map(|len| vec![0; len]);
        Self::new(
            geometry,
            zeroes(Self::head_len(geometry))?,
            zeroes(Self::tail_len(geometry))?,
        )
    }

    /// From what was read off a disk; `None` when the lengths are not right.
    pub fn new(geometry: Geometry, head: Vec<u8>, tail: Vec<u8>) -> Option<Self> {
        Self::tail_start(geometry)?;
        let right = head.len() as u64 == Self::head_len(geometry)
            && tail.len() as u64 == Self::tail_len(geometry);
        right.then_some(Self {
            geometry,
            head,
            tail,
            position: 0,
        })
    }

    /// Size and sector size of the disk.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The first bytes of the disk.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The last bytes of the disk.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Every sector of both ends, in a fixed order.
    pub fn sectors(&self) -> impl Iterator<Item = &[u8]> {
        let sector = usize::try_from(self.geometry.sector).unwrap_or(512).max(1);
        self.head.chunks(sector).chain(self.tail.chunks(sector))
    }

    /// Every sector of both ends with its byte offset on the disk, in order.
    pub fn sectors_at(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let size = u64::from(self.geometry.sector).max(1);
        let tail_start = self.geometry.size.saturating_sub(self.tail.len() as u64);
        let head = (0..self.head.len() as u64 / size).map(move |at| at * size);
        let tail = (0..self.tail.len() as u64 / size).map(move |at| tail_start + at * size);
        head.chain(tail).zip(self.sectors())
    }

    /// The range of bytes to write at the position, in whichever end it lies.
    fn writable(&mut self, len: usize) -> io::Result<&mut [u8]> {
        let tail_start = self.geometry.size - self.tail.len() as u64;
        let (part, start) = if self.position >= tail_start {
            (&mut self.tail, self.position - tail_start)
        } else {
            (&mut self.head, self.position)
        };
        usize::try_from(start)
            .ok()
            .and_then(|start| part.get_mut(start..start.checked_add(len)?))
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("byte {} belongs to neither end of the disk", self.position),
                )
            })
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // gptman reads by the size of its types in memory, a little more than
        // the last entry holds: what lies between the ends reads as zero.
        let tail_start = self.geometry.size - self.tail.len() as u64;
        let (part, start) = if self.position >= tail_start {
            (&self.tail, self.position - tail_start)
        } else {
            (&self.head, self.position)
        };
        let there = usize::try_from(start)
            .ok()
            .and_then(|start| part.get(start..))
            .unwrap_or_default();
        let len = there.len().min(buffer.len());
        buffer.fill(0);
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), there.get(..len)) {
            to.copy_from_slice(from);
        }
        self.position += buffer.len() as u64;
        Ok(buffer.len())
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writable(bytes.len())?.copy_from_slice(bytes);
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.geometry.size.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        self.position = position
            .filter(|position| *position <= self.geometry.size)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
