//! Starts QEMU so that it dies with this process, even when that is killed with SIGKILL.
//!
//! `setpriv --pdeathsig KILL` does it, without a watchdog process. But the kernel delivers that
//! signal when the *thread* that started the child ends, and a test's thread may end before the
//! machine it handed on. So one thread starts all of them, and lives as long as the process.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result};

struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();

/// Starts `program`, to be configured by `configure`, as a child that does not outlive us.
pub(crate) fn spawn_bound(program: &str, configure: impl FnOnce(&mut Command)) -> Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    configure(&mut command);
    let (reply, answer) = channel();
    spawner()
        .send(Order { command, reply })
        .context("the thread that starts QEMU is gone")?;
    answer
        .recv()
        .context("the thread that starts QEMU gave no answer")?
        .with_context(|| format!("start {program} by way of setpriv"))
}

fn spawner() -> &'static Sender<Order> {
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        let thread = thread::Builder::new()
            .name("qemu-spawner".into())
            .spawn(move || {
                for mut order in inbox {
                    let child = order.command.spawn();
                    if let Err(unclaimed) = order.reply.send(child) {
                        eprintln!("vm-fixtures: nobody took a started QEMU: {unclaimed}");
                    }
                }
            });
        if let Err(error) = thread {
            // The inbox went with the closure: the first order reports it.
            eprintln!("vm-fixtures: cannot start a thread: {error}");
        }
        orders
    })
}
