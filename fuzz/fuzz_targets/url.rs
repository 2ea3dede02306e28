//! Repository URLs: what is read is read again when it is written as a URL; no message shows a password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::store::{Location, parse_url};
use lifeboat_fuzz::SECRET;

fn plain(location: &Location) -> Option<String> {
    Some(match location {
        Location::Local(path) => path.to_str()?.to_owned(),
        Location::S3 { bucket, prefix } => format!("s3://{bucket}/{}", encoded(prefix)),
        Location::Azure { container, prefix } => format!("az://{container}/{}", encoded(prefix)),
        Location::Gcs { bucket, prefix } => format!("gs://{bucket}/{}", encoded(prefix)),
    })
}

/// A prefix as a URL has it: a blank at its end, a `?`, a `%` are bytes of the name only when they are encoded.
fn encoded(prefix: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    prefix.bytes().map(encode).collect()
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
