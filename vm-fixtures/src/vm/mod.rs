//! A running machine: scripts and files here, its disks in [`disks`].

mod disks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::agent::{AgentPort, Output};
use crate::attach::Attached;
use crate::hardware::{NETWORK_UP, user_network};
use crate::machine::Chassis;
use crate::off::Off;
use crate::qemu::{Qemu, with_wreck};

/// The time limit of [`Vm::run`] and [`Vm::sh`].
pub const RUN_WITHIN: Duration = Duration::from_secs(300);
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(180);

/// A running machine. Dropping it kills QEMU and removes the run directory.
#[derive(Debug)]
pub struct Vm {
    // Dropped in this order: QEMU ends before its files go.
    qemu: Qemu,
    agent: AgentPort,
    disks: Vec<Attached>,
    chassis: Chassis,
}

impl Vm {
    pub(crate) fn new(
        chassis: Chassis,
        qemu: Qemu,
        agent: AgentPort,
        disks: Vec<Attached>,
    ) -> Self {
        Self {
            qemu,
            agent,
            disks,
            chassis,
        }
    }

    /// The name it was declared with.
    pub fn name(&self) -> &str {
        &self.chassis.name
    }

    /// Runs a bash script, for up to [`RUN_WITHIN`]. Any exit code is an answer.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.run_within(RUN_WITHIN, script)
    }

    /// Runs a bash script. When the limit (whole seconds, at least one) passes, the guest kills
    /// the script and what it started in its session, and this is an error.
    pub fn run_within(&mut self, limit: Duration, script: &str) -> Result<Output> {
        match self.agent.run(script, limit) {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(self.wreck(anyhow!(
                "the script did not end within {limit:?}:\n{script}"
            ))),
            Err(error) => {
                Err(self.wreck(error.context(format!("the script was not answered:\n{script}\n"))))
            }
        }
    }

    /// Runs a bash script that has to succeed; returns its standard output.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        self.sh_within(RUN_WITHIN, script)
    }

    /// [`Vm::sh`] with its own time limit.
    pub fn sh_within(&mut self, limit: Duration, script: &str) -> Result<String> {
        let output = self.run_within(limit, script)?;
        if output.success() {
            return Ok(output.stdout);
        }
        let Output {
            code,
            stdout,
            stderr,
        } = output;
        Err(self.wreck(anyhow!(
            "the script ended with {code}:\n{script}\n--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}"
        )))
    }

    /// The bytes of a file in the guest.
    pub fn read_file(&mut self, path: &str) -> Result<Vec<u8>> {
        let bytes = self.agent.get(path);
        bytes.map_err(|error| self.wreck(error))
    }

    /// Writes a file in the guest, making the directories above it; replaces it atomically.
    pub fn write_file(&mut self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let written = self.agent.put(path, bytes.as_ref(), mode);
        written.map_err(|error| self.wreck(error))
    }

    /// Copies a file of the host into the guest.
    pub fn put(&mut self, from: impl AsRef<Path>, path: &str, mode: u32) -> Result<()> {
        let from = from.as_ref();
        let bytes = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.write_file(path, bytes, mode)
    }

    /// Freezes the guest's processors.
    pub fn stop(&mut self) -> Result<()> {
        self.qmp("stop", json!({})).map(drop)
    }

    /// Lets them go on.
    pub fn cont(&mut self) -> Result<()> {
        self.qmp("cont", json!({})).map(drop)
    }

    /// Everything the guest wrote to its console, over all its boots.
    pub fn console(&self) -> Result<String> {
        let bytes = std::fs::read(self.chassis.dir.join("console")).context("read the console")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A command of QEMU's machine protocol. A disk `x` is the device `disk-x` on the block node
    /// `file-x`, with `filter-x` between them when it has a filter.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let answer = self.qemu.qmp.execute(command, arguments);
        answer.map_err(|error| self.wreck(error))
    }

    /// Waits for an event of QEMU whose data hold every pair of the object `matching`; events
    /// that came since the start count.
    pub fn wait_event(&mut self, name: &str, matching: Value, limit: Duration) -> Result<Value> {
        let Value::Object(matching) = matching else {
            bail!("not an object to match an event with: {matching}");
        };
        let event = self.qemu.qmp.wait_event(name, &matching, limit);
        event.map_err(|error| self.wreck(error))
    }

    /// The process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    /// Where its sockets, console, overlay and disks are on the host.
    pub fn run_dir(&self) -> PathBuf {
        self.chassis.dir.path().to_owned()
    }

    /// Cuts the power: SIGKILL for QEMU. What the guest had written to a disk, flushed or not, is
    /// in the host's page cache and stays; what it had only in memory is gone.
    pub fn power_cut(self) -> Result<Off> {
        let Self {
            qemu,
            agent: _,
            disks,
            chassis,
        } = self;
        qemu.kill();
        Ok(Off::new(chassis, disks))
    }

    /// A clean power-off by systemd.
    pub fn shutdown(mut self) -> Result<Off> {
        // The agent may be stopped before it has answered: only the end of QEMU counts.
        let asked = self.agent.run("systemctl poweroff --no-block", RUN_WITHIN);
        if let Err(error) = self.qemu.wait_exit(SHUTDOWN_WITHIN) {
            let error = error.context(format!("the guest does not power off, asked: {asked:?}"));
            return Err(self.wreck(error));
        }
        self.power_cut()
    }

    pub(crate) fn wait_booted(&mut self, limit: Duration) -> Result<()> {
        let booted = self.agent.wait_ready(limit);
        booted.map_err(|error| self.wreck(error.context("the guest did not boot")))
    }

    pub(crate) fn plug_network(&mut self) -> Result<()> {
        let (backend, card) = user_network();
        self.qmp("netdev_add", backend)?;
        self.qmp("device_add", card)?;
        self.sh(NETWORK_UP).map(drop)
    }

    pub(crate) fn has_network(&self) -> bool {
        self.chassis.network
    }

    pub(crate) fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    fn attached(&self, name: &str) -> Result<&Attached> {
        match self
            .disks
            .iter()
            .find(|attached| attached.disk.name == name)
        {
            Some(attached) => Ok(attached),
            None => bail!("the machine {} has no disk {name}", self.chassis.name),
        }
    }

    /// The error, with what the machine's console and QEMU said last.
    fn wreck(&self, error: anyhow::Error) -> anyhow::Error {
        with_wreck(
            error.context(self.chassis.name.clone()),
            self.chassis.dir.path(),
        )
    }
}
