//! Filesystems made by their own tools.

use std::os::unix::fs::FileExt;

use super::{Disk, GIB, MIB, TIB, Trace, run};

/// Everything found is of this kind, and something was found.
#[track_caller]
fn assert_found(disk: &Disk, kind: &str, wiped: bool) {
    let traces = disk.traces();
    assert!(!traces.is_empty(), "no {kind} found");
    for trace in &traces {
        assert_eq!(
            (trace.kind.as_str(), trace.wiped),
            (kind, wiped),
            "{trace:?} of {traces:?}"
        );
    }
}

/// Where a partition ends that fdisk makes by default.
fn usable_end(size: u64) -> u64 {
    size - 33 * 512
}

#[test]
fn ext_is_found_by_its_backups_when_the_ends_are_zeroed() {
    for (kind, program, arguments) in [
        ("ext2", "mkfs.ext2", &["-b", "1024"]),
        ("ext2", "mkfs.ext2", &["-b", "4096"]),
        ("ext3", "mkfs.ext3", &["-b", "4096"]),
        ("ext4", "mkfs.ext4", &["-b", "1024"]),
        ("ext4", "mkfs.ext4", &["-b", "2048"]),
        ("ext4", "mkfs.ext4", &["-b", "4096"]),
    ] {
        let quiet = ["-q", "-F"];
        let arguments: Vec<&str> = quiet.into_iter().chain(*arguments).collect();
        let whole = Disk::whole(GIB).made_by(program, &arguments);
        assert_found(&whole.without_ends(), kind, false);
        let blocks_of_4_kib = arguments.contains(&"4096");
        let starts = [Some(MIB), blocks_of_4_kib.then_some(63 * 512)];
        for start in starts.into_iter().flatten() {
            let disk = Disk::with_partition(GIB, start, usable_end(GIB));
            let disk = disk.made_by(program, &arguments).without_ends();
            assert_found(&disk, kind, false);
        }
    }
}

#[test]
fn ext4_is_found_when_much_more_than_the_ends_was_erased() {
    let disk = Disk::whole(24 * GIB).made_by("mkfs.ext4", &["-q", "-F"]);
    assert_found(&disk.without(0..10 * GIB), "ext4", false);
}

#[test]
fn ext4_with_blocks_of_64_kib_is_found() {
    let disk = Disk::whole(16 * GIB).made_by("mkfs.ext4", &["-q", "-F", "-F", "-b", "65536"]);
    assert_found(&disk.without_ends(), "ext4", false);
}

#[test]
fn ext4_with_groups_of_another_size_is_found() {
    for options in [
        &["-O", "bigalloc"][..],
        &["-O", "bigalloc", "-C", "16384"],
        &["-O", "bigalloc", "-C", "262144"],
        &["-g", "16384"],
        &["-g", "8192"],
        &["-O", "sparse_super2"],
        &["-O", "^resize_inode,meta_bg"],
    ] {
        for start in [0, MIB] {
            let arguments: Vec<&str> = ["-q", "-F"].iter().chain(options).copied().collect();
            let disk = Disk::with_partition(24 * GIB, start, 24 * GIB);
            let disk = disk.made_by("mkfs.ext4", &arguments).without_ends();
            assert_found(&disk, "ext4", false);
        }
    }
}

#[test]
fn what_wipefs_leaves_of_ext_is_told_from_a_damaged_one() {
    for arguments in [["-q", "-b", "1024"], ["-q", "-b", "4096"]] {
        for start in [0, MIB] {
            let disk = Disk::with_partition(GIB, start, GIB);
            let disk = disk.made_by("mkfs.ext4", &arguments);
            assert_found(&disk, "ext4", false);
            let disk = disk.wiped();
            assert_found(&disk, "ext4", true);
            assert_found(&disk.without(start..start + 4096), "ext4", false);
        }
    }
}

#[test]
fn a_new_filesystem_over_an_old_one_does_not_pass_for_wipefs() {
    let disk = Disk::whole(GIB).made_by("mkfs.ext4", &["-q", "-F"]);
    let other = Disk::whole(GIB).made_by("mkfs.ext4", &["-q", "-F"]).wiped();
    let mut first = vec![0; 4096];
    other
        .file()
        .read_exact_at(&mut first, 0)
        .expect("a superblock");
    disk.file().write_all_at(&first, 0).expect("a superblock");
    assert_found(&disk, "ext4", false);
}

#[test]
fn a_resized_ext4_is_found_though_its_copies_say_group_zero() {
    let disk = Disk::whole(GIB).made_by("mkfs.ext4", &["-q", "-b", "4096"]);
    for group in [1_u64, 3, 5, 7] {
        let at = group * 128 * MIB + 0x5a;
        disk.file().write_all_at(&[0, 0], at).expect("a group");
    }
    assert_found(&disk.wiped(), "ext4", true);
}

#[test]
fn xfs_is_found_by_its_allocation_groups_at_every_size() {
    // The log is kept small: it is written out in full.
    let small_log = ["-q", "-l", "size=64m"];
    for size in [512 * MIB, 12 * GIB, TIB, 6 * TIB] {
        let partition_end = usable_end(size);
        let aligned = partition_end - partition_end % MIB;
        let volume = MIB + (size - MIB) / (4 * MIB) * (4 * MIB);
        let ends = [
            (0, size),
            (MIB, partition_end),
            (MIB, aligned),
            (MIB, size),
            (MIB, volume),
        ];
        for (start, end) in ends {
            let disk = Disk::with_partition(size, start, end);
            let disk = disk.made_by("mkfs.xfs", &small_log);
            assert_found(&disk, "xfs", false);
            assert_found(&disk.without_ends(), "xfs", false);
        }
    }
}

