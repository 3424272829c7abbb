//! Checks with real machines what the harness promises, and prints how long each step takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vm_fixtures::{Boot, Bus, Disk, Lab, Vm};

struct Steps {
    last: Instant,
}

impl Steps {
    fn done(&mut self, step: &str) {
        println!("{:7.2} s  {step}", self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps {
        last: Instant::now(),
    };
    let lab = Lab::open()?;
    steps.done("open the lab");
    drop(lab.machine("first").start()?);
    steps.done("first clone, with the template if it was missing");
    clones_differ(&lab, &mut steps)?;
    let vm = every_bus(&lab, &mut steps)?;
    power_cut_and_reorder(vm, &mut steps)?;
    scripts_and_files(&lab, &mut steps)?;
    many_disks(&lab, &mut steps)?;
    network(&lab, &mut steps)?;
    cold_and_shutdown(&lab, &mut steps)?;
    println!("all is well");
    Ok(())
}

fn clones_differ(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let mut one = lab.machine("one").start()?;
    let first = one.sh("uuidgen -r")?;
    steps.done("clone to first answer");
    let mut two = lab.machine("two").start()?;
    ensure!(
        two.sh("uuidgen -r")? != first,
        "two clones made the same UUID {first}"
    );
    let guest: i64 = two
        .sh("date +%s")?
        .trim()
        .parse()
        .context("read the guest's clock")?;
    let host = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs() as i64;
    ensure!(
        (guest - host).abs() <= 2,
        "the guest's clock is off by {} s",
        guest - host
    );
    steps.done("a second clone beside it has other UUIDs and the time");
    Ok(())
}

fn every_bus(lab: &Lab, steps: &mut Steps) -> Result<Vm> {
    let mut vm = lab
        .machine("every-bus")
        .disk(Disk::virtio("alpha").gib(12).serial("ALPHA"))
        .disk(
            Disk::scsi("beta")
                .bytes(10_000_000_000)
                .serial("BETA")
                .wwn(0x5000_c500_15ea_71ac)
                .vendor("ACME")
                .product("DISK1"),
        )
        .disk(Disk::nvme("gamma").gib(12).serial("GAMMA"))
        .disk(Disk::usb("epsilon").gib(12).serial("EPSILON"))
        .start()?;
    steps.done("clone with a virtio, a SCSI, an NVMe and a USB disk, settled");
    for (name, property) in [
        ("alpha", "ID_SERIAL=ALPHA"),
        ("beta", "ID_SCSI_SERIAL=BETA"),
        ("beta", "ID_WWN=0x5000c50015ea71ac"),
        ("beta", "ID_VENDOR=ACME"),
        ("beta", "ID_MODEL=DISK1"),
        ("gamma", "ID_SERIAL_SHORT=GAMMA"),
        ("epsilon", "ID_SERIAL_SHORT=EPSILON"),
    ] {
        let node = vm.kernel_name(name)?;
        let properties = vm.sh(&format!("udevadm info -q property /dev/{node}"))?;
        ensure!(
            properties.lines().any(|line| line == property),
            "udev does not say {property} of {name}:\n{properties}"
        );
    }
    steps.done("udev has their properties");

    vm.plug(Disk::virtio("delta").gib(12))?;
    vm.settle()?;
    let node = vm.kernel_name("delta")?;
    steps.done("plug one more, settled");
    vm.resize("delta", 13 << 30)?;
    vm.sh(&format!(
        "for i in {{1..250}}; do [ $(blockdev --getsize64 /dev/{node}) = {} ] && exit; sleep 0.02; done; exit 1",
        13u64 << 30
    ))?;
    steps.done("resize it");
    for name in ["delta", "gamma", "beta", "epsilon"] {
        let node = vm.kernel_name(name)?;
        let disk = vm.unplug(name)?;
        vm.sh(&format!("udevadm settle; [ ! -e /sys/class/block/{node} ]"))?;
        steps.done(&format!("unplug {name}"));
        if name != "delta" {
            vm.plug(disk)?;
        }
    }
    vm.settle()?;
    steps.done("plug three of them again");

    let gamma = vm.kernel_name("gamma")?;
    let before = vm.digest("gamma")?;
    ensure!(
        before == vm.digest("epsilon")?,
        "two empty disks of one size differ"
    );
    let alpha = vm.kernel_name("alpha")?;
    vm.sh(&format!(
        "set -e; sgdisk -n 1:0:0 /dev/{gamma}; udevadm settle; mkfs.ext4 -q /dev/{gamma}p1
         mkdir -p /mnt/gamma; mount /dev/{gamma}p1 /mnt/gamma; echo kept >/mnt/gamma/file
         echo raw | dd of=/dev/{alpha} conv=fsync status=none
         echo kept >/root/file; sync"
    ))?;
    ensure!(
        before != vm.digest("gamma")?,
        "the digest of a formatted disk did not change"
    );
    steps.done("partition, mkfs.ext4, mount, sync");
    Ok(vm)
}

fn power_cut_and_reorder(vm: Vm, steps: &mut Steps) -> Result<()> {
    let off = vm.power_cut()?;
    let alpha = off.digest("alpha")?;
    off.root_digest()?;
    steps.done("power cut, digests of a disk and of the system disk");
    let mut vm = off
        .reorder(&["gamma", "epsilon", "alpha", "beta"])?
        .rebus("alpha", Bus::Scsi)?
        .boot()?;
    steps.done("cold boot in another order, one disk on another bus, settled");
    ensure!(
        vm.sh("cat /root/file")? == "kept\n",
        "the system disk lost a file"
    );
    ensure!(vm.digest("alpha")? == alpha, "a disk changed over a boot");
    let gamma = vm.kernel_name("gamma")?;
    let content = vm.sh(&format!("mount /dev/{gamma}p1 /mnt && cat /mnt/file"))?;
    ensure!(content == "kept\n", "a disk lost a file");
    let alpha = vm.kernel_name("alpha")?;
    ensure!(alpha.starts_with("sd"), "alpha is {alpha} on the SCSI bus");
    vm.sh(&format!("findmnt -no SOURCE,FSTYPE,OPTIONS / | grep -q '^/dev/vda1 *ext4 *rw'; head -c 4 /dev/{alpha} | grep -q raw"))?;
    steps.done("everything is where it was");
    Ok(())
}

fn scripts_and_files(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let mut vm = lab.machine("scripts").start()?;
    let output = vm.run("echo out; echo err >&2; exit 3")?;
    ensure!((output.code, output.stdout.as_str(), output.stderr.as_str()) == (3, "out\n", "err\n"));
    ensure!(
        vm.run("kill -9 $$")?.code == 137,
        "a signal is not 128 + its number"
    );
    vm.sh("sleep 1000 & disown; setsid sleep 1000 &")?;
    let begun = Instant::now();
    let error = match vm.run_within(Duration::from_secs(1), "sleep 30") {
        Ok(output) => anyhow::bail!("a script outlived its limit: {output:?}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        error.contains("sleep 30"),
        "the error does not name the script: {error}"
    );
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "the limit took {:?}",
        begun.elapsed()
    );
    ensure!(
        vm.sh("pgrep -c sleep")? == "2\n",
        "the children in the background are gone"
    );
    steps.done("exit codes, background children, the time limit");

    let large = vm.sh("head -c 20000000 /dev/zero | tr '\\0' x")?;
    ensure!(
        large.len() == 20_000_000,
        "{} bytes of 20 MB came",
        large.len()
    );
    steps.done("20 MB of output");
    let binary: Vec<u8> = (0..10_000_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    vm.write_file("/usr/local/lib/new/binary", &binary, 0o755)?;
    steps.done("10 MB into the guest");
    ensure!(
        vm.read_file("/usr/local/lib/new/binary")? == binary,
        "a file came back changed"
    );
    ensure!(vm.sh("stat -c %a /usr/local/lib/new/binary")? == "755\n");
    steps.done("10 MB out of it");
    vm.stop()?;
    vm.cont()?;
    vm.sh("true")?;
    Ok(())
}

fn many_disks(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let mut machine = lab.machine("many");
    for i in 0..12 {
        machine = machine
            .disk(Disk::virtio(&format!("v{i}")).gib(12))
            .disk(Disk::nvme(&format!("n{i}")).gib(12));
    }
    for i in 0..60 {
        machine = machine.disk(Disk::scsi(&format!("s{i}")).gib(12));
    }
    let mut vm = machine.start()?;
    let count = vm.sh("lsblk -dno NAME | wc -l")?;
    ensure!(
        count.trim() == "85",
        "{count} disks instead of 84 and the system disk"
    );
    steps.done("clone with 12 virtio, 12 NVMe and 60 SCSI disks, settled");
    Ok(())
}

fn network(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listen on the host")?;
    let port = listener.local_addr()?.port();
    let mut vm = lab.machine("network").user_network().start()?;
    vm.sh(&format!("exec 3<>/dev/tcp/10.0.2.2/{port}; echo hello >&3"))?;
    let (mut stream, _) = listener.accept().context("accept the guest")?;
    let mut heard = [0; 6];
    std::io::Read::read_exact(&mut stream, &mut heard)?;
    ensure!(&heard == b"hello\n", "the guest said {heard:?}");
    steps.done("clone with a network, the guest reaches the host");
    Ok(())
}

fn cold_and_shutdown(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let mut vm = lab
        .machine("cold")
        .boot(Boot::Cold)
        .disk(
            Disk::virtio("odd")
                .mib(100)
                .no_serial()
                .logical_block_size(4096),
        )
        .disk(
            Disk::scsi("logged")
                .mib(100)
                .filter(json!({ "driver": "null-co" }))
                .property("rotation_rate", 1),
        )
        .start();
    // A filter that is none: the error has to come from QEMU, at once.
    if let Ok(vm) = vm.as_mut() {
        vm.sh("true")?;
        anyhow::bail!("QEMU took null-co as a filter");
    }
    steps.done("a wrong filter is an error");
    let mut vm = lab
        .machine("cold")
        .boot(Boot::Cold)
        .disk(
            Disk::virtio("odd")
                .mib(100)
                .no_serial()
                .logical_block_size(4096),
        )
        .start()?;
    steps.done("cold boot to first answer, settled");
    let odd = vm.kernel_name("odd")?;
    ensure!(vm.sh(&format!("cat /sys/block/{odd}/queue/logical_block_size"))? == "4096\n");
    vm.sh("echo kept >/root/file")?;
    let mut vm = vm.shutdown()?.boot()?;
    ensure!(
        vm.sh("cat /root/file")? == "kept\n",
        "the system disk lost a file"
    );
    steps.done("clean power-off and boot");
    Ok(())
}
