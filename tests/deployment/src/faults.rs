//! What can go wrong, switched on and off while the deployment runs.
//!
//! Faults of the wire are rules: the next so many requests whose `METHOD /path` begins with a text meet a failure. Faults of the
//! model (an export that hangs, an import that fails) are states of the worker. Nothing is by chance.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::reply::Refusal;

/// What a request meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// This answer instead; nothing is done. `Refusal::new(408, "", "")` has an empty body.
    Answer(Refusal),
    /// The connection is closed before anything is done.
    Drop,
    /// What was asked is done, then the connection is closed without an answer.
    DoThenDrop,
    /// The answer's body breaks off after so many bytes.
    CutBody(u64),
    /// The answer's body stops after so many bytes, and the connection stays open.
    StallBody(u64),
    /// No answer comes.
    Hang,
    /// The answer's body has other bytes at this place.
    FlipByte(u64),
}

/// How an export goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExportFault {
    /// Well.
    #[default]
    None,
    /// It stays `in_progress` with the same message.
    Stuck,
    /// Its message goes back to `Beginning backup`, again and again.
    StartsOver,
    /// It becomes `canceled`.
    Canceled,
    /// It becomes `failed`, which no backend of today does.
    Failed,
    /// It completes after its state was asked for so many times.
    Polls(u32),
}

/// How an import goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ImportFault {
    /// Well.
    #[default]
    None,
    /// It stays `uploaded`.
    StaysUploaded,
    /// It stays `in_progress`, its hidden tables half filled, until the fault is taken away.
    StaysInProgress,
    /// It fails with this text after the confirmation, when its hidden tables are filled.
    Fails(String),
}

impl FromStr for Failure {
    type Err = String;

    /// `drop`, `do-then-drop`, `hang`, `cut=BYTES`, `stall=BYTES`, `flip=PLACE`, `status=408`, `status=503/Overloaded`.
    fn from_str(text: &str) -> Result<Failure, String> {
        let (word, value) = text.split_once('=').unwrap_or((text, ""));
        let number = || value.parse().map_err(|_| format!("`{value}` is no number"));
        Ok(match word {
            "drop" => Failure::Drop,
            "do-then-drop" => Failure::DoThenDrop,
            "hang" => Failure::Hang,
            "cut" => Failure::CutBody(number()?),
            "stall" => Failure::StallBody(number()?),
            "flip" => Failure::FlipByte(number()?),
            "status" => {
                let (status, code) = value.split_once('/').unwrap_or((value, ""));
                let status = status.parse().map_err(|_| format!("`{status}` is no status"))?;
                Failure::Answer(Refusal::new(status, code, "as a fault says"))
            }
            _ => return Err(format!("`{text}` is no failure")),
        })
    }
}

impl FromStr for ExportFault {
    type Err = String;

    /// `none`, `stuck`, `starts-over`, `canceled`, `failed`, `polls=COUNT`.
    fn from_str(text: &str) -> Result<ExportFault, String> {
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("none", _) => ExportFault::None,
            ("stuck", _) => ExportFault::Stuck,
            ("starts-over", _) => ExportFault::StartsOver,
            ("canceled", _) => ExportFault::Canceled,
            ("failed", _) => ExportFault::Failed,
            ("polls", count) => ExportFault::Polls(count.parse().map_err(|_| format!("`{count}` is no number"))?),
            _ => return Err(format!("`{text}` is no way for an export to go")),
        })
    }
}

impl FromStr for ImportFault {
    type Err = String;

    /// `none`, `stays-uploaded`, `stays-in-progress`, `fails=TEXT`.
    fn from_str(text: &str) -> Result<ImportFault, String> {
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("none", _) => ImportFault::None,
            ("stays-uploaded", _) => ImportFault::StaysUploaded,
            ("stays-in-progress", _) => ImportFault::StaysInProgress,
            ("fails", message) => ImportFault::Fails(message.to_owned()),
            _ => return Err(format!("`{text}` is no way for an import to go")),
        })
    }
}

