//! Reads a device past the page cache, piece by piece: the medium is the
//! witness, not a cached copy, and nothing is pushed out of memory for it.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::{ControlFlow, Range},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
};

/// Read in pieces of at most this size.
const PIECE: usize = 1024 * 1024;
/// What `O_DIRECT` asks of buffers on any sector size.
const ALIGNMENT: usize = 4096;

/// An open device and a buffer to read it with.
#[derive(Debug)]
pub struct Pieces<'a> {
    disk: &'a File,
    direct: Option<File>,
    buffer: Vec<u8>,
    /// Bytes read so far.
    pub bytes: u64,
    /// Requests made so far.
    pub reads: u64,
}

impl<'a> Pieces<'a> {
    /// For an open device; where it has no direct reads, through the cache.
    pub fn of(disk: &'a File) -> Self {
        Self {
            disk,
            direct: reopen_direct(disk),
            buffer: Vec::new(),
            bytes: 0,
            reads: 0,
        }
    }

    /// Reads a range from its beginning to its end, or until `look` has seen
    /// enough. `look` gets the place of each piece and its bytes.
    ///
    /// # Errors
    /// When something cannot be read; a range that ends behind the device is
    /// an error and not zeroes.
    pub fn each(
        &mut self,
        range: Range<u64>,
        mut look: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut position = range.start;
        while position < range.end {
            let left = range.end - position;
            let len = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let piece = self.read(position, len)?;
            if look(position, piece).is_break() {
                return Ok(());
            }
            position += len as u64;
        }
        Ok(())
    }

    fn read(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        if self.buffer.len() < len + ALIGNMENT {
            self.buffer = vec![0; len + ALIGNMENT];
        }
        let aligned = self.buffer.as_ptr().align_offset(ALIGNMENT);
        let piece = self
            .buffer
            .get_mut(aligned..aligned + len)
            .ok_or_else(|| io::Error::other("no aligned buffer"))?;
        match &self.direct {
            Some(direct) => match direct.read_exact_at(piece, position) {
                // Not every length is a multiple of the sector size.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.disk.read_exact_at(piece, position)?;
                }
                other => other?,
            },
            None => self.disk.read_exact_at(piece, position)?,
        }
        self.bytes += len as u64;
        self.reads += 1;
        Ok(piece)
    }
}

/// A second open file of the same device with `O_DIRECT`, by way of the
/// descriptor, so that it cannot be another device. `None` where that cannot
/// be had: what is read is the same without it.
fn reopen_direct(disk: &File) -> Option<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    match opened {
        Ok(direct) => Some(direct),
        Err(error) => {
            tracing::debug!(%error, "no direct reads, reading through the cache");
            None
        }
    }
}

/// First byte of a range that is not zero.
///
/// # Errors
/// When a byte before that cannot be read.
pub fn first_nonzero(pieces: &mut Pieces<'_>, range: Range<u64>) -> io::Result<Option<u64>> {
    let mut found = None;
    pieces.each(range, |at, piece| match nonzero_in(piece) {
        Some(within) => {
            found = Some(at + within as u64);
            ControlFlow::Break(())
        }
        None => ControlFlow::Continue(()),
    })?;
    Ok(found)
}

/// What blank pieces are compared with.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Whether all is zero.
pub fn is_zero(piece: &[u8]) -> bool {
    // Comparing slices is memcmp, which no loop of ours matches.
    piece
        .chunks(ZEROES.len())
        .all(|block| ZEROES.get(..block.len()) == Some(block))
}

/// Place of the first byte that is not zero.
pub fn nonzero_in(piece: &[u8]) -> Option<usize> {
    let block = piece
        .chunks(ZEROES.len())
        .position(|block| !is_zero(block))?;
    let start = block * ZEROES.len();
    let within = piece.get(start..)?.iter().position(|byte| *byte != 0)?;
    Some(start + within)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(size: u64) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("its size");
        file
    }

    #[test]
    fn a_single_byte_anywhere_is_found_where_it_is() {
        let size = 5 * PIECE as u64 + 512;
        for at in [0, 1, 4096, PIECE as u64, size - 513, size - 1] {
            let file = image(size);
            let found = |file| first_nonzero(&mut Pieces::of(file), 0..size).expect("read");
            assert_eq!(found(&file), None);
            file.write_all_at(&[1], at).expect("a byte");
            assert_eq!(found(&file), Some(at));
        }
    }

    #[test]
    fn a_short_device_is_an_error_and_not_zero() {
        let file = image(1 << 20);
        assert!(first_nonzero(&mut Pieces::of(&file), 0..64 << 20).is_err());
    }

    #[test]
    fn what_was_read_is_counted() {
        let file = image(4 << 20);
        let mut pieces = Pieces::of(&file);
        assert_eq!(first_nonzero(&mut pieces, 0..3 << 20).expect("read"), None);
        assert_eq!((pieces.bytes, pieces.reads), (3 << 20, 3));
    }

    proptest! {
        #[test]
        fn nonzero_is_found_where_it_is(at in 0..200_000_usize, len in 1..200_000_usize) {
            let mut piece = vec![0; len];
            prop_assert_eq!(nonzero_in(&piece), None);
            prop_assert!(is_zero(&piece));
            let at = at % len;
            piece[at] = 0x80;
            prop_assert_eq!(nonzero_in(&piece), Some(at));
            prop_assert!(!is_zero(&piece));
        }
    }
}
