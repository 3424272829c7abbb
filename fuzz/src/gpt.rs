//! A second maker and reader of GUID partition tables, from the UEFI
//! specification alone (2.10, chapter 5). It shares no code with the agent's,
//! so what both agree on is not one mistake made twice.

use std::collections::BTreeMap;

use disk_discovery::claim::{Claim, ClaimId, Geometry, Stage};
use uuid::Uuid;

/// Bytes of an entry array: 128 entries of 128 bytes.
pub const ARRAY: usize = 128 * 128;
/// Bytes of a header that its checksum covers.
const HEADER: usize = 92;
/// Signature, revision 1.0 and length of a header.
const BEGINNING: [u8; 16] = *b"EFI PART\0\0\x01\0\x5c\0\0\0";
/// 0FC63DAF-8483-4772-8E79-3D69D8477DE4 as it is on a disk.
const LINUX_FILESYSTEM: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// The two ends of a disk: boot record, header and entries in front, entries
/// and header behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    pub sector: usize,
    /// Number of the last sector of the disk.
    last: u64,
}

/// Where one copy of a table lies in its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    Primary,
    Backup,
}

impl Table {
    /// Nothing but zeroes.
    pub fn zero(geometry: Geometry) -> Self {
        let sector = geometry.sector as usize;
        Self {
            head: vec![0; 2 * sector + ARRAY],
            tail: vec![0; ARRAY + sector],
            sector,
            last: geometry.size / u64::from(geometry.sector) - 1,
        }
    }

    /// The table that a claim should have.
    pub fn of(geometry: Geometry, id: &ClaimId, stage: Stage) -> Self {
        let mut table = Self::zero(geometry);
        let size = u64::from(geometry.sector);
        let last = table.last;
        let array_sectors = ARRAY as u64 / size;
        table.protect();

        let mebibyte = 1 << 20;
        let end = (geometry.size - table.tail.len() as u64) / mebibyte * mebibyte;
        let mut entry = Vec::with_capacity(128);
        entry.extend(LINUX_FILESYSTEM);
        entry.extend(id.partition_guid.to_bytes_le());
        entry.extend((mebibyte / size).to_le_bytes());
        entry.extend((end / size - 1).to_le_bytes());
        entry.extend([0; 8]);
        entry.extend(name(id, stage).encode_utf16().flat_map(u16::to_le_bytes));

        for copy in [Copy::Primary, Copy::Backup] {
            let (this, array) = table.numbers(copy);
            let other = if copy == Copy::Primary { last } else { 1 };
            let mut header = Vec::with_capacity(HEADER);
            header.extend(BEGINNING);
            header.extend([0; 8]);
            header.extend(this.to_le_bytes());
            header.extend(other.to_le_bytes());
            header.extend((2 + array_sectors).to_le_bytes());
            header.extend((last - array_sectors - 1).to_le_bytes());
            header.extend(id.disk_guid.to_bytes_le());
            header.extend(array.to_le_bytes());
            header.extend(128_u32.to_le_bytes());
            header.extend(128_u32.to_le_bytes());
            header.extend([0; 4]);
            let (header_at, array_at) = table.places(copy);
            let end = table.end_mut(copy);
            end[array_at..][..entry.len()].copy_from_slice(&entry);
            end[header_at..][..HEADER].copy_from_slice(&header);
            table.seal(copy);
        }
        table
    }

