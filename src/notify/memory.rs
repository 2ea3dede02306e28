//! Who has heard what: so that one trouble is told once and again after a while, that what is right again is told to who heard that it
//! was wrong, and that a storm of messages does not bury the one that counts.
//!
//! Invariants: a dead-man switch is never kept from a message; what is held back is counted and said with the next message; a memory that
//! is lost or cannot be read costs repetitions, never silence. Not here: sending.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::{Channel, Event, Message};
use crate::model::Moment;

/// Bytes of the file at most.
const FILE_MAX: u64 = 4 << 20;
/// Subjects that are remembered at most; beyond them the oldest go.
const SUBJECTS_MAX: usize = 2000;

/// How long sending may take before a message that nobody saw arrive counts as lost with the process that sent it.
const SENDING: TimeDelta = TimeDelta::minutes(3);

/// What a channel heard of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Heard {
    at: Moment,
    weight: u8,
    /// What of it failed: another part is another piece of news.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    parts: BTreeSet<String>,
    /// On its way: nobody has seen it arrive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sending: bool,
}

/// What went to a channel of late.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Traffic {
    /// Within the last hour.
    sent: Vec<Moment>,
    /// Held back since the last message.
    held_back: u64,
    /// Since when messages do not arrive, and why.
    failing: Option<(Moment, String)>,
}

/// The memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// By subject, then by channel.
    #[serde(default)]
    troubles: BTreeMap<String, BTreeMap<String, Heard>>,
    #[serde(default)]
    channels: BTreeMap<String, Traffic>,
}

impl Memory {
    /// Decides whether a channel hears a message, as it goes out, and notes it as heard. [`Memory::unsent`] takes that back.
    pub fn pass(&mut self, channel: &Channel, message: &Message) -> Option<Message> {
        let mut message = message.clone();
        if channel.is_ping() || message.event == Event::Test {
            return Some(message);
        }
        let now = message.at;
        match message.event {
            Event::Failure | Event::Trouble => {
                let heard = self.troubles.get_mut(&message.subject).and_then(|heard| heard.get_mut(&channel.name));
                let is_stale = |heard: &Heard| {
                    let repeat = TimeDelta::from_std(channel.repeat).unwrap_or(TimeDelta::MAX);
                    // A clock that was set back repeats rather than keeps silent.
                    heard.at > now || now - heard.at >= repeat || (heard.sending && now - heard.at >= SENDING)
                };
                if let Some(heard) = heard.filter(|heard| heard.weight >= message.weight && !is_stale(heard))
                    && message.parts.is_subset(&heard.parts)
                {
                    // What is right again meanwhile is news when it fails once more.
                    heard.parts.clone_from(&message.parts);
                    return None;
                }
            }
            Event::Success | Event::Recovered => {
                let was_bad =
                    self.troubles.get(&message.subject).is_some_and(|heard| heard.contains_key(&channel.name));
                if was_bad && self.is_full(channel, now) {
                    // It is told with the next success.
                    return None;
                }
                if let Some(heard) = self.troubles.get_mut(&message.subject) {
                    heard.remove(&channel.name);
                    if heard.is_empty() {
                        self.troubles.remove(&message.subject);
                    }
                }
                if was_bad && channel.on.contains(&Event::Recovered) {
                    if message.event == Event::Success {
                        message.title = format!("right again: {}", message.title);
                    }
                    message.event = Event::Recovered;
                } else if !(message.event == Event::Success && channel.on.contains(&Event::Success)) {
                    return None;
                }
            }
            Event::Start | Event::Test => {}
        }
        let traffic = self.channels.entry(channel.name.clone()).or_default();
        traffic.sent.retain(|at| *at <= now && now - *at < TimeDelta::hours(1));
        if traffic.sent.len() >= channel.at_most as usize {
            traffic.held_back += 1;
            return None;
        }
        traffic.sent.push(now);
        match std::mem::take(&mut traffic.held_back) {
            0 => {}
            1 => message.lines.push("(1 message before it was held back)".to_owned()),
            count => message.lines.push(format!("({count} messages before it were held back)")),
        }
        if matches!(message.event, Event::Failure | Event::Trouble) {
            let heard = Heard { at: now, weight: message.weight, parts: message.parts.clone(), sending: true };
            self.troubles.entry(message.subject.clone()).or_default().insert(channel.name.clone(), heard);
            self.bound();
        }
        Some(message)
    }

    /// Whether a channel has had as many messages of late as it takes.
    fn is_full(&self, channel: &Channel, now: Moment) -> bool {
        let of = self.channels.get(&channel.name);
        let recent = of.map_or(0, |traffic| {
            traffic.sent.iter().filter(|at| **at <= now && now - **at < TimeDelta::hours(1)).count()
        });
        recent >= channel.at_most as usize
    }

