//! Telling people: what a message is, through which channels it goes, who has heard it already; hooks; and the notes of past runs.
//!
//! Invariants: whatever cannot be told is an error value for who called, and never ends a deed; every wait has a deadline; addresses are
//! secrets (whoever knows them can write there) and stand in no error, no log and no note. Not here: what is worth telling (`ops`, `cli`).

mod address;
mod email;
mod hooks;
mod http;
mod memory;
mod runs;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::address::Address;
pub use self::email::{Email, EmailParts};
pub use self::hooks::{HookError, Hooks, Stage, run_hook};
pub use self::memory::{Memory, MemoryFile};
pub use self::runs::{Run, RunNotes, SourceRun};
use crate::model::Moment;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A run begins.
    Start,
    /// It did all that it should.
    Success,
    /// It did not.
    Failure,
    /// Something is not as it should be.
    Trouble,
    /// What failed or was wrong is right again.
    Recovered,
    /// Somebody tries the channel.
    Test,
}

impl Event {
    /// The word of configurations.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Trouble => "trouble",
            Self::Recovered => "recovered",
            Self::Test => "test",
        }
    }
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// What it says.
    pub event: Event,
    /// What it is about, to know it again: `run/backup/app`, `status/app/gap`.
    pub subject: String,
    /// The command that ran, as `backup`.
    pub command: String,
    /// Sources that it is about; none for all of them.
    pub sources: Vec<String>,
    /// The run, as `01K...`.
    pub run: String,
    /// The machine.
    pub host: String,
    /// When it came to be.
    pub at: Moment,
    /// How the command ended.
    pub exit_code: Option<u8>,
    /// How long it ran, in seconds.
    pub seconds: Option<f64>,
    /// How grave it is; a graver one is told again.
    pub weight: u8,
    /// What of it failed; another one is told again.
    #[serde(skip)]
    pub parts: BTreeSet<String>,
    /// One line.
    pub title: String,
    /// More lines.
    pub lines: Vec<String>,
}

/// Characters of a title that are sent.
const TITLE_MAX: usize = 200;
/// Characters of a text that are sent: services cut at 2,000 (Discord) or refuse above 10,000 (Healthchecks).
const TEXT_MAX: usize = 1800;

impl Message {
    /// The title on one line.
    pub fn headline(&self) -> String {
        cut(&self.title.split_whitespace().collect::<Vec<_>>().join(" "), TITLE_MAX)
    }

    /// Everything, as text.
    pub fn text(&self) -> String {
        let mut text = self.headline();
        for line in &self.lines {
            text.push('\n');
            text.push_str(line);
        }
        cut(&text, TEXT_MAX)
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{} ...", text.get(..at).unwrap_or_default()),
    }
}

/// Through what messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A dead-man switch, as Healthchecks has them: a request for each start, success and failure.
    Ping(Address),
    /// The message as JSON, posted.
    Webhook(Address),
    /// Slack's incoming webhooks; Mattermost and Rocket.Chat take the same.
    Slack(Address),
    /// Discord's webhooks.
    Discord(Address),
    /// Mail.
    Email(Box<Email>),
}

/// A channel: where messages go, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name in the configuration.
    pub name: String,
    /// Through what.
    pub way: Way,
    /// Events that go there.
    pub on: BTreeSet<Event>,
    /// Commands whose runs are told; none for all.
    pub commands: Vec<String>,
    /// Sources whose parts of runs are told, in place of whole runs; none for whole runs.
    pub sources: Vec<String>,
    /// The same trouble is told again after so long.
    pub repeat: Duration,
    /// Messages within an hour at most; pings are not counted.
    pub at_most: u32,
}

impl Channel {
    /// Whether it is a dead-man switch: it hears everything that it asked for, each time.
    pub fn is_ping(&self) -> bool {
        matches!(self.way, Way::Ping(_))
    }

    /// Whether a message is of a kind that goes there; whether it was told already is another question.
    pub fn takes(&self, message: &Message) -> bool {
        if message.event == Event::Test {
            return true;
        }
        // What a look found is told trouble by trouble; that it was looked is for switches alone.
        // That it could not be looked is for all.
        let looked = matches!(message.exit_code, None | Some(3 | 13 | 21));
        if message.subject.starts_with("run/status/") && looked && !self.is_ping() {
            return false;
        }
        // What the agent has to say is about runs that could say nothing: it is for who hears of any.
        let of_agent = message.subject.starts_with("run/agent/");
        let of_command =
            self.commands.is_empty() || self.commands.contains(&message.command) || (of_agent && !self.is_ping());
        let of_sources = match (self.sources.is_empty(), message.subject.starts_with("status/")) {
            // Whole runs alone: the parts are in them.
            (true, false) => message.sources.is_empty(),
            (true, true) => true,
            (false, _) => message.sources.iter().any(|source| self.sources.contains(source)),
        };
        // That something is right again follows from a success, so a channel that wants the one is asked about the other.
        let wanted = self.on.contains(&message.event)
            || (message.event == Event::Success && self.on.contains(&Event::Recovered));
        of_command && of_sources && wanted
    }
}

/// Why a message did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The other side could not be spoken to.
    #[error("`{place}` could not be reached: {why}")]
    Unreachable {
        /// Host and port alone: the rest of an address is secret.
        place: String,
        /// What went wrong.
        why: String,
    },
    /// It said no.
    #[error("`{place}` answered {said}")]
    Refused {
        /// Host and port alone.
        place: String,
        /// Its words, or the status.
        said: String,
    },
    /// An address that cannot be used.
    #[error("{0}")]
    Address(String),
}

/// Requests for one message at most.
const TRIES: u32 = 3;

/// Sends a message through a channel; tries three times where that can help. Takes at most some 40 s.
///
/// # Errors
/// It did not arrive, as far as is known.
pub fn send(channel: &Channel, message: &Message) -> Result<(), Error> {
    let mut wait = Duration::from_millis(500);
    let mut tries = 1;
    loop {
        let sent = match &channel.way {
            Way::Email(email) => email.send(message),
            Way::Ping(address) => http::ping(address, message),
            Way::Webhook(address) => http::webhook(address, message),
            Way::Slack(address) => http::slack(address, message),
            Way::Discord(address) => http::discord(address, message),
        };
        match sent {
            Err(Failed { error, again: true }) if tries < TRIES => {
                tracing::debug!(channel = channel.name, %error, "a message is sent again");
                std::thread::sleep(wait);
                (tries, wait) = (tries + 1, wait * 4);
            }
            other => return other.map_err(|failed| failed.error),
        }
    }
}

/// Why a try failed, and whether another one can help.
struct Failed {
    error: Error,
    again: bool,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
