//! Runs the scripts of the rows in the guest, two at a time, each in a
//! directory of its own.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use anyhow::{Context, Result, bail};
use vm_fixtures::Vm;

const WITHIN: Duration = Duration::from_mins(30);
const DIR: &str = "/run/corpus";
const RULE: &str = "/run/udev/rules.d/99-corpus.rules";
const LIBRARY: &str = include_str!("making.sh");

/// A script and the disks that it is for.
#[derive(Debug)]
pub struct Order {
    /// Name of the row in the guest.
    pub id: String,
    /// Kernel names.
    pub devices: Vec<String>,
    /// What the row says.
    pub script: &'static str,
}

/// Keeps udevd from looking at a disk whenever a tool has closed it: that costs
/// more than the tools themselves, and when an event gets lost on the way, as
/// happens while udevd is busy with the one before, its database is stale.
///
/// # Errors
/// When the machine does not answer.
pub fn unwatch(vm: &mut Vm) -> Result<()> {
    let rule = "ACTION!=\"remove\", SUBSYSTEM==\"block\", KERNEL==\"sd*\", OPTIONS=\"nowatch\"\n";
    vm.write_file(RULE, rule, 0o644)?;
    vm.sh("udevadm control --reload").map(drop)
}

/// Makes it as it is after a boot: the kernel knows the partitions that are in
/// the tables now and no others, and udevd has looked at everything once.
///
/// # Errors
/// When the machine does not answer.
pub fn as_after_a_boot(vm: &mut Vm) -> Result<()> {
    vm.sh_within(
        WITHIN,
        &format!(
            "set -e
            rm {RULE}
            udevadm control --reload
            udevadm settle --timeout=600
            # Refused while anybody looks at a partition. What a script has left
            # in use shows in its own row, by the reason.
            reread() {{
                for _ in $(seq 600); do
                    ! blockdev --rereadpt /dev/$1 2>/run/reread || return 0
                    sleep 0.1
                done
                cat /run/reread
            }}
            for disk in /sys/block/sd*; do reread ${{disk##*/}}; done
            udevadm settle --timeout=600"
        ),
    )
    .map(drop)
}

/// Runs all of them and waits for udevd. An entry for each order: what went
/// wrong, if anything.
///
/// # Errors
/// When the machine does not answer.
pub fn make(vm: &mut Vm, orders: &[Order]) -> Result<BTreeMap<String, Result<(), String>>> {
    vm.write_file(&format!("{DIR}/making.sh"), LIBRARY, 0o644)?;
    vm.write_file(&format!("{DIR}/row.sh"), all_rows(orders), 0o644)?;
    let ids: Vec<&str> = orders.iter().map(|order| order.id.as_str()).collect();
    let ids = ids.join(" ");
    let answer = vm.sh_within(
        WITHIN,
        &format!(
            r#"one() {{
    mkdir -p {DIR}/$1/files {DIR}/$1/tree && cd {DIR}/$1
    echo precious >files/data
    echo more >files/more
    bash {DIR}/row.sh $1 >log 2>&1 </dev/null
    echo $? >code
    rm -f image
}}
export -f one
printf '%s\n' {ids} | xargs -P 2 -I '{{}}' bash -c 'one {{}}'
udevadm settle --timeout=600
sync
for id in {ids}; do echo $id $(<{DIR}/$id/code); done"#
        ),
    )?;
    let mut made = BTreeMap::new();
    for line in answer.lines() {
        let (id, code) = line
            .split_once(' ')
            .with_context(|| format!("no code in {line:?}"))?;
        let result = match code {
            "0" => Ok(()),
            _ => Err(format!(
                "its script ended with {code}:\n{}",
                vm.sh(&format!("tail -n 20 {DIR}/{id}/log"))?
            )),
        };
        made.insert(id.to_owned(), result);
    }
    if made.len() != orders.len() {
        bail!("{} scripts, {} answers", orders.len(), made.len());
    }
    Ok(made)
}

/// One script with a case for each row.
fn all_rows(orders: &[Order]) -> String {
    let mut text = format!(". {DIR}/making.sh\nrow=$1\ncase $row in\n");
    for order in orders {
        writeln!(text, "{})", order.id).unwrap();
        for (variable, device) in ["disk", "disk2"].iter().zip(&order.devices) {
            writeln!(text, "{variable}=/dev/{device}").unwrap();
        }
        write!(text, "{}\n;;\n", order.script).unwrap();
    }
    text + "esac\n"
}
