//! Boots QEMU guests for block-device tests: a stock Debian kernel, systemd, real udevd, and the
//! disks a test declares.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use vm_fixtures::{Disk, Lab};
//!
//! let lab = Lab::open()?;
//! let mut vm = lab
//!     .machine("example")
//!     .disk(Disk::virtio("alpha").gib(12).serial("ALPHA"))
//!     .disk(Disk::nvme("gamma").gib(12))
//!     .start()?;
//! let node = vm.kernel_name("alpha")?;
//! vm.sh(&format!("mkfs.ext4 -q /dev/{node}"))?;
//! # Ok(())
//! # }
//! ```
//!
//! What lives where:
//!
//! - images: `cache` (directories and locks), `key` (names an image by its inputs), `kernel`,
//!   `image`
//! - one QEMU: `spawn` (bound to this process), `hardware` (its command line), `qmp` and `agent`
//!   (its two sockets), `qemu`, `rundir` (its files), `accel` (KVM or not)
//! - disks: `disk` (as declared), `attach` (in its place), `digest`, `writelog` (what was written)
//! - what a test holds: `lab`, `machine` (declared), `vm` (running), `off` (without power);
//!   `template` is what a running one is cloned from

mod accel;
mod agent;
mod attach;
mod cache;
mod digest;
mod disk;
mod hardware;
mod image;
mod kernel;
mod key;
mod lab;
mod machine;
mod off;
mod qemu;
mod qmp;
mod rundir;
mod spawn;
mod template;
mod vm;
mod writelog;

pub use accel::Accel;
pub use agent::Output;
pub use digest::digest_file;
pub use disk::{Bus, Disk};
pub use key::image_key;
pub use lab::Lab;
pub use machine::{Boot, Machine};
pub use off::Off;
pub use vm::{RUN_WITHIN, Vm};
pub use writelog::{Logged, Request, WriteLog, log_writes_to};
