//! Key files: age and SSH identities, recipients, the writer's own. Input: which of them (one byte), its text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lifeboat::repository::HostWriter;
use lifeboat::seal::{Keyring, Opener, Recipient, Sealer};
use lifeboat_fuzz::{MIB, bounded};

fn check(which: u8, text: &[u8]) {
    match which % 3 {
        0 => {
            // Nobody types a passphrase here: scrypt may take as long as its work factor says.
            let ring = Keyring::read("id", text, &mut |_| Err("not asked".to_owned()));
            let Ok(ring) = ring else { return };
            assert!(!ring.identities.is_empty());
            let recipients: Vec<Recipient> =
                ring.recipients.iter().take(2).map(|r| r.parse().expect("a recipient of its own")).collect();
            if !recipients.is_empty() {
                let sealed = Sealer::new(recipients).seal(b"bytes").expect("memory");
                assert_eq!(Opener::new(ring.identities).open(&sealed).expect("its own"), b"bytes");
            }
        }
        1 => {
            let Ok(text) = std::str::from_utf8(text) else { return };
            let Ok(recipient) = text.parse::<Recipient>() else { return };
            let again: Recipient = recipient.as_str().parse().expect("its own text");
            assert_eq!(again.as_str(), recipient.as_str());
            let _ = Sealer::new(vec![recipient]).seal(b"bytes");
        }
        _ => {
            let Ok(host) = HostWriter::parse(text, Path::new("writer.key")) else { return };
            assert!(host.recipients.iter().all(|r| r.parse::<Recipient>().is_ok()));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((which, text)) = input.split_first() else { return };
    bounded(64 * text.len() + 4 * MIB, || check(*which, text));
});
