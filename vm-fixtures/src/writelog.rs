//! Logs of what a machine wrote to a disk, in the order in which it wrote, and disks rebuilt from
//! any part of one.
//!
//! QEMU's `blklogwrites` writes the format of the kernel's dm-log-writes (`drivers/md/dm-log-writes.c`):
//! a sector with magic, version, count of entries and sector size, then for each entry a sector
//! with place, length and flags (little endian, in sectors), and its bytes. The count is brought up
//! to date only now and then, so the entries are read until none follows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::{Value, json};

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The sector of the log itself, and the unit of its places and lengths.
const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
const PIECE: u64 = 1 << 20;

/// A block filter, as for [`crate::Disk::filter`], that logs what is written to the disk in a new
/// file.
pub fn log_writes_to(path: &Path) -> Result<Value> {
    File::create(path).with_context(|| format!("make the log {}", path.display()))?;
    Ok(json!({
        "driver": "blklogwrites",
        "log-sector-size": SECTOR,
        "log": { "driver": "file", "filename": path },
    }))
}

/// What a machine asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Bytes, to be found in the log.
    Write,
    /// A range that reads as zeroes from then on.
    Discard,
    /// Everything before it is durable when it has ended.
    Flush,
}

/// An entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// What was asked.
    pub request: Request,
    /// Byte offset on the disk.
    pub at: u64,
    /// Bytes; zero for a flush.
    pub len: u64,
    /// Whether it is durable by itself when it has ended, without a flush.
    pub forced: bool,
    /// Where its bytes are in the log.
    bytes_at: u64,
    /// Where the next entry begins.
    end: u64,
}

/// A log that was read.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    entries: Vec<Logged>,
}

impl WriteLog {
    /// Reads a log, also one that ends in the middle of an entry because QEMU was killed: that
    /// entry never reached the disk.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || format!("read the log {}", path.display());
        let file = File::open(path).with_context(read)?;
        let size = file.metadata().with_context(read)?.len();
        let mut entries = Vec::new();
        if size == 0 {
            // Nothing was written: not even its own first sector.
            return Ok(Self { file, entries });
        }
        let [magic, version, _count, sector] = words(&file, 0).with_context(read)?;
        let sector = sector & u64::from(u32::MAX);
        if (magic, version, sector) != (MAGIC, 1, SECTOR) {
            bail!("{} is no log of writes", path.display());
        }
        let mut at = SECTOR;
        while at + SECTOR <= size {
            let [place, count, flags, extra] = words(&file, at).with_context(read)?;
            if (place, count, flags, extra) == (0, 0, 0, 0) {
                break;
            }
            if flags & MARK != 0 || (flags & FLUSH != 0 && count != 0) {
                bail!("{} holds what QEMU does not log", path.display());
            }
            let bytes = |sectors: u64| {
                sectors
                    .checked_mul(SECTOR)
                    .with_context(|| format!("{}: an entry without end", path.display()))
            };
            let (request, stored) = match (flags & DISCARD != 0, count) {
                (true, _) => (Request::Discard, 0),
                (false, 0) => (Request::Flush, 0),
                (false, _) => (Request::Write, bytes(count)?),
            };
            let entry = Logged {
                request,
                at: bytes(place)?,
                len: bytes(count)?,
                forced: flags & FUA != 0,
                bytes_at: at + SECTOR,
                end: at + SECTOR + stored,
            };
            if entry.end > size {
                break;
            }
            at = entry.end;
            entries.push(entry);
        }
        Ok(Self { file, entries })
    }

    /// All of it, in order.
    pub fn entries(&self) -> &[Logged] {
        &self.entries
    }

    /// How many entries were there when the log had this many bytes.
    pub fn count_within(&self, bytes: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= bytes)
    }

    /// Where the writes begin that are not known to be durable after the first `count` entries.
    pub fn durable_within(&self, count: usize) -> usize {
        let mut before = self.entries.iter().take(count);
        before
            .rposition(|entry| entry.request == Request::Flush)
            .map_or(0, |flush| flush + 1)
    }

    /// The bytes of a write; none of anything else.
    pub fn bytes(&self, entry: usize) -> Result<Vec<u8>> {
        let logged = self.entry(entry)?;
        if logged.request != Request::Write {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; usize::try_from(logged.len)?];
        self.file
            .read_exact_at(&mut bytes, logged.bytes_at)
            .context("read the log")?;
        Ok(bytes)
    }

    /// Does to a disk's file what an entry did to the disk.
    pub fn apply(&self, entry: usize, disk: &File) -> Result<()> {
        self.apply_part(entry, 0, u64::MAX, disk)
    }

    /// The same with a part of its bytes only: a write that was torn.
    pub fn apply_part(&self, entry: usize, from: u64, to: u64, disk: &File) -> Result<()> {
        let logged = self.entry(entry)?;
        let end = to.min(logged.len);
        match logged.request {
            Request::Flush => Ok(()),
            Request::Discard if from < end => zero(disk, logged.at + from, end - from),
            Request::Write | Request::Discard => {
                let zeroes = vec![0; usize::try_from(PIECE.min(logged.len))?];
                let mut piece = zeroes.clone();
                let mut at = from;
                while at < end {
                    let len = PIECE.min(end - at);
                    let bytes = piece
                        .get_mut(..usize::try_from(len)?)
                        .context("a piece is longer than its buffer")?;
                    self.file
                        .read_exact_at(bytes, logged.bytes_at + at)
                        .context("read the log")?;
                    // mkfs clears whole journals: the file stays sparse.
                    if zeroes.starts_with(bytes) {
                        zero(disk, logged.at + at, len)?;
                    } else {
                        disk.write_all_at(bytes, logged.at + at)
                            .context("write a rebuilt disk")?;
                    }
                    at += len;
                }
                Ok(())
            }
        }
    }

    fn entry(&self, entry: usize) -> Result<&Logged> {
        let logged = self.entries.get(entry);
        logged.ok_or_else(|| anyhow!("the log has no entry {entry}"))
    }
}

