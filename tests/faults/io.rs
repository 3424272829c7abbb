//! Disks on which a request fails: each write of a provisioning, each flush,
//! and the reads that look at what was written.

use anyhow::{Result, bail, ensure};
use vm_tests::Node;

use crate::{
    Case, Ground, When,
    ward::{
        self, Fault, another_is_mounted, check_filesystems, error_of, failing, failures, formats,
        heal, is_committed, is_mounted, was_met,
    },
};

pub const CASES: &[Case] = &[(
    "a_disk_that_fails_at_any_request_of_its_provisioning_is_resumed_when_it_works_again",
    When::Always,
    any_request,
)];

/// Disks of one machine that fail at the same time.
const AT_ONCE: usize = 12;

fn any_request(ground: &Ground) -> Result<()> {
    if !ground.all {
        let faults = [
            Fault::Writes(1),
            Fault::Writes(2),
            Fault::Writes(5),
            Fault::Flushes(2),
            Fault::Flushes(4),
            Fault::ReadsAfterWrite(2),
        ];
        let met = batch(ground, &faults)?;
        ensure!(met == faults.len(), "{met} faults of the sample were met");
        return Ok(());
    }
    for kind in [Fault::Writes, Fault::Flushes, Fault::ReadsAfterWrite] {
        // Until a provisioning runs through with no error left to meet.
        for first in (1..).step_by(AT_ONCE) {
            let faults: Vec<Fault> = (first..first + AT_ONCE).map(kind).collect();
            if batch(ground, &faults)? < AT_ONCE {
                break;
            }
        }
    }
    Ok(())
}

/// A disk of a batch.
struct Patient {
    name: String,
    device: String,
    fault: Fault,
    /// It failed before it was mounted.
    met: bool,
    /// How often it was formatted when it was found committed.
    committed: Option<usize>,
}

impl Patient {
    /// What went wrong is told, and the agent has tried again in vain; or
    /// nothing went wrong before the disk was mounted.
    fn is_settled(&self, disks: &vm_tests::Disks) -> bool {
        is_mounted(disks, &self.device)
            || (failures(disks, &self.device) >= 2 && !error_of(disks, &self.device).is_empty())
            || disks.field(&self.device, "reason") == "probe-failed"
    }
}

/// Lets disks fail, each in its way, and heals them. How many of the faults were
/// met before the disk was mounted.
fn batch(ground: &Ground, faults: &[Fault]) -> Result<usize> {
    let names: Vec<String> = (0..faults.len()).map(|at| format!("disk{at}")).collect();
    let disks = names.iter().zip(faults);
    let disks = disks.map(|(name, fault)| failing(name, fault)).collect();
    let config = "log: disk_discovery=debug\n";
    let (mut node, foreign) = ward::node(ground, "any-request", disks, config)?;
    node.start_agent()?;
    let mut patients = Vec::new();
    for (name, fault) in names.into_iter().zip(faults.iter().cloned()) {
        patients.push(Patient {
            device: node.vm.kernel_name(&name)?,
            name,
            fault,
            met: false,
            committed: None,
        });
    }
    let failing = node.wait_until("every disk has failed or is mounted", |disks| {
        patients.iter().all(|patient| patient.is_settled(disks))
    })?;
    for patient in &mut patients {
        patient.met = !is_mounted(&failing, &patient.device);
        if !patient.met {
            // What is written to a mounted disk is no part of this.
            heal(&mut node, &patient.name)?;
            continue;
        }
        ensure!(
            was_met(&mut node, &patient.name, &patient.fault)?,
            "{} did not fail of {:?}: {:#}",
            patient.device,
            patient.fault,
            failing.0
        );
        ground.tally.met();
        if is_committed(&node, &patient.name)? {
            patient.committed = Some(formats(&node.log()?, &patient.device));
        }
    }
    another_is_mounted(ground, &mut node)?;
    patients.retain(|patient| patient.met);
    for patient in &patients {
        heal(&mut node, &patient.name)?;
    }
    recovered(ground, &mut node, &patients)?;
    foreign.check(ground, &mut node)?;
    Ok(patients.len())
}

/// Attempts on a device that failed because somebody else had it open for a moment:
/// udevd, or a child of the agent that was about to become the mkfs of another
/// disk. mkfs may have been begun again after each, and has written nothing.
fn hindered(log: &str, device: &str) -> usize {
    let disk = format!("disk=\"{device}\"");
    let others = ["held by somebody else", "apparently in use by the system"];
    log.lines()
        .filter(|line| line.contains("not finished") && line.contains(&disk))
        .filter(|line| others.iter().any(|words| line.contains(words)))
        .count()
}

/// Waits until all are mounted, each under its own name, in one piece, and not
/// formatted again if it was committed.
fn recovered(ground: &Ground, node: &mut Node, patients: &[Patient]) -> Result<()> {
    let disks = node.wait_until("every disk is mounted", |disks| {
        patients
            .iter()
            .all(|patient| is_mounted(disks, &patient.device))
    })?;
    let log = node.log()?;
    for patient in patients {
        let device = &patient.device;
        let path = format!("/mnt/longhorn/{device}1");
        ensure!(
            disks.field(device, "mountPath") == path,
            "{device} has another name: {:#}",
            disks.0
        );
        // Only once also before it was found committed: an attempt after the commit
        // may have made it anew already then.
        let (now, most) = (formats(&log, device), 1 + hindered(&log, device));
        if patient
            .committed
            .is_some_and(|then| now != then || now > most)
        {
            ground.tally.harmed();
            bail!("{device} was committed and was formatted again:\n{log}");
        }
        ground.tally.recovered();
    }
    let devices: Vec<String> = patients
        .iter()
        .map(|patient| patient.device.clone())
        .collect();
    check_filesystems(ground, node, &devices)
}
