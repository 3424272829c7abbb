//! KVM or emulation. `/dev/kvm` may be there and yet hang a stock guest (a virtual machine whose
//! own host does not nest), so KVM is believed only after a guest has booted under it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Lock};
use crate::hardware::{Hardware, Ram, make_overlay};
use crate::image::Image;
use crate::qemu::Qemu;
use crate::rundir::RunDir;

/// Where KVM works a guest boots in a few seconds.
const PROBE_WITHIN: Duration = Duration::from_secs(120);

/// How QEMU runs the guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accel {
    /// Emulation.
    Tcg,
    /// The host's processor.
    Kvm,
}

impl Accel {
    /// The name QEMU and `DISK_DISCOVERY_VM_ACCEL` have for it.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Accel::Tcg, Accel::Kvm]
            .into_iter()
            .find(|accel| accel.name() == name)
    }

    /// `DISK_DISCOVERY_VM_ACCEL`, else what the probe found since this host booted.
    pub(crate) fn choose(cache: &Cache, image: &Image) -> Result<Self> {
        if let Ok(name) = std::env::var("DISK_DISCOVERY_VM_ACCEL") {
            return match Self::parse(&name) {
                Some(accel) => Ok(accel),
                None => bail!("DISK_DISCOVERY_VM_ACCEL is {name:?}, neither tcg nor kvm"),
            };
        }
        if fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Accel::Tcg);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read the host's boot id")?;
        let verdict = image.dir().join("accel");
        let _probing = Lock::exclusive(&image.dir().join("accel.lock"))?;
        if let Ok(found) = fs::read_to_string(&verdict)
            && let Some(name) = found.strip_prefix(boot_id.trim_end())
            && let Some(accel) = Self::parse(name.trim())
        {
            return Ok(accel);
        }
        let accel = match probe(cache, image) {
            Ok(()) => Accel::Kvm,
            Err(error) => {
                let why = format!("{error:#}");
                let why = why.lines().next().unwrap_or_default();
                eprintln!("vm-fixtures: no guest boots under KVM, emulating ({why})");
                Accel::Tcg
            }
        };
        fs::write(
            &verdict,
            format!("{} {}\n", boot_id.trim_end(), accel.name()),
        )
        .with_context(|| format!("write {}", verdict.display()))?;
        Ok(accel)
    }
}

fn probe(cache: &Cache, image: &Image) -> Result<()> {
    eprintln!("vm-fixtures: trying a guest under KVM, for up to {PROBE_WITHIN:?}");
    let dir = RunDir::create(cache, "kvm-probe")?;
    make_overlay(&dir.join("root.qcow2"), &image.root(), "raw")?;
    let hardware = Hardware {
        memory_mib: 1024,
        cpus: 2,
        accel: Accel::Kvm,
    };
    let mut arguments = hardware.arguments();
    arguments.extend(hardware.paths(image, Ram::Anonymous)?);
    let (qemu, mut agent) = Qemu::start(dir.path(), &arguments)?;
    let booted = agent.wait_ready(PROBE_WITHIN);
    qemu.kill();
    booted
}
