//! `key`: identities, and the hosts that write.

use std::path::Path;

use super::init::write_identity;
use crate::cli::Outcome;
use crate::cli::context::{Context, host_name};
use crate::cli::output::size;
use crate::cli::report::Failure;
use crate::repository::{EarlierPacks, InitOptions, Problem, Repository, Request, Standing, WriterDescription};

/// `key generate`.
pub fn generate(context: &Context, output: &Path) -> Result<Outcome, Failure> {
    let recipient = write_identity(output)?;
    if context.ui.json {
        let answer = serde_json::json!({"recipient": recipient.as_str(), "identity_file": output});
        context.ui.json(&answer)?;
    } else {
        context.ui.answer(recipient.as_str())?;
        context.ui.story(format!("The secret key is in `{}`. Keep a copy off this machine.", output.display()));
    }
    Ok(Outcome::Done)
}

/// `key list`.
pub fn list(context: &Context) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (mut repository, problems) = context.open(&*progress)?;
    let (digest, list) = repository.current_recipients()?;
    let pinned = repository.host().ok().map(|host| (host.name.clone(), host.recipients_list));
    if pinned.as_ref().is_some_and(|(_, pinned)| *pinned != digest) {
        context.ui.warning(Problem::OtherRecipients { found: digest.to_string() });
    }
    let mut writers = Vec::new();
    for (_, name) in repository.catalog().writers()? {
        writers.push((repository.writer_description(&name)?, repository.standing(&name)?));
    }
    let earlier = match repository.host() {
        Ok(_) => crate::ops::rewrap::look(&mut repository)?,
        Err(_) => EarlierPacks::default(),
    };
    let own = pinned.map(|(name, _)| name);
    if context.ui.json {
        context.ui.json(&serde_json::json!({
            "fingerprint": repository.fingerprint(),
            "list": digest,
            "recipients": list.recipients,
            "earlier_packs": earlier.packs.len(),
            "packs": earlier.all,
            "writers": writers.iter().map(|(writer, standing)| described(writer, standing)).collect::<Vec<_>>(),
            "this_writer": own,
        }))?;
    } else {
        context.ui.answer(format!("fingerprint  {}", repository.fingerprint()))?;
        context.ui.answer(format!("list         {digest}"))?;
        for recipient in &list.recipients {
            context.ui.answer(format!("recipient    {recipient}"))?;
        }
        if !earlier.packs.is_empty() {
            let (some, all) = (earlier.packs.len(), earlier.all);
            context.ui.answer(format!(
                "sealed       {some} of {all} packs of this host to an earlier list, {}: `lifeboat key rewrap`",
                size(earlier.bytes)
            ))?;
        }
        for (writer, standing) in &writers {
            let here = if own.as_deref() == Some(&writer.writer) { "  (this host)" } else { "" };
            let day = |at: crate::model::Moment| at.format("%Y-%m-%d").to_string();
            let ruled = standing.ruled.map(|(_, at)| match standing.current() {
                Some(era) => format!(", of host {} since {}", era.host, day(at)),
                None => format!(", revoked {}", day(at)),
            });
            let (name, since) = (&writer.writer, day(writer.created));
            let ruled = ruled.unwrap_or_default();
            context.ui.answer(format!("writer       {name}  of host {}, since {since}{ruled}{here}", writer.host))?;
            for keeper in standing.keepers.iter().filter(|keeper| keeper.until.is_none()) {
                let hold = super::keeper::hours(keeper.hold);
                context.ui.answer(format!("keeper       {}  of {name}, believes it after {hold}", keeper.writer))?;
            }
        }
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

/// A writer with what was ruled on it, for a machine.
fn described(writer: &WriterDescription, standing: &Standing) -> serde_json::Value {
    let mut value = serde_json::json!(writer);
    if let Some((digest, at)) = standing.ruled {
        value["ruling"] = serde_json::json!({
            "keepers": standing.keepers, "digest": digest, "at": at, "revoked": standing.current().is_none(), "host": standing.current().map(|era| &era.host)
        });
    }
    value
}

/// `key request`.
pub fn request(context: &Context, output: &Path, host: Option<&str>) -> Result<Outcome, Failure> {
    let state = context.state_dir()?;
    let (recipients, host) = (context.recipients()?, host_name(host));
    let options = InitOptions { recipients: &recipients, state: &state, host: &host, now: context.now() };
    let pins: Vec<String> = context.config.repository.fingerprint.clone().into_iter().collect();
    let (request, fingerprint) = Repository::request(&context.store(false)?, &pins, &options)?;
    let text = serde_json::to_vec_pretty(&request).unwrap_or_default();
    std::fs::write(output, text).map_err(|e| Failure::io("write", output, e))?;
    if context.ui.json {
        context.ui.json(&serde_json::json!({"request": request, "fingerprint": fingerprint}))?;
    } else {
        context.ui.answer(format!("writer       {}", request.writer))?;
        context.ui.answer(format!("fingerprint  {fingerprint}"))?;
        context.ui.answer(format!("request      {}", output.display()))?;
        context.ui.story("Compare the fingerprint with the one that `init` printed: this host pins it from now on.");
        context.ui.story("Then, where an identity is at hand: `lifeboat key admit FILE --identity FILE`.");
    }
    Ok(Outcome::Done)
}

/// `key admit`.
pub fn admit(context: &Context, file: &Path) -> Result<Outcome, Failure> {
    let text = std::fs::read(file).map_err(|e| Failure::io("read", file, e))?;
    let request: Request = serde_json::from_slice(&text).map_err(|e| {
        let error = format!("`{}` is no request: {e}", file.display());
        Failure::usage(error, "A host makes one with `lifeboat key request --output FILE`.")
    })?;
    let keys = context.keys()?;
    if keys.identities.is_empty() {
        return Err(crate::repository::Error::NeedsIdentity("admitting a host").into());
    }
    Repository::admit(&context.store(false)?, keys.identities, &keys.fingerprints, &request)?;
    if context.ui.json {
        context.ui.json(&serde_json::json!({"admitted": request.writer}))?;
    } else {
        context.ui.answer(format!("admitted     {} of host {}", request.writer, request.host))?;
    }
    Ok(Outcome::Done)
}
