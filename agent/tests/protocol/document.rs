//! `agent/docs/protocol.md` has the cells, steps and mistakes of the model.

use disk_discovery::units::Filesystem;

use crate::{
    steps::{Mistake, steps},
    world::{CELLS, Job, Name, Plan},
};

/// First cells of the table in a chapter, which are between backquotes.
fn column(heading: &str) -> Vec<&'static str> {
    let text = include_str!("../../docs/protocol.md");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let chapter = lines.take_while(|line| !line.starts_with("## "));
    let rows = chapter.filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).collect()
}

#[test]
fn the_document_has_the_cells_of_the_model() {
    let cells = CELLS.map(|cell| format!("{cell:?}"));
    assert_eq!(column("## Cells"), cells);
}

#[test]
fn the_document_has_the_steps_of_the_model_in_their_order() {
    let job = Job {
        plan: Plan::Provision {
            name: Name::of("sdb1"),
            begun: None,
            approval: false,
        },
        claim: None,
        slot: 0,
        stale: false,
        whole: false,
        finished: false,
        at: 0,
    };
    let mut names: Vec<&str> = Vec::new();
    for step in steps(Filesystem::Ext4, &job, None) {
        if !names.contains(&step.name()) {
            names.push(step.name());
        }
    }
    assert_eq!(column("## Steps"), names);
}

#[test]
fn the_document_has_the_mistakes_of_the_model() {
    let mistakes = Mistake::ALL.map(|mistake| format!("{mistake:?}"));
    assert_eq!(column("## Mistakes"), mistakes);
}
