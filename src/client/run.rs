//! One program under way: started without a shell, what it says on its standard error kept, its end looked at.
//!
//! Invariants: a program counts as successful only if it ended with 0 and printed no error; whoever gives a run up ends all
//! its programs by one [`Leash`]; a value that is dropped leaves no program behind.

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Connection, Error, Program};

/// Lines of a program's standard error that are kept at most: the first ones and the last ones.
const LINES_FIRST: usize = 40;
const LINES_LAST: usize = 40;
/// Bytes of one line at most.
const LINE_MAX: u64 = 4096;
/// Lines that a person reads as the cause of a failure at most.
const LINES_SHOWN: usize = 6;

/// Ends all programs of a run at once.
#[derive(Debug, Clone, Default)]
pub struct Leash(Arc<Mutex<Leashed>>);

#[derive(Debug, Default)]
struct Leashed {
    over: bool,
    running: Vec<Pid>,
}

impl Leash {
    fn state(&self) -> MutexGuard<'_, Leashed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what runs; nothing more is started.
    pub fn pull(&self) {
        let mut state = self.state();
        state.over = true;
        for pid in &state.running {
            // PostgreSQL's programs tell the server to stop, and end their helpers.
            let _ = kill_process(*pid, Signal::TERM);
        }
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        self.state().over
    }
}

/// What a program said on its standard error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(pub Vec<String>);

impl Said {
    /// Lines that say what went wrong, each with what follows it.
    fn errors(&self) -> Vec<&str> {
        let is_error = |line: &str| ["error: ", "ERROR: ", "FATAL: ", "PANIC: "].iter().any(|word| line.contains(word));
        let first = self.0.iter().position(|line| is_error(line));
        first.map_or_else(Vec::new, |at| self.0[at..].iter().map(String::as_str).collect())
    }

    /// Lines that warn.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|line| line.contains("warning: ") || line.contains("WARNING: "))
    }

    /// What stands between two texts on some line.
    fn between(&self, before: &str, after: &str) -> Option<&str> {
        self.0.iter().find_map(|line| Some(line.split_once(before)?.1.split_once(after)?.0))
    }

    /// Whether a role that something belongs to is not there.
    pub fn names_a_missing_role(&self) -> bool {
        self.0.iter().any(|line| line.contains("role \"") && line.contains("does not exist"))
    }

    /// The number of a large object that may not be read.
    pub fn large_object(&self) -> Option<&str> {
        let line = self.0.iter().find_map(|line| Some(line.split_once("permission denied for large object ")?.1))?;
        line.split_whitespace().next()
    }

    fn has(&self, words: &[&str]) -> bool {
        self.0.iter().any(|line| words.iter().any(|word| line.contains(word)))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors();
        let lines: Vec<&str> = match errors.is_empty() {
            false => errors.into_iter().take(LINES_SHOWN).collect(),
            true => {
                let skip = self.0.len().saturating_sub(LINES_SHOWN);
                self.0.iter().skip(skip).map(String::as_str).collect()
            }
        };
        if lines.is_empty() {
            return f.write_str("it said nothing");
        }
        f.write_str(&lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" | "))
    }
}

impl std::error::Error for Said {}

/// A program that runs.
pub struct Running {
    program: String,
    connection: Connection,
    child: Child,
    said: Option<JoinHandle<Said>>,
    leash: Leash,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts a program; `connection` gives the environment, and the arguments name it where they must.
    pub fn start(
        program: &Program,
        arguments: &[String],
        connection: &Connection,
        leash: &Leash,
        input: Stdio,
    ) -> Result<Self, Error> {
        let mut command = Command::new(&program.path);
        command.args(arguments).envs(connection.environment()).stdin(input);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        tracing::debug!(program = %program.path.display(), server = %connection, "running");
        // Started under the leash's lock: one that is pulled at this moment finds the program.
        let mut state = leash.state();
        if state.over {
            return Err(Error::GivenUp);
        }
        let fail = |source| Error::Spawn { program: program.path.clone(), source };
        let mut child = command.spawn().map_err(fail)?;
        state.running.push(Pid::from_child(&child));
        drop(state);
        let (heard, to_scrub) = (child.stderr.take(), connection.clone());
        let said = std::thread::spawn(move || heard.map(|heard| listen(heard, &to_scrub)).unwrap_or_default());
        Ok(Self {
            program: program.name(),
            connection: connection.clone(),
            child,
            said: Some(said),
            leash: leash.clone(),
            ended: None,
        })
    }

    /// Its standard input, once.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Whether it has ended already, and not well.
    pub fn has_failed(&mut self) -> bool {
        self.look().is_some_and(|status| !status.success())
    }

    /// Its number among the processes of this host.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, however that was.
    pub fn has_ended(&mut self) -> bool {
        self.look().is_some()
    }

