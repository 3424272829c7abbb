//! What stops the work of the manager, and waits until it has stopped.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    inside: usize,
    /// How often it was opened again.
    openings: u64,
}

/// While this lives, work goes on and the gate cannot be closed.
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
    /// Which opening of the gate this is.
    pub opening: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts cannot be left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass, unless the gate is closed.
    pub fn enter(&self) -> Option<Pass<'_>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Pass {
            gate: self,
            opening: state.openings,
        })
    }

    /// Lets nobody in any more, and returns when the last one has left.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        while state.inside > 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn open(&self) {
        let mut state = self.lock();
        if state.closed {
            state.closed = false;
            state.openings += 1;
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.lock().inside -= 1;
        self.gate.changed.notify_all();
    }
}
