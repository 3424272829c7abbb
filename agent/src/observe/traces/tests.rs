//! The real thing made by its own tool, damaged, and found.

mod bytes;
mod disk;
mod made;
mod properties;

use self::disk::{Disk, run};
use super::*;