    /// A protective boot record: one partition of type EE over the whole disk.
    fn protect(&mut self) {
        let sectors = u32::try_from(self.last).unwrap_or(u32::MAX);
        let record = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0];
        self.head[446..458].copy_from_slice(&record);
        self.head[458..462].copy_from_slice(&sectors.to_le_bytes());
        self.head[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    /// Makes both checksums of a copy right, whatever it holds by now.
    pub fn seal(&mut self, copy: Copy) {
        let (header, array) = self.places(copy);
        let end = self.end_mut(copy);
        let sum = crc32(&end[array..][..ARRAY]);
        end[header + 88..][..4].copy_from_slice(&sum.to_le_bytes());
        let sum = header_sum(&end[header..][..HEADER]);
        end[header + 16..][..4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Sector numbers of header and entries of a copy.
    fn numbers(&self, copy: Copy) -> (u64, u64) {
        match copy {
            Copy::Primary => (1, 2),
            Copy::Backup => (self.last, self.last - (ARRAY / self.sector) as u64),
        }
    }

    /// Where header and entries of a copy belong in its end.
    fn places(&self, copy: Copy) -> (usize, usize) {
        match copy {
            Copy::Primary => (self.sector, 2 * self.sector),
            Copy::Backup => (ARRAY, 0),
        }
    }

    pub fn end(&self, copy: Copy) -> &[u8] {
        match copy {
            Copy::Primary => &self.head,
            Copy::Backup => &self.tail,
        }
    }

    pub fn end_mut(&mut self, copy: Copy) -> &mut Vec<u8> {
        match copy {
            Copy::Primary => &mut self.head,
            Copy::Backup => &mut self.tail,
        }
    }

    /// Every sector of both ends, from the front.
    pub fn sectors(&self) -> impl Iterator<Item = &[u8]> {
        self.head
            .chunks(self.sector)
            .chain(self.tail.chunks(self.sector))
    }

    /// Every sector that is not zero, by its byte offset on the disk.
    pub fn sectors_by_offset(&self) -> BTreeMap<u64, Vec<u8>> {
        let in_front = (self.head.len() / self.sector) as u64;
        let behind = self.last + 1 - (self.tail.len() / self.sector) as u64;
        let numbers = (0..in_front).chain(behind..=self.last);
        let offsets = numbers.map(|number| number * self.sector as u64);
        let sectors = offsets.zip(self.sectors().map(<[u8]>::to_vec));
        let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
        sectors.filter(|(_, sector)| !is_zero(sector)).collect()
    }

    /// Whether a header begins where that of a copy belongs.
    pub fn has_header(&self, copy: Copy) -> bool {
        self.end(copy)[self.places(copy).0..].starts_with(b"EFI PART")
    }

    /// The claim that a copy says, when it is valid, lies where it belongs and
    /// has no other partition.
    pub fn says(&self, copy: Copy) -> Option<Claim> {
        let (header_at, array_at) = self.places(copy);
        let header = &self.end(copy)[header_at..][..HEADER];
        let array = &self.end(copy)[array_at..][..ARRAY];
        let (this, entries) = self.numbers(copy);
        let valid = header.starts_with(&BEGINNING)
            && number(header, 24, 8) == this
            && number(header, 72, 8) == entries
            && number(header, 80, 4) == 128
            && number(header, 84, 4) == 128
            && number(header, 16, 4) == u64::from(header_sum(header))
            && number(header, 88, 4) == u64::from(crc32(array));
        let (entry, others) = array.split_at(128);
        let alone = entry[..16] == LINUX_FILESYSTEM
            && others.chunks(128).all(|other| other[..16] == [0; 16]);
        let units = entry[56..].chunks(2).map(|two| number(two, 0, 2) as u16);
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        let label = String::from_utf16(&units).ok()?;
        let (stage, name) = match label.split_once(':')? {
            ("lh-pending", name) => (Stage::Pending, name),
            ("longhorn", name) => (Stage::Committed, name),
            _ => return None,
        };
        let guid = |bytes: &[u8]| Uuid::from_bytes_le(bytes.try_into().expect("16 bytes"));
        let id = ClaimId {
            disk_guid: guid(&header[56..72]),
            partition_guid: guid(&entry[16..32]),
            name: name.parse().ok()?,
        };
        (valid && alone).then_some(Claim { id, stage })
    }
}

/// The partition's name as the documents give it.
fn name(id: &ClaimId, stage: Stage) -> String {
    match stage {
        Stage::Pending => format!("lh-pending:{}", id.name),
        Stage::Committed => format!("longhorn:{}", id.name),
    }
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let bytes = bytes[at..][..len].iter().rev();
    bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The checksum of a header, its own field taken as zero.
fn header_sum(header: &[u8]) -> u32 {
    let mut header = header.to_vec();
    header[16..20].fill(0);
    crc32(&header)
}

/// CRC-32 of ISO 3309, as GPT uses it.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, byte: &u8| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8;
    !bytes.iter().fold(!0, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}
