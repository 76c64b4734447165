//! The instances of one plugin: checked out for a call, given back when it went well.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::engine::CompiledGuest;
use super::instance::{Crash, Instance};

/// Instances of a plugin at most, idle and busy. A call that finds all busy waits for one; calls are bounded in time, so it gets one.
pub(super) const INSTANCES: usize = 64;

/// Instances of one plugin.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Instance>,
    /// Idle and busy ones.
    alive: usize,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way, so what a poisoned lock holds is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance for one call: an idle one, or a new one.
    pub(super) fn check_out(&self, guest: &CompiledGuest) -> Result<CheckedOut<'_>, Crash> {
        let mut state = self.state();
        loop {
            if let Some(instance) = state.idle.pop() {
                return Ok(CheckedOut { pool: self, instance: Some(instance) });
            }
            if state.alive < INSTANCES {
                break;
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.alive += 1;
        drop(state);
        // The slot is given back when the start fails.
        let mut slot = CheckedOut { pool: self, instance: None };
        slot.instance = Some(Instance::start(guest)?);
        Ok(slot)
    }

    /// Takes in an instance that was started elsewhere.
    pub(super) fn put(&self, instance: Instance) {
        let mut state = self.state();
        state.alive += 1;
        state.idle.push(instance);
    }

    /// Instances that are alive.
    pub(super) fn alive(&self) -> usize {
        self.state().alive
    }
}

/// An instance during a call. Dropped without [`Self::give_back`], the instance is thrown away.
pub(super) struct CheckedOut<'a> {
    pool: &'a Pool,
    instance: Option<Instance>,
}

impl CheckedOut<'_> {
    /// The instance.
    pub(super) fn instance(&mut self) -> &mut Instance {
        self.instance.as_mut().expect("it is there from check_out to give_back, which takes self")
    }

    /// The call went well: the instance may serve the next one.
    pub(super) fn give_back(mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.state().idle.push(instance);
            self.pool.freed.notify_one();
            std::mem::forget(self);
        }
    }
}

impl Drop for CheckedOut<'_> {
    fn drop(&mut self) {
        self.pool.state().alive -= 1;
        self.pool.freed.notify_one();
    }
}
