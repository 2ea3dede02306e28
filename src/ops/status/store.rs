//! How the store stands: what reading its logs found, who can read it, the last check of its bytes.

use serde::Serialize;

use super::{Trouble, Weight, ms_between};
use crate::model::Moment;
use crate::model::sight::{CHECK, Checked, STORE};
use crate::ops::Error;
use crate::plan::restore::show;
use crate::repository::{Problem, Repository};

/// The last check of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastCheck {
    /// When it began.
    pub at: Moment,
    /// Whether everything that it looked at was in order.
    pub clean: bool,
    /// What it read.
    #[serde(flatten)]
    pub read: Checked,
}

/// How the store stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// The last check of this host.
    pub check: Option<LastCheck>,
    /// What is wrong, the gravest first.
    pub troubles: Vec<Trouble>,
}

impl StoreStatus {
    /// The gravest of its troubles.
    pub fn weight(&self) -> Weight {
        self.troubles.iter().map(|trouble| trouble.weight).max().unwrap_or(Weight::Fine)
    }
}

/// How the store stands. `problems` are those that opening it found, `recipients` those of the configuration, `check_ms` is how old the
/// last check may be.
pub fn store(
    repository: &Repository,
    problems: &[Problem],
    recipients: &[String],
    check_ms: Option<u64>,
    now: Moment,
) -> Result<StoreStatus, Error> {
    let mut troubles: Vec<Trouble> = problems.iter().map(of_log).collect();
    troubles.extend(recipients_missing(repository, recipients)?);
    let sights = repository.catalog().sights(STORE)?;
    let sight = sights.iter().find(|sight| sight.what == CHECK);
    let check = sight.and_then(|sight| {
        let read = serde_json::from_value(sight.facts.clone()).ok()?;
        Some(LastCheck { at: sight.at, clean: sight.words.is_none(), read })
    });
    let late = |words: String| Trouble { weight: Weight::Warning, kind: "check", words };
    if let Some((at, words)) = sight.and_then(|sight| Some((sight.at, sight.words.as_deref()?))) {
        let words = format!("the check of {} found DAMAGE ({words}): `lifeboat check` looks again", show(at));
        troubles.push(Trouble { weight: Weight::Damaged, kind: "check", words });
    } else if let Some(limit) = check_ms {
        match check.as_ref().map(|check| ms_between(check.at, now)) {
            None => troubles.push(late("this host has never checked it: `lifeboat check`".to_owned())),
            Some(age) if age > limit => {
                let (age, limit) = (age / 3_600_000, limit / 3_600_000);
                troubles.push(late(format!("the last check is {age} h old, {limit} h are allowed: `lifeboat check`")));
            }
            Some(_) => {}
        }
    }
    troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.weight));
    Ok(StoreStatus { check, troubles })
}

/// Who should be able to read what this host stores, and is not.
fn recipients_missing(repository: &Repository, configured: &[String]) -> Result<Vec<Trouble>, Error> {
    let Ok(host) = repository.host() else { return Ok(Vec::new()) };
    let say = |words: String| Trouble { weight: Weight::Warning, kind: "recipients", words };
    let later = repository.later_recipients()?.map(|(list, missing)| {
        let lacks = match missing.is_empty() {
            true => "somebody was taken off it".to_owned(),
            false => format!("{} cannot read what this host stores", missing.join(", ")),
        };
        say(format!(
            "there is a newer list of recipients, and {lacks}: `lifeboat key pin {list}`, if you know that list"
        ))
    });
    let unknown = configured.iter().filter(|one| !host.recipients.contains(one)).map(|missing| {
        say(format!(
            "{missing} stands in the configuration, and this host does not seal to it: every backup is refused until \
             `lifeboat key add {missing}` or another configuration"
        ))
    });
    Ok(later.into_iter().chain(unknown).collect())
}

fn of_log(problem: &Problem) -> Trouble {
    let (weight, kind) = match problem {
        Problem::OtherRecipients { .. } => (Weight::Warning, "recipients"),
        Problem::NewerCommit { .. } | Problem::StillCounted { .. } | Problem::Fork { .. } => (Weight::Warning, "log"),
        Problem::BadCommit { .. }
        | Problem::MissingCommit { .. }
        | Problem::BadWriter { .. }
        | Problem::BadKeys { .. } => (Weight::Damaged, "log"),
    };
    Trouble { weight, kind, words: problem.to_string() }
}
