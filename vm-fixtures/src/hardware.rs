//! The machine as QEMU's command line has it: the same for a template and its clones.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::accel::Accel;
use crate::attach::{NIC_SLOT, RNG_SLOT, ROOT_SLOT, SCSI_SLOT, SERIAL_SLOT, USB_SLOT};
use crate::image::Image;

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// What boots a stock kernel quickly under emulation and changes nothing a disk test looks at.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet loglevel=4 \
    net.ifnames=0 lsm=yama,bpf audit=0 \
    mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests \
    8250.nr_uarts=1 rcupdate.rcu_expedited=1 i8042.noaux=1 i8042.nokbd=1 i8042.nopnp=1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hardware {
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) accel: Accel,
}

/// Where the guest's memory lives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ram<'a> {
    Anonymous,
    /// In a file, for a template.
    Template(&'a Path),
    /// A private copy-on-write view of a template's file.
    Clone(&'a Path),
}

impl Hardware {
    /// The part of the command line that does not depend on paths.
    pub(crate) fn arguments(self) -> Vec<String> {
        let (accel, cpu) = match self.accel {
            Accel::Tcg => ("tcg,thread=multi,tb-size=256", "qemu64"),
            Accel::Kvm => ("kvm", "host"),
        };
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "pc,memory-backend=ram",
            "-accel",
            accel,
            "-cpu",
            cpu,
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(["-smp".to_owned(), self.cpus.to_string()]);
        arguments.extend(["-m".to_owned(), self.memory_mib.to_string()]);
        arguments.extend(["-append", KERNEL_COMMAND_LINE].map(str::to_owned));
        // Legacy virtio tells the device of new requests through an I/O port. Modern virtio writes to
        // memory, and QEMU 7.2 seems to lose such a write of one emulated CPU when another one
        // changes the memory map at that moment, as the hotplug of a PCI device does.
        for device in [
            json!({ "driver": "virtio-serial-pci", "disable-modern": true, "id": "serial0", "addr": at(SERIAL_SLOT) }),
            json!({ "driver": "virtserialport", "bus": "serial0.0", "chardev": "agent",
                    "name": "agent", "id": "agent0" }),
            json!({ "driver": "virtio-rng-pci", "disable-modern": true, "rng": "rng0", "addr": at(RNG_SLOT), "id": "rng1" }),
            json!({ "driver": "virtio-blk-pci", "disable-modern": true, "drive": "root", "serial": "vmroot",
                    "addr": at(ROOT_SLOT), "id": "root0" }),
            json!({ "driver": "virtio-scsi-pci", "disable-modern": true, "id": "scsi0", "addr": at(SCSI_SLOT) }),
            json!({ "driver": "qemu-xhci", "id": "xhci", "p2": 15, "p3": 15, "addr": at(USB_SLOT) }),
        ] {
            arguments.extend(["-device".to_owned(), device.to_string()]);
        }
        arguments
    }

    /// The rest: files in QEMU's working directory, except for the image's and the memory's.
    pub(crate) fn paths(self, image: &Image, ram: Ram<'_>) -> Result<Vec<String>> {
        let size = u64::from(self.memory_mib) << 20;
        let memory = match ram {
            Ram::Anonymous => {
                json!({ "qom-type": "memory-backend-ram", "id": "ram", "size": size })
            }
            Ram::Template(path) => json!({ "qom-type": "memory-backend-file", "id": "ram",
                "size": size, "mem-path": path, "share": true }),
            Ram::Clone(path) => json!({ "qom-type": "memory-backend-file", "id": "ram",
                "size": size, "mem-path": path, "share": false }),
        };
        let root = json!({ "driver": "qcow2", "node-name": "root", "discard": "unmap",
            "file": { "driver": "file", "filename": "root.qcow2", "discard": "unmap" } });
        let text = |path: &Path| match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => bail!("{} is not UTF-8", path.display()),
        };
        Ok([
            ("-object", memory.to_string()),
            ("-object", "rng-builtin,id=rng0".to_owned()),
            ("-kernel", text(&image.vmlinux())?),
            ("-initrd", text(&image.initramfs())?),
            ("-blockdev", root.to_string()),
            (
                "-chardev",
                "file,id=console,path=console,append=on".to_owned(),
            ),
            ("-serial", "chardev:console".to_owned()),
            (
                "-chardev",
                "socket,id=agent,path=agent,server=on,wait=off".to_owned(),
            ),
            ("-qmp", "unix:qmp,server=on,wait=off".to_owned()),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect())
    }
}

fn at(slot: u16) -> String {
    format!("{slot:#x}")
}

/// The user-mode network: its back end as for `netdev_add`, its card as for `device_add`.
pub(crate) fn user_network() -> (Value, Value) {
    (
        json!({ "type": "user", "id": "net0" }),
        json!({ "driver": "virtio-net-pci", "id": "nic0", "netdev": "net0", "romfile": "",
            "mac": "52:54:00:00:00:01", "addr": at(NIC_SLOT) }),
    )
}

/// Gives `eth0` the address that the user-mode network expects, without DHCP.
pub(crate) const NETWORK_UP: &str = "set -e
modprobe virtio_net
tries=0
until [ -e /sys/class/net/eth0 ]; do
    [ $((tries += 1)) -lt 500 ] || { echo 'no eth0 appeared' >&2; exit 1; }
    sleep 0.02
done
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2";

/// The first line of `qemu-system-x86_64 --version`, with the distribution's package version.
pub(crate) fn qemu_version() -> Result<String> {
    let out = Command::new(QEMU)
        .arg("--version")
        .output()
        .with_context(|| format!("run {QEMU}: is QEMU installed?"))?;
    match String::from_utf8_lossy(&out.stdout).lines().next() {
        Some(line) if out.status.success() => Ok(line.to_owned()),
        _ => bail!("{QEMU} --version says nothing"),
    }
}

/// Makes the qcow2 file `overlay` on top of `base`.
pub(crate) fn make_overlay(overlay: &Path, base: &Path, base_format: &str) -> Result<()> {
    let out = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", base_format, "-b"])
        .args([base, overlay])
        .output()
        .context("run qemu-img: is it installed?")?;
    if !out.status.success() {
        bail!(
            "qemu-img cannot make {}: {}",
            overlay.display(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}