    fn look(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // Under the lock: a number is struck off before the kernel may give it to somebody else's process.
            let mut state = self.leash.state();
            if let Ok(Some(status)) = self.child.try_wait() {
                let pid = Pid::from_child(&self.child);
                state.running.retain(|running| *running != pid);
                self.ended = Some(status);
            }
        }
        self.ended
    }

    /// Waits until it has ended, and returns how, with what it said.
    pub fn end(&mut self) -> (ExitStatus, Said) {
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = self.look() {
                break status;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        let said = self.said.take().and_then(|listener| listener.join().ok());
        (status, said.unwrap_or_default())
    }

    /// Waits until it has ended; anything but a clean end is an error. What it said otherwise is returned.
    pub fn finish(mut self) -> Result<Said, Error> {
        let (status, said) = self.end();
        if status.success() && said.errors().is_empty() { Ok(said) } else { Err(self.explain(status, said)) }
    }

    /// The words for an end that was not clean.
    pub fn explain(&self, status: ExitStatus, said: Said) -> Error {
        if self.leash.is_pulled() {
            return Error::GivenUp;
        }
        let (server, program) = (self.connection.to_string(), self.program.clone());
        let user = || self.connection.user().map(str::to_owned);
        if let Some(name) = said.between("password authentication failed for user \"", "\"") {
            return Error::WrongPassword { server, user: name.to_owned() };
        }
        if said.has(&["no password supplied"]) {
            return Error::NoPassword { server };
        }
        if let Some(name) = said.between("FATAL:  database \"", "\" does not exist") {
            return Error::NoDatabase { server, database: name.to_owned() };
        }
        let never_in = ["connection to server", "could not connect to server", "could not translate host name"];
        let went_away =
            ["closed the connection unexpectedly", "terminating connection", "connection to server was lost"];
        if said.has(&never_in) && !said.has(&went_away) {
            return Error::Unreachable { server, source: said };
        }
        if said.has(&["permission denied", "must be superuser", "row-level security policy"]) {
            return Error::Denied { program, server, user: user(), source: said };
        }
        Error::Failed { program, status: status.to_string(), server, source: said }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.look().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            // Whoever writes to us must not wait for us.
            drop((self.child.stdin.take(), self.child.stdout.take()));
            for _ in 0..100 {
                if self.look().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            self.end();
        }
    }
}

/// Reads to the end; keeps the first lines and the last.
fn listen(heard: ChildStderr, to_scrub: &Connection) -> Said {
    let (mut first, mut last) = (Vec::new(), VecDeque::new());
    let mut reader = BufReader::new(heard);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let line = to_scrub.scrub(String::from_utf8_lossy(&line).trim_end());
        if line.is_empty() {
            continue;
        }
        if first.len() < LINES_FIRST {
            first.push(line);
            continue;
        }
        last.push_back(line);
        if last.len() > LINES_LAST {
            last.pop_front();
        }
    }
    first.extend(last);
    Said(first)
}

/// Runs a program to its end, with nothing on its standard input. Returns its output, `bytes_max` at most, and what it said.
pub fn run(
    program: &Program,
    arguments: &[String],
    connection: &Connection,
    leash: &Leash,
    bytes_max: u64,
) -> Result<(Vec<u8>, Said), Error> {
    let mut running = Running::start(program, arguments, connection, leash, Stdio::null())?;
    let mut bytes = Vec::new();
    if let Some(output) = running.output() {
        // An output that breaks off shows in how the program ends.
        let _ = output.take(bytes_max).read_to_end(&mut bytes);
    }
    running.finish().map(|said| (bytes, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, connection: &str) -> Result<(Vec<u8>, Said), Error> {
        let program = Program { path: "/bin/sh".into(), version: "1".into(), major: 1 };
        let connection = Connection::parse(connection).unwrap();
        run(&program, &["-c".to_owned(), script.to_owned()], &connection, &Leash::default(), 1 << 20)
    }

    #[test]
    fn a_program_is_believed_only_when_it_ended_with_0_and_printed_no_error() {
        assert_eq!(sh("echo out; echo 'pg_dump: warning: odd' >&2", "").unwrap().0, b"out\n");
        for bad in ["exit 3", "echo 'pg_dump: error: it broke' >&2", "kill -9 $$"] {
            assert!(matches!(sh(bad, ""), Err(Error::Failed { .. })), "{bad}");
        }
        let error = sh("echo 'x: error: one' >&2; echo 'DETAIL: two' >&2; exit 1", "").unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "x: error: one | DETAIL: two");
    }

    #[test]
    fn what_has_a_remedy_is_told_apart_and_no_password_is_repeated() {
        let connection = "host=h user=me password=sesame dbname=app";
        let says = |text: &str| sh(&format!("echo '{text}' >&2; exit 1"), connection).unwrap_err();
        let of_psql = "psql: error: connection to server at \"h\", port 5432 failed: ";
        let wrong = says(&format!("{of_psql}FATAL:  password authentication failed for user \"me\""));
        assert!(matches!(&wrong, Error::WrongPassword { user, .. } if user == "me"), "{wrong}");
        assert!(matches!(says(&format!("{of_psql}fe_sendauth: no password supplied")), Error::NoPassword { .. }));
        let none = says(&format!("{of_psql}FATAL:  database \"app\" does not exist"));
        assert!(matches!(&none, Error::NoDatabase { database, .. } if database == "app"), "{none}");
        assert!(matches!(says(&format!("{of_psql}Connection refused")), Error::Unreachable { .. }));
        assert!(matches!(
            says("pg_dump: error: query failed: ERROR:  permission denied for table t"),
            Error::Denied { .. }
        ));
        let told = says("error: the word is sesame");
        let all = format!("{told} {told:?} {}", std::error::Error::source(&told).unwrap());
        assert!(all.contains('…') && !all.contains("sesame"), "{all}");
        assert!(sh("test \"$PGPASSWORD\" = sesame", connection).is_ok());
    }

    #[test]
    fn a_leash_ends_what_runs_and_starts_nothing_more() {
        let leash = Leash::default();
        let program = Program { path: "/bin/sleep".into(), version: "1".into(), major: 1 };
        let connection = Connection::parse("").unwrap();
        let start = || Running::start(&program, &["600".to_owned()], &connection, &leash, Stdio::null());
        let running = start().unwrap();
        leash.pull();
        assert!(matches!(running.finish(), Err(Error::GivenUp)));
        assert!(matches!(start().err(), Some(Error::GivenUp)));
    }
}
