use anyhow::Result;
use vm_fixtures::{Disk, Lab};
use vm_tests::Node;
fn main() -> Result<()> {
    let lab = Lab::open()?;
    let mut node = Node::boot(lab.machine("trace"))?;
    node.configure("mode: enforce\ninterval: 1h\nlog: debug\n")?;
    node.start_agent()?;
    node.wait_until("up", |_| true)?;
    for i in 0..3 {
        let n = format!("d{i}");
        node.vm.plug(Disk::scsi(&n).gib(12))?;
        let d = node.vm.kernel_name(&n)?;
        std::thread::sleep(std::time::Duration::from_secs(4));
        println!(
            "{}",
            node.vm.sh(&format!(
                "udevadm info -q property --property=USEC_INITIALIZED --value /dev/{d}"
            ))?
        );
    }
    println!(
        "{}",
        node.vm.sh(
            "journalctl -q -o short-monotonic -u disk-discovery | grep -v loop | cut -c1-200"
        )?
    );
    Ok(())
}
