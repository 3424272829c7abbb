//! The files an image is made of, and the key that names an image by their content.

use sha2::{Digest, Sha256};

/// Changed by hand when code (not an input file) makes images that differ.
const FORMAT: u32 = 1;

/// A file that shapes the image, embedded so that this binary and its inputs cannot diverge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) bytes: &'static [u8],
}

pub(crate) const INPUTS: &[Input] = &[
    Input {
        name: "packages",
        bytes: include_bytes!("../image/packages"),
    },
    Input {
        name: "modules",
        bytes: include_bytes!("../image/modules"),
    },
    Input {
        name: "masked-units",
        bytes: include_bytes!("../image/masked-units"),
    },
    Input {
        name: "initramfs-modules",
        bytes: include_bytes!("../image/initramfs-modules"),
    },
    Input {
        name: "initramfs-init",
        bytes: include_bytes!("../image/initramfs-init"),
    },
    Input {
        name: "rootfs.sh",
        bytes: include_bytes!("../image/rootfs.sh"),
    },
    Input {
        name: "disk.sh",
        bytes: include_bytes!("../image/disk.sh"),
    },
    Input {
        name: "agent",
        bytes: include_bytes!("../image/guest/agent"),
    },
    Input {
        name: "agent.service",
        bytes: include_bytes!("../image/guest/agent.service"),
    },
    Input {
        name: "udev-trigger.conf",
        bytes: include_bytes!("../image/guest/udev-trigger.conf"),
    },
];

/// The key of the image this binary would build: 16 hexadecimal digits.
pub fn image_key() -> String {
    key_of(FORMAT, INPUTS)
}

fn key_of(format: u32, inputs: &[Input]) -> String {
    let mut hash = Sha256::new();
    hash.update(format.to_le_bytes());
    for input in inputs {
        absorb(&mut hash, input.name.as_bytes());
        absorb(&mut hash, input.bytes);
    }
    short(hash)
}

/// The key of anything described by a list of words.
pub(crate) fn key_of_words(words: &[&str]) -> String {
    let mut hash = Sha256::new();
    for word in words {
        absorb(&mut hash, word.as_bytes());
    }
    short(hash)
}

/// With its length in front, so that no two lists run into the same bytes.
fn absorb(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn short(hash: Sha256) -> String {
    let mut hex = hex(&hash.finalize());
    hex.truncate(16);
    hex
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Input = Input {
        name: "a",
        bytes: b"one",
    };
    const B: Input = Input {
        name: "b",
        bytes: b"two",
    };

    #[test]
    fn every_part_of_an_input_changes_the_key() {
        let key = key_of(1, &[A, B]);
        assert_eq!(key, key_of(1, &[A, B]));
        assert_eq!(key.len(), 16);
        assert_ne!(key, key_of(2, &[A, B]));
        assert_ne!(key, key_of(1, &[B, A]));
        assert_ne!(key, key_of(1, &[A]));
        assert_ne!(key, key_of(1, &[A, Input { name: "c", ..B }]));
        assert_ne!(key, key_of(1, &[A, Input { bytes: b"twO", ..B }]));
    }

    #[test]
    fn words_do_not_run_into_each_other() {
        assert_ne!(key_of_words(&["ab", "c"]), key_of_words(&["a", "bc"]));
    }
}
