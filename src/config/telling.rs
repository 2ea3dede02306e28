//! `[hooks]`, `[sources.X.hooks]` and `[notify.X]`: what runs around a deed, and who hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Config, Length};
use crate::notify::{Address, Channel, Email, EmailParts, Event, Hooks, Way};
use crate::repository::is_source_name;

/// Commands whose runs are told and have hooks.
pub const RUNS: [&str; 11] =
    ["backup", "canary", "check", "copy", "drill", "follow", "forget", "prune", "repair", "restore", "status"];
/// Bytes of a file with a URL or a password at most.
const SECRET_MAX: u64 = 8 << 10;

/// One line, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a line, or a list of lines")]
pub enum Lines {
    /// None.
    #[default]
    #[serde(skip)]
    None,
    /// One.
    One(String),
    /// Several, in their order.
    Many(Vec<String>),
}

impl Lines {
    fn all(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(line) => vec![line.clone()],
            Self::Many(lines) => lines.clone(),
        }
    }
}

/// `[hooks]`, `[sources.<name>.hooks]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksSection {
    /// Lines for the shell before the deed.
    #[serde(default)]
    before: Lines,
    /// After it, where it did all that it should.
    #[serde(default)]
    after: Lines,
    /// After it, where it did not.
    #[serde(default)]
    failed: Lines,
    /// After it, in any case.
    #[serde(default)]
    finally: Lines,
    /// Commands around which they run; `backup` where nothing is said.
    commands: Option<Vec<String>>,
    /// How long each may take.
    timeout: Option<Length>,
}

impl HooksSection {
    /// As they are run.
    pub fn hooks(&self) -> Hooks {
        let usual = Hooks::default();
        Hooks {
            before: self.before.all(),
            after: self.after.all(),
            failed: self.failed.all(),
            finally: self.finally.all(),
            commands: self.commands.clone().unwrap_or(usual.commands),
            patience: self.timeout.map_or(usual.patience, |length| length.0),
        }
    }
}

/// Kinds of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// A dead-man switch.
    Ping,
    /// JSON, posted.
    Webhook,
    /// Slack, Mattermost, Rocket.Chat.
    Slack,
    /// Discord.
    Discord,
    /// Mail.
    Email,
}

/// `[notify.<name>]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifySection {
    /// Through what.
    kind: ChannelKind,
    /// Where to; it is a secret, so better in a file.
    url: Option<String>,
    /// A file with it.
    url_file: Option<PathBuf>,
    /// Events that go there.
    on: Option<BTreeSet<Event>>,
    /// Commands whose runs are told.
    commands: Option<Vec<String>>,
    /// Sources whose parts of runs are told, in place of whole runs.
    #[serde(default)]
    sources: Vec<String>,
    /// The same trouble is told again after so long.
    repeat: Option<Length>,
    /// Messages within an hour at most.
    at_most: Option<u32>,
    /// Of mail: the server, as `smtps://USER@HOST`.
    smtp: Option<String>,
    /// Of mail: a file with the user's password.
    password_file: Option<PathBuf>,
    /// Of mail: the sender.
    from: Option<String>,
    /// Of mail: who gets it.
    #[serde(default)]
    to: Vec<String>,
}

