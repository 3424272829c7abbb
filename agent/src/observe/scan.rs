//! Looks for anything that is not zero where the owner of a disk would show:
//! at both ends, where formats keep copies of what they cannot do without, and
//! in a sample of what lies between.

use std::{
    fs::File,
    io,
    ops::{ControlFlow, Range},
    os::unix::fs::FileExt,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    pieces::{Pieces, is_zero, nonzero_in},
    sample::{self, Seed},
    signature::{Part, Signature, probe},
    traces::{self, Trace},
};
use crate::{claim::Geometry, fact::Fact, text::hex};

/// Bytes at either end of a disk that must be zero. Every format that Linux
/// knows keeps a signature or a backup within them.
pub const ZERO_END: u64 = 8 * 1024 * 1024;
/// What is not zero is hashed in blocks of this size.
const BLOCK: usize = 4096;

/// What was found on a disk that libblkid finds nothing on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scan {
    /// Decides where the sample was taken.
    pub seed: Seed,
    /// First byte found that is not zero.
    pub residue: Option<u64>,
    /// Formats whose copies were found, or that begin where a partition would.
    pub traces: Vec<Trace>,
    /// SHA-256 over every block that was read and is not zero, with its place:
    /// the same seed on the same contents gives the same digest.
    pub digest: String,
    /// Bytes read.
    pub bytes: u64,
    /// Requests made.
    pub reads: u64,
}

