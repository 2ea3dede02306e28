//! What threads and connections share: the state behind one lock, and word of its changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::faults::Faults;
use crate::model::State;
use crate::options::Options;

/// What threads and connections share.
pub(crate) struct Inner {
    pub options: Options,
    pub faults: Faults,
    state: Mutex<State>,
    changed: Condvar,
    version: watch::Sender<u64>,
    stopped: AtomicBool,
}

impl Inner {
    pub(crate) fn new(options: Options) -> Inner {
        Inner {
            options: options.clone(),
            faults: Faults::default(),
            state: Mutex::new(State::new(options)),
            changed: Condvar::new(),
            version: watch::Sender::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Wakes all that wait, for good.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.change(|_| ());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and tells those that watch it.
    pub(crate) fn change<T>(&self, deed: impl FnOnce(&mut State) -> T) -> T {
        let answer = self.poll(deed);
        self.version.send_modify(|version| *version += 1);
        answer
    }

    /// Changes the state; only workers are told.
    pub(crate) fn poll<T>(&self, deed: impl FnOnce(&mut State) -> T) -> T {
        let answer = deed(&mut self.lock());
        self.changed.notify_all();
        answer
    }

    /// Waits until the state is so; `false` if the deployment was stopped instead.
    pub(crate) fn wait(&self, is_so: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        while !is_so(&state) {
            if self.stopped.load(Ordering::SeqCst) {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn now(&self) -> i64 {
        self.read(State::now)
    }
}
