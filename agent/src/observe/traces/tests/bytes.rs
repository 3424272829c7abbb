//! Structures written by hand, where their tool cannot run on a file or is
//! not worth its package.

use super::{Disk, GIB, MIB, TIB, Trace};

const SIZE: u64 = 2 * GIB + 7 * 512;

fn bytes(fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    for (at, field) in fields {
        bytes[*at..*at + field.len()].copy_from_slice(field);
    }
    bytes
}

fn found(disk: &Disk) -> Vec<(u64, String, bool)> {
    let tuple = |trace: Trace| (trace.at, trace.kind, trace.wiped);
    disk.traces().into_iter().map(tuple).collect()
}

#[test]
fn each_structure_is_found_where_its_format_has_it_on_a_disk_and_in_a_partition() {
    let md_magic = [0xfc, 0x4e, 0x2b, 0xa9];
    let md_1 = bytes(&[(0, &md_magic), (4, &[1, 0, 0, 0])]);
    let bcache = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    let bcachefs = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
    let lvm = bytes(&[(0, b"LABELONE"), (24, b"LVM2 001")]);
    let luks = bytes(&[(0, b"SKUL\xba\xbe"), (7, &[2])]);
    let ufs = bytes(&[(348, b"\x19\x01\x54\x19")]);
    let cases: Vec<(&str, u64, Vec<u8>)> = vec![
        ("LVM2_member", 512, lvm.clone()),
        ("LVM2_member", 1536, lvm),
        ("crypto_LUKS", 0, bytes(&[(0, b"LUKS\xde\xad\x00\x01")])),
        ("crypto_LUKS", 0x4000, luks.clone()),
        ("crypto_LUKS", 0x40_0000, luks),
        ("linux_raid_member", 0, md_1.clone()),
        ("linux_raid_member", 4096, md_1),
        ("bcache", 4096, bytes(&[(24, bcache)])),
        ("bcachefs", 4096, bytes(&[(24, bcachefs)])),
        ("vdo", 0, bytes(&[(0, b"dmvdo001")])),
        ("spdk_blobstore", 0, bytes(&[(0, b"SPDKBLOB")])),
        ("stratis", 512, bytes(&[(4, b"!Stra0tis\x86\xff\x02^Arh")])),
        ("stratis", 4608, bytes(&[(4, b"!Stra0tis\x86\xff\x02^Arh")])),
        ("gfs2", 65536, bytes(&[(0, b"\x01\x16\x19\x70\0\0\0\x01")])),
        ("oracleasm", 0, bytes(&[(32, b"ORCLDISKDATA1")])),
        ("oracleasm", 2_088_960, bytes(&[(32, b"ORCLDISKDATA1")])),
        (
            "VMFS_volume_member",
            MIB,
            bytes(&[(0, b"\x0d\xd0\x01\xc0")]),
        ),
        ("VMFS", 2 * MIB, bytes(&[(0, b"\x5e\xf1\xab\x2f")])),
        ("ufs", 194 * 512, ufs.clone()),
        ("ufs", 1_282_434 * 512, ufs),
        ("jfs", 0xf000, bytes(&[(0, b"JFS1")])),
        ("apfs", 4096, bytes(&[(32, b"NXSB")])),
        (
            "ceph_bluestore",
            GIB,
            bytes(&[(0, b"bluestore block device\n")]),
        ),
        ("ocfs2", GIB, bytes(&[(0, b"OCFSV2")])),
        // Block 256 of 2048 bytes; the sum of 2, 2, 1 and 0 is in the fifth byte.
        (
            "udf",
            512 * 1024,
            bytes(&[(0, &[2, 0, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1])]),
        ),
    ];
    for (kind, within, structure) in cases {
        for start in [0, MIB] {
            let disk = Disk::whole(SIZE).with(start + within, &structure);
            let expected = [(start + within, kind.to_owned(), false)];
            assert_eq!(found(&disk), expected, "{kind} at {within} from {start}");
        }
    }
}

