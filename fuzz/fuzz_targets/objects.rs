//! The small objects: `lifeboat.json`, lists of recipients, descriptions of writers, the repository secret, names of commits.
//! Input: which of them (one byte), its content; signed here where it has to be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::chunk::{Cutter, GearTable};
use lifeboat::model::{Cutting, limits};
use lifeboat::repository::{Admission, Description, RecipientsList, WriterDescription, commit_key, parse_commit_key};
use lifeboat::seal::sign_text;
use lifeboat_fuzz::{KEYS, MIB, OWNER, bounded};

fn check(which: u8, content: &[u8]) {
    let description = &KEYS.description;
    match which % 5 {
        0 => {
            let Ok(found) = Description::parse(content, "memory") else { return };
            let text = serde_json::to_vec(&found).expect("JSON");
            assert_eq!(Description::parse(&text, "memory").ok().as_ref(), Some(&found));
            // Whatever it says can be cut with.
            let cutter = Cutter::new(GearTable::from_bytes(&[11; 2048]), &found.chunking);
            for cutting in [Cutting::Fine, Cutting::Coarse, Cutting::Pages] {
                assert!(cutter.longest(cutting) <= limits::CHUNK_MAX);
                assert_eq!(cutter.cut(cutting, content, true).is_none(), content.is_empty());
            }
        }
        1 => {
            assert!(RecipientsList::parse(content, "list", description).is_err(), "nobody signed this");
            let signed = sign_text("lifeboat format 1 recipients", content, &KEYS.signing);
            let Ok(found) = RecipientsList::parse(&signed, "list", description) else { return };
            assert_eq!(found.repository, description.repository);
            let text = serde_json::to_vec(&found).expect("JSON");
            let text = sign_text("lifeboat format 1 recipients", &text, &KEYS.signing);
            assert_eq!(RecipientsList::parse(&text, "list", description).ok(), Some(found));
        }
        2 => {
            assert!(WriterDescription::parse(content, "writer.json", OWNER.writer, description).is_err());
            let signed = sign_text("lifeboat format 1 writer", content, &KEYS.signing);
            let found = WriterDescription::parse(&signed, "writer.json", OWNER.writer, description);
            let Ok(found) = found else { return };
            assert_eq!((found.repository, found.writer.as_str()), (description.repository, OWNER.writer));
            let text = serde_json::to_vec(&found).expect("JSON");
            let text = sign_text("lifeboat format 1 writer", &text, &KEYS.signing);
            let again = WriterDescription::parse(&text, "writer.json", OWNER.writer, description);
            assert_eq!(again.ok(), Some(found));
        }
        3 => drop(Admission::parse(content, description)),
        _ => {
            let Ok(key) = std::str::from_utf8(content) else { return };
            let Some((sequence, digest)) = parse_commit_key(key) else { return };
            let again = commit_key(OWNER.writer, sequence, &digest);
            assert_eq!(again.rsplit('/').next(), key.rsplit('/').next());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((which, content)) = input.split_first() else { return };
    bounded(64 * content.len() + MIB, || check(*which, content));
});
