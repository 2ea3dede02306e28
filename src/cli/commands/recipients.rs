//! `key add`, `key remove`, `key pin`, `key rewrap`: who can read.

use std::time::Instant;

use crate::cli::Outcome;
use crate::cli::commands::prune::GRACE;
use crate::cli::context::Context;
use crate::cli::output::{counted, size};
use crate::cli::report::Failure;
use crate::cli::time::parse_duration;
use crate::model::Digest;
use crate::ops::rewrap::{self, look};
use crate::seal::Recipient;

/// `key add` and `key remove`.
pub fn change(context: &Context, keys: &[String], add: bool) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    let parsed: Result<Vec<Recipient>, _> = keys.iter().map(|text| text.parse()).collect();
    let (digest, list) = match add {
        true => repository.change_recipients(&parsed?, &[], context.now())?,
        false => {
            // As they are written on the list, comments left out.
            let named: Vec<String> = parsed?.iter().map(|key| key.as_str().to_owned()).collect();
            repository.change_recipients(&[], &named, context.now())?
        }
    };
    let follows = repository.host().is_ok();
    if follows {
        repository.reseal_log(false, &*progress)?;
    }
    let ui = context.ui;
    if ui.json {
        ui.json(&serde_json::json!({"list": digest, "recipients": list.recipients, "followed_here": follows}))?;
        return Ok(Outcome::Done);
    }
    ui.answer(format!("list         {digest}"))?;
    for recipient in &list.recipients {
        ui.answer(format!("recipient    {recipient}"))?;
    }
    if follows {
        ui.story("This host seals to this list from now on. Restart `lifeboat follow` here, if it runs.");
    }
    ui.story(format!("On every other host that writes: `lifeboat key pin {digest}`. A copy has a list of its own: `lifeboat --repo COPY key ...`."));
    ui.story("Where the configuration names `recipients`, change them too.");
    ui.story(match add {
        true => {
            "Snapshots from before open for those who were added once each host has run `lifeboat key rewrap`; segments of streams from before do not. \
             Until then nothing from before is deduplicated against: the next backup stores everything anew."
        }
        false => {
            "Whoever was removed still reads what was stored before, as far as they can get at it, and still knows the repository's secret. `lifeboat key rewrap` and, a \
             day later, `lifeboat prune` take the old bytes out of the store. Of a stolen identity read docs/keys.md."
        }
    });
    Ok(Outcome::Done)
}

/// `key pin`.
pub fn pin(context: &Context, list: Digest) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    let before = repository.host()?.recipients.clone();
    let after = repository.follow_recipients(list)?.recipients;
    repository.reseal_log(false, &*progress)?;
    let ui = context.ui;
    let gone: Vec<&String> = before.iter().filter(|one| !after.contains(one)).collect();
    let new: Vec<&String> = after.iter().filter(|one| !before.contains(one)).collect();
    if ui.json {
        ui.json(&serde_json::json!({"list": list, "recipients": after, "added": new, "removed": gone}))?;
        return Ok(Outcome::Done);
    }
    for one in &after {
        ui.answer(format!("{:12} {one}", if new.contains(&one) { "added" } else { "recipient" }))?;
    }
    for one in gone {
        ui.answer(format!("removed      {one}"))?;
    }
    ui.story("This host seals to this list from now on; restart `lifeboat follow`, if it runs. What it stored before is sealed anew by `lifeboat key rewrap`, with an identity.");
    Ok(Outcome::Done)
}

/// `key rewrap`.
pub fn rewrap(context: &Context, dry_run: bool, time_limit: Option<&str>) -> Result<Outcome, Failure> {
    let limit = time_limit.map(parse_duration).transpose();
    let limit = limit.map_err(|e| Failure::usage(e, "As in `--time-limit 1h`."))?;
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    let ui = context.ui;
    let earlier = look(&mut repository)?;
    if dry_run || earlier.packs.is_empty() {
        if ui.json {
            ui.json(&serde_json::json!({"dry_run": dry_run, "packs": earlier.packs.len(), "bytes": earlier.bytes, "of": earlier.all}))?;
        } else {
            let packs = counted(earlier.packs.len() as u64, "pack", "packs");
            ui.answer(format!("result    {packs} of {} to be sealed anew, {}", earlier.all, size(earlier.bytes)))?;
        }
        return Ok(Outcome::Done);
    }
    let unknown = repository.prune_unknown(&problems)?;
    if !unknown.is_empty() {
        for why in unknown {
            ui.answer(format!("UNKNOWN   {why}; nothing is sealed anew"))?;
        }
        return Ok(Outcome::Damage);
    }
    let grace = context.config.prune.grace.as_ref().map_or(GRACE, |grace| grace.delta().num_seconds());
    let until = limit.and_then(|limit| Instant::now().checked_add(limit.to_std().unwrap_or_default()));
    let grace = u64::try_from(grace).unwrap_or_default();
    let report = rewrap::rewrap(&mut repository, grace, until, &|| context.now(), &*progress);
    progress.clear();
    let report = report?;
    if ui.json {
        ui.json(&serde_json::json!({"dry_run": false, "report": report}))?;
    } else {
        for (pack, why) in &report.damaged {
            ui.answer(format!("DAMAGED   pack {pack} stays: {why}"))?;
        }
        let packs = counted(report.packs, "pack", "packs");
        ui.answer(format!("result    {packs} sealed anew, {} put; {} left", size(report.stored), report.left))?;
        ui.story("The old ones are retired: `lifeboat prune` deletes them after the grace.");
    }
    Ok(match () {
        () if !report.damaged.is_empty() => Outcome::Damage,
        () if report.left > 0 => Outcome::Incomplete,
        () => Outcome::Done,
    })
}