#[test]
fn each_structure_at_the_end_of_a_disk_is_found() {
    let md_magic = [0xfc, 0x4e, 0x2b, 0xa9];
    let bcachefs = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
    let drbd = |last: u8| bytes(&[(60, &[0x83, 0x74, 0x02, last])]);
    let aligned = SIZE - SIZE % 4096;
    let cases: Vec<(&str, u64, Vec<u8>)> = vec![
        (
            "linux_raid_member",
            aligned - 8192,
            bytes(&[(0, &md_magic), (4, &[1])]),
        ),
        (
            "linux_raid_member",
            SIZE - SIZE % 65536 - 65536,
            bytes(&[(0, &md_magic), (8, &[90])]),
        ),
        (
            "ddf_raid_member",
            SIZE - 512,
            bytes(&[(0, b"\xde\x11\xde\x11")]),
        ),
        (
            "isw_raid_member",
            SIZE - 1024,
            bytes(&[(0, b"Intel Raid ISM Cfg Sig. 1.3.00")]),
        ),
        (
            "adaptec_raid_member",
            SIZE - 512,
            bytes(&[(0, b"\x37\xfc\x4d\x1e")]),
        ),
        ("lsi_mega_raid_member", SIZE - 512, bytes(&[(0, b"$XIDE$")])),
        (
            "nvidia_raid_member",
            SIZE - 1024,
            bytes(&[(0, b"NVIDIA  ")]),
        ),
        (
            "promise_fasttrack_raid_member",
            SIZE - 63 * 512,
            bytes(&[(0, b"Promise Technology, Inc.")]),
        ),
        (
            "hpt45x_raid_member",
            SIZE - 11 * 512,
            bytes(&[(0, b"\xf3\x16\x78\x5a")]),
        ),
        ("bcachefs", SIZE - MIB, bytes(&[(24, bcachefs)])),
        ("drbd", aligned - 4096, drbd(0x6b)),
        ("drbd", aligned - 4096, drbd(0x6c)),
        ("drbd", aligned - 4096, drbd(0x6d)),
        (
            "nilfs2",
            aligned - 4096,
            bytes(&[(0, &[2]), (6, &[0x34, 0x34])]),
        ),
        ("hfsplus", SIZE - 1024, bytes(&[(0, b"H+\0\x04")])),
        ("hfsplus", SIZE - 1024, bytes(&[(0, b"HX\0\x05")])),
        (
            "ReFS",
            SIZE - 512,
            bytes(&[(0, b"\0\0\0ReFS\0\0\0\0\0FSRS")]),
        ),
        ("ntfs", SIZE - 512, bytes(&[(3, b"NTFS    ")])),
        (
            "udf",
            SIZE - 512,
            bytes(&[(0, &[2, 0, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1])]),
        ),
    ];
    for (kind, at, structure) in cases {
        let disk = Disk::whole(SIZE).with(at, &structure);
        assert_eq!(
            found(&disk),
            [(at, kind.to_owned(), false)],
            "{kind} at {at}"
        );
    }
}

#[test]
fn short_magic_numbers_alone_are_no_structure() {
    let aligned = SIZE - SIZE % 4096;
    for (at, structure) in [
        (0, bytes(&[(0, &[0xfc, 0x4e, 0x2b, 0xa9]), (4, &[7])])),
        (aligned - 4096, bytes(&[(60, &[0x83, 0x74, 0x02, 0x01])])),
        (aligned - 4096, bytes(&[(6, &[0x34, 0x34])])),
        (128 * 1024, bytes(&[(0, &[2, 0, 2, 0, 6])])),
        (128 * MIB, bytes(&[(0x38, &[0x53, 0xef])])),
        (128 * MIB, bytes(&[(0, b"XFSB")])),
    ] {
        let disk = Disk::whole(SIZE).with(at, &structure);
        assert_eq!(found(&disk), [], "at {at}");
    }
}

#[test]
fn what_wipefs_leaves_of_ocfs2_is_told_from_a_damaged_one() {
    let superblock = |magic: &[u8], block: u64| {
        bytes(&[
            (0, magic),
            (80, &block.to_le_bytes()),
            (248, &[12]),
            (252, &[15]),
            (336, b"sixteen bytes id"),
        ])
    };
    for start in [0, MIB] {
        let size = 6 * GIB;
        let copies = [GIB, 4 * GIB].map(|at| (start + at, at / 4096));
        let with = |first: Vec<u8>| {
            let disk = Disk::whole(size).with(start + 2 * 4096, &first);
            let traces = copies
                .into_iter()
                .fold(disk, |disk, (at, block)| {
                    disk.with(at, &superblock(b"OCFSV2", block))
                })
                .traces();
            assert_eq!(traces.len(), 2);
            assert!(traces.iter().all(|trace| trace.kind == "ocfs2"));
            traces.iter().all(|trace| trace.wiped)
        };
        assert!(with(superblock(&[], 2)));
        assert!(!with(superblock(b"OCFSV2", 2)));
        assert!(!with(bytes(&[])));
    }
}

