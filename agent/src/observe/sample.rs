//! Where in the middle of a disk to look: one piece in each of many equal
//! stretches, at a place that a seed decides. The same seed gives the same
//! places on a disk of the same size, so that a proof can be repeated.

use std::{fmt, ops::Range, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Stretches that the middle is divided into. A share `f` of the disk that is
/// not zero escapes with a probability of `(1 - f)^256`: 8 % for a hundredth
/// of the disk, one in 500,000 for a twentieth.
pub const STRETCHES: u64 = 256;
/// Bytes read in each.
pub const PIECE: u64 = 16 * 1024;
/// Pieces begin on multiples of this many bytes, which suits every sector size.
const ALIGNMENT: u64 = 4096;

/// Decides where a sample is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub u64);

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Text that is not a seed.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a seed; allowed are 16 hexadecimal digits, as explain shows them")]
pub struct BadSeed(String);

impl FromStr for Seed {
    type Err = BadSeed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadSeed(text.to_owned());
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return Err(bad());
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_not_a_number| bad())
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Pieces to read between two places of a disk, in order. A middle that is no
/// longer than all pieces together is read whole.
pub fn pieces(middle: Range<u64>, seed: Seed) -> Vec<Range<u64>> {
    let length = middle.end.saturating_sub(middle.start);
    if length == 0 {
        return Vec::new();
    }
    if length / ALIGNMENT <= STRETCHES * PIECE / ALIGNMENT {
        return vec![middle];
    }
    let blocks = length / ALIGNMENT;
    let piece = PIECE / ALIGNMENT;
    let mut random = SplitMix(seed.0);
    (0..STRETCHES)
        .map(|at| {
            // In 128 bits: a disk of 16 EiB does not overflow.
            let border = |at: u64| {
                u64::try_from(u128::from(blocks) * u128::from(at) / u128::from(STRETCHES))
                    .unwrap_or(blocks)
            };
            let (first, end) = (border(at), border(at + 1));
            let choices = (end - first).saturating_sub(piece) + 1;
            let block = first + random.next() % choices;
            let start = middle.start + block * ALIGNMENT;
            start..start + PIECE
        })
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): written here because the places
/// of a sample must never change with the version of a library.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs for the seed 1234567, as in the reference program.
        let mut random = SplitMix(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn a_seed_is_written_and_read_back_as_sixteen_digits() {
        for seed in [Seed(0), Seed(0xfeed), Seed(u64::MAX)] {
            assert_eq!(seed.to_string().parse(), Ok(seed));
            assert_eq!(seed.to_string().len(), 16);
        }
        for bad in [
            "",
            "1",
            "+123456789abcdef",
            "0x23456789abcdef",
            "g123456789abcdef",
        ] {
            let error = bad.parse::<Seed>().expect_err(bad).to_string();
            assert!(error.contains("16 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn another_seed_looks_at_other_places() {
        let middle = 8 * MIB..(1 << 40);
        let (one, two) = (pieces(middle.clone(), Seed(1)), pieces(middle, Seed(2)));
        let same = one.iter().filter(|piece| two.contains(piece)).count();
        assert!(same < 4, "{same} of {STRETCHES} are the same");
    }

    #[test]
    fn a_short_middle_is_read_whole() {
        assert_eq!(pieces(8 * MIB..8 * MIB, Seed(1)), Vec::<Range<u64>>::new());
        assert_eq!(pieces(8 * MIB..10 * MIB, Seed(1)), vec![8 * MIB..10 * MIB]);
    }

    /// What the sample can and cannot see, as the documents say it.
    #[test]
    fn a_twentieth_of_the_disk_is_seen_and_a_single_small_file_is_not() {
        let middle = 8 * MIB..(1 << 40);
        let seen = |data: &Range<u64>| {
            let seeds = (0..2000_u64).map(Seed);
            let hit = |seed| {
                pieces(middle.clone(), seed)
                    .iter()
                    .any(|piece| piece.start < data.end && data.start < piece.end)
            };
            seeds.filter(|seed| hit(*seed)).count()
        };
        // One stretch is a 256th: what fills thirteen of them cannot escape.
        let twentieth = (1 << 39)..(1 << 39) + (1 << 40) / 20;
        assert_eq!(seen(&twentieth), 2000);
        let small = (1 << 39) + 12_345..(1 << 39) + 12_345 + 4096;
        assert!(seen(&small) < 20, "{}", seen(&small));
    }

    proptest! {
        #[test]
        fn pieces_lie_in_order_in_the_middle_one_in_each_stretch(
            start in 0..64_u64,
            blocks in 0..(1_u64 << 51),
            seed in any::<u64>(),
        ) {
            let length = blocks * ALIGNMENT;
            let middle = start * MIB..start * MIB + length;
            let found = pieces(middle.clone(), Seed(seed));
            prop_assert_eq!(&found, &pieces(middle.clone(), Seed(seed)));
            for piece in &found {
                prop_assert!(middle.start <= piece.start && piece.end <= middle.end, "{:?}", piece);
                prop_assert_eq!(piece.start % ALIGNMENT, 0);
            }
            for pair in found.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start, "{:?}", pair);
            }
            if length > STRETCHES * PIECE {
                prop_assert_eq!(found.len() as u64, STRETCHES);
                let stretch = length / STRETCHES + ALIGNMENT;
                for (at, piece) in found.iter().enumerate() {
                    let border = middle.start + length / STRETCHES * at as u64;
                    prop_assert!(piece.start + ALIGNMENT >= border, "{:?}", piece);
                    prop_assert!(piece.end <= border + stretch + STRETCHES * ALIGNMENT, "{:?}", piece);
                }
            } else {
                prop_assert!(found.len() <= 1);
            }
        }
    }
}
