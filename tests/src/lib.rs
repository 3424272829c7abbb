//! What tests, benches and the demo share: a virtual machine with the agent
//! installed as an operator would install it.

pub mod evidence;
pub mod node;
#[cfg(test)]
mod programs;
pub mod report;
pub mod untouched;

pub use node::{Node, binary, data_disks};
pub use report::Disks;
pub use untouched::Untouched;
