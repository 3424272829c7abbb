//! Pieces of a disk and the numbers in them.

use std::{io, ops::Range, rc::Rc};

use super::BLOCK;
use crate::{claim::Geometry, observe::pieces::is_zero};

/// Bytes read off a disk, with where they were.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) at: u64,
    bytes: Rc<[u8]>,
}

impl Piece {
    pub(super) fn is_zero(&self) -> bool {
        is_zero(&self.bytes)
    }

    /// Each structure of `len` bytes that may begin at a sector of 512 bytes,
    /// with where on the disk that is.
    pub(super) fn sectors(&self, len: usize) -> impl Iterator<Item = (u64, Fields<'_>)> {
        (0..self.bytes.len()).step_by(512).filter_map(move |from| {
            let bytes = self.bytes.get(from..from.checked_add(len)?)?;
            Some((self.at.checked_add(from as u64)?, Fields(bytes)))
        })
    }

    /// The structure of `len` bytes at a byte of the disk, if the piece has it.
    pub(super) fn structure(&self, position: u64, len: usize) -> Option<Fields<'_>> {
        let from = usize::try_from(position.checked_sub(self.at)?).ok()?;
        Some(Fields(self.bytes.get(from..from.checked_add(len)?)?))
    }
}

/// The fields of a structure, by their offset. `None` is beyond its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(self, range: Range<usize>) -> Option<&'a [u8]> {
        self.0.get(range)
    }

    /// Whether these bytes are there at the offset.
    pub(super) fn has(self, at: usize, magic: &[u8]) -> bool {
        self.0
            .get(at..)
            .is_some_and(|bytes| bytes.starts_with(magic))
    }

    /// Whether these bytes are anywhere in it.
    pub(super) fn contains(self, text: &[u8]) -> bool {
        self.0.windows(text.len()).any(|window| window == text)
    }

    pub(super) fn byte(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    pub(super) fn le16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn le32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn le64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn be16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn be32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }
}

/// What a format's first superblock has in common with its copies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Likeness {
    /// Where the magic number is.
    pub(super) magic: (usize, usize),
    /// Fields that are equal in both: UUID and what the format's shape hangs on.
    pub(super) same: &'static [(usize, usize)],
}

/// Reads pieces of the disk.
pub(super) struct Reader<'a> {
    size: u64,
    read: &'a mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
    last: Option<(usize, Piece)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        geometry: Geometry,
        read: &'a mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
    ) -> Self {
        Self {
            size: super::whole_sectors(geometry),
            read,
            last: None,
        }
    }

    /// Several owners may have a copy at one place: it is read once.
    pub(super) fn piece(&mut self, at: u64, len: usize) -> io::Result<Piece> {
        if let Some((last_len, last)) = &self.last
            && *last_len == len
            && last.at == at
        {
            return Ok(last.clone());
        }
        let bytes = (self.read)(at, len)?;
        if bytes.len() != len {
            let message = format!("{} of {len} bytes read at byte {at}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let piece = Piece {
            at,
            bytes: bytes.into(),
        };
        self.last = Some((len, piece.clone()));
        Ok(piece)
    }

    /// The blocks that hold `len` bytes from `position` on; `None` where the
    /// disk has no such bytes.
    pub(super) fn around(&mut self, position: u64, len: usize) -> io::Result<Option<Piece>> {
        let end = position.checked_add(len as u64);
        let Some(end) = end.filter(|end| *end <= self.size) else {
            return Ok(None);
        };
        let at = position - position % BLOCK;
        let end = end
            .checked_next_multiple_of(BLOCK)
            .map_or(self.size, |end| end.min(self.size));
        let len = usize::try_from(end - at).map_err(io::Error::other)?;
        self.piece(at, len).map(Some)
    }

    /// Whether the first superblock at `primary` is intact and belongs with
    /// the copy, but for its magic number, which is zero.
    pub(super) fn is_wiped(
        &mut self,
        primary: u64,
        copy: Fields<'_>,
        likeness: Likeness,
    ) -> io::Result<bool> {
        let len = copy.0.len();
        let piece = self.around(primary, len)?;
        let Some(first) = piece
            .as_ref()
            .and_then(|piece| piece.structure(primary, len))
        else {
            return Ok(false);
        };
        let field = |(at, len): (usize, usize)| at..at.saturating_add(len);
        let erased = first
            .bytes(field(likeness.magic))
            .is_some_and(|magic| magic.iter().all(|byte| *byte == 0));
        let same = likeness.same.iter().all(|part| {
            let there = copy.bytes(field(*part));
            there.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
                && there == first.bytes(field(*part))
        });
        Ok(erased && same)
    }
}
