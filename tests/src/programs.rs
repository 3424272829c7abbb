//! `scripts/setup` installs what tests and fixtures start on this machine: a
//! program that is there by chance is missing on the next one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "everything in this module is a test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What is started by a name that is not written where it is started: by the
/// scripts that make the image, to unpack a kernel, to check disks of a machine.
const BESIDES: [&str; 19] = [
    "awk",
    "blockdev",
    "bash",
    "cmp",
    "cpio",
    "depmod",
    "dpkg",
    "e2fsck",
    "gzip",
    "lz4",
    "mke2fs",
    "mmdebstrap",
    "modprobe",
    "qemu-system-x86_64",
    "shellcheck",
    "unshare",
    "xfs_repair",
    "xz",
    "zstd",
];
/// Functions of tests that start the program of their first argument.
const STARTERS: [&str; 6] = [
    "Command::new(",
    "host(",
    "host_to(",
    "made(",
    "made_by(",
    "run(",
];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a literal can be the name of a program.
fn is_name(literal: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    !literal.is_empty() && literal.chars().all(fits)
}

/// Programs that a source starts by name, without those of a guest.
fn started(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    // Every mkfs that has a literal to itself, in tables as well.
    for (at, _) in source.match_indices("\"mkfs.") {
        let (_, literal) = source.split_at(at + 1);
        if let Some((name, _)) = literal.split_once('"')
            && is_name(name)
            && name != "mkfs."
        {
            found.insert(name);
        }
    }
    for starter in STARTERS {
        for (at, _) in source.match_indices(starter) {
            let (before, after) = source.split_at(at);
            // Of clap, and functions whose names only end so.
            let other = before.ends_with("clap::")
                || before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
            let after = after.strip_prefix(starter).expect("it begins so");
            if let Some(literal) = after.trim_start().strip_prefix('"')
                && let Some((name, _)) = literal.split_once('"')
                && !other
                && is_name(name)
            {
                found.insert(name);
            }
        }
    }
    found
}

/// Packages that `scripts/setup` names, and programs that may come from anywhere.
fn setup() -> (BTreeSet<String>, BTreeSet<String>) {
    let text = fs::read_to_string(project().join("scripts/setup")).expect("scripts/setup");
    let (_, list) = text.split_once("packages=(\n").expect("a list");
    let (list, rest) = list.split_once("\n)\n").expect("its end");
    let words = list.lines().filter_map(|line| line.split('#').next());
    let packages = words.flat_map(str::split_whitespace).map(str::to_owned);
    let anywhere = rest.lines().filter_map(|line| {
        let (program, _) = line.strip_prefix("command -v ")?.split_once(' ')?;
        Some(program.to_owned())
    });
    (packages.collect(), anywhere.collect())
}

/// What every Debian machine has, these packages, and what they depend on. Of
/// alternatives the first, which is what is installed where none is there.
fn closure(packages: &BTreeSet<String>) -> BTreeSet<String> {
    let format = "${Package}\t${Essential}\t${Provides}\t${Pre-Depends}, ${Depends}\n";
    let listed = Command::new("dpkg-query")
        .args(["-W", "-f", format])
        .output();
    let listed = String::from_utf8(listed.expect("dpkg-query").stdout).expect("text");
    let names = |list: &str| -> Vec<String> {
        let first = list.split(',').filter_map(|one| one.split('|').next());
        first
            .filter_map(|one| one.trim().split([' ', ':', '(']).next())
            .map(str::to_owned)
            .filter(|name| !name.is_empty())
            .collect()
    };
    let mut needs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut wanted: Vec<String> = packages.iter().cloned().collect();
    for line in listed.lines() {
        let mut fields = line.split('\t');
        let mut field = || fields.next().expect("a field");
        let (package, essential, provides, depends) = (field(), field(), field(), field());
        needs.insert(package.to_owned(), names(depends));
        // One of those that provide it is there; this one, where it is the only one.
        for name in names(provides) {
            needs.entry(name).or_default().push(package.to_owned());
        }
        if essential == "yes" {
            wanted.push(package.to_owned());
        }
    }
    let mut found = BTreeSet::new();
    while let Some(package) = wanted.pop() {
        if found.insert(package.clone()) {
            wanted.extend(needs.get(&package).into_iter().flatten().cloned());
        }
    }
    found
}

/// The package that a program is of.
fn package(program: &str) -> Result<String, String> {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let mut places = places.iter().map(|place| Path::new(place).join(program));
    let path = places.find(|path| path.exists());
    let path = path.ok_or_else(|| format!("{program} is not installed"))?;
    // Through alternatives, as those of cc and awk.
    let path = fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let path = path.to_str().expect("a path");
    // As dpkg knows it, which was before /bin was merged into /usr for some.
    let short = path.strip_prefix("/usr").unwrap_or(path);
    let known = [path, short].into_iter().find_map(|path| {
        let found = Command::new("dpkg-query").args(["-S", path]).output();
        let found = found.expect("dpkg-query");
        let text = String::from_utf8(found.stdout).expect("text");
        let name = text.split(':').next().expect("a name").to_owned();
        found.status.success().then_some(name)
    });
    known.ok_or_else(|| format!("{path} is of no package"))
}

#[test]
fn setup_installs_every_program_that_tests_start_on_this_machine() {
    let mut files = Vec::new();
    for directory in ["agent", "fuzz/src", "tests", "vm-fixtures/src"] {
        sources(&project().join(directory), &mut files);
    }
    let texts: Vec<String> = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("a source"))
        .collect();
    let mut programs: BTreeSet<&str> = texts.iter().flat_map(|text| started(text)).collect();
    for known in ["kill", "losetup", "mkfs.f2fs", "systemd-escape"] {
        assert!(
            programs.contains(known),
            "{known} is not among {programs:?}"
        );
    }
    programs.extend(BESIDES);
    let (packages, anywhere) = setup();
    let installed = closure(&packages);
    let mut missing = Vec::new();
    for program in programs {
        match package(program) {
            _ if anywhere.contains(program) => {}
            Ok(package) if installed.contains(&package) => {}
            Ok(package) => missing.push(format!("{program} of {package}")),
            Err(why) => missing.push(why),
        }
    }
    assert!(missing.is_empty(), "scripts/setup installs no {missing:?}");
}
