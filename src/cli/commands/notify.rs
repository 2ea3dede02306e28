//! `notify test`: whether messages arrive.

use crate::cli::Outcome;
use crate::cli::context::{Context, host_name};
use crate::cli::report::Failure;
use crate::cli::telling::deliver;
use crate::notify::{Event, Message};

/// Sends a message through the named channels, or through all.
pub fn test(context: &Context, names: &[String]) -> Result<Outcome, Failure> {
    let known = &context.config.notify;
    if known.is_empty() {
        let hint =
            "A channel stands in the configuration as [notify.NAME]; docs/notifications.md has one of each kind.";
        return Err(Failure::usage("the configuration has no channel", hint));
    }
    if let Some(unknown) = names.iter().find(|name| !known.contains_key(*name)) {
        let names = known.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(
            format!("there is no channel `{unknown}`"),
            format!("The configuration has: {names}."),
        ));
    }
    let wanted = |name: &String| names.is_empty() || names.contains(name);
    let mut whole = true;
    let mut answer = |name: &str, failed: Option<String>| {
        whole &= failed.is_none();
        if context.ui.json {
            return context.ui.json(&serde_json::json!({
                "message_type": "notify_test", "channel": name, "arrived": failed.is_none(), "error": failed,
            }));
        }
        context.ui.answer(match failed {
            None => format!("sent      {name}: it took the message"),
            Some(why) => format!("FAILED    {name}: {why}"),
        })
    };
    for channel in context.config.channels() {
        match channel {
            Err((name, why)) if wanted(&name) => answer(&name, Some(why))?,
            Ok(channel) if wanted(&channel.name) => {
                let sent = deliver(context, std::slice::from_ref(&channel), &message(context));
                let failed = sent.into_iter().find_map(|(_, sent)| sent.err()).map(|e| e.to_string());
                answer(&channel.name, failed)?;
            }
            _ => {}
        }
    }
    Ok(if whole { Outcome::Done } else { Outcome::Unfit })
}

fn message(context: &Context) -> Message {
    let host = host_name(None);
    Message {
        event: Event::Test,
        subject: "test".to_owned(),
        command: "notify".to_owned(),
        sources: Vec::new(),
        run: String::new(),
        title: format!("lifeboat on {host}: a test. Nothing happened; messages arrive here"),
        host,
        at: context.now(),
        exit_code: None,
        seconds: None,
        weight: 0,
        parts: std::collections::BTreeSet::new(),
        lines: Vec::new(),
    }
}
