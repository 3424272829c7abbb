//! What the kernel says is wrong with a filesystem that is mounted. It tells
//! nobody by itself, and how it shows differs from one kernel to the next.

use std::{fs, io};

use super::{Host, tables::Mount};

/// Words among the options of a filesystem that mean that nothing can be
/// written: `ro` of kernels that flip the mount when ext4 finds an error, the
/// others of those that only stop the filesystem (Linux 6.14).
const STOPPED: [&str; 3] = ["ro", "emergency_ro", "shutdown"];

/// What is wrong with a mounted filesystem; `device` is the kernel's name of
/// what is mounted.
pub fn ailment(host: &Host, mount: &Mount, device: &str) -> Option<String> {
    if mount.read_only {
        return Some("it is mounted read-only".to_owned());
    }
    let mut options = mount.super_options.split(',');
    if let Some(option) = options.find(|option| STOPPED.contains(option)) {
        return Some(format!("the kernel has stopped writing to it ({option})"));
    }
    // A kernel that stops an ext4 after an error need not say so in its
    // options, but counts the errors until e2fsck has mended them.
    if mount.filesystem == "ext4" {
        let counter = host.ext4_errors(device);
        match fs::read_to_string(&counter).map(|text| text.trim().to_owned()) {
            Ok(count) if count == "0" => {}
            Ok(count) => return Some(format!("errors that the kernel found in its ext4: {count}")),
            // Not every kernel counts.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Some(format!("{}: {error}", counter.display())),
        }
    }
    // An XFS that has shut itself down answers nothing any more.
    match fs::metadata(&mount.mountpoint) {
        Ok(_) => None,
        Err(error) => Some(format!("it does not answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::DevNo;

    /// A host with an ext4 at `/` of a temporary directory, and its errors.
    fn found(errors: Option<&str>, super_options: &str, at: &str) -> Option<String> {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::at(root.path());
        let counter = host.ext4_errors("sdb1");
        if let Some(errors) = errors {
            fs::create_dir_all(counter.parent().expect("a directory")).expect("made");
            fs::write(&counter, errors).expect("written");
        }
        let mount = Mount {
            devno: DevNo {
                major: 8,
                minor: 17,
            },
            root: "/".to_owned(),
            mountpoint: at.to_owned(),
            read_only: false,
            filesystem: "ext4".to_owned(),
            source: "/dev/sdb1".to_owned(),
            super_options: super_options.to_owned(),
        };
        ailment(&host, &mount, "sdb1")
    }

    #[test]
    fn a_sound_filesystem_has_nothing() {
        assert_eq!(found(Some("0\n"), "rw,errors=remount-ro", "/"), None);
        assert_eq!(found(None, "rw", "/"), None);
    }

    #[test]
    fn whatever_keeps_it_from_being_written_to_is_told() {
        for option in STOPPED {
            let text = found(Some("0\n"), &format!("{option},errors=remount-ro"), "/");
            assert!(text.is_some_and(|text| text.contains(option)), "{option}");
        }
        let counted = found(Some("3\n"), "rw,errors=remount-ro", "/");
        assert!(counted.is_some_and(|text| text.ends_with(": 3")));
        let gone = found(Some("0\n"), "rw", "/not/there");
        assert!(gone.is_some_and(|text| text.contains("does not answer")));
    }
}
