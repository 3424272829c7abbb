//! A virtual machine with the agent installed.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vm_fixtures::{Disk, Machine, Off, Vm};

use crate::Disks;

/// The agent as shipped for a plain systemd host.
const UNIT: &str = include_str!("../../deploy/systemd/disk-discovery.service");
/// A test that is quick starts the agent more often in ten seconds than systemd lets
/// a person do.
const MANY_STARTS: &str = "[Unit]\nStartLimitIntervalSec=0\n";
/// Under emulation on a busy machine everything takes its time.
const PATIENCE: Duration = Duration::from_mins(10);

/// The agent's binary: `DISK_DISCOVERY_BIN`, or what `cargo build --release`
/// made in this workspace.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("DISK_DISCOVERY_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
                || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
                PathBuf::from,
            );
            target.join("release/disk-discovery")
        }
    };
    ensure!(
        path.is_file(),
        "{} is not there: run cargo build --release -p disk-discovery",
        path.display()
    );
    Ok(path)
}

/// A running node.
pub struct Node {
    /// The machine, for everything that is not about the agent.
    pub vm: Vm,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {}", self.vm.name())
    }
}

impl Node {
    /// Boots a machine and installs the agent, not started, in mode enforce
    /// with a timer so long that only events can be the reason for a round.
    ///
    /// # Errors
    /// When the machine does not boot.
    pub fn boot(machine: Machine) -> Result<Self> {
        let mut vm = machine.start()?;
        vm.put(binary()?, "/usr/local/bin/disk-discovery", 0o755)?;
        vm.write_file("/etc/systemd/system/disk-discovery.service", UNIT, 0o644)?;
        vm.write_file(
            "/etc/systemd/system/disk-discovery.service.d/starts.conf",
            MANY_STARTS,
            0o644,
        )?;
        let mut node = Self { vm };
        node.configure("mode: enforce\ninterval: 1h\n")?;
        node.vm
            .sh("systemctl daemon-reload && systemctl enable --quiet disk-discovery && sync")?;
        Ok(node)
    }

    /// A node that was off.
    ///
    /// # Errors
    /// When the machine does not boot.
    pub fn again(off: Off) -> Result<Self> {
        Ok(Self { vm: off.boot()? })
    }

