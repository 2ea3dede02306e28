//! `init`: a repository is made, or joined.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::Outcome;
use crate::cli::args::InitArgs;
use crate::cli::context::{Context, host_name};
use crate::cli::report::Failure;
use crate::ops::Kind;
use crate::repository::{InitOptions, Keys, Made, Repository, init};
use crate::seal::{Recipient, generate_identity};
use crate::store::{Location, parse_url};

/// Runs it.
pub fn run(context: &Context, args: &InitArgs) -> Result<Outcome, Failure> {
    let mut recipients = context.recipients()?;
    // The configuration may name the identity that is about to be made.
    let keys = if args.generate_identity.is_some() { Keys::default() } else { context.keys()? };
    context.refuse_others_state()?;
    let exists = match context.store(false) {
        Ok(store) => store.size("lifeboat.json")?.is_some(),
        Err(e) if e.kind() == Kind::NoRepository => false,
        Err(e) => return Err(e),
    };
    // Before anything is made: where a disk is not mounted, a new repository would lie below its mount point.
    if let Some(pinned) = context.config.repository.fingerprint.as_ref().filter(|_| !exists) {
        return Err(Failure::usage(
            format!(
                "the configuration pins {}, so there was a repository, and there is none in `{}`",
                short(pinned),
                context.url()?
            ),
            format!(
                "{} For a new repository take `fingerprint` out of [repository]. Nothing was made.",
                context.where_it_was()?
            ),
        ));
    }
    if recipients.is_empty() && args.generate_identity.is_none() && !exists {
        return Err(Failure::usage(
            "there is nobody to seal to",
            "Make a key pair with `init --generate-identity FILE`, or name public keys with `--recipient age1...`.",
        ));
    }
    let store = context.store(true)?;
    let state = context.state_dir()?;
    let host = host_name(args.host.as_deref());
    if let Some(file) = &args.generate_identity {
        if exists {
            return Err(Failure::usage(
                format!("there is a repository in `{}` already", store.label()),
                "To join it from this host, run `init` with `--identity FILE` in place of `--generate-identity`.",
            ));
        }
        recipients.push(write_identity(file)?);
    }
    let options = |recipients| InitOptions { recipients, state: &state, host: &host, now: context.now() };
    let made = if exists && !keys.identities.is_empty() {
        Repository::join(&store, keys.identities, &keys.fingerprints, &options(&recipients))?
    } else {
        init(&store, &options(&recipients))?
    };
    if let Some(file) = &args.generate_identity {
        pin_in_identity(file, &made)?;
    }
    tell(context, args, &made, &recipients)?;
    Ok(Outcome::Done)
}

/// The beginning of a fingerprint.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}

/// Writes a new identity, readable by its owner only. An existing file is never touched.
pub fn write_identity(file: &Path) -> Result<Recipient, Failure> {
    let (identity, recipient) = generate_identity();
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut output = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::usage(
            format!("`{}` is there already", file.display()),
            "Use it with `--recipient` and `--identity`, or name another file. It was not touched.",
        ),
        _ => Failure::io("write", file, e),
    })?;
    let text = format!(
        "# lifeboat identity: whoever has this file can read the backups\n# public key: {recipient}\n{identity}\n"
    );
    let written = output.write_all(text.as_bytes()).and_then(|()| output.sync_all());
    written.map_err(|e| Failure::io("write", file, e))?;
    Ok(recipient.parse()?)
}

fn pin_in_identity(file: &Path, made: &Made) -> Result<(), Failure> {
    let mut output = std::fs::OpenOptions::new().append(true).open(file).map_err(|e| Failure::io("write", file, e))?;
    let line = format!("# lifeboat fingerprint: {}\n", made.fingerprint);
    output.write_all(line.as_bytes()).and_then(|()| output.sync_all()).map_err(|e| Failure::io("write", file, e))
}

fn tell(context: &Context, args: &InitArgs, made: &Made, recipients: &[Recipient]) -> Result<(), Failure> {
    let ui = context.ui;
    let keys = context.state_dir()?.join(made.repository.to_string()).join("writer.key");
    let url = context.url()?;
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "initialized",
            "created": made.created,
            "repository": url,
            "id": made.repository,
            "fingerprint": made.fingerprint,
            "recover_digest": made.recover_digest,
            "writer": made.writer,
            "writer_key_file": keys,
            "recipients": recipients.iter().map(Recipient::as_str).collect::<Vec<_>>(),
            "identity_file": args.generate_identity,
        }));
    }
    ui.answer(format!("repository   {url} {}", if made.created { "made" } else { "joined" }))?;
    ui.answer(format!("fingerprint  {}", made.fingerprint))?;
    ui.answer(format!("recover.py   {}", made.recover_digest))?;
    ui.answer(format!("writer       {}", made.writer))?;
    ui.answer(format!("host keys    {}", keys.display()))?;
    for recipient in recipients {
        ui.answer(format!("sealed to    {}", recipient.as_str()))?;
    }
    if let Some(file) = &args.generate_identity {
        ui.answer(format!("identity     {}", file.display()))?;
        ui.story("");
        ui.story(format!(
            "Keep `{}` off this machine too: on paper, in a safe. Without it nothing can be restored, by anybody.",
            file.display()
        ));
    }
    ui.story("Write the fingerprint down, and pin it in the configuration:");
    ui.story(format!("  [repository]\n  url = \"{url}\"\n  fingerprint = \"{}\"", made.fingerprint));
    if matches!(parse_url(&url), Ok(Location::Local(_))) {
        ui.story("Note: whoever owns this host can delete what is in a local directory. Keep a second place.");
    }
    Ok(())
}