fn zero(disk: &File, at: u64, len: u64) -> Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (at, len) = (i64::try_from(at)?, i64::try_from(len)?);
    fallocate(disk, hole, at, len).context("make a hole in a rebuilt disk")
}

/// The four numbers that a sector of the log begins with.
fn words(file: &File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)?;
    let (words, _none) = bytes.as_chunks::<8>();
    let mut numbers = words.iter().map(|word| u64::from_le_bytes(*word));
    let mut next = || numbers.next().context("four numbers");
    Ok([next()?, next()?, next()?, next()?])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    struct Made(Vec<u8>);

    impl Made {
        fn new() -> Self {
            let mut made = Self(Vec::new());
            // The count of entries is out of date, as QEMU leaves it.
            made.sector(&[MAGIC, 1, 0, SECTOR]);
            made
        }

        fn sector(&mut self, words: &[u64]) {
            let mut sector: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            sector.resize(512, 0);
            self.0.extend(sector);
        }

        fn write(mut self, sector: u64, bytes: &[u8]) -> Self {
            self.sector(&[sector, bytes.len() as u64 / 512, 0, 0]);
            self.0.extend(bytes);
            self
        }

        fn flush(mut self) -> Self {
            self.sector(&[0, 0, FLUSH, 0]);
            self
        }

        fn discard(mut self, sector: u64, count: u64) -> Self {
            self.sector(&[sector, count, DISCARD, 0]);
            self
        }

        fn read(&self) -> Result<WriteLog> {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &self.0).unwrap();
            WriteLog::read(file.path())
        }
    }

    fn requests(log: &WriteLog) -> Vec<(Request, u64, u64)> {
        let of = |entry: &Logged| (entry.request, entry.at, entry.len);
        log.entries().iter().map(of).collect()
    }

    fn disk() -> File {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(16 * 512).unwrap();
        disk
    }

    fn first_bytes(disk: &File) -> Vec<u8> {
        let mut bytes = vec![0; 16 * 512];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes.chunks(512).map(|sector| sector[0]).collect()
    }

    #[test]
    fn a_log_is_read_in_the_order_in_which_it_was_written() {
        let made = Made::new().write(2, &[7; 1024]).flush().discard(2, 1);
        let expected = [
            (Request::Write, 1024, 1024),
            (Request::Flush, 0, 0),
            (Request::Discard, 1024, 512),
        ];
        assert_eq!(requests(&made.read().unwrap()), expected);
        assert!(Made(Vec::new()).read().unwrap().entries().is_empty());
    }

    #[test]
    fn an_entry_that_was_cut_off_counts_for_nothing() {
        let mut made = Made::new().write(2, &[7; 1024]).write(4, &[8; 1024]);
        made.0.truncate(made.0.len() - 1);
        assert_eq!(requests(&made.read().unwrap()).len(), 1);
        made.0.truncate(5 * 512 - 1);
        assert_eq!(requests(&made.read().unwrap()).len(), 1);
        // Its place was taken in the log, and nothing was written there yet.
        made.0.truncate(4 * 512);
        made.0.resize(9 * 512, 0);
        assert_eq!(requests(&made.read().unwrap()).len(), 1);
    }

    #[test]
    fn what_is_no_log_is_an_error() {
        let mut made = Made::new();
        made.0[0] ^= 1;
        assert!(made.read().is_err());
        let mut marked = Made::new();
        marked.sector(&[0, 0, MARK, 3]);
        assert!(marked.read().is_err());
    }

    #[test]
    fn a_disk_is_rebuilt_entry_by_entry() {
        let made = Made::new()
            .write(2, &[7; 1024])
            .write(3, &[9; 512])
            .write(2, &[0; 512])
            .discard(3, 1);
        let (log, disk) = (made.read().unwrap(), disk());
        let mut seen = Vec::new();
        for entry in 0..4 {
            log.apply(entry, &disk).unwrap();
            seen.push(first_bytes(&disk)[2..4].to_vec());
        }
        assert_eq!(seen, [[7, 7], [7, 9], [0, 9], [0, 0]]);
        assert!(log.apply(4, &disk).is_err());
    }

    #[test]
    fn a_torn_write_leaves_the_rest_as_it_was() {
        let (log, disk) = (Made::new().write(1, &[7; 4 * 512]).read().unwrap(), disk());
        log.apply_part(0, 512, 1024, &disk).unwrap();
        assert_eq!(first_bytes(&disk)[..6], [0, 0, 7, 0, 0, 0]);
        assert_eq!(log.bytes(0).unwrap(), vec![7; 4 * 512]);
    }

    #[test]
    fn what_is_durable_ends_with_the_last_flush() {
        let made = Made::new()
            .write(1, &[1; 512])
            .flush()
            .write(2, &[2; 512])
            .write(3, &[3; 512]);
        let log = made.read().unwrap();
        assert_eq!(
            [0, 1, 2, 3, 4].map(|count| log.durable_within(count)),
            [0, 0, 2, 2, 2]
        );
    }

    #[test]
    fn the_length_of_a_log_tells_how_much_of_it_was_there() {
        let made = Made::new().write(1, &[1; 512]).flush().write(2, &[2; 512]);
        let log = made.read().unwrap();
        assert_eq!(
            [512, 1535, 1536, 2048, 3072].map(|bytes| log.count_within(bytes)),
            [0, 0, 1, 2, 3]
        );
    }
}
