//! What a built program has in it: text, functions that it takes from
//! libraries, and requests that it makes of block devices.

use std::{collections::BTreeSet, fs, path::Path};

/// A program as it lies on the disk.
pub struct Binary {
    /// Everything that could be read in it, in lower case, as strings(1) would
    /// print it.
    pub text: String,
    /// Functions that the loader takes from shared libraries.
    pub imports: BTreeSet<String>,
    /// Numbers like those of block devices' requests (`_IO(0x12, …)`) where
    /// x86-64 has the second argument of a call, and ioctl its request:
    /// `mov $number,%esi`. A length may look the same.
    pub requests: BTreeSet<u32>,
}

impl Binary {
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::of(&bytes).expect("an ELF program of 64 bits")
    }

    pub fn of(bytes: &[u8]) -> Option<Self> {
        let printable = |byte: &u8| matches!(byte, b' '..=b'~');
        let runs: Vec<&[u8]> = bytes
            .split(|byte| !printable(byte))
            .filter(|run| run.len() >= 4)
            .collect();
        let text = String::from_utf8(runs.join(&b'\n')).expect("ASCII");
        let elf = Elf::of(bytes)?;
        let requests = elf.code()?.windows(5).filter_map(|code| match code {
            [0xbe, number, 0x12, 0, 0] => Some(0x1200 | u32::from(*number)),
            _ => None,
        });
        Some(Self {
            text: text.to_ascii_lowercase(),
            imports: elf.imports()?,
            requests: requests.collect(),
        })
    }

    /// The word that follows each occurrence of a mark, where one does.
    pub fn words_after(&self, mark: &str) -> BTreeSet<String> {
        let word = |rest: &str| -> String {
            rest.chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect()
        };
        let words = self.text.split(mark).skip(1).map(word);
        words.filter(|word| !word.is_empty()).collect()
    }
}

/// Sections of a little-endian ELF program of 64 bits (elf(5)).
struct Elf<'a> {
    bytes: &'a [u8],
    /// Where each section header begins.
    sections: Vec<usize>,
}

impl<'a> Elf<'a> {
    const SHT_DYNSYM: usize = 11;

    fn of(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let mut elf = Self {
            bytes,
            sections: vec![],
        };
        let (first, size, count) = (elf.number(40, 8)?, elf.number(58, 2)?, elf.number(60, 2)?);
        elf.sections = (0..count).map(|at| first + at * size).collect();
        Some(elf)
    }

    fn number(&self, at: usize, len: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at + len)?.iter().rev();
        Some(bytes.fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    fn content(&self, header: usize) -> Option<&'a [u8]> {
        let (start, len) = (self.number(header + 24, 8)?, self.number(header + 32, 8)?);
        self.bytes.get(start..start + len)
    }

    /// The section `.text`.
    fn code(&self) -> Option<&'a [u8]> {
        let names = self.content(*self.sections.get(self.number(62, 2)?)?)?;
        let named = |header: &&usize| {
            let name = self.number(**header, 4).and_then(|at| names.get(at..));
            name.is_some_and(|name| name.starts_with(b".text\0"))
        };
        self.content(*self.sections.iter().find(named)?)
    }

    /// Names of the undefined dynamic symbols.
    fn imports(&self) -> Option<BTreeSet<String>> {
        let dynamic = |header: &&usize| self.number(**header + 4, 4) == Some(Self::SHT_DYNSYM);
        let table = *self.sections.iter().find(dynamic)?;
        let names = self.content(*self.sections.get(self.number(table + 40, 4)?)?)?;
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let symbols = self.content(table)?.chunks(24).skip(1);
        let undefined = symbols.filter(|symbol| symbol[6..8] == [0, 0]);
        undefined
            .map(|symbol| {
                let name = names.get(number(&symbol[..4])..)?;
                let name = name.split(|byte| *byte == 0).next()?;
                Some(String::from_utf8_lossy(name).into_owned())
            })
            .collect()
    }
}
