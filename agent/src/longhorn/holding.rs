//! What Longhorn has on a disk by the disk's own word, for an agent that does
//! not ask Longhorn. What Longhorn itself knows nothing of any more counts, too.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use super::disks::config_of;
use crate::{
    fact::Fact,
    observe::{Host, longhorn_disk::LonghornDisk, tables::read_mounts},
    units::DevNo,
};

/// Directories at the root of a disk with an entry for each thing that Longhorn
/// keeps on it, and what one and more of them are called.
const KEPT: [(&str, &str, &str); 2] = [
    ("replicas", "replica", "replicas"),
    ("backing-images", "backing image", "backing images"),
];

/// What Longhorn keeps on the disk that is mounted at a path, in words; none
/// where there is nothing, or where the disk never was Longhorn's.
pub fn at(place: &Path, host: &Host) -> Fact<Option<String>> {
    mounted_alone(place, host).and_then(|devno| {
        config_of(place, devno).and_then(|config| match config {
            LonghornDisk::None => Fact::Known(None),
            LonghornDisk::Nameless | LonghornDisk::Named { .. } => kept(place, devno),
        })
    })
}

/// The device whose filesystem is at a path, on the host and for this process,
/// with nothing below it or on top.
fn mounted_alone(place: &Path, host: &Host) -> Fact<DevNo> {
    let there = |table: &Path| {
        read_mounts(table).and_then(|mounts| {
            let mut there = mounts
                .iter()
                .filter(|mount| Path::new(&mount.mountpoint) == place);
            match (there.next(), there.next()) {
                (Some(only), None) if only.root == "/" => Fact::Known(only.devno),
                (None, _) => Fact::unreadable(place.display(), "it is not mounted there"),
                (Some(_), _) => Fact::unreadable(place.display(), "others are mounted there"),
            }
        })
    };
    there(&host.init_mountinfo()).and_then(|on_host| {
        there(&host.own_mountinfo()).and_then(|here| {
            if here == on_host {
                Fact::Known(here)
            } else {
                Fact::unreadable(place.display(), "the host has another disk mounted there")
            }
        })
    })
}

fn kept(place: &Path, devno: DevNo) -> Fact<Option<String>> {
    let mut words: Vec<String> = Vec::new();
    for (directory, one, more) in KEPT {
        let path = place.join(directory);
        match entries(&path, devno) {
            Ok(0) => {}
            Ok(1) => words.push(format!("1 {one}")),
            Ok(many) => words.push(format!("{many} {more}")),
            Err(error) => return Fact::unreadable(path.display(), error),
        }
    }
    Fact::Known((!words.is_empty()).then(|| words.join(" and ")))
}

/// How many entries a directory of a disk has; one that is not there has none.
fn entries(directory: &Path, devno: DevNo) -> io::Result<usize> {
    let found = match fs::symlink_metadata(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if DevNo::from_raw(found.dev()) != devno {
        return Err(io::Error::other("it is on another filesystem"));
    }
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        entry?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::longhorn_disk;

    /// A host that has a directory mounted, which is the disk.
    struct Bench {
        root: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            fs::create_dir(root.path().join("sdb1")).expect("a place");
            let bench = Self { root };
            let devno = bench.devno();
            bench.mounted("1", &[&devno]);
            bench.mounted("self", &[&devno]);
            bench
        }

        fn devno(&self) -> String {
            let found = fs::metadata(self.root.path()).expect("metadata");
            DevNo::from_raw(found.dev()).to_string()
        }

        fn mounted(&self, process: &str, devices: &[&str]) {
            let directory = self.root.path().join("proc").join(process);
            fs::create_dir_all(&directory).expect("a directory");
            let place = self.place();
            let lines = devices
                .iter()
                .map(|devno| format!("2 1 {devno} / {} rw - ext4 /dev/sdb1 rw\n", place.display()));
            let table: String = lines.collect();
            fs::write(directory.join("mountinfo"), table).expect("a table");
        }

        fn place(&self) -> std::path::PathBuf {
            self.root.path().join("sdb1")
        }

        /// Longhorn has used it, and has these things on it.
        fn with(self, config: &str, things: &[&str]) -> Self {
            fs::write(self.place().join(longhorn_disk::FILE), config).expect("written");
            for thing in things {
                fs::create_dir_all(self.place().join(thing)).expect("a directory");
            }
            self
        }

        fn at(&self) -> Fact<Option<String>> {
            at(&self.place(), &Host::at(self.root.path()))
        }
    }

    const NAMED: &str = r#"{"diskUUID":"u"}"#;

    #[test]
    fn what_longhorn_keeps_on_a_disk_is_told_by_the_disk_itself() {
        let two = ["replicas/pvc-1-r", "replicas/pvc-2-r"];
        let image = ["replicas/pvc-1-r", "backing-images/b"];
        for (config, things, words) in [
            (NAMED, &two[..], Some("2 replicas")),
            ("{}", &two, Some("2 replicas")),
            (NAMED, &image, Some("1 replica and 1 backing image")),
            (NAMED, &["replicas", "backing-images"], None),
            (NAMED, &[], None),
        ] {
            let bench = Bench::new().with(config, things);
            assert_eq!(bench.at(), Fact::Known(words.map(str::to_owned)));
        }
        assert_eq!(Bench::new().at(), Fact::Known(None), "never Longhorn's");
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        let unread = |bench: &Bench| assert!(bench.at().known().is_err(), "{:?}", bench.at());
        let bench = || Bench::new().with(NAMED, &[]);
        let file = bench();
        fs::write(file.place().join("replicas"), "").expect("written");
        unread(&file);
        let link = bench();
        std::os::unix::fs::symlink("/", link.place().join("replicas")).expect("a link");
        unread(&link);
        let no_config = Bench::new();
        fs::create_dir(no_config.place().join(longhorn_disk::FILE)).expect("a directory");
        unread(&no_config);
        for devices in [&[][..], &["8:17"], &["0:50", "8:17"]] {
            for process in ["1", "self"] {
                let bench = bench();
                bench.mounted(process, devices);
                unread(&bench);
            }
        }
        // What is on top, or below, is not the disk.
        for process in ["1", "self"] {
            let bench = bench();
            let devno = bench.devno();
            bench.mounted(process, &["0:50", &devno]);
            unread(&bench);
        }
        let elsewhere = bench();
        elsewhere.mounted("1", &["8:17"]);
        elsewhere.mounted("self", &["8:17"]);
        unread(&elsewhere);
    }
}