/// Ranges that are read, in order, each once: of the whole disk, or of what
/// lies behind some byte of it as if that were a disk of its own. The copies of
/// a filesystem on the whole disk are where they are in either case.
pub(super) fn ranges(geometry: Geometry, behind: u64, seed: Seed) -> Vec<Range<u64>> {
    let size = geometry.size;
    let head = behind..size.min(behind.saturating_add(ZERO_END));
    let tail = size.saturating_sub(ZERO_END).max(head.end)..size;
    let places = traces::places(geometry).into_iter().map(|place| {
        let end = place.at.saturating_add(place.len as u64).min(size);
        place.at.max(behind)..end
    });
    let sampled = sample::pieces(head.end..tail.start, seed);
    let mut all: Vec<Range<u64>> = places.chain(sampled).chain([head, tail]).collect();
    all.retain(|range| !range.is_empty());
    all.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

/// Reads all that a proof of blankness asks for.
///
/// # Errors
/// When anything of it cannot be read.
pub fn scan(disk: &File, geometry: Geometry, seed: Seed) -> io::Result<Scan> {
    let mut pieces = Pieces::of(disk);
    let mut residue = None;
    let mut hash = Sha256::new();
    for range in ranges(geometry, 0, seed) {
        pieces.each(range, |at, piece| {
            if let Some(within) = nonzero_in(piece) {
                residue.get_or_insert(at + within as u64);
                hash_blocks(&mut hash, at, piece);
            }
            ControlFlow::Continue(())
        })?;
    }
    let digest = hash.finalize();
    let traces = match residue {
        // All places were read and are zero: nothing can be named.
        None => Vec::new(),
        Some(first) => name(disk, geometry, first)?,
    };
    Ok(Scan {
        seed,
        residue,
        traces,
        digest: hex(&digest),
        bytes: pieces.bytes,
        reads: pieces.reads,
    })
}

fn hash_blocks(hash: &mut Sha256, at: u64, piece: &[u8]) {
    let blocks = (at..).step_by(BLOCK).zip(piece.chunks(BLOCK));
    for (at, block) in blocks.filter(|(_, block)| !is_zero(block)) {
        hash.update(at.to_le_bytes());
        hash.update((block.len() as u64).to_le_bytes());
        hash.update(block);
    }
}

/// Who left what is there, as far as it can be told.
fn name(disk: &File, geometry: Geometry, first: u64) -> io::Result<Vec<Trace>> {
    let mut read = |at, len| {
        let mut bytes = vec![0; len];
        disk.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let mut traces = traces::find(geometry, &mut read)?;
    for (start, end) in traces::partitions(geometry, first, &mut read)? {
        let part = Part::Range {
            start,
            length: end - start,
        };
        let kind = match probe(disk, part) {
            Fact::Known(Signature::Nothing) => continue,
            Fact::Known(Signature::Found(found)) => found.kind,
            Fact::Known(Signature::Ambivalent) => "ambivalent".to_owned(),
            Fact::Unreadable(why) => return Err(io::Error::other(why.to_string())),
        };
        let found = Trace {
            kind,
            at: start,
            wiped: false,
        };
        if !traces.iter().any(|known| is_same(known, &found)) {
            traces.push(found);
        }
    }
    traces.sort();
    Ok(traces)
}

/// Whether what libblkid found from its beginning on is listed already: by
/// that very place, where it took a copy for the first superblock, or by the
/// first superblock, which some formats have further in.
fn is_same(known: &Trace, found: &Trace) -> bool {
    const FURTHEST_SUPERBLOCK: u64 = 64 * 1024;
    let within = known.at.checked_sub(found.at);
    let there = match within {
        Some(0) => true,
        Some(within) => !known.wiped && within <= FURTHEST_SUPERBLOCK,
        None => false,
    };
    there && known.kind == found.kind
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(size).expect("its size");
        file
    }

    fn geometry(size: u64) -> Geometry {
        Geometry { size, sector: 512 }
    }

    fn scanned(file: &tempfile::NamedTempFile, seed: u64) -> Scan {
        let size = file.as_file().metadata().expect("metadata").len();
        scan(file.as_file(), geometry(size), Seed(seed)).expect("read")
    }

    #[test]
    fn zeroes_leave_no_residue_and_no_trace() {
        let scan = scanned(&image(12 << 30), 7);
        assert_eq!((scan.residue, scan.traces.len()), (None, 0));
        assert_eq!(scan.seed, Seed(7));
    }

    #[test]
    fn a_single_byte_anywhere_in_the_ends_is_found() {
        let size = 64 * MIB;
        for at in [0, 1, 511, ZERO_END - 1, size - ZERO_END, size - 1] {
            let file = image(size);
            file.as_file().write_all_at(&[1], at).expect("a byte");
            assert_eq!(scanned(&file, 1).residue, Some(at));
        }
    }

    #[test]
    fn a_disk_smaller_than_both_ends_is_read_once_and_whole() {
        let size = 12 * MIB;
        let file = image(size);
        file.as_file().write_all_at(&[1], size - 1).expect("a byte");
        let scan = scanned(&file, 1);
        assert_eq!((scan.residue, scan.bytes), (Some(size - 1), size));
    }

    #[test]
    fn a_disk_of_an_odd_number_of_sectors_is_read_to_its_last_byte() {
        let size = 40 * MIB + 512;
        let file = image(size);
        assert_eq!(scanned(&file, 1).residue, None);
        file.as_file().write_all_at(&[1], size - 1).expect("a byte");
        assert_eq!(scanned(&file, 1).residue, Some(size - 1));
    }

    #[test]
    fn a_short_device_is_an_error_and_not_zero() {
        let file = image(MIB);
        assert!(scan(file.as_file(), geometry(64 * MIB), Seed(1)).is_err());
    }

    #[test]
    fn the_digest_is_of_contents_and_places_and_not_of_chance() {
        let digest = |writes: &[(u64, &[u8])]| {
            let file = image(64 * MIB);
            for (at, bytes) in writes {
                file.as_file().write_all_at(bytes, *at).expect("bytes");
            }
            scanned(&file, 1).digest
        };
        let one = digest(&[(100, b"words")]);
        assert_eq!(one, digest(&[(100, b"words")]));
        let others: [&[(u64, &[u8])]; 3] = [&[], &[(101, b"words")], &[(100, b"wordS")]];
        for other in others {
            assert_ne!(one, digest(other), "{other:?}");
        }
        assert_ne!(one, digest(&[(100, b"words"), (63 * MIB, b"x")]));
    }

    #[test]
    fn data_in_a_tenth_of_the_middle_are_seen_by_every_sample() {
        let file = image(2 << 30);
        let data = vec![0xaa; 205 << 20];
        file.as_file().write_all_at(&data, 1 << 30).expect("data");
        for seed in 0..20 {
            assert!(scanned(&file, seed).residue.is_some(), "{seed}");
        }
    }

    /// The cost that DESIGN asks for, counted: time is measured by a bench.
    #[test]
    fn a_disk_of_sixteen_tebibytes_costs_less_than_64_mebibytes_and_500_requests() {
        let ranges = ranges(geometry(16 << 40), 0, Seed(1));
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let requests: u64 = ranges
            .iter()
            .map(|range| (range.end - range.start).div_ceil(MIB))
            .sum();
        assert!(bytes < 64 * MIB, "{bytes}");
        assert!(requests < 500, "{requests}");
        for pair in ranges.windows(2) {
            assert!(pair[0].end < pair[1].start, "{pair:?}");
        }
    }

    #[test]
    fn a_filesystem_in_a_partition_whose_table_is_gone_is_named() {
        for start in [MIB, 63 * 512, 8 * MIB, 13 * MIB] {
            let file = image(128 * MIB);
            let made = Command::new("mkfs.ext4")
                .args(["-q", "-F", "-E", &format!("offset={start}")])
                .arg(file.path())
                .arg("64M")
                .output()
                .expect("mkfs.ext4 of the package e2fsprogs");
            assert!(made.status.success(), "{made:?}");
            let scan = scanned(&file, 1);
            let named = scan
                .traces
                .iter()
                .any(|trace| trace.kind == "ext4" && trace.at / MIB == start / MIB);
            assert!(named, "{start}: {:?}", scan.traces);
        }
    }

    fn run(program: &str, arguments: &[&str]) {
        let made = Command::new(program).args(arguments).output();
        let made = made.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(made.status.success(), "{program}: {made:?}");
    }

    #[test]
    fn a_filesystem_is_named_where_the_entries_of_an_erased_table_say() {
        let start = 77 * MIB;
        let sectors = [start / 512, 64 * MIB / 512].map(|sectors| sectors.to_string());
        let [first, length] = &sectors;
        let gpt = format!("--new=1:{first}:+{}", 64 * MIB / 512);
        let mbr = format!("echo {first},{length},L | sfdisk -q -X dos \"$0\"");
        for table in [["sgdisk", &gpt], ["sh", &mbr]] {
            let file = image(512 * MIB);
            let path = file.path().to_str().expect("a path");
            match table {
                ["sgdisk", new] => run("sgdisk", &[new, path]),
                [shell, line] => run(shell, &["-c", line, path]),
            }
            let offset = format!("offset={start}");
            run("mkfs.ext4", &["-q", "-F", "-E", &offset, path, "64M"]);
            run("wipefs", &["-q", "-a", path]);
            let named = scanned(&file, 1).traces;
            let expected = Trace {
                at: start,
                kind: "ext4".to_owned(),
                wiped: false,
            };
            assert!(named.contains(&expected), "{table:?}: {named:?}");
        }
    }

    #[test]
    fn a_copy_where_the_first_data_are_is_listed_once() {
        let size = 40 << 30;
        let file = image(size);
        let path = file.path().to_str().expect("a path");
        run("mkfs.xfs", &["-q", path]);
        let zeroes = vec![0; ZERO_END as usize];
        for at in [0, size - ZERO_END] {
            file.as_file().write_all_at(&zeroes, at).expect("zeroes");
        }
        let traces = scanned(&file, 1).traces;
        let at: Vec<u64> = traces.iter().map(|trace| trace.at).collect();
        assert_eq!(at, [10 << 30, 20 << 30, 30 << 30], "{traces:?}");
    }
}
