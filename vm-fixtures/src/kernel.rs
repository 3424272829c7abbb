//! Prepares a stock Debian kernel for a quick boot: the bare ELF image out of its self-extracting
//! wrapper (QEMU boots that by PVH and the guest need not decompress anything), modules without
//! signatures (checking each is slow under emulation).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// Offsets in the setup header: the kernel's `Documentation/x86/boot.rst`.
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Xz,
    Zstd,
    Lz4,
    Gzip,
}

/// Writes the ELF image inside the bzImage `from` to `to`.
pub(crate) fn extract_vmlinux(from: &Path, to: &Path) -> Result<()> {
    let image = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let (compression, payload) =
        payload(&image).with_context(|| format!("take {} apart", from.display()))?;
    let program = match compression {
        Compression::Xz => "xz",
        Compression::Zstd => "zstd",
        Compression::Lz4 => "lz4",
        Compression::Gzip => "gzip",
    };
    let out = fs::File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(payload)
            .with_context(|| format!("feed the kernel to {program}"))?;
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for {program}"))?;
    if !status.success() {
        bail!("{program} could not decompress the kernel: {status}");
    }
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut fs::File::open(to)?, &mut magic)?;
    if &magic != b"\x7fELF" {
        bail!("{} holds no ELF image", from.display());
    }
    Ok(())
}

/// The compressed kernel in a bzImage, without the four bytes of its unpacked size that the
/// kernel's build appends.
fn payload(image: &[u8]) -> Result<(Compression, &[u8])> {
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS".as_slice()) {
        bail!("not a bzImage: no setup header");
    }
    let sectors = match image.get(SETUP_SECTS) {
        Some(0) => 4,
        Some(&sectors) => usize::from(sectors),
        None => bail!("not a bzImage: too short"),
    };
    let start = (sectors + 1) * 512 + word(image, PAYLOAD_OFFSET)?;
    let length = word(image, PAYLOAD_LENGTH)?;
    let payload = image
        .get(start..start + length)
        .ok_or_else(|| anyhow!("the payload lies outside the file: cut short?"))?;
    let compression = match payload.get(..6) {
        Some(b"\xfd7zXZ\x00") => Compression::Xz,
        Some(head) if head.starts_with(b"\x28\xb5\x2f\xfd") => Compression::Zstd,
        Some(head) if head.starts_with(b"\x02\x21\x4c\x18") => Compression::Lz4,
        Some(head) if head.starts_with(b"\x1f\x8b") => Compression::Gzip,
        other => bail!("the payload is compressed in an unknown way: {other:02x?}"),
    };
    let appended = match compression {
        // gzip ends with the size by itself.
        Compression::Gzip => 0,
        Compression::Xz | Compression::Zstd | Compression::Lz4 => 4,
    };
    payload
        .get(..payload.len().saturating_sub(appended))
        .map(|payload| (compression, payload))
        .ok_or_else(|| anyhow!("the payload is empty"))
}

fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image
        .get(at..at + 4)
        .ok_or_else(|| anyhow!("not a bzImage: too short"))?;
    Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
}

const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`: eight bytes of which the last four are the length, big endian.
const SIGNATURE_TRAILER: usize = 12;

/// The length of a module without the signature appended to it, or `None` without one.
fn unsigned_length(module: &[u8]) -> Option<usize> {
    let end = module.strip_suffix(SIGNATURE_MAGIC)?;
    let length = end.get(end.len().checked_sub(4)?..)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    end.len().checked_sub(SIGNATURE_TRAILER + length)
}

/// Strips the signature off every module below `dir`; returns how many had one.
pub(crate) fn strip_signatures(dir: &Path) -> Result<usize> {
    let mut stripped = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            stripped += strip_signatures(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let module = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            if let Some(length) = unsigned_length(&module) {
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(length as u64))
                    .with_context(|| format!("shorten {}", path.display()))?;
                stripped += 1;
            }
        }
    }
    Ok(stripped)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 64];
        image[SETUP_SECTS] = 2;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&64u32.to_le_bytes());
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_payload_is_found_and_loses_the_appended_size() {
        let image = bz_image(b"\xfd7zXZ\x00kernel\x01\x02\x03\x04");
        let (compression, payload) = payload(&image).unwrap();
        assert_eq!(compression, Compression::Xz);
        assert_eq!(payload, b"\xfd7zXZ\x00kernel");
    }

    #[test]
    fn each_compression_is_told_by_its_magic() {
        for (head, expected) in [
            (b"\x28\xb5\x2f\xfd....", Compression::Zstd),
            (b"\x02\x21\x4c\x18....", Compression::Lz4),
            (b"\x1f\x8b\x08.....", Compression::Gzip),
        ] {
            assert_eq!(payload(&bz_image(head)).unwrap().0, expected);
        }
        assert!(payload(&bz_image(b"plain text")).is_err());
    }

    #[test]
    fn a_file_cut_short_is_refused() {
        let image = bz_image(b"\xfd7zXZ\x00kernel");
        assert!(payload(&image[..image.len() - 1]).is_err());
        assert!(payload(&image[..100]).is_err());
        assert!(payload(b"").is_err());
    }

    #[test]
    fn only_the_signature_goes() {
        let mut module = b"code".to_vec();
        module.extend_from_slice(b"SIGNATURE");
        module.extend_from_slice(&[0; 8]);
        module.extend_from_slice(&9u32.to_be_bytes());
        module.extend_from_slice(SIGNATURE_MAGIC);
        assert_eq!(unsigned_length(&module), Some(4));
        assert_eq!(unsigned_length(b"code"), None);
        assert_eq!(unsigned_length(SIGNATURE_MAGIC), None);
    }
}