#[test]
fn what_wipefs_leaves_of_a_bluestore_label_is_told_from_a_damaged_one() {
    let magic = b"bluestore block device";
    let uuid = b"\n36e2cd1c-0b0e-4f0c-9d9b-5e1f0a7c2b11\n";
    let label = bytes(&[(0, magic), (22, uuid)]);
    let wiped = bytes(&[(22, uuid)]);
    for start in [0, MIB] {
        for (at, copy) in [(GIB, &label), (100 * GIB, &label)] {
            let disk = |first: &[u8]| {
                Disk::whole(200 * GIB)
                    .with(start, first)
                    .with(start + at, copy)
            };
            let kind = "ceph_bluestore".to_owned();
            assert_eq!(found(&disk(&wiped)), [(start + at, kind.clone(), true)]);
            assert_eq!(found(&disk(&bytes(&[]))), [(start + at, kind, false)]);
        }
    }
}

/// The beginning of the list of a label, as XDR has it.
fn zfs_list() -> Vec<u8> {
    let mut list = vec![1, 1, 0, 0];
    for name in ["version", "name", "state", "txg", "pool_guid", "vdev_tree"] {
        list.extend((name.len() as u32).to_be_bytes());
        list.extend(name.as_bytes());
        list.resize(list.len().next_multiple_of(4) + 24, 0);
    }
    list
}

#[test]
fn zfs_is_found_by_any_of_its_labels() {
    // Of a disk of 4 TB, as `zpool create` partitions it: the first partition
    // ends at sector 7814019072, 9 MiB before the end of the disk.
    let size = 7_814_037_168 * 512;
    let own_end = 7_814_019_072 * 512;
    assert!(own_end < size - 8 * MIB);
    const LABEL: u64 = 256 << 10;
    let labels = [
        0,
        LABEL,
        size - size % LABEL - LABEL,
        MIB,
        own_end - 2 * LABEL,
        own_end - LABEL,
    ];
    for label in labels {
        let list = label + (16 << 10);
        let roots = label + (128 << 10);
        let zfs = |at: u64| [(at, "zfs_member".to_owned(), false)];
        assert_eq!(found(&Disk::whole(size).with(list, &zfs_list())), zfs(list));
        for root in [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()] {
            assert_eq!(
                found(&Disk::whole(size).with(roots + 4096, &root)),
                zfs(roots + 4096)
            );
        }
    }
}

#[test]
fn ntfs_made_by_windows_is_found_by_its_file_table() {
    let record = bytes(&[(0, b"FILE"), (4, &[0x30]), (6, &[3])]);
    let size = TIB;
    // Sectors of 512 bytes, 8 in a cluster, the table at cluster 786432, its copy at 2.
    let shape: [(usize, &[u8]); 3] = [(11, &[0, 2, 8]), (50, &[0x0c]), (56, &[2])];
    for start in [0, MIB, 16 * MIB, 129 * MIB] {
        let disk = || Disk::whole(size).with(start + 3 * GIB, &record);
        let table = |wiped| (start + 3 * GIB, "ntfs".to_owned(), wiped);
        assert_eq!(found(&disk()), [table(false)]);
        let disk = disk().with(start, &bytes(&shape));
        assert_eq!(found(&disk), [table(true)]);
        let whole: Vec<_> = shape
            .into_iter()
            .chain([(3, b"NTFS    ".as_slice())])
            .collect();
        let disk = disk.with(start, &bytes(&whole));
        assert!(found(&disk).contains(&table(false)));
    }
}

#[test]
fn what_begins_behind_an_erased_partition_or_array_header_is_found() {
    for start in [16 * MIB, 129 * MIB, 513 * MIB, 1025 * MIB] {
        for (kind, within, structure) in [
            ("crypto_LUKS", 0, bytes(&[(0, b"LUKS\xba\xbe")])),
            ("crypto_LUKS", 0, bytes(&[(0, b"LUKS\xde\xad")])),
            ("LVM2_member", 512, bytes(&[(0, b"LABELONE")])),
            ("ntfs", 0, bytes(&[(3, b"NTFS    ")])),
            ("exfat", 0, bytes(&[(3, b"EXFAT   ")])),
        ] {
            let disk = Disk::whole(TIB).with(start + within, &structure);
            assert_eq!(found(&disk), [(start + within, kind.to_owned(), false)]);
        }
        let size = TIB;
        for (kind, program) in [("ext4", "mkfs.ext4"), ("xfs", "mkfs.xfs")] {
            let disk = Disk::with_partition(size, start, start + GIB).made_by(program, &["-q"]);
            let kinds = found(&disk.without(0..8 * MIB));
            assert!(!kinds.is_empty());
            assert!(
                kinds
                    .iter()
                    .all(|(_, found, wiped)| found == kind && !wiped)
            );
        }
    }
}