#[test]
fn xfs_with_another_even_number_of_groups_is_found() {
    let size = 100 * GIB + 12345 * 512;
    for count in [6, 8, 12, 16, 24, 32, 48, 64] {
        let groups = format!("agcount={count}");
        let disk = Disk::whole(size).made_by("mkfs.xfs", &["-q", "-l", "size=64m", "-d", &groups]);
        assert_found(&disk.without_ends(), "xfs", false);
    }
}

#[test]
fn xfs_made_for_a_stripe_is_found_at_every_size() {
    let stripes = [
        "su=512k,sw=4",
        "su=256k,sw=10",
        "su=64k,sw=1",
        "su=1m,sw=12",
        "su=96k,sw=5",
        "su=4m,sw=1",
    ];
    for size in [2 * GIB, 12 * GIB, 40 * GIB, 200 * GIB, TIB, 6 * TIB] {
        for stripe in stripes {
            for (start, size) in [(0, size), (MIB, size + 12345 * 512)] {
                let disk = Disk::with_partition(size, start, size);
                let arguments = ["-q", "-l", "size=96m", "-d", stripe];
                let disk = disk.made_by("mkfs.xfs", &arguments);
                assert_found(&disk.without_ends(), "xfs", false);
            }
        }
    }
}

#[test]
fn xfs_with_any_number_of_groups_that_a_small_prime_divides_is_found() {
    for count in (2..=10).chain([12, 15, 21, 25, 27, 33, 35]) {
        for start in [0, MIB] {
            let size = 100 * GIB + 12345 * 512;
            let groups = format!("agcount={count}");
            let arguments = ["-q", "-l", "size=64m", "-d", &groups];
            let disk = Disk::with_partition(size, start, size).made_by("mkfs.xfs", &arguments);
            assert_found(&disk.without_ends(), "xfs", false);
        }
    }
}

#[test]
fn xfs_is_found_by_other_headers_of_a_group_that_lost_its_superblock() {
    let size = 12 * GIB;
    let disk = Disk::whole(size).made_by("mkfs.xfs", &["-q"]);
    let disk = [1, 2, 3]
        .into_iter()
        .fold(disk, |disk, group| disk.with(group * size / 4, &[0; 512]));
    assert_found(&disk.without_ends(), "xfs", false);
}

#[test]
fn what_wipefs_leaves_of_xfs_is_told_from_a_damaged_one() {
    let striped = &["-q", "-d", "su=512k,sw=4"];
    for (start, size, arguments) in [
        (0, 512 * MIB, &["-q"][..]),
        (MIB, 512 * MIB, &["-q"]),
        (0, 12 * GIB, &["-q"]),
        (0, 12 * GIB, striped),
        (MIB, 40 * GIB, striped),
    ] {
        let disk = Disk::with_partition(size, start, size).made_by("mkfs.xfs", arguments);
        assert_found(&disk, "xfs", false);
        let disk = disk.wiped();
        assert_found(&disk, "xfs", true);
        assert_found(&disk.without(start..start + 512), "xfs", false);
    }
}

#[test]
fn btrfs_is_found_by_its_mirrors() {
    for (start, size) in [(0, 512 * MIB), (MIB, 512 * MIB), (0, 300 * GIB)] {
        let made = || Disk::with_partition(size, start, size).made_by("mkfs.btrfs", &["-q"]);
        assert_found(&made().without_ends(), "btrfs", false);
        assert_found(&made().wiped(), "btrfs", true);
    }
    let disk = Disk::whole(300 * GIB).made_by("mkfs.btrfs", &["-q"]);
    assert_found(&disk.without(0..GIB), "btrfs", false);
}

#[test]
fn each_copy_of_a_partition_table_is_found_alone() {
    let table = |disk: &Disk| {
        let path = disk.path().to_str().expect("a path");
        run(std::process::Command::new("sgdisk").args(["-o", path]));
    };
    let size = 64 * MIB;
    let disk = Disk::whole(size);
    table(&disk);
    let at = |traces: Vec<Trace>| traces.iter().map(|trace| trace.at).collect::<Vec<_>>();
    assert_eq!(at(disk.traces()), [512, size - 512]);
    let disk = disk.without(0..8 * MIB);
    assert_eq!(at(disk.traces()), [size - 512]);
    assert_found(&disk, "gpt", false);
}

#[test]
fn filesystems_of_other_systems_are_found_by_what_is_far_from_the_ends() {
    // mkntfs puts a copy of its file table's first records in the middle.
    for (start, end) in [
        (0, GIB),
        (MIB, usable_end(GIB)),
        (MIB, GIB - MIB),
        (MIB, GIB),
    ] {
        let disk = Disk::with_partition(GIB, start, end).made_by("mkfs.ntfs", &["-q", "-Q", "-F"]);
        assert_found(&disk.without_ends(), "ntfs", false);
    }
}

#[test]
fn copies_of_boot_sectors_and_superblocks_are_found_when_the_first_is_zeroed() {
    for (kind, program, arguments, first) in [
        ("ntfs", "mkfs.ntfs", &["-q", "-Q", "-F"][..], 0..8192),
        ("exfat", "mkfs.exfat", &[][..], 0..4096),
        ("vfat", "mkfs.fat", &["-F", "32"][..], 0..512),
        ("f2fs", "mkfs.f2fs", &["-q"][..], 0..4096),
    ] {
        for start in [0, MIB] {
            let made = || Disk::with_partition(GIB, start, GIB).made_by(program, arguments);
            assert_found(&made(), kind, false);
            assert_found(
                &made().without(start + first.start..start + first.end),
                kind,
                false,
            );
            assert_found(&made().wiped(), kind, true);
        }
    }
}
