//! `validate-store`: what was seen of each guarantee, and what follows for lifeboat.

use crate::cli::Outcome;
use crate::cli::args::ValidateStoreArgs;
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::Failure;
use crate::config::parse_size;
use crate::model::limits;
use crate::ops::Kind;
use crate::ops::validate::{Finding, Guarantee, Held, Scale, ValidateReport, validate};

/// Runs it.
pub fn run(context: &Context, args: &ValidateStoreArgs) -> Result<Outcome, Failure> {
    let mut scale = Scale::default();
    if let Some(text) = &args.large_object {
        let size = parse_size(text).map_err(|e| Failure::usage(e, "As in `--large-object 256M`."))?;
        if !(1..=limits::PACK_MAX).contains(&size) {
            let error = format!("`{text}` is no size of an object that lifeboat writes");
            return Err(Failure::usage(error, "It writes packs of 32 MiB, and no object above 256 MiB."));
        }
        scale.large = size as usize;
    }
    let store = context.store_at(&context.url_or(args.url.as_deref())?)?;
    let random = getrandom::u64()
        .map_err(|e| Failure::new(Kind::Failed, format!("the kernel gave no random numbers: {e}"), None))?;
    let scratch = store.scratch(&format!("validate-{random:016x}"))?;
    context.ui.story(format!("Trying `{}`; what is written for that is removed again.", scratch.store().label()));
    let progress = context.progress(true);
    let report = validate(&scratch, scale, &|| context.now(), &*progress);
    progress.clear();
    let report = report?;
    tell(context, store.label(), &report)?;
    if report.left > 0 {
        let (count, place) = (counted(report.left, "object", "objects"), scratch.store().label());
        context
            .ui
            .warning(format!("{count} below `{place}` could not be removed; remove them where deleting is allowed"));
    }
    Ok(if report.is_fit() { Outcome::Done } else { Outcome::Unfit })
}

fn tell(context: &Context, url: &str, report: &ValidateReport) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        let findings: Vec<_> = report.findings.iter().map(as_json).collect();
        return ui.json(&serde_json::json!({
            "message_type": "summary",
            "store": url,
            "fit": report.is_fit(),
            "findings": findings,
            "below": report.below,
            "left": report.left,
        }));
    }
    for finding in &report.findings {
        let held = match finding.held {
            Held::Yes => "yes",
            Held::No => "NO",
            Held::Refused => "refused",
            Held::Unknown => "unknown",
        };
        ui.answer(format!("{:18}  {held:7}  {}", name(finding.guarantee), finding.seen))?;
        ui.answer(format!("{:18}  {:7}  -> {}", "", "", follows(finding)))?;
    }
    match report.is_fit() {
        true => ui.answer("result              lifeboat can use this store"),
        false => ui.answer("result              NOT FIT: something that lifeboat relies on is not so here"),
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let mut value = serde_json::to_value(finding).unwrap_or_default();
    value["follows"] = follows(finding).into();
    value
}

/// What people call it.
fn name(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::WriteAndRead => "write and read",
        Guarantee::Missing => "missing objects",
        Guarantee::ReadAfterWrite => "read after write",
        Guarantee::ListAfterWrite => "list after write",
        Guarantee::LongListings => "long listings",
        Guarantee::Ranges => "ranges",
        Guarantee::LargeObjects => "large objects",
        Guarantee::WholeObjects => "whole objects",
        Guarantee::Names => "names",
        Guarantee::CreateIfAbsent => "create if absent",
        Guarantee::CreateInARace => "create in a race",
        Guarantee::ListAfterDelete => "list after delete",
        Guarantee::OddNames => "odd names",
        Guarantee::Clock => "clock",
    }
}

/// What it means for lifeboat.
fn follows(finding: &Finding) -> &'static str {
    use Guarantee as G;
    match (finding.guarantee, finding.held) {
        (G::CreateIfAbsent, Held::Yes) => "one request stores an object; nothing else rests on it",
        (G::CreateIfAbsent, Held::Refused) => {
            "it is asked first what is there: one request more for each object; nothing else"
        }
        (G::CreateIfAbsent, _) => "set `conditional_puts = false`: then it is asked first what is there",
        (G::CreateInARace, Held::Yes) => "two `init` at one time make one repository; nothing else rests on it",
        (G::CreateInARace, _) => {
            "run `init` once, not twice at one time; nothing else rests on it, for a name holds the digest of its bytes"
        }
        (G::ListAfterDelete, Held::Yes) => "`prune` can free what nothing needs any more",
        (G::ListAfterDelete, Held::Refused) => {
            "as it should be on a backup host: a thief of it can delete nothing either; `prune` frees nothing from here"
        }
        (G::ListAfterDelete, _) => "`prune` may ask twice for what is gone; nothing else",
        (G::OddNames, Held::Yes) => "the prefix in the URL may have any name; lifeboat's own names are plain",
        (G::OddNames, _) => "keep to a-z, 0-9, `-`, `_`, `.` and `/` in the URL; lifeboat's own names are plain",
        (G::Clock, Held::Yes) => {
            "nothing in this version rests on it; requests that are signed need it within 15 minutes"
        }
        (G::Clock, _) => "set this host's clock (NTP): stores refuse requests signed 15 minutes off",
        (_, Held::Yes) => needed(finding.guarantee),
        (G::LongListings, Held::Unknown) => "try it once with credentials that may delete",
        (G::Missing, Held::No) => "NEEDED. On S3, grant s3:ListBucket: without it a missing object looks forbidden",
        (G::LargeObjects, Held::No) => {
            "NEEDED: a pack has 32 MiB. Look for a limit on requests in the server or a proxy before it"
        }
        (_, _) => "NEEDED: do not keep backups in this store until it is so",
    }
}

/// Why lifeboat relies on it.
fn needed(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::WriteAndRead => "needed: what was acknowledged can be restored",
        Guarantee::Missing => "needed: it tells a repository from none, and a lost pack from a forbidden one",
        Guarantee::ReadAfterWrite => "needed: a snapshot exists as soon as its commit was acknowledged",
        Guarantee::ListAfterWrite => "needed: a run lists its log again after its commit, and so sees a second writer",
        Guarantee::LongListings => "needed: packs that a listing leaves out are taken for lost",
        Guarantee::Ranges => "needed: a restore fetches parts of packs",
        Guarantee::LargeObjects => "needed: packs are put in one request, and have 32 MiB",
        Guarantee::WholeObjects => "needed: a run that was cut off leaves no half of an object under a final name",
        Guarantee::Names => "needed: every name holds a digest, and a writer's folder is its own",
        _ => "not needed",
    }
}