    /// A message did not arrive: it counts as not heard, and the channel as failing.
    pub fn unsent(&mut self, channel: &Channel, message: &Message, why: &str) {
        if message.event == Event::Recovered {
            // Whoever has not heard of the end still believes in the trouble.
            let (at, weight) = (message.at, message.weight);
            let heard = Heard { at, weight, parts: BTreeSet::new(), sending: false };
            self.troubles.entry(message.subject.clone()).or_default().insert(channel.name.clone(), heard);
        } else if let Some(heard) = self.troubles.get_mut(&message.subject) {
            heard.remove(&channel.name);
        }
        let traffic = self.channels.entry(channel.name.clone()).or_default();
        traffic.sent.retain(|at| *at != message.at);
        let since = traffic.failing.as_ref().map_or(message.at, |(since, _)| *since);
        traffic.failing = Some((since, why.to_owned()));
    }

    /// A message arrived.
    pub fn arrived(&mut self, channel: &str, message: &Message) {
        if let Some(traffic) = self.channels.get_mut(channel) {
            traffic.failing = None;
        }
        if let Some(heard) = self.troubles.get_mut(&message.subject).and_then(|heard| heard.get_mut(channel)) {
            heard.sending = false;
        }
    }

    /// Subjects that begin so, of which somebody has heard that they are not right.
    pub fn troubles(&self, prefix: &str) -> Vec<String> {
        self.troubles.keys().filter(|subject| subject.starts_with(prefix)).cloned().collect()
    }

    /// Channels through which messages do not arrive: name, since when, why.
    pub fn failing(&self) -> impl Iterator<Item = (&str, Moment, &str)> {
        self.channels.iter().filter_map(|(name, traffic)| {
            traffic.failing.as_ref().map(|(since, why)| (name.as_str(), *since, why.as_str()))
        })
    }

    fn bound(&mut self) {
        while self.troubles.len() > SUBJECTS_MAX {
            let newest = |heard: &BTreeMap<String, Heard>| heard.values().map(|heard| heard.at).max();
            let oldest =
                self.troubles.iter().min_by_key(|(_, heard)| newest(heard)).map(|(subject, _)| subject.clone());
            let Some(oldest) = oldest else { return };
            self.troubles.remove(&oldest);
        }
    }
}

/// The file with the memory of this host.
#[derive(Debug, Clone)]
pub struct MemoryFile(PathBuf);

impl MemoryFile {
    /// In a state directory, whether it is there or not; one for each repository.
    pub fn in_state(state: &Path, repository: &str) -> Self {
        let digest = blake3::hash(repository.as_bytes()).to_hex();
        Self(state.join(format!("notify-{}.json", digest.get(..8).unwrap_or_default())))
    }

