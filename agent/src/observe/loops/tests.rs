//! With loop devices on a file of the test, and with a directory in the place of
//! the host's.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::observe::device;

/// A loop device of this test on a file of its own, or on another loop device.
#[derive(Debug)]
pub(crate) struct Loop {
    pub name: String,
    /// The file lives as long as the device.
    _file: Option<tempfile::NamedTempFile>,
}

impl Loop {
    /// On a file of zeroes.
    pub(crate) fn of_bytes(size: u64) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(size).expect("its size");
        let path = file.path().display().to_string();
        Self::set_up(&[&path], Some(file))
    }

    /// On a part of another one.
    pub(crate) fn on(below: &Self) -> Self {
        Self::set_up(&["--offset", "1048576", &below.node()], None)
    }

    fn set_up(arguments: &[&str], file: Option<tempfile::NamedTempFile>) -> Self {
        let mut command = Command::new("losetup");
        let made = command.args(["--find", "--show"]).args(arguments).output();
        let made = made.expect("losetup");
        assert!(made.status.success(), "{made:?}");
        let node = String::from_utf8(made.stdout).expect("a path");
        let name = node.trim().strip_prefix("/dev/").expect("a node");
        Self {
            name: name.to_owned(),
            _file: file,
        }
    }

    pub(crate) fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    pub(crate) fn device(&self) -> Device {
        device::read(&Host::at("/"), &self.name)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let attribute = format!("/sys/class/block/{}/loop/backing_file", self.name);
        let backing = || fs::read_to_string(&attribute).ok();
        let ours = backing();
        let ended = Command::new("losetup").arg("-d").arg(self.node()).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("{0} is still there: losetup -d {0}", self.node());
        }
        // It goes when nobody looks at it any more, as udevd may for a moment.
        let end = Instant::now() + Duration::from_mins(1);
        while ours.is_some() && backing() == ours && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_loop_device_on_a_device_is_found_and_one_on_a_file_is_not() {
    let host = Host::at("/");
    let below = Loop::of_bytes(16 << 20);
    let devices = [below.device()];
    assert_eq!(above(&host, &devices), Fact::Known(None));
    let upper = Loop::on(&below);
    assert_eq!(
        above(&host, &devices),
        Fact::Known(Some(upper.name.clone()))
    );
    // As a round reads it.
    let backing = upper.device().backing;
    let backing = backing.known().expect("read").clone().expect("in use");
    assert!(backing.is(&devices[0]) && !backing.is(&upper.device()));
    assert_eq!(backing.devno.as_ref(), devices[0].devno.known().ok());
    let of_a_file = below.device().backing;
    let of_a_file = of_a_file.known().expect("read").clone().expect("in use");
    assert_eq!(of_a_file.devno, None, "{of_a_file:?}");
    drop(upper);
    assert_eq!(above(&host, &devices), Fact::Known(None));
}

#[test]
fn a_node_of_another_name_is_told_by_its_number() {
    let below = Loop::of_bytes(1 << 20);
    let nodes = tempfile::tempdir().expect("a directory");
    let devno = *below.device().devno.known().expect("a number");
    crate::observe::openers::tests::node(&nodes.path().join("mine"), devno);
    fs::write(nodes.path().join("file"), "").expect("a file");
    let at = |path: &str| Backing::at(path.to_owned(), nodes.path());
    assert!(at("/dev/mine").is(&below.device()));
    assert!(!at("/dev/file").is(&below.device()));
    assert!(!at("/dev/absent").is(&below.device()));
    assert!(!at("/srv/mine").is(&below.device()));
}

#[test]
fn a_loop_device_that_cannot_be_read_is_not_one_on_a_file() {
    let root = tempfile::tempdir().expect("a directory");
    let attribute = root.path().join("sys/class/block/loop3/loop/backing_file");
    fs::create_dir_all(attribute.parent().expect("above")).expect("directories");
    let found = || above(&Host::at(root.path()), &[]);
    assert_eq!(found(), Fact::Known(None));
    fs::write(&attribute, "\n").expect("an attribute");
    assert_eq!(found(), Fact::Known(None));
    fs::remove_file(&attribute).expect("removed");
    fs::create_dir(&attribute).expect("what cannot be read");
    assert!(found().known().is_err());
    assert!(above(&Host::at("/nowhere"), &[]).known().is_err());
}
