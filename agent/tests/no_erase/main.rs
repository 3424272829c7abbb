//! Nothing in the product erases: neither its sources nor the built program
//! know a way to. Each call that writes, runs a program or asks the kernel for
//! something is listed here with its reason; another one fails the test until
//! somebody has given it a reason, too.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "everything in this file is a test"
)]

mod binary;
mod source;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use binary::Binary;
use source::{Code, code, code_below, files_below};

/// Ways to erase, to punch holes or to discard: programs, functions of
/// libraries, and requests of linux/fs.h by name and number.
const ERASING: &[&str] = &[
    "wipefs",
    "blkdiscard",
    "do_wipe",
    "wipe_all",
    "wipe_range",
    "blksecdiscard",
    "blkzeroout",
    "0x1277",
    "0x127d",
    "0x127f",
    "0x12, 119",
    "0x12, 125",
    "0x12, 127",
    "fallocate",
    "punch_hole",
    "zero_range",
];

/// Programs that change disks, of which none may be known to ours.
const TOOLS: &[&str] = &[
    "badblocks",
    "bin/dd",
    "cfdisk",
    "cryptsetup",
    "dmsetup",
    "hdparm",
    "losetup",
    "lvcreate",
    "mdadm",
    "mke2fs",
    "mkswap",
    "nwipe",
    "pvcreate",
    "sfdisk",
    "sg_format",
    "sgdisk",
    "shred",
    "vgcreate",
    "zpool",
];

/// Functions of libraries that cut, punch holes, or run something else.
const IMPORTS: &[&str] = &[
    "fallocate",
    "fallocate64",
    "ftruncate",
    "ftruncate64",
    "popen",
    "posix_fallocate",
    "posix_fallocate64",
    "system",
    "truncate",
    "truncate64",
];

/// What the agent asks libblkid; everything there that writes has another name.
const BLKID: &[&str] = &[
    "blkid_do_safeprobe",
    "blkid_free_probe",
    "blkid_new_probe",
    "blkid_probe_enable_partitions",
    "blkid_probe_enable_superblocks",
    "blkid_probe_has_value",
    "blkid_probe_lookup_value",
    "blkid_probe_set_device",
    "blkid_probe_set_superblocks_flags",
];

/// A way to write or to run, and each place in `agent/src` that uses it: file,
/// how often, and why it cannot harm a disk.
type Use = (&'static str, &'static [(&'static str, usize, &'static str)]);

