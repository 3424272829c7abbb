//! What holds for every disk.

use std::io;

use proptest::prelude::*;

use super::*;

fn geometries() -> impl Strategy<Value = Geometry> {
    let sizes = prop_oneof![
        Just(0),
        Just(u64::MAX),
        0..64 * MIB,
        any::<u64>(),
        (0_u32..64).prop_map(|shift| 1 << shift),
    ];
    let sectors = prop_oneof![Just(512), Just(4096)];
    (sizes, sectors).prop_map(|(size, sector)| Geometry { size, sector })
}

/// Magic numbers and where in their sector they are.
fn magics() -> Vec<(usize, &'static [u8])> {
    let others: [(usize, &[u8]); 9] = [
        (0x38, b"\x53\xef"),
        (0, b"XFSB"),
        (0x40, b"_BHRfS_M"),
        (0, b"EFI PART"),
        (3, b"NTFS    "),
        (0, b"FILE0\0"),
        (0, b"\x0c\xb1\xba\0\0\0\0\0"),
        (100, b"pool_guid"),
        (0, b""),
    ];
    others.into_iter().chain(fixed::magics()).collect()
}

/// Bytes that look like the head of something at each sector.
fn looks(magic: &[u8], at: usize, noise: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = noise.repeat(len.div_ceil(noise.len()));
    bytes.truncate(len);
    for sector in bytes.chunks_mut(512) {
        if let Some(place) = sector.get_mut(at..at + magic.len()) {
            place.copy_from_slice(magic);
        }
    }
    bytes
}

#[test]
fn zeroes_hold_nothing() {
    for size in [64 * MIB, 10 * GIB, 16 * TIB, u64::MAX] {
        for sector in [512, 4096] {
            let geometry = Geometry { size, sector };
            let found = find(geometry, &mut |_, len| Ok(vec![0; len])).expect("zeroes");
            assert_eq!(found, []);
        }
    }
}

#[test]
fn a_place_that_cannot_be_read_is_not_an_empty_one() {
    let geometry = Geometry {
        size: 16 * TIB,
        sector: 512,
    };
    for place in places(geometry) {
        let mut broken = |at: u64, len: usize| {
            let hit = at <= place.at && place.at < at + len as u64;
            if hit {
                Err(io::Error::other("a bad sector"))
            } else {
                Ok(vec![0; len])
            }
        };
        assert!(find(geometry, &mut broken).is_err(), "{place:?}");
        let mut short =
            |at: u64, len: usize| Ok(vec![0; if at == place.at { len - 1 } else { len }]);
        assert!(find(geometry, &mut short).is_err(), "{place:?}");
    }
}

#[test]
fn a_disk_smaller_than_any_structure_is_not_read_beyond_its_end() {
    for (at, magic) in magics() {
        for size in (0..=32 * 1024).step_by(512) {
            let geometry = Geometry { size, sector: 512 };
            let mut read = |from: u64, len: usize| {
                assert!(from + len as u64 <= size, "{len} bytes at {from} of {size}");
                Ok(looks(magic, at, &[0x2a, 0], len))
            };
            assert!(find(geometry, &mut read).is_ok());
        }
    }
}

#[test]
fn a_spinning_disk_seeks_to_few_places_outside_its_ends() {
    for size in [12 * GIB, 100 * GIB, TIB, 3 * TIB, 16 * TIB] {
        let all = places(Geometry { size, sector: 512 });
        let far = all.iter().filter(|place| {
            let end = place.at + place.len as u64;
            end > 8 * MIB && place.at < size - 8 * MIB
        });
        let mut far: Vec<u64> = far.map(|place| place.at).collect();
        far.dedup();
        let bytes: usize = all.iter().map(|place| place.len).sum();
        assert!(far.len() <= 110, "{} places: {far:?}", far.len());
        assert!(all.len() <= 300, "{} in all", all.len());
        assert!(bytes <= 36 << 20, "{bytes} bytes");
    }
}

proptest! {
    #[test]
    fn places_are_sorted_bounded_and_inside_the_disk(geometry in geometries()) {
        let places = places(geometry);
        prop_assert!(places.is_sorted());
        prop_assert!(places.windows(2).all(|pair| pair[0] != pair[1]));
        prop_assert!(places.len() <= 340);
        for place in places {
            let end = place.at.checked_add(place.len as u64).expect("an end");
            prop_assert!(end <= geometry.size);
            prop_assert!(place.len > 0 && place.len <= 64 << 20);
            prop_assert_eq!(place.at % 4096, 0);
            prop_assert!((place.len as u64).is_multiple_of(4096) || geometry.size - end < 4096);
            prop_assert!((place.len as u64).is_multiple_of(512));
        }
    }

    #[test]
    fn whatever_the_disk_holds_it_is_read_within_its_bounds_and_without_a_panic(
        geometry in geometries(),
        noise in prop::collection::vec(any::<u8>(), 1..2000),
        magic in prop::sample::select(magics()),
        at in prop_oneof![Just(None), (0..512_usize).prop_map(Some)],
    ) {
        let (usual, magic) = magic;
        let mut read = |from: u64, len: usize| {
            assert!(from.checked_add(len as u64).is_some_and(|end| end <= geometry.size));
            Ok(looks(magic, at.unwrap_or(usual), &noise, len))
        };
        prop_assert!(find(geometry, &mut read).is_ok());
        let first = noise.len() as u64 * MIB;
        let partitions = partitions(geometry, first, &mut read);
        for (start, end) in partitions.expect("a disk that can be read") {
            prop_assert!(0 < start && start < end && end <= geometry.size);
        }
    }
}