#[derive(Debug)]
struct Rule {
    begins: String,
    failure: Failure,
    skip: u32,
    left: u32,
}

#[derive(Debug, Default)]
struct Switches {
    rules: Vec<Rule>,
    export: ExportFault,
    import: ImportFault,
    deltas_back_ns: i64,
    empty_deltas: u32,
    seen: Vec<String>,
}

/// The switches, and the record of what was asked.
#[derive(Debug, Default)]
pub struct Faults {
    switches: Mutex<Switches>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `times` requests that begin so (`GET /api/export/zip`) meet this failure.
    pub fn fail(&self, begins: &str, failure: Failure, times: u32) {
        self.fail_after(begins, 0, failure, times);
    }

    /// As `fail`, said in one line: `TIMES FAILURE METHOD PATH`, as in `1 cut=1000 GET /api/export/zip`.
    pub fn fail_as(&self, text: &str) -> Result<(), String> {
        let mut words = text.splitn(3, ' ');
        let (Some(times), Some(failure), Some(begins)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("`{text}` is not `TIMES FAILURE METHOD PATH`"));
        };
        let times = times.parse().map_err(|_| format!("`{times}` is no number"))?;
        self.fail(begins, failure.parse()?, times);
        Ok(())
    }

    /// As `fail`, after `skip` such requests went well.
    pub fn fail_after(&self, begins: &str, skip: u32, failure: Failure, times: u32) {
        self.lock().rules.push(Rule { begins: begins.to_owned(), failure, skip, left: times });
    }

    /// How exports go from now on.
    pub fn set_export(&self, fault: ExportFault) {
        self.lock().export = fault;
    }

    /// How imports go from now on.
    pub fn set_import(&self, fault: ImportFault) {
        self.lock().import = fault;
    }

    /// `document_deltas` answers a cursor that is smaller by so many nanoseconds than the one it was given, as a backend does
    /// that was restored to an older state; 0 ends it.
    pub fn set_cursor_back(&self, ns: i64) {
        self.lock().deltas_back_ns = ns;
    }

    /// The next so many pages of `document_deltas` have no values and say that there is more, without moving on.
    pub fn set_empty_deltas(&self, pages: u32) {
        self.lock().empty_deltas = pages;
    }

    /// Everything goes well again; the record of requests stays.
    pub fn clear(&self) {
        let mut switches = self.lock();
        let seen = std::mem::take(&mut switches.seen);
        *switches = Switches { seen, ..Switches::default() };
    }

    /// What was asked so far, as `METHOD /path?query`, in order.
    pub fn requests(&self) -> Vec<String> {
        self.lock().seen.clone()
    }

    /// How many requests began so.
    pub fn count(&self, begins: &str) -> usize {
        self.lock().seen.iter().filter(|r| r.starts_with(begins)).count()
    }

    /// Forgets what was asked.
    pub fn forget_requests(&self) {
        self.lock().seen.clear();
    }

    pub(crate) fn export(&self) -> ExportFault {
        self.lock().export
    }

    pub(crate) fn import(&self) -> ImportFault {
        self.lock().import.clone()
    }

    pub(crate) fn cursor_back(&self) -> i64 {
        self.lock().deltas_back_ns
    }

    pub(crate) fn take_empty_delta(&self) -> bool {
        let mut switches = self.lock();
        let there = switches.empty_deltas > 0;
        switches.empty_deltas = switches.empty_deltas.saturating_sub(1);
        there
    }

    /// Records a request; the failure that it meets.
    pub(crate) fn meet(&self, request: &str) -> Option<Failure> {
        let mut switches = self.lock();
        switches.seen.push(request.to_owned());
        let rule = switches.rules.iter_mut().find(|r| r.left > 0 && request.starts_with(&r.begins))?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.left -= 1;
        let failure = rule.failure.clone();
        switches.rules.retain(|r| r.left > 0);
        Some(failure)
    }
}
