//! One `psql` that is kept open: questions go in, answers come out, a transaction stays open between them.
//!
//! Each question is followed by a mark that psql repeats, so that the end of an answer is known. psql ends at the first
//! error; what it said then is the error. Answers that are read by us come as one line of JSON, because names may hold
//! anything.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};

use super::{Connection, Error, Leash, Program, Running};

/// What ends an answer.
const MARK: &str = "--- lifeboat: end of the answer ---";
/// An answer that is echoed in an error.
const ECHOED: usize = 80;

/// Settings that would end a session while it waits for a dump.
const PATIENCE: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name = ANY ('{statement_timeout,lock_timeout,idle_in_transaction_session_timeout,transaction_timeout,idle_session_timeout}')";

/// A session with one database.
pub struct Session {
    running: Option<Running>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    server: String,
    /// The schemas that an unqualified name is looked for in, as this user's settings have it.
    pub visible: Vec<String>,
}

impl Session {
    /// Opens one. Names are resolved in `pg_catalog` alone from then on, so that nobody's functions are run by accident.
    pub fn open(psql: &Program, connection: &Connection, leash: &Leash) -> Result<Self, Error> {
        let mut arguments: Vec<String> =
            ["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
                .map(str::to_owned)
                .to_vec();
        arguments.push(format!("--dbname={}", connection.argument()));
        let mut running = Running::start(psql, &arguments, connection, leash, Stdio::piped())?;
        let (Some(input), Some(output)) = (running.input(), running.output()) else { return Err(Error::GivenUp) };
        let (output, server) = (BufReader::new(output), connection.to_string());
        let mut session = Self { running: Some(running), input, output, server, visible: Vec::new() };
        session.tell("SET client_encoding = 'UTF8'")?;
        session.visible = session.json("SELECT pg_catalog.to_jsonb(pg_catalog.current_schemas(false))", "schemas")?;
        session.tell("SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)")?;
        session.tell(PATIENCE)?;
        Ok(session)
    }

    /// Says something whose answer matters only if it is an error.
    pub fn tell(&mut self, statement: &str) -> Result<(), Error> {
        self.ask(statement).map(drop)
    }

    /// The lines of an answer.
    pub fn ask(&mut self, statement: &str) -> Result<Vec<String>, Error> {
        let sent = writeln!(self.input, "{statement};\n\\echo {MARK}").and_then(|()| self.input.flush());
        if sent.is_err() {
            return Err(self.broken());
        }
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            match self.output.read_until(b'\n', &mut line) {
                Ok(count) if count > 0 => {}
                _ => return Err(self.broken()),
            }
            let line = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if line == MARK {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    /// An answer that is one line.
    pub fn one(&mut self, statement: &str, wanted: &'static str) -> Result<String, Error> {
        let lines = self.ask(statement)?;
        match <[String; 1]>::try_from(lines) {
            Ok([line]) => Ok(line),
            Err(lines) => Err(self.odd(&lines.join(" "), wanted)),
        }
    }

    /// An answer that is JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self, statement: &str, wanted: &'static str) -> Result<T, Error> {
        let line = self.one(statement, wanted)?;
        serde_json::from_str(&line).map_err(|_| self.odd(&line, wanted))
    }

    /// An answer that is a number.
    pub fn number(&mut self, statement: &str) -> Result<u64, Error> {
        let line = self.one(statement, "a number")?;
        line.parse().map_err(|_| self.odd(&line, "a number"))
    }

    fn odd(&self, answer: &str, wanted: &'static str) -> Error {
        Error::Answer { server: self.server.clone(), answer: answer.chars().take(ECHOED).collect(), wanted }
    }

    /// psql has ended, or speaks no more.
    fn broken(&mut self) -> Error {
        match self.running.take() {
            Some(mut running) => {
                let (status, said) = running.end();
                running.explain(status, said)
            }
            None => Error::GivenUp,
        }
    }

    /// Ends the session; a server that has gone away meanwhile is an error.
    pub fn finish(mut self) -> Result<(), Error> {
        self.tell("SELECT 1")?;
        let Some(running) = self.running.take() else { return Err(Error::GivenUp) };
        drop(self.input);
        drop(self.output);
        running.finish().map(drop)
    }
}

/// A text as a literal of SQL.
pub fn literal(text: &str) -> String {
    match text.contains('\\') {
        // Whatever the server makes of backslashes in plain literals.
        true => format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

/// A name as SQL has it, quoted always.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
