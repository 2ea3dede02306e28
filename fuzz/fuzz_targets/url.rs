//! Repository URLs: what is read is read again from its plain form; no message shows a password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::store::{Location, parse_url};
use lifeboat_fuzz::SECRET;

fn plain(location: &Location) -> Option<String> {
    Some(match location {
        Location::Local(path) => path.to_str()?.to_owned(),
        Location::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        Location::Azure { container, prefix } => format!("az://{container}/{prefix}"),
        Location::Gcs { bucket, prefix } => format!("gs://{bucket}/{prefix}"),
    })
}

fuzz_target!(|text: &str| {
    if let Ok(location) = parse_url(text)
        && let Some(again) = plain(&location).filter(|again| !again.contains("://") || !again.starts_with('/'))
    {
        assert_eq!(parse_url(&again).as_ref().ok(), Some(&location), "{again}");
    }
    // Wherever credentials stand in a URL, the message does not repeat them.
    for (at, _) in text.char_indices().filter(|(_, c)| *c == '@').take(4) {
        let url = format!("{}key:{SECRET}{}", &text[..at], &text[at..]);
        if let Err(e) = parse_url(&url) {
            let message = e.to_string();
            assert!(!message.contains(SECRET), "{message}");
        }
    }
});
