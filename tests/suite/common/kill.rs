//! Kills a real process at a random moment of its run, however fast the machine happens to be.

use std::process::Command;
use std::time::Duration;

use super::chance::Chance;

/// How long a process is given at most before it is killed. It learns: a process that had ended already shortens it,
/// one that was still at work lengthens it, so that about two of three are killed on a machine under any load.
#[derive(Debug)]
pub struct Aim {
    longest: Duration,
    pub killed: u64,
}

impl Aim {
    /// `usual`: how long the command took when nobody killed it.
    pub fn new(usual: Duration) -> Self {
        Self { longest: usual, killed: 0 }
    }

    /// Starts the command and kills it. Whether it was still running.
    pub fn kill(&mut self, command: &mut Command, chance: &mut Chance) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let pause = self.longest.mul_f64(chance.below(1000) as f64 / 1000.0);
        let mut child = command.spawn().unwrap();
        std::thread::sleep(pause);
        child.kill().unwrap();
        let hit = child.wait().unwrap().signal() == Some(9);
        self.longest = self.longest.mul_f64(if hit { 1.1 } else { 0.7 });
        self.killed += u64::from(hit);
        hit
    }
}
