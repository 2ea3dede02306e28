//! A limit in bytes a second: whoever spends more than is there waits.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes a second. Spending is charged at once and waited for afterwards, so that a body larger than a second's worth
/// passes, and what follows it waits.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Rate {
    /// A limit; zero is taken as one byte a second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Charges bytes and sleeps until they are paid for.
    pub fn spend(&self, bytes: u64) {
        std::thread::sleep(self.charge(bytes, Instant::now()));
    }

    fn charge(&self, bytes: u64, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *free_at = (*free_at).max(now) + cost;
        *free_at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_one_after_another() {
        let rate = Rate::new(1000);
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(rate.charge(500, now), Duration::from_millis(500));
        assert_eq!(rate.charge(1000, now), Duration::from_millis(1500));
        assert_eq!(rate.charge(1000, now + Duration::from_secs(10)), Duration::from_secs(1));
    }
}
