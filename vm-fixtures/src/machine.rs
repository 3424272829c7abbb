//! A machine as declared, and how it starts: as a clone, or by a boot.

use std::path::Path;

use anyhow::{Context, Error, Result};

use crate::agent::{AgentPort, NO_ANSWER};
use crate::attach::Attached;
use crate::disk::{Bus, Disk};
use crate::hardware::{Hardware, NETWORK_UP, Ram, make_overlay, user_network};
use crate::lab::Lab;
use crate::qemu::{Qemu, start_alive, with_wreck};
use crate::rundir::RunDir;
use crate::template::{BOOT_WITHIN, thaw};
use crate::vm::Vm;

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Boot {
    /// From the template, in about a second; its disks are hot-plugged.
    #[default]
    Clone,
    /// By a boot of its own, its disks in place from the start.
    Cold,
}

/// A machine being declared.
#[derive(Debug, Clone)]
pub struct Machine {
    lab: Lab,
    name: String,
    hardware: Hardware,
    disks: Vec<Disk>,
    network: bool,
    boot: Boot,
}

/// What of a machine outlives the loss of its power.
#[derive(Debug)]
pub(crate) struct Chassis {
    pub(crate) name: String,
    pub(crate) lab: Lab,
    pub(crate) hardware: Hardware,
    pub(crate) network: bool,
    pub(crate) dir: RunDir,
}

impl Machine {
    pub(crate) fn new(lab: Lab, name: &str) -> Self {
        let hardware = Hardware {
            memory_mib: 1024,
            cpus: 2,
            accel: lab.accel(),
        };
        let name = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        Self {
            lab,
            name,
            hardware,
            disks: Vec::new(),
            network: false,
            boot: Boot::Clone,
        }
    }

    /// Memory; 1024 MiB by default. Every combination of memory and CPUs has its own template.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.hardware.memory_mib = mib;
        self
    }

    /// Processors; 2 by default.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.hardware.cpus = cpus;
        self
    }

    /// Adds a disk. Disks are attached in the order they are declared in.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds a network card `eth0` (10.0.2.15) from which the host's loopback is 10.0.2.2.
    pub fn user_network(mut self) -> Self {
        self.network = true;
        self
    }

    /// How it starts.
    pub fn boot(mut self, boot: Boot) -> Self {
        self.boot = boot;
        self
    }

    /// Starts it; returns when a script can run and udev has seen every disk.
    pub fn start(self) -> Result<Vm> {
        let name = self.name.clone();
        // Once in some thousand clones a processor gets no more interrupts of its timer, and
        // whatever sleeps on it sleeps for ever. Nothing has been done with it so far.
        let again = (self.boot == Boot::Clone).then(|| self.clone());
        let started = match (self.start_unnamed(), again) {
            (Err(error), Some(again)) if stands_still(&error) => {
                eprintln!("{name} is started again: {error:#}");
                again.start_unnamed()
            }
            (started, _) => started,
        };
        started.with_context(|| format!("start the machine {name}"))
    }

    fn start_unnamed(self) -> Result<Vm> {
        let dir = RunDir::create(self.lab.cache(), &self.name)?;
        let overlay = dir.join("root.qcow2");
        let chassis = |dir| Chassis {
            name: self.name.clone(),
            lab: self.lab.clone(),
            hardware: self.hardware,
            network: self.network,
            dir,
        };
        match self.boot {
            Boot::Cold => {
                make_overlay(&overlay, &self.lab.image().root(), "raw")?;
                chassis(dir).boot(self.disks)
            }
            Boot::Clone => {
                let (qemu, agent) = self.clone_template(dir.path(), &overlay)?;
                let mut vm = Vm::new(chassis(dir), qemu, agent, Vec::new());
                if self.network {
                    vm.plug_network()?;
                }
                for disk in self.disks {
                    // A PCI device changes the memory map when the guest sets it up; an NVMe
                    // that starts on another emulated CPU meanwhile was seen to lose its first
                    // command (the README has numbers). SCSI disks get their kernel names in
                    // any order when there are several at a time. So one at a time.
                    let alone = matches!(disk.bus, Bus::Virtio | Bus::Nvme | Bus::Scsi);
                    let name = disk.name.clone();
                    vm.plug(disk)?;
                    if alone {
                        vm.kernel_name(&name)?;
                    }
                }
                if vm.has_disks() {
                    vm.settle()?;
                }
                Ok(vm)
            }
        }
    }

    fn clone_template(&self, dir: &Path, overlay: &Path) -> Result<(Qemu, AgentPort)> {
        let template = self.lab.template(self.hardware)?;
        make_overlay(overlay, &template.root(), "qcow2")?;
        std::os::unix::fs::symlink(template.state(), dir.join("state"))
            .context("link the state of the template")?;
        let mut arguments = self.hardware.arguments();
        arguments.extend(
            self.hardware
                .paths(self.lab.image(), Ram::Clone(&template.memory()))?,
        );
        arguments.extend(["-incoming", "defer"].map(str::to_owned));
        let (mut qemu, mut agent) = Qemu::start(dir, &arguments)?;
        match thaw(&mut qemu, &mut agent).context("clone the template") {
            Ok(()) => Ok((qemu, agent)),
            Err(error) => Err(with_wreck(error, dir)),
        }
    }
}

fn stands_still(error: &Error) -> bool {
    format!("{error:#}").contains(NO_ANSWER)
}

impl Chassis {
    /// Boots on the system disk and the disks' files as they are.
    pub(crate) fn boot(self, disks: Vec<Disk>) -> Result<Vm> {
        let mut attached: Vec<Attached> = Vec::new();
        for disk in disks {
            attached.push(Attached::new(disk, self.dir.path(), &attached)?);
        }
        let mut arguments = self.hardware.arguments();
        arguments.extend(self.hardware.paths(self.lab.image(), Ram::Anonymous)?);
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        for disk in &attached {
            for node in disk.nodes() {
                add("-blockdev", node.to_string());
            }
            add("-device", disk.device().to_string());
        }
        if self.network {
            let (backend, card) = user_network();
            add("-netdev", backend.to_string());
            add("-device", card.to_string());
        }
        let (qemu, agent) = start_alive(&self.name, || Qemu::start(self.dir.path(), &arguments))?;
        let mut vm = Vm::new(self, qemu, agent, attached);
        vm.wait_booted(BOOT_WITHIN)?;
        if vm.has_network() {
            vm.sh(NETWORK_UP)?;
        }
        vm.settle()?;
        Ok(vm)
    }
}
