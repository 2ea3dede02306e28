//! What people read when something goes wrong: error, cause, hint; and the exit code of its kind.

use std::error::Error as StdError;
use std::io::Write;

use super::time::BadTime;
use crate::ops::Kind;
use crate::{config, ops, repository, seal, store};

/// A failure on its way to a person.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    error: Box<dyn StdError + Send + Sync>,
    hint: Option<String>,
}

/// A sentence of our own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Sentence(String);

impl Failure {
    /// The command line is wrong.
    pub fn usage(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, error: Box::new(Sentence(error.into())), hint: Some(hint.into()) }
    }
    /// Something else of our own.
    pub fn new(kind: Kind, error: impl Into<String>, hint: Option<String>) -> Self {
        Self { kind, error: Box::new(Sentence(error.into())), hint }
    }
    /// A file of the user's.
    pub fn io(doing: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        let text = format!("could not {doing} `{}`: {error}", path.display());
        Self { kind: Kind::Failed, error: Box::new(Sentence(text)), hint: None }
    }
    /// With another hint.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
    /// Whether a repository went away while it was in use: its own hint says what to do.
    pub fn is_gone(&self) -> bool {
        let error = self.error.downcast_ref::<ops::Error>();
        matches!(error, Some(ops::Error::Repository(repository::Error::Store(store::Error::Gone { .. }))))
    }
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened, without causes and hint.
    pub fn said(&self) -> String {
        self.error.to_string()
    }

    /// The lines: error, causes that say something new, hint.
    pub fn lines(&self) -> Vec<String> {
        let mut said = self.error.to_string();
        let mut lines = vec![format!("error: {said}")];
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            // A cause that repeats the end of the line above says nothing new.
            if !said.ends_with(&text) {
                lines.push(format!("cause: {text}"));
            }
            said = text;
            cause = error.source();
        }
        lines.extend(self.hint.iter().map(|hint| format!("hint: {hint}")));
        lines
    }

    /// Writes it to a stream; in JSON as one message.
    pub fn print(&self, output: &mut dyn Write, json: bool) {
        let lines = self.lines();
        if json {
            let part =
                |label: &str| -> Vec<&str> { lines.iter().filter_map(|line| line.strip_prefix(label)).collect() };
            let message = serde_json::json!({
                "message_type": "error",
                "error": part("error: ").first(),
                "causes": part("cause: "),
                "hint": part("hint: ").first(),
                "exit_code": self.kind as u8,
            });
            let _ = writeln!(output, "{message}");
        } else {
            let _ = writeln!(output, "{}", lines.join("\n"));
        }
    }
}

impl From<ops::Error> for Failure {
    fn from(error: ops::Error) -> Self {
        Self { kind: error.kind(), hint: error.hint(), error: Box::new(error) }
    }
}
impl From<repository::Error> for Failure {
    fn from(error: repository::Error) -> Self {
        ops::Error::from(error).into()
    }
}
impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        ops::Error::from(error).into()
    }
}
impl From<crate::catalog::Error> for Failure {
    fn from(error: crate::catalog::Error) -> Self {
        ops::Error::from(error).into()
    }
}
impl From<crate::source::Error> for Failure {
    fn from(error: crate::source::Error) -> Self {
        ops::Error::from(error).into()
    }
}
impl From<crate::client::Error> for Failure {
    fn from(error: crate::client::Error) -> Self {
        ops::Error::from(error).into()
    }
}
impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let hint = match &error {
            config::Error::Read { .. } => "Give another with `--config FILE`.",
            _ => "Nothing was touched. `docs/configuration.md` lists every key.",
        };
        Self { kind: Kind::Usage, hint: Some(hint.to_owned()), error: Box::new(error) }
    }
}
impl From<BadTime> for Failure {
    fn from(error: BadTime) -> Self {
        Self { kind: Kind::Usage, hint: Some(error.hint()), error: Box::new(error) }
    }
}
impl From<seal::Error> for Failure {
    fn from(error: seal::Error) -> Self {
        let (kind, hint) = match &error {
            seal::Error::BadRecipient(_) => {
                (Kind::Usage, "A recipient is `age1...` or the line of an SSH public key (ed25519 or RSA).")
            }
            seal::Error::WrongPassphrase(_) => {
                (Kind::Key, "Try again; if it is forgotten, see \"The identity is lost\" in docs/recovery.md.")
            }
            seal::Error::NoPassphrase { .. } => (
                Kind::Key,
                "Without a terminal, write the passphrase into a file with mode 0600 and name that: LIFEBOAT_PASSPHRASE_FILE=FILE.",
            ),
            _ => (
                Kind::Key,
                "This is not the identity file that the repository was sealed to: name that with `--identity FILE`. It has a line \
                 `AGE-SECRET-KEY-1...`, or is protected by a passphrase.",
            ),
        };
        Self { kind, hint: Some(hint.to_owned()), error: Box::new(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_repeats_the_line_above_is_left_out() {
        let io = std::io::Error::other("disk on fire");
        let inner = repository::Error::Io { doing: "read", path: "/x".into(), source: io };
        let failure = Failure::from(inner);
        assert_eq!(failure.lines(), ["error: could not read `/x`", "cause: disk on fire"]);
        assert_eq!(failure.kind() as u8, 1);
    }
}
