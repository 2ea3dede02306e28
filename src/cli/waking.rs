//! Waiting without polling: until a time of day, a signal, the end of a child, or a bell.
//!
//! Invariants: nothing wakes in between; a clock that is set wakes, so that a time is not slept over.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::model::Moment;

/// Something that can be waited for.
pub struct Waking {
    reader: UnixStream,
    bell: Arc<UnixStream>,
}

/// Wakes a waiter from another thread.
#[derive(Clone)]
pub struct Bell(Arc<UnixStream>);

impl Bell {
    /// Wakes it. Where it is awake already, nothing is lost.
    pub fn ring(&self) {
        let _ = (&*self.0).write(&[1]);
    }
}

impl Waking {
    /// Wakes for these signals.
    ///
    /// # Errors
    /// The system gives no sockets, or does not tell of signals.
    pub fn new(signals: &[i32]) -> std::io::Result<Self> {
        let (reader, bell) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, bell.try_clone()?)?;
        }
        Ok(Self { reader, bell: Arc::new(bell) })
    }

    /// A bell for it.
    pub fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.bell))
    }

    /// Waits until a time of day; for ever where there is none.
    ///
    /// # Errors
    /// The system gives no timer.
    pub fn wait(&self, until: Option<Moment>) -> std::io::Result<()> {
        let timer = match until {
            None => None,
            Some(until) => {
                let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
                // Nothing at all would be no timer: a time that is past is the first nanosecond.
                let tv_sec = until.timestamp().max(0);
                let tv_nsec = i64::from(until.timestamp_subsec_nanos()).max(i64::from(tv_sec == 0));
                let never = Timespec { tv_sec: 0, tv_nsec: 0 };
                let spec = Itimerspec { it_interval: never, it_value: Timespec { tv_sec, tv_nsec } };
                timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &spec)?;
                Some(timer)
            }
        };
        let mut waited = vec![PollFd::new(&self.reader, PollFlags::IN)];
        waited.extend(timer.as_ref().map(|timer| PollFd::new(timer, PollFlags::IN)));
        match poll(&mut waited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // Whatever rang is answered by whoever looks next.
        let mut bytes = [0; 64];
        while matches!((&self.reader).read(&mut bytes), Ok(read) if read > 0) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_a_signal_and_a_time_wake() {
        let waking = Waking::new(&[signal_hook::consts::SIGUSR2]).unwrap();
        waking.bell().ring();
        waking.wait(None).unwrap();
        let now = chrono::Utc::now();
        waking.wait(Some(now + chrono::TimeDelta::milliseconds(20))).unwrap();
        assert!(chrono::Utc::now() >= now + chrono::TimeDelta::milliseconds(20));
        waking.wait(Some(now - chrono::TimeDelta::days(1))).unwrap();
        waking.wait(Moment::from_timestamp(0, 0)).unwrap();
        signal_hook::low_level::raise(signal_hook::consts::SIGUSR2).unwrap();
        waking.wait(None).unwrap();
    }
}
