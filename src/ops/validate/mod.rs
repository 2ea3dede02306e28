//! Proving what a store really guarantees: each guarantee is tried, below a prefix of its own that is emptied afterwards,
//! and told as a finding with what was seen. Not here: what follows from a finding, in words; that the store keeps what
//! it acknowledged, which no test of some minutes can prove.

mod checks;
mod concurrent;

use serde::Serialize;

use super::Error;
use crate::model::Moment;
use crate::progress::{Event, Progress};
use crate::repository;
use crate::store::Scratch;

/// What a store may guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// What was put is read back, byte for byte.
    WriteAndRead,
    /// An object that is not there is said not to be there.
    Missing,
    /// An object is found and read as soon as its put was acknowledged, also where it was looked for before.
    ReadAfterWrite,
    /// A listing shows an object as soon as its put was acknowledged.
    ListAfterWrite,
    /// A listing of many objects is whole, each once, and can begin behind a name.
    LongListings,
    /// A range is served as asked for.
    Ranges,
    /// Large objects, in one request.
    LargeObjects,
    /// Whoever looks during a put, or after one that was cut off, sees all of the object or none of it.
    WholeObjects,
    /// Names as lifeboat makes them are kept, the longest too, and folders do not run into each other.
    Names,
    /// A create of a name that is there is refused.
    CreateIfAbsent,
    /// Of several creates of one name at one time exactly one succeeds, and the others are refused.
    CreateInARace,
    /// A listing no longer shows what was deleted.
    ListAfterDelete,
    /// Names with unusual characters are kept.
    OddNames,
    /// The store's clock agrees with this host's.
    Clock,
}

impl Guarantee {
    /// Whether lifeboat relies on it.
    pub fn is_needed(self) -> bool {
        use Guarantee as G;
        !matches!(self, G::CreateIfAbsent | G::CreateInARace | G::ListAfterDelete | G::OddNames | G::Clock)
    }
}

/// How a guarantee came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// In every try.
    Yes,
    /// Not in every try.
    No,
    /// The store does not do or allow it, and says so.
    Refused,
    /// It could not be tried.
    Unknown,
}

/// One guarantee, and what was seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    pub guarantee: Guarantee,
    /// How it came out.
    pub held: Held,
    /// Whether lifeboat relies on it.
    pub needed: bool,
    /// What was seen.
    pub seen: String,
}

/// What became of it all.
#[derive(Debug, Clone, Serialize)]
pub struct ValidateReport {
    /// Where it was tried, below the store's root.
    pub below: String,
    /// All guarantees.
    pub findings: Vec<Finding>,
    /// Objects that could not be removed afterwards.
    pub left: u64,
}

impl ValidateReport {
    /// Whether nothing failed that lifeboat relies on. What could not be tried is no failure: a host that may not delete
    /// would never pass.
    pub fn is_fit(&self) -> bool {
        self.findings.iter().all(|finding| !finding.needed || finding.held != Held::No)
    }
}

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Tries of what may go wrong now and then.
    pub rounds: usize,
    /// How many do something at one time.
    pub racers: usize,
    /// Objects of a long listing.
    pub objects: usize,
    /// Bytes of a large object.
    pub large: usize,
}

impl Default for Scale {
    fn default() -> Self {
        Self { rounds: 64, racers: 8, objects: 1100, large: 64 << 20 }
    }
}

/// Why a guarantee is not known to hold.
enum Doubt {
    No(String),
    Refused(String),
    Unknown(String),
}

impl From<crate::store::Error> for Doubt {
    fn from(error: crate::store::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::No(format!("{error}{cause}").split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// What a check saw.
type Seen = Result<String, Doubt>;

/// Tries one guarantee.
type Check = fn(&Bench<'_>) -> Seen;

/// The place where everything is tried, and how.
struct Bench<'a> {
    scratch: &'a Scratch,
    scale: Scale,
    clock: &'a dyn Fn() -> Moment,
    can_delete: bool,
}

/// Tries every guarantee and empties the place again. A store that does not even take and give back an object is an
/// error; so is a wish to stop, after the place was emptied.
pub fn validate(
    scratch: &Scratch,
    scale: Scale,
    clock: &dyn Fn() -> Moment,
    progress: &dyn Progress,
) -> Result<ValidateReport, Error> {
    let mut bench = Bench { scratch, scale, clock, can_delete: true };
    // Before anything is judged: a store that cannot be reached, or refuses us, is no finding.
    let hello = bytes::Bytes::from_static(b"lifeboat validate-store");
    scratch.overwrite("hello", &hello)?;
    scratch.store().size("hello")?;
    bench.can_delete = scratch.delete("hello")? == crate::store::Tried::Done;
    let checks: [(Guarantee, Check); 14] = [
        (Guarantee::WholeObjects, concurrent::whole_objects),
        (Guarantee::WriteAndRead, checks::write_and_read),
        (Guarantee::Missing, checks::missing),
        (Guarantee::ReadAfterWrite, concurrent::read_after_write),
        (Guarantee::ListAfterWrite, concurrent::list_after_write),
        (Guarantee::LongListings, concurrent::long_listings),
        (Guarantee::Ranges, checks::ranges),
        (Guarantee::LargeObjects, checks::large_objects),
        (Guarantee::Names, checks::names),
        (Guarantee::CreateIfAbsent, checks::create_if_absent),
        (Guarantee::CreateInARace, concurrent::create_in_a_race),
        (Guarantee::ListAfterDelete, concurrent::list_after_delete),
        (Guarantee::OddNames, checks::odd_names),
        (Guarantee::Clock, checks::clock),
    ];
    progress.event(Event::Expect { items: checks.len() as u64, bytes: 0 });
    let mut findings = Vec::new();
    for (guarantee, check) in checks {
        if progress.cancelled() {
            break;
        }
        let (held, seen) = match check(&bench) {
            Ok(seen) => (Held::Yes, seen),
            Err(Doubt::No(seen)) => (Held::No, seen),
            Err(Doubt::Refused(seen)) => (Held::Refused, seen),
            Err(Doubt::Unknown(seen)) => (Held::Unknown, seen),
        };
        findings.push(Finding { guarantee, held, needed: guarantee.is_needed(), seen });
        progress.event(Event::Done { items: 1, bytes: 0 });
    }
    let left = scratch.clear()?;
    if progress.cancelled() {
        return Err(repository::Error::Cancelled.into());
    }
    Ok(ValidateReport { below: scratch.name().to_owned(), findings, left })
}
