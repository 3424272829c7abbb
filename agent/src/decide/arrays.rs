//! Members of arrays. Many formats keep what makes a disk a member at its very
//! end, and what is on the array begins where the disk begins: the partition
//! table and the filesystem of a mirror are seen on each half of it.

use uuid::Uuid;

use super::{Reason, Refusal, view::View};
use crate::{
    fact::Fact,
    observe::{Device, Hardware, Medium, signature::Signature},
};

/// Refuses a disk that looks like a member of an array, before it is mounted:
/// written to on its own, it would differ from the others without their noticing.
/// A disk that was mounted on its own before carries what was left of an array
/// that is no more.
pub(super) fn gate(
    view: &View<'_>,
    disk: &Device,
    filesystem: Uuid,
    medium: &Medium,
) -> Result<(), Refusal> {
    let standing = view.inventory.standing.known();
    let before = standing.ok().and_then(|it| it.hardware_of(filesystem));
    let this = Hardware::of(disk);
    if before.is_some_and(|before| this.is_ok_and(|this| before.is_same(&this))) {
        return Ok(());
    }
    let failed = |why: &dyn std::fmt::Display| Refusal::new(Reason::ProbeFailed, why);
    let inside = medium.partition.as_ref().map(|inside| &inside.beside);
    let lodger = medium.lodger.as_ref().map(|lodger| &lodger.beside);
    let beside = inside.or(lodger).and_then(Option::as_ref);
    let beside = beside.map(Fact::known);
    match beside.ok_or_else(|| failed(&"not read"))? {
        Err(why) => Err(failed(why)),
        Ok(Signature::Nothing) => Ok(()),
        Ok(Signature::Ambivalent) => {
            let detail = "more than one format on the whole disk";
            Err(Refusal::new(Reason::ArrayMember, detail))
        }
        Ok(Signature::Found(found)) if makes_members(&found.kind) => {
            Err(Refusal::new(Reason::ArrayMember, &found.kind))
        }
        // What was left of a filesystem on the whole disk.
        Ok(Signature::Found(_)) => Ok(()),
    }
}

/// By what libblkid calls it.
fn makes_members(kind: &str) -> bool {
    kind.ends_with("_member") || matches!(kind, "drbd" | "drbdmanage_control_volume" | "bcache")
}