    /// The memory as it is; an empty one where there is none, or none that can be read.
    pub fn read(&self) -> Memory {
        let mut text = Vec::new();
        let read = File::open(&self.0).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(_) => Memory::default(),
        }
    }

    /// Changes the memory, one process at a time; replaced as a whole.
    ///
    /// # Errors
    /// It could not be written; `change` was made all the same, on what could be read.
    pub fn change<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> (T, std::io::Result<()>) {
        let lock = self.lock();
        let mut memory = self.read();
        let before = memory.clone();
        let out = change(&mut memory);
        if memory == before {
            return (out, Ok(()));
        }
        let written = lock.and_then(|_held| self.write(&memory));
        (out, written)
    }

    fn lock(&self) -> std::io::Result<File> {
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let path = self.0.with_extension("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn write(&self, memory: &Memory) -> std::io::Result<()> {
        let staged = self.0.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&staged)?;
        serde_json::to_writer(&mut file, memory)?;
        std::fs::rename(&staged, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Address, Way};
    use super::*;

    fn channel(on: &[Event]) -> Channel {
        Channel {
            name: "team".into(),
            way: Way::Webhook(Address::parse("http://h/x").unwrap()),
            on: on.iter().copied().collect(),
            commands: Vec::new(),
            sources: Vec::new(),
            repeat: Duration::from_secs(12 * 3600),
            at_most: 5,
        }
    }

    fn at(hour: f64) -> Moment {
        Moment::from_timestamp((hour * 3600.0) as i64 + 1_800_000_000, 0).unwrap()
    }

    fn message(event: Event, subject: &str, hour: f64) -> Message {
        Message {
            event,
            subject: subject.into(),
            command: "backup".into(),
            sources: Vec::new(),
            run: "r".into(),
            host: "h".into(),
            at: at(hour),
            exit_code: None,
            seconds: None,
            weight: 1,
            title: "t".into(),
            lines: Vec::new(),
            parts: BTreeSet::new(),
        }
    }

    #[test]
    fn another_part_that_fails_is_told_at_once() {
        let (mut memory, channel) = (Memory::default(), channel(&[Event::Failure]));
        let mut told = |parts: &[&str], hour| {
            let parts = parts.iter().map(|part| (*part).to_owned()).collect();
            let message = Message { parts, ..message(Event::Failure, "run/backup/all", hour) };
            let told = memory.pass(&channel, &message).is_some();
            memory.arrived("team", &message);
            told
        };
        assert!(told(&["a"], 0.0) && !told(&["a"], 0.1));
        assert!(told(&["a", "b"], 0.2) && !told(&["a", "b"], 0.3));
        assert!(!told(&["b"], 0.4), "the one is right again");
        assert!(told(&["a", "b"], 0.5), "and fails once more");
    }

    #[test]
    fn what_was_being_sent_when_its_process_was_killed_is_told_again() {
        let (mut memory, channel) = (Memory::default(), channel(&[Event::Failure]));
        let mut told = |hour| memory.pass(&channel, &message(Event::Failure, "run/backup", hour)).is_some();
        assert!(told(0.0) && !told(0.01), "it may still arrive");
        assert!(told(0.1));
        memory.arrived("team", &message(Event::Failure, "run/backup", 0.1));
        assert!(memory.pass(&channel, &message(Event::Failure, "run/backup", 0.3)).is_none());
    }

    #[test]
    fn a_trouble_is_told_once_and_again_after_a_while_and_its_end_to_who_heard_of_it() {
        let (mut memory, channel) = (Memory::default(), channel(&[Event::Failure, Event::Recovered]));
        let mut told = |event, hour| {
            let told = memory.pass(&channel, &message(event, "run/backup", hour))?;
            memory.arrived("team", &told);
            Some(told.event)
        };
        assert_eq!(told(Event::Success, 0.0), None, "nothing was wrong");
        assert_eq!(told(Event::Failure, 1.0), Some(Event::Failure));
        assert_eq!(told(Event::Failure, 2.0), None);
        assert_eq!(told(Event::Failure, 13.0), Some(Event::Failure), "again after twelve hours");
        assert_eq!(told(Event::Success, 14.0), Some(Event::Recovered));
        assert_eq!(told(Event::Success, 15.0), None);
        assert_eq!(told(Event::Failure, 15.5), Some(Event::Failure));
        assert_eq!(told(Event::Failure, 1.0), Some(Event::Failure), "a clock that was set back keeps nothing silent");
    }

    #[test]
    fn a_graver_trouble_is_told_at_once() {
        let (mut memory, channel) = (Memory::default(), channel(&[Event::Trouble]));
        let mut told = |weight, hour| {
            let message = Message { weight, ..message(Event::Trouble, "status/app", hour) };
            let told = memory.pass(&channel, &message).is_some();
            memory.arrived("team", &message);
            told
        };
        assert_eq!([told(1, 0.0), told(1, 0.1), told(2, 0.2), told(1, 0.3)], [true, false, true, false]);
    }

    #[test]
    fn a_storm_is_held_back_and_counted() {
        let (mut memory, channel) = (Memory::default(), channel(&[Event::Failure]));
        let mut told = |n: u32, hour| memory.pass(&channel, &message(Event::Failure, &format!("run/{n}"), hour));
        let passed = (0..20).filter(|n| told(*n, f64::from(*n) / 100.0).is_some()).count();
        assert_eq!(passed, 5);
        let next = told(99, 1.5).unwrap();
        assert_eq!(next.lines, ["(15 messages before it were held back)"]);
        // What was held back was not heard: it is told when it comes again.
        assert!(told(7, 1.6).is_some());
    }

    #[test]
    fn what_did_not_arrive_is_told_again_and_the_channel_is_known_to_fail() {
        let (mut memory, channel) = (Memory::default(), channel(&[Event::Failure]));
        let first = message(Event::Failure, "run/backup", 0.0);
        assert!(memory.pass(&channel, &first).is_some());
        memory.unsent(&channel, &first, "refused");
        assert_eq!(memory.failing().collect::<Vec<_>>(), [("team", at(0.0), "refused")]);
        assert!(memory.pass(&channel, &message(Event::Failure, "run/backup", 0.1)).is_some());
        memory.arrived("team", &first);
        assert_eq!(memory.failing().count(), 0);
        // An end that did not arrive is told with the next success.
        let recovers = Channel { on: [Event::Recovered].into(), ..channel.clone() };
        let success = message(Event::Success, "run/backup", 0.2);
        let told = memory.pass(&recovers, &success).unwrap();
        assert_eq!(told.event, Event::Recovered);
        memory.unsent(&recovers, &told, "refused");
        assert_eq!(memory.pass(&recovers, &success).map(|told| told.event), Some(Event::Recovered));
        memory.arrived("team", &success);
        assert_eq!(memory.pass(&recovers, &success), None);
    }

    #[test]
    fn a_switch_hears_everything() {
        let ping = Channel { way: Way::Ping(Address::parse("http://h/x").unwrap()), ..channel(&[Event::Success]) };
        let mut memory = Memory::default();
        assert!((0..100).all(|_| memory.pass(&ping, &message(Event::Success, "run/backup", 0.0)).is_some()));
    }

    #[test]
    fn a_file_that_is_nonsense_is_an_empty_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = MemoryFile::in_state(folder.path(), "repo");
        std::fs::write(&file.0, "nonsense").unwrap();
        assert_eq!(file.read(), Memory::default());
        let channel = channel(&[Event::Failure]);
        let pass = || file.change(|memory| memory.pass(&channel, &message(Event::Failure, "run/x", 0.0)).is_some());
        assert!(matches!(pass(), (true, Ok(()))));
        assert!(matches!(pass(), (false, Ok(()))), "it was written");
    }
}
