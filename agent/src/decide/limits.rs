//! No more disks than the operator wants on this node, and in an hour.

use std::{collections::BTreeMap, sync::Arc};

use super::{Reason, Refusal, Verdict, view::View};
use crate::{fact::Fact, observe::Medium};

/// Refuses new disks that are one too many, those with the later names.
pub(super) fn keep(view: &View<'_>, verdicts: &mut BTreeMap<String, Verdict>) {
    let policy = view.policy;
    let inventory = view.inventory;
    // One that cannot be read, and has the one partition of a disk of ours, may
    // be ours.
    let may_be_ours = |disk: &String| {
        let failed = |medium: &Arc<Fact<Medium>>| medium.known().is_err();
        let unread =
            inventory.media.get(disk).is_some_and(failed) || inventory.not_answering.contains(disk);
        let device = inventory.devices.get(disk);
        unread && device.is_some_and(|device| view.partitions(device).len() == 1)
    };
    let adopted = |disk: &String| matches!(verdicts.get(disk), Some(Verdict::Adopt(_)));
    let claimed =
        |disk: &String| view.claim_of(disk).is_some() || may_be_ours(disk) || adopted(disk);
    // What is worked on may not carry its claim yet, or not show it.
    let begun = inventory.working.iter().filter(|disk| !claimed(disk));
    let begun = begun.count();
    let ours = inventory.devices.keys().filter(|disk| claimed(disk));
    let ours = ours.count() + begun;
    // Unreadable, every new disk was refused before.
    let formats = inventory
        .standing
        .known()
        .map_or(u32::MAX, |standing| standing.formats_last_hour);
    let left =
        |limit: Option<u32>, used: usize| limit.map(|limit| (limit as usize).saturating_sub(used));
    let disks = left(policy.max_disks, ours);
    let hour = left(
        policy.max_formats_per_hour,
        (formats as usize).saturating_add(begun),
    );
    let mut taken = 0;
    for (disk, verdict) in verdicts.iter_mut() {
        if !matches!(verdict, Verdict::Provision(_)) || inventory.working.contains(disk) {
            continue;
        }
        let full = |left: Option<usize>| left.is_some_and(|left| taken >= left);
        let refusal = if full(disks) {
            let limit = policy.max_disks.unwrap_or_default();
            Refusal::new(Reason::DiskLimit, format_args!("{limit} disks"))
        } else if full(hour) {
            let limit = policy.max_formats_per_hour.unwrap_or_default();
            Refusal::new(Reason::FormatLimit, format_args!("{limit} in an hour"))
        } else {
            taken += 1;
            continue;
        };
        *verdict = Verdict::Refused(refusal);
    }
}
