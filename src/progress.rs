//! What the library tells a person: one small trait. The terminal, JSON lines, silence and the tests are four
//! implementations; the library itself never prints.

use std::sync::atomic::{AtomicBool, Ordering};

/// Something that happened. Counters are increments, never totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A new stage of the deed, in a word or two.
    Stage(&'a str),
    /// How much there is to do, where it is known.
    Expect {
        /// Files or objects.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Work done.
    Done {
        /// Files or objects.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Bytes reached the store.
    Stored {
        /// Sealed bytes.
        bytes: u64,
    },
    /// Something was left out, with the reason.
    Skipped {
        /// Its path or name.
        what: &'a str,
        /// Why.
        why: &'a str,
    },
    /// A person should know; the deed goes on.
    Warning(&'a str),
}

/// Receives events and says whether to stop.
pub trait Progress: Send + Sync {
    /// Takes one event. Called from any thread; must not block for long.
    fn event(&self, event: Event<'_>);
    /// Whether a person asked to stop. Asked between units of work.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Says nothing and never stops.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}

/// Says nothing and stops when its flag is set.
#[derive(Debug, Default)]
pub struct CancelFlag(pub AtomicBool);

impl Progress for CancelFlag {
    fn event(&self, _event: Event<'_>) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
