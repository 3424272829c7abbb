//! The rows, by family. A new state is a new row in one of these files.

mod claims;
mod controllers;
mod copies;
mod filesystems;
mod foreign;
mod pools;
mod raw;
mod tables;
mod vanished;
mod volumes;
mod wiped;

use std::collections::BTreeSet;

use crate::row::Row;

/// Every row.
pub fn all() -> Vec<Row> {
    let rows = [
        filesystems::ROWS,
        foreign::ROWS,
        volumes::ROWS,
        pools::ROWS,
        controllers::ROWS,
        tables::ROWS,
        copies::ROWS,
        vanished::ROWS,
        wiped::ROWS,
        raw::ROWS,
        claims::ROWS,
    ]
    .concat();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
    rows
}
