//! A person's approval of one disk in one state, as a token.
//!
//! `explain` prints it, the policy takes it, and it holds while the disk's
//! identity, its size and all that a scan with the token's seed reads are what
//! they were. It is a seal, not a secret: who can write the policy may format
//! the disk anyway.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    claim::Geometry,
    observe::{Identity, sample::Seed, scan::Scan},
};

/// Seed of the scan, and a digest over identity, size and what the scan read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    seed: Seed,
    digest: u128,
}

/// Text that is not a token.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not an approval token; allowed is what explain prints: {PREFIX}, 16 and 32 hexadecimal digits, joined by -"
)]
pub struct BadToken(String);

const PREFIX: &str = "approve";

impl Token {
    /// The token for a disk in the state that a scan found.
    pub fn of(identity: &Identity, geometry: Geometry, scan: &Scan) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"disk-discovery approval 1");
        hash.update(geometry.size.to_le_bytes());
        hash.update(geometry.sector.to_le_bytes());
        identity.hash_into(&mut hash);
        hash.update(scan.seed.0.to_le_bytes());
        hash.update(scan.digest.as_bytes());
        let digest = hash
            .finalize()
            .iter()
            .take(16)
            .fold(0, |digest, byte| digest << 8 | u128::from(*byte));
        Self {
            seed: scan.seed,
            digest,
        }
    }

    /// Where the scan must look for the token to be compared.
    pub fn seed(&self) -> Seed {
        self.seed
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{:032x}", self.seed, self.digest)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let token = match parts.as_slice() {
            [PREFIX, seed, digest]
                if digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                match (seed.parse(), u128::from_str_radix(digest, 16)) {
                    (Ok(seed), Ok(digest)) => Some(Self { seed, digest }),
                    (Err(_), _) | (_, Err(_)) => None,
                }
            }
            _ => None,
        };
        token.ok_or_else(|| BadToken(text.to_owned()))
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fact::Fact;

    fn scan() -> Scan {
        Scan {
            seed: Seed(0xfeed),
            residue: Some(4096),
            traces: Vec::new(),
            digest: "ab".repeat(32),
            bytes: 1,
            reads: 1,
        }
    }

    /// Vendor, model, serial number and world-wide name.
    fn identity(texts: [Option<&str>; 4]) -> Identity {
        let mut device = crate::decide::example_disk();
        let [vendor, model, serial, wwn] = texts.map(|text| Fact::Known(text.map(str::to_owned)));
        (device.vendor, device.model) = (vendor, model);
        (device.serial, device.wwn) = (serial, wwn);
        Identity::of(&device).expect("readable")
    }

    const GEOMETRY: Geometry = Geometry {
        size: 12 << 30,
        sector: 512,
    };

    #[test]
    fn a_token_holds_for_one_disk_in_one_state() {
        let disk = identity([Some("ACME"), Some("DISK"), Some("S1"), None]);
        let token = Token::of(&disk, GEOMETRY, &scan());
        assert_eq!(token, Token::of(&disk, GEOMETRY, &scan()));
        let larger = Geometry {
            size: 13 << 30,
            ..GEOMETRY
        };
        let sectors = Geometry {
            sector: 4096,
            ..GEOMETRY
        };
        let changed = Scan {
            digest: "ac".repeat(32),
            ..scan()
        };
        let elsewhere = Scan {
            seed: Seed(0xfeee),
            ..scan()
        };
        let others = [
            Token::of(&disk, larger, &scan()),
            Token::of(&disk, sectors, &scan()),
            Token::of(&disk, GEOMETRY, &changed),
            Token::of(&disk, GEOMETRY, &elsewhere),
            Token::of(
                &identity([Some("ACME"), Some("DISK"), Some("S2"), None]),
                GEOMETRY,
                &scan(),
            ),
            Token::of(
                &identity([Some("ACME"), Some("DISK"), None, Some("S1")]),
                GEOMETRY,
                &scan(),
            ),
            Token::of(
                &identity([Some("ACMED"), Some("ISK"), Some("S1"), None]),
                GEOMETRY,
                &scan(),
            ),
        ];
        for other in others {
            assert_ne!(token, other);
        }
    }

    #[test]
    fn what_is_no_token_is_refused_with_its_form() {
        let good = Token::of(&identity([None, None, None, None]), GEOMETRY, &scan()).to_string();
        assert!(good.parse::<Token>().is_ok());
        for bad in [
            "",
            "yes",
            "approve",
            "approve-1-2",
            good.trim_start_matches("approve-"),
            &format!("{good}0"),
            &format!("{good}-"),
            &good.replace('-', "_"),
        ] {
            let error = bad.parse::<Token>().expect_err(bad).to_string();
            assert!(error.contains("explain"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn tokens_are_written_and_read_back(seed in any::<u64>(), digest in any::<u128>()) {
            let token = Token { seed: Seed(seed), digest };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }
    }
}
