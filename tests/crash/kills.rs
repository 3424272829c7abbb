//! Hosts through many boots, in which the agent is killed and the power cut.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::Result;
use vm_fixtures::Lab;

use crate::{
    host::{Found, Host},
    run::everything,
    workers::share_out,
};

/// Hosts and boots of each in a whole run: more than 200 interruptions.
const EVERYTHING: (u64, usize) = (5, 8);
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
type Doctored = (&'static str, fn(&mut Found));

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
        eprintln!(
            "kills: host {number}: {} disks, {} durable files, agent killed {} times, power cut {} times, after {} s",
            host.disks.len(),
            host.durable.len(),
            host.kills,
            host.cuts,
            began.elapsed().as_secs()
        );
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
                ("a file", |found| drop(found.kept.pop_first())),
                ("a disk", |found| drop(found.names.pop_first())),
                ("a name", |found| {
                    found.names.values_mut().for_each(|name| name.push('x'));
                }),
                ("a checker", |found| {
                    found.unclean.push("unclean".to_owned())
                }),
            ];
            let before = host.harm(found).len();
            for (what, doctor) in doctored {
                let mut found = found.clone();
                doctor(&mut found);
                if host.harm(&found).len() <= before {
                    return Err(format!("{what} is not missed"));
                }
            }
        }
        Ok(())
    }

    /// The line that counts them.
    pub fn line(&self) -> String {
        let sum = |count: fn(&Host) -> usize| -> usize {
            self.hosts.iter().map(|(host, _)| count(host)).sum()
        };
        format!(
            "kills {}, power cuts {}, harmed {}",
            sum(|host| host.kills),
            sum(|host| host.cuts),
            self.harm().len()
        )
    }
}