const USES: &[Use] = &[
    // Programs.
    (
        "Command::new",
        &[(
            "provision/mkfs.rs",
            1,
            "mkfs, on a partition with our pending claim",
        )],
    ),
    ("posix_spawn", &[]),
    ("libc::exec", &[]),
    ("libc::system", &[]),
    ("execv", &[]),
    // Bytes to an open file.
    (
        "write_all_at",
        &[(
            "provision/table.rs",
            1,
            "the claim's table, on a proven disk",
        )],
    ),
    ("write_at(", &[]),
    ("pwrite", &[]),
    ("unistd::write", &[]),
    (
        ".write_all(",
        &[
            ("cli/release.rs", 1, "a question to the agent's own port"),
            (
                "durable.rs",
                1,
                "a file of the agent's own state, or a mount unit, not yet at its place",
            ),
        ],
    ),
    ("mmap", &[]),
    ("io::copy", &[]),
    ("sendfile", &[]),
    ("splice(", &[]),
    // Files that can be written to.
    (
        ".write(true)",
        &[
            (
                "cli/run.rs",
                1,
                "the lock of the state directory, which stays empty",
            ),
            (
                "durable.rs",
                1,
                "a file of the agent's own state, or a mount unit, not yet at its place",
            ),
            (
                "provision/exclusive.rs",
                2,
                "the disk, held by O_EXCL, inside ExclusiveDisk; or a mounted disk of ours, for the table on both sides of its partition",
            ),
        ],
    ),
    (
        ".create(true)",
        &[
            (
                "cli/run.rs",
                1,
                "the lock of the state directory, which stays empty",
            ),
            (
                "durable.rs",
                1,
                "a file of the agent's own state, or a mount unit, not yet at its place",
            ),
        ],
    ),
    (
        ".truncate(true)",
        &[(
            "durable.rs",
            1,
            "a file of the agent's own state, or a mount unit, not yet at its place",
        )],
    ),
    (".append(true)", &[]),
    ("create_new", &[]),
    ("File::create", &[]),
    ("fs::write", &[]),
    ("fs::copy", &[]),
    ("O_RDWR", &[]),
    ("O_WRONLY", &[]),
    ("O_TRUNC", &[]),
    ("set_len", &[]),
    ("truncate(&", &[]),
    // Names.
    (
        "remove_file",
        &[(
            "durable.rs",
            2,
            "a file of the agent's own state, half-written or not, or a mount unit with its mark",
        )],
    ),
    (
        "remove_dir",
        &[(
            "provision/mount.rs",
            1,
            "an empty mountpoint that was made a moment before",
        )],
    ),
    ("unlink", &[]),
    (
        "symlink(",
        &[(
            "durable.rs",
            1,
            "what enables a mount unit, where nothing is yet",
        )],
    ),
    (
        "fs::rename",
        &[(
            "durable.rs",
            1,
            "a file of the agent's own state, or a mount unit, once it is complete",
        )],
    ),
    (
        "nix::mount::mount(",
        &[(
            "provision/mount.rs",
            1,
            "a committed filesystem, at its place",
        )],
    ),
    (
        "umount",
        &[
            (
                "provision/mount.rs",
                1,
                "a mount that the agent made: a moment ago, or of a device that is gone",
            ),
            (
                "provision/mount/released.rs",
                1,
                "a mount of a disk that a person has released",
            ),
        ],
    ),
    (
        "syncfs",
        &[(
            "provision/mount/released.rs",
            1,
            "what programs have written to a released disk, before it is unmounted",
        )],
    ),
    // The kernel.
    (
        "syscall(",
        &[(
            "sys.rs",
            4,
            "pidfd_open, to wait for mkfs; fsopen, fsconfig and fsmount, read-only",
        )],
    ),
];

/// Every request that is made of a device or a file, as sys.rs declares it.
const IOCTLS: &[&str] = &[
    "ioctl_read!(blkgetsize64, 0x12, 114, u64)",
    "ioctl_read!(blkgetdiskseq, 0x12, 128, u64)",
    "ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int)",
    "ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long)",
    "ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long)",
    // Adds a partition, and gives one another length.
    "ioctl_write_ptr_bad!(blkpg, 0x1269, BlkpgArg)",
    // Of a mounted filesystem of ours: it takes blocks that its partition has.
    "ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64)",
    "ioctl_read!(xfs_fsgeometry, b'X', 100, XfsGeometry)",
    "ioctl_write_ptr!(xfs_growfs_data, b'X', 110, XfsGrowth)",
    // A device on top of another, through which nobody can write.
    "ioctl_none_bad!(loop_ctl_get_free, 0x4c82)",
    "ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig)",
];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn agent() -> Vec<(String, Code)> {
    let sources = code_below(&project().join("agent/src"));
    assert!(sources.len() > 30, "only {} files", sources.len());
    sources
}

/// The erasing words in a text.
fn erasing(text: &str) -> Vec<&'static str> {
    let text = text.to_lowercase();
    let mut words = ERASING.iter().copied();
    words.by_ref().filter(|word| text.contains(word)).collect()
}

/// Whether a string would make a program go on where it would stop by itself.
fn forces(literal: &str) -> bool {
    let short = literal.strip_prefix('-').is_some_and(|letters| {
        letters.bytes().all(|letter| letter.is_ascii_alphabetic())
            && letters.contains(['f', 'F', 'y'])
    });
    let long = ["--force", "--wipe", "--yes", "--zero", "--erase"];
    short || long.iter().any(|flag| literal.starts_with(flag))
}