    /// Writes the agent's configuration.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn configure(&mut self, yaml: &str) -> Result<()> {
        self.vm
            .write_file("/etc/disk-discovery/config.yaml", yaml, 0o644)
    }

    /// Starts the agent's service.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_agent(&mut self) -> Result<()> {
        self.vm.sh("systemctl start disk-discovery").map(drop)
    }

    /// Ends the agent's service and starts it again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_agent(&mut self) -> Result<()> {
        self.vm.sh("systemctl restart disk-discovery").map(drop)
    }

    /// What the agent has logged.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn log(&mut self) -> Result<String> {
        self.vm
            .sh("journalctl --quiet --no-pager -o cat -u disk-discovery")
    }

    /// `/v1/disks` from inside the node.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn disks(&mut self) -> Result<Disks> {
        Disks::parse(
            &self
                .vm
                .sh("curl -sS --fail --max-time 120 http://localhost:9807/v1/disks")?,
        )
    }

    /// `plan -o json`.
    ///
    /// # Errors
    /// When it fails.
    pub fn plan(&mut self) -> Result<Disks> {
        Disks::parse(&self.vm.sh("disk-discovery plan -o json")?)
    }

    /// Waits until `/v1/disks` is as wanted.
    ///
    /// # Errors
    /// When it is not within a generous time; with the last answer and the log.
    pub fn wait_until(&mut self, what: &str, wanted: impl Fn(&Disks) -> bool) -> Result<Disks> {
        let end = Instant::now() + PATIENCE;
        loop {
            let last = self.disks();
            match &last {
                Ok(disks) if wanted(disks) => return Ok(disks.clone()),
                Ok(_) | Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(200)),
                Ok(disks) => bail!(
                    "{what}: not so. /v1/disks: {:#}\nlog:\n{}",
                    disks.0,
                    self.log()?
                ),
                Err(error) => bail!("{what}: {error:#}\nlog:\n{}", self.log()?),
            }
        }
    }

    /// Waits until the machine is as wanted.
    ///
    /// # Errors
    /// When it is not within a generous time; with the log.
    pub fn wait_for(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !wanted(self)? {
            ensure!(
                Instant::now() < end,
                "{what}: not so. Log:\n{}",
                self.log()?
            );
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until exactly these paths are mounted, as the agent and as the
    /// kernel's mount table say.
    ///
    /// # Errors
    /// When they are not within a generous time.
    pub fn wait_mounted(&mut self, paths: &[&str]) -> Result<Disks> {
        let disks = self.wait_until(&format!("mounted: {paths:?}"), |disks| {
            disks.mounted() == paths
        })?;
        for path in paths {
            let source = self
                .vm
                .sh(&format!("findmnt -nro SOURCE --mountpoint {path}"));
            source.with_context(|| format!("{path} is not in the mount table"))?;
        }
        Ok(disks)
    }

    /// Waits until a device is refused for this reason.
    ///
    /// # Errors
    /// When it is not within a generous time.
    pub fn wait_refused(&mut self, device: &str, reason: &str) -> Result<Disks> {
        self.wait_until(&format!("{device} is refused: {reason}"), |disks| {
            disks.field(device, "verdict") == "refused" && disks.field(device, "reason") == reason
        })
    }

    /// Waits until a line of the log has all these words.
    ///
    /// # Errors
    /// When none has within a generous time; with the log.
    pub fn wait_logged(&mut self, words: &[&str]) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = self.log()?;
            if log
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
            {
                return Ok(());
            }
            ensure!(Instant::now() < end, "no line with {words:?}:\n{log}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Shows that the agent is at work, and that it has looked again since: it
    /// takes a blank disk that is plugged in now.
    ///
    /// # Errors
    /// When it does not within a generous time.
    pub fn takes_another(&mut self) -> Result<()> {
        self.vm.plug(Disk::virtio("another").gib(12))?;
        let name = self.vm.kernel_name("another")?;
        let path = format!("/mnt/longhorn/{name}1");
        self.wait_until(&format!("mounted: {path}"), |disks| {
            disks.mounted().contains(&path)
        })
        .map(drop)
    }

    /// Checks that `/healthz` says that the loop is alive.
    ///
    /// # Errors
    /// When it says otherwise, or nothing.
    pub fn check_healthy(&mut self) -> Result<()> {
        let health = self
            .vm
            .sh("curl -sS --fail --max-time 120 http://localhost:9807/healthz")?;
        ensure!(health.starts_with("ok"), "{health}");
        Ok(())
    }

    /// Writes that each disk has completed since it appeared and the sectors
    /// they carried, by kernel name.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn write_counters(&mut self) -> Result<String> {
        self.vm.sh("cd /sys/block && for d in sd* vd* nvme*; do [ -e $d/stat ] && awk -v d=$d '{print d, $5, $7}' $d/stat; done; true")
    }

    /// Waits until nothing is written any more: ext4 zeroes its inode tables
    /// after the first mount. No sync meanwhile, which is a write itself.
    ///
    /// # Errors
    /// When writing does not end within a generous time.
    pub fn wait_quiet(&mut self) -> Result<String> {
        let end = Instant::now() + PATIENCE;
        // The kernel keeps what is dirty for half a minute: here for a second.
        self.vm.sh("cd /proc/sys/vm && echo 100 > dirty_expire_centisecs && echo 100 > dirty_writeback_centisecs && sync")?;
        let mut before = self.write_counters()?;
        let mut quiet = 0;
        loop {
            // Longer than the five seconds after which ext4 commits.
            self.vm.sh("sleep 7")?;
            let after = self.write_counters()?;
            let unchanged = data_disks(&after) == data_disks(&before);
            quiet = if unchanged && !self.vm.run("pgrep ext4lazyinit")?.success() {
                quiet + 1
            } else {
                0
            };
            if quiet == 2 {
                return Ok(after);
            }
            ensure!(Instant::now() < end, "still writing: {before} {after}");
            before = after;
        }
    }
}

/// Counters without those of vda, the system's own disk, to which the system
/// itself writes.
pub fn data_disks(counters: &str) -> Vec<&str> {
    counters
        .lines()
        .filter(|line| !line.starts_with("vda "))
        .collect()
}
