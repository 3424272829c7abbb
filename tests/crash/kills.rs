//! Hosts through many boots, in which the agent is killed and the power cut.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::Result;
use vm_fixtures::Lab;

use crate::{
    host::{Found, Host},
    run::everything,
    workers::share_out,
};

/// Hosts and boots of each in a whole run,
const EVERYTHING: (u64, usize) = (5, 8);
/// with so many interruptions at least.
const INTERRUPTIONS: usize = 200;
/// The same in a sample.
const SAMPLE: (u64, usize) = (1, 2);

/// What all hosts went through.
#[derive(Debug)]
pub struct Kills {
    hosts: Vec<(Host, Found)>,
    /// Where their disks are, if something is wrong with them.
    pub kept: Option<PathBuf>,
}

/// A way in which what was found could be worse.
type Doctored = (&'static str, fn(&Host, &mut Found));

/// Lets hosts live, as many at a time as there may be machines.
pub fn run(lab: &Lab, machines: usize, seed: u64) -> Result<Kills> {
    let began = Instant::now();
    let (hosts, boots) = if everything() { EVERYTHING } else { SAMPLE };
    let dir = tempfile::Builder::new()
        .prefix("kills.")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let hosts = share_out(machines, (0..hosts).collect(), |_, number| {
        let dir = dir.path().join(format!("host-{number}"));
        fs::create_dir(&dir)?;
        let mut host = Host::new(&dir, seed.wrapping_add(number))?;
        let found = host.live(lab, boots)?;
        let harm = host.harm(&found);
        eprintln!(
            "kills: host {number}: {} disks, {} durable files, agent killed {} times, power cut {} times, harmed {}, after {} s",
            host.disks.len(),
            host.durable.len(),
            host.kills,
            host.cuts,
            harm.len(),
            began.elapsed().as_secs()
        );
        for harm in harm {
            eprintln!("kills: {harm}");
        }
        Ok((host, found))
    })?;
    let mut kills = Kills { hosts, kept: None };
    if !kills.harm().is_empty() {
        kills.kept = Some(dir.keep());
    }
    Ok(kills)
}

impl Kills {
    /// Everything that is not as it must be.
    pub fn harm(&self) -> Vec<String> {
        let each = self.hosts.iter();
        each.flat_map(|(host, found)| host.harm(found)).collect()
    }

    /// Whether nothing is wrong.
    pub fn unharmed(&self) -> Result<(), String> {
        let harm = self.harm();
        let interruptions = self.sum(|host| host.kills + host.cuts);
        if everything() && interruptions < INTERRUPTIONS {
            return Err(format!("only {interruptions} interruptions"));
        }
        if harm.is_empty() {
            return Ok(());
        }
        Err(format!("{}\ndisks: {:?}", harm.join("\n"), self.kept))
    }

    /// Whether something would be said if a file were gone, a name another, or
    /// a filesystem damaged.
    pub fn would_see_harm(&self) -> Result<(), String> {
        for (host, found) in &self.hosts {
            let doctored: [Doctored; 4] = [
                // Others may have outlasted the power by chance.
                ("a file", |host, found| {
                    found.kept.retain(|file| Some(file) != host.durable.first());
                }),
                ("a disk", |_, found| drop(found.names.pop_first())),
                ("a name", |_, found| {
                    found.names.values_mut().for_each(|name| name.push('x'));
                }),
                ("a checker", |_, found| {
                    found.unclean.push("unclean".to_owned())
                }),
            ];
            let before = host.harm(found).len();
            for (what, doctor) in doctored {
                let mut found = found.clone();
                doctor(host, &mut found);
                if host.harm(&found).len() <= before {
                    return Err(format!("{what} is not missed"));
                }
            }
        }
        Ok(())
    }

    /// The line that counts them.
    pub fn line(&self) -> String {
        format!(
            "kills {}, power cuts {}, harmed {}",
            self.sum(|host| host.kills),
            self.sum(|host| host.cuts),
            self.harm().len()
        )
    }

    fn sum(&self, count: fn(&Host) -> usize) -> usize {
        self.hosts.iter().map(|(host, _)| count(host)).sum()
    }
}
