//! ZFS writes a label of 256 KiB twice at the beginning and twice at the end
//! of what it is given: 16 KiB in, a list of names and values about the pool,
//! 128 KiB in, the roots of its recent states (openzfs, `vdev_impl.h`).

use super::{BLOCK, KIB, MIB, Owner, Piece, Places, Trace};

const LABEL: u64 = 256 * KIB;
const LIST: u64 = 16 * KIB;
const ROOTS: u64 = 128 * KIB;
/// Of a root, in the byte order of the machine that wrote it.
const ROOT_MAGIC: u64 = 0x00ba_b10c;

pub(super) fn places(places: &mut Places) {
    for (start, end) in volumes(places) {
        let Some(len) = end.checked_sub(start).filter(|len| *len >= 4 * LABEL) else {
            continue;
        };
        let end = start + (len - len % LABEL);
        let labels = [start, start + LABEL, end - 2 * LABEL, end - LABEL];
        for label in labels {
            places.add(Owner::Zfs, label + LIST, BLOCK);
            places.add(Owner::Zfs, label + ROOTS, 2 * BLOCK);
        }
    }
}

/// The whole disk, partitions to the usual ends, and the partition that
/// `zpool` itself makes: it leaves 8 MiB behind it, so that both labels at its
/// end are further from the end of the disk than anybody else's
/// (openzfs, `zpool_label_disk`).
fn volumes(places: &Places) -> [(u64, u64); 4] {
    const RESERVED: u64 = 8 * MIB;
    let sector = u64::from(places.geometry.sector.max(512));
    let usable = places.usable_end();
    let aligned = |end: u64, multiple: u64| end - end % multiple;
    let own = usable.saturating_sub(RESERVED + MIB);
    [
        (0, places.size),
        (MIB, usable),
        (MIB, aligned(usable, MIB)),
        // Its size is a multiple of 2048 sectors, whatever their size.
        (MIB, MIB + aligned(own, 2048 * sector)),
    ]
}

/// What wipefs of util-linux 2.40 and later erases is the head of the list;
/// earlier ones erase roots and stop before the last ones. Neither can be told
/// from damage by a UUID, so none of these is `wiped`.
pub(super) fn look(piece: &Piece) -> Vec<Trace> {
    let root = piece.sectors(512).find(|(_, root)| {
        let magic = root.le64(0);
        magic == Some(ROOT_MAGIC) || magic == Some(ROOT_MAGIC.swap_bytes())
    });
    let list = piece
        .structure(piece.at, BLOCK as usize)
        .filter(|list| list.contains(b"pool_guid") || list.contains(b"vdev_tree"));
    let at = root.map(|(at, _)| at).or(list.map(|_| piece.at));
    at.map(|at| Trace {
        at,
        kind: "zfs_member".to_owned(),
        wiped: false,
    })
    .into_iter()
    .collect()
}