/// What a file with a secret says, without the white space around it.
///
/// # Errors
/// It cannot be read.
pub fn secret(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(SECRET_MAX).read_to_string(&mut text));
    read.map_err(|e| format!("could not read `{}`: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

impl NotifySection {
    /// The channel; reads the files with its secrets.
    fn channel(&self, name: &str) -> Result<Channel, String> {
        let is_ping = self.kind == ChannelKind::Ping;
        let on = match (&self.on, is_ping) {
            (Some(on), _) => on.clone(),
            (None, true) => [Event::Start, Event::Success, Event::Failure].into(),
            (None, false) => [Event::Failure, Event::Trouble, Event::Recovered].into(),
        };
        let commands = match (&self.commands, is_ping) {
            (Some(commands), _) => commands.clone(),
            // A switch waits for one thing: a drill must not stand in for a backup.
            (None, true) => vec!["backup".to_owned()],
            (None, false) => Vec::new(),
        };
        Ok(Channel {
            name: name.to_owned(),
            way: self.way()?,
            on,
            commands,
            sources: self.sources.clone(),
            repeat: self.repeat.map_or(std::time::Duration::from_secs(12 * 3600), |length| length.0),
            at_most: self.at_most.unwrap_or(20),
        })
    }

    fn way(&self) -> Result<Way, String> {
        if self.kind == ChannelKind::Email {
            let password = self.password_file.as_deref().map(secret).transpose()?;
            return self.email(password.as_deref()).map(|email| Way::Email(Box::new(email)));
        }
        let address = match (&self.url, &self.url_file) {
            (Some(url), _) => Address::parse(url),
            (None, Some(file)) => Address::parse(&secret(file)?),
            (None, None) => return Err("`url_file` or `url` is missing".to_owned()),
        };
        let address = address.map_err(|e| e.to_string())?;
        Ok(match self.kind {
            ChannelKind::Ping => Way::Ping(address),
            ChannelKind::Slack => Way::Slack(address),
            ChannelKind::Discord => Way::Discord(address),
            ChannelKind::Webhook | ChannelKind::Email => Way::Webhook(address),
        })
    }

    fn email(&self, password: Option<&str>) -> Result<Email, String> {
        let server = self.smtp.as_deref().ok_or("`smtp` is missing: the server, as `smtps://USER@HOST`")?;
        let from = self.from.as_deref().ok_or("`from` is missing: the sender")?;
        Email::new(&EmailParts { server, password, from, to: &self.to }).map_err(|e| e.to_string())
    }

    /// What can be seen to be wrong without reading a file.
    fn check(&self, sources: &BTreeMap<String, super::SourceSection>) -> Result<(), String> {
        let is_mail = self.kind == ChannelKind::Email;
        let of_mail = self.smtp.is_some() || self.password_file.is_some() || self.from.is_some() || !self.to.is_empty();
        if !is_mail && of_mail {
            return Err("`smtp`, `password_file`, `from` and `to` belong to `kind = \"email\"`".to_owned());
        }
        if is_mail && (self.url.is_some() || self.url_file.is_some()) {
            return Err("`url` does not belong to `kind = \"email\"`; its server is `smtp`".to_owned());
        }
        if self.url.is_some() && self.url_file.is_some() {
            return Err("`url` and `url_file` are both given".to_owned());
        }
        if !is_mail && self.url.is_none() && self.url_file.is_none() {
            return Err("`url_file` or `url` is missing".to_owned());
        }
        if let Some(url) = &self.url {
            Address::parse(url).map_err(|e| e.to_string())?;
        }
        if is_mail {
            self.email(self.password_file.as_ref().map(|_| "unread"))?;
        }
        if self.at_most == Some(0) || self.on.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err("nothing would ever be told: `at_most` is 0, or `on` is empty".to_owned());
        }
        if self.on.as_ref().is_some_and(|on| on.contains(&Event::Test)) {
            return Err("`test` is what `lifeboat notify test` sends, always".to_owned());
        }
        if let Some(missing) = self.sources.iter().find(|name| !sources.contains_key(*name)) {
            return Err(format!("there is no source `{missing}`"));
        }
        known_commands(self.commands.as_deref())
    }
}

fn known_commands(commands: Option<&[String]>) -> Result<(), String> {
    match commands.unwrap_or_default().iter().find(|one| !RUNS.contains(&one.as_str())) {
        Some(unknown) => Err(format!("`{unknown}` in `commands` is none of {}", RUNS.join(", "))),
        None => Ok(()),
    }
}

impl Config {
    /// The channels, by name; reads the files with their secrets. One that cannot be had is an error beside the others.
    pub fn channels(&self) -> Vec<Result<Channel, (String, String)>> {
        self.notify.iter().map(|(name, section)| section.channel(name).map_err(|why| (name.clone(), why))).collect()
    }

    pub(super) fn check_telling(&self) -> Result<(), (String, String)> {
        for (name, section) in &self.notify {
            let wrong = |why: String| (format!("[notify.{name}]"), why);
            if !is_source_name(name) {
                return Err(wrong("a channel's name has letters, digits, `-`, `_` and `.`, at most 64".to_owned()));
            }
            section.check(&self.sources).map_err(wrong)?;
        }
        let own = self.sources.iter().filter_map(|(name, source)| Some((name, source.hooks.as_ref()?)));
        let all = self.hooks.iter().map(|hooks| ("[hooks]".to_owned(), hooks, &RUNS[..]));
        // Only of these do sources have parts of their own.
        let all =
            all.chain(own.map(|(name, hooks)| (format!("[sources.{name}.hooks]"), hooks, &["backup", "drill"][..])));
        for (section, hooks, allowed) in all {
            let commands = hooks.commands.as_deref().unwrap_or_default();
            if let Some(unknown) = commands.iter().find(|one| !allowed.contains(&one.as_str())) {
                return Err((section, format!("`{unknown}` in `commands` is none of {}", allowed.join(", "))));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let source = "[sources.a]\nkind = \"volume\"\npath = \"/a\"\n";
        Config::parse(&format!("{source}{text}"), Path::new("lifeboat.toml")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }

    #[test]
    fn channels_and_hooks_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "https://hc.example/ping/secret\n").unwrap();
        let config = parse(&format!(
            "[sources.a.hooks]\nbefore = \"sync\"\nfinally = [\"a\", \"b\"]\ntimeout = \"5m\"\n\
             [hooks]\nafter = \"x\"\ncommands = [\"prune\"]\n\
             [notify.switch]\nkind = \"ping\"\nurl_file = \"{}\"\n\
             [notify.team]\nkind = \"slack\"\nurl = \"https://hooks.example/T\"\non = [\"failure\"]\nsources = [\"a\"]\nrepeat = \"1h\"\n\
             [notify.ops]\nkind = \"email\"\nsmtp = \"smtps://mail.example\"\nfrom = \"l@example.org\"\nto = [\"o@example.org\"]\n\
             [notify.gone]\nkind = \"discord\"\nurl_file = \"/nowhere\"\n",
            file.display()
        ))
        .unwrap();
        let hooks = config.sources["a"].hooks.as_ref().unwrap().hooks();
        assert_eq!((hooks.before, hooks.finally), (vec!["sync".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        let channels = config.channels();
        let names: Vec<_> = channels.iter().flatten().map(|channel| channel.name.as_str()).collect();
        assert_eq!(names, ["ops", "switch", "team"], "one that cannot be had keeps none of the others");
        let (name, why) = channels.iter().find_map(|one| one.as_ref().err()).unwrap();
        assert!(name == "gone" && why.contains("/nowhere"));
        let switch = channels.iter().flatten().find(|channel| channel.name == "switch").unwrap();
        assert_eq!(switch.commands, ["backup"]);
        assert!(switch.on.contains(&Event::Start) && !format!("{switch:?}").contains("secret"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[notify.x]\nkind = \"ping\"\n", "`url_file` or `url` is missing"),
            ("[notify.x]\nkind = \"pigeon\"\n", "pigeon"),
            ("[notify.x]\nkind = \"ping\"\nurl = \"hc.example/secret\"\n", "the URL of a channel"),
            ("[notify.x]\nkind = \"ping\"\nurl = \"https://h\"\nurl_file = \"/f\"\n", "both given"),
            ("[notify.x]\nkind = \"slack\"\nurl = \"https://h\"\nto = [\"x\"]\n", "belong to `kind = \"email\"`"),
            ("[notify.x]\nkind = \"email\"\nfrom = \"a@b\"\nto = [\"a@b\"]\n", "`smtp` is missing"),
            ("[notify.x]\nkind = \"slack\"\nurl = \"https://h\"\non = []\n", "nothing would ever be told"),
            ("[notify.x]\nkind = \"slack\"\nurl = \"https://h\"\non = [\"faliure\"]\n", "faliure"),
            ("[notify.x]\nkind = \"slack\"\nurl = \"https://h\"\nsources = [\"z\"]\n", "no source `z`"),
            ("[notify.x]\nkind = \"slack\"\nurl = \"https://h\"\ncommands = [\"bakcup\"]\n", "`bakcup`"),
            ("[hooks]\nbefor = \"x\"\n", "`befor`"),
            ("[hooks]\nbefore = 7\n", "a line, or a list of lines"),
            ("[hooks]\nbefore = \"x\"\ncommands = [\"init\"]\n", "`init`"),
            ("[sources.a.hooks]\nbefore = \"x\"\ncommands = [\"prune\"]\n", "`prune`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