/// How often each file uses something.
fn places(sources: &[(String, Code)], word: &str) -> BTreeMap<String, usize> {
    sources
        .iter()
        .map(|(file, code)| (file.clone(), code.text.matches(word).count()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// The programs to look into: the one that was built with this test, and the
/// one that `DISK_DISCOVERY_BIN` names.
fn programs() -> Vec<PathBuf> {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_disk-discovery"));
    let named = env::var_os("DISK_DISCOVERY_BIN").map(PathBuf::from);
    // A path is meant from where the tests were started: the project.
    let named = named.map(|path| project().join(path));
    [built].into_iter().chain(named).collect()
}

#[test]
fn no_source_knows_a_way_to_erase() {
    for (file, code) in agent() {
        assert_eq!(erasing(&code.text), [""; 0], "{file}");
    }
    for directory in ["deploy", "scripts"] {
        for file in files_below(&project().join(directory)) {
            let text = fs::read_to_string(&file).expect("UTF-8");
            assert_eq!(erasing(&text), [""; 0], "{}", file.display());
        }
    }
}

#[test]
fn only_a_resumed_xfs_is_made_by_force() {
    let mut forced = Vec::new();
    for (file, code) in agent() {
        let flags = code.literals.into_iter().filter(|literal| forces(literal));
        forced.extend(flags.map(|flag| (file.clone(), flag)));
    }
    assert_eq!(forced, [("provision/mkfs.rs".to_owned(), "-f".to_owned())]);
    // Its own test in that file shows when it is given.
}

#[test]
fn what_writes_or_runs_is_where_it_has_a_reason() {
    let sources = agent();
    let mut differ = Vec::new();
    for (word, uses) in USES {
        let listed: BTreeMap<String, usize> = uses
            .iter()
            .map(|(file, count, _)| ((*file).to_owned(), *count))
            .collect();
        let there = places(&sources, word);
        if there != listed {
            differ.push(format!("{word}: {there:?}, listed are {listed:?}"));
        }
        assert!(uses.iter().all(|(_, _, why)| !why.is_empty()), "{word}");
    }
    assert_eq!(differ, [""; 0]);
}

#[test]
fn every_request_of_the_kernel_is_known() {
    for (file, code) in agent() {
        let lines = code.text.lines();
        let calls = lines.filter(|line| line.contains("ioctl") && line.contains('('));
        let calls: Vec<&str> = calls.map(|line| line.trim_end_matches(';')).collect();
        if file == "sys.rs" {
            assert_eq!(calls, IOCTLS);
        } else {
            assert_eq!(calls, [""; 0], "{file}");
        }
    }
}

#[test]
fn the_built_program_knows_no_way_to_erase() {
    for path in programs() {
        let binary = Binary::read(&path);
        let path = path.display();
        let words = ERASING.iter().filter(|word| !word.starts_with("0x"));
        let known = |word: &&&str| binary.text.contains(**word);
        let known: Vec<_> = words.chain(TOOLS).filter(known).collect();
        assert_eq!(known, [&""; 0], "{path}");

        // The only programs that it knows by name; text of another place may
        // follow, and a debug build knows the module as well.
        let made = binary.words_after("mkfs.");
        let ours = |word: &&str| made.iter().any(|made| made.starts_with(word));
        assert!(["ext4", "xfs"].iter().all(ours), "{path}: {made:?}");
        let other = |made: &&String| {
            !["ext4", "xfs", "rs"]
                .iter()
                .any(|ours| made.starts_with(ours))
        };
        assert_eq!(made.iter().find(other), None, "{path}");

        let taken: Vec<_> = IMPORTS
            .iter()
            .filter(|name| binary.imports.contains(**name))
            .collect();
        assert_eq!(taken, [&""; 0], "{path}");
        let blkid = binary
            .imports
            .iter()
            .filter(|name| name.starts_with("blkid_"));
        assert_eq!(blkid.collect::<Vec<_>>(), BLKID, "{path}");

        if cfg!(target_arch = "x86_64") {
            // Sector size and partition are what it asks for: so the others
            // would be seen.
            for request in [0x1268, 0x1269] {
                assert!(binary.requests.contains(&request), "{path}: {request:#x}");
            }
            for request in [0x1277, 0x127d, 0x127f] {
                assert!(!binary.requests.contains(&request), "{path}: {request:#x}");
            }
        }
    }
}

#[test]
fn a_planted_word_is_found_in_code_and_only_there() {
    for word in ERASING {
        let planted = format!("fn f() {{\n    let x = {word};\n}}\n");
        assert_eq!(erasing(&code(&planted).text), [*word]);
        let upper = planted.to_uppercase();
        assert_eq!(erasing(&code(&upper).text), [*word]);
        for harmless in [
            format!("// {word}\nfn f() {{}}\n"),
            format!("/* {word}\n{word} */ fn f() {{}}\n"),
            format!(
                "#[cfg(test)]\nmod tests {{\n    const A: &str = \"}} {word}\";\n    fn f() {{ {word} }}\n}}\n"
            ),
            format!("#[cfg(test)]\nfn f(a: [u8; 2]) {{ let b = '{{'; {word} }}\n"),
        ] {
            assert_eq!(erasing(&code(&harmless).text), [""; 0], "{harmless}");
            // What comes behind it is code again.
            let behind = format!("{harmless}fn g<'a>(x: &'a str) {{ {word} }}\n");
            assert_eq!(erasing(&code(&behind).text), [*word], "{behind}");
        }
        let quoted = format!("const A: &str = r#\"// \"{word}\"\"#; // \"\n");
        assert_eq!(erasing(&code(&quoted).text), [*word]);
    }
}

#[test]
fn a_planted_flag_use_or_request_is_found() {
    for flag in ["-f", "-F", "-ff", "-qF", "-y", "--force", "--wipe=always"] {
        let planted = code(&format!("fn f() {{ run(&[\"-q\", \"{flag}\"]) }}"));
        let found = planted.literals.iter().filter(|literal| forces(literal));
        assert_eq!(found.collect::<Vec<_>>(), [flag]);
    }
    for harmless in ["-q", "-U", "-", "--format", "nodiscard"] {
        assert!(!forces(harmless), "{harmless}");
    }
    for (word, _) in USES {
        let planted = code(&format!("fn f() {{\n    {word});\n    {word});\n}}"));
        let found = places(&[("x.rs".to_owned(), planted)], word);
        assert_eq!(found, BTreeMap::from([("x.rs".to_owned(), 2)]), "{word}");
    }
}

#[test]
fn a_module_for_tests_in_a_file_of_its_own_is_passed_over_and_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    fs::create_dir_all(root.join("a/tests")).expect("directories");
    for (file, text) in [
        ("a/mod.rs", "#[cfg(test)]\nmod tests;\nmod tester;\n"),
        ("a/tests.rs", "mod deep;\n"),
        ("a/tests/deep.rs", ""),
        ("a/tester.rs", ""),
        ("b.rs", "mod tests;\n"),
    ] {
        fs::write(root.join(file), text).expect("a file");
    }
    let read = code_below(root);
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a/mod.rs", "a/tester.rs", "b.rs"]);
}

/// A program that was compiled from C, erases in every way that it can, and is
/// never run.
#[test]
fn what_is_planted_in_a_program_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, program) = (directory.path().join("a.c"), directory.path().join("a"));
    let text = r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <sys/ioctl.h>
        #include <linux/fs.h>
        const char *const words[] = {"/sbin/WIPEFS -a", "mkfs.btrfs", "/usr/sbin/sgdisk"};
        int main(int n, char **a) {
            if (n > 1) return ioctl(n, BLKDISCARD, a);
            return fallocate(n, FALLOC_FL_PUNCH_HOLE, 0, 1) + *words[n];
        }
    "#;
    fs::write(&source, text).expect("written");
    let mut compiler = Command::new("cc");
    let built = compiler.arg(&source).arg("-o").arg(&program).output();
    let built = built.expect("cc of the package build-essential");
    assert!(built.status.success(), "{built:?}");
    let binary = Binary::read(&program);
    assert_eq!(erasing(&binary.text), ["wipefs", "fallocate"]);
    assert!(binary.text.contains("sgdisk"));
    assert!(binary.words_after("mkfs.").contains("btrfs"));
    assert!(binary.imports.contains("fallocate"));
    if cfg!(target_arch = "x86_64") {
        assert!(binary.requests.contains(&0x1277));
    }
}
