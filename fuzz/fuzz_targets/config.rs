//! The configuration: what is accepted has a plan for each source; a message names a line that is there.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lifeboat::client::Connection;
use lifeboat::config::{Config, Error, Plan, parse_size};
use lifeboat::repository::is_source_name;
use lifeboat::seal::Recipient;
use lifeboat::source::{Rules, VolumeSource};
use lifeboat_fuzz::{MIB, bounded};

fuzz_target!(|text: &str| {
    if let Ok(size) = parse_size(text)
        && size < 1 << 53
    {
        assert_eq!(parse_size(&size.to_string()), Ok(size));
    }
    let config = bounded(256 * text.len() + MIB, || Config::parse(text, Path::new("lifeboat.toml")));
    let config = match config {
        Ok(config) => config,
        Err(e) => {
            if let Error::Syntax { line, .. } = e {
                assert!((1..=text.matches('\n').count() + 1).contains(&line), "line {line}");
            }
            return;
        }
    };
    for recipient in &config.repository.recipients {
        let _ = recipient.parse::<Recipient>();
    }
    for (name, source) in &config.sources {
        assert!(is_source_name(name));
        match source.plan(name).expect("it was checked") {
            Plan::Volume { rules, .. } => {
                // Pattern files are left out: this is about patterns, not about reading files.
                let _ = VolumeSource::new(Path::new("."), &Rules { exclude_file: Vec::new(), ..rules });
            }
            Plan::Command { command, file_name } => {
                assert!(!command.is_empty() && file_name.components().count() == 1);
            }
            Plan::Bucket(options) => assert!(!options.urls.is_empty()),
            Plan::Tarball(_) | Plan::Convex(_) | Plan::Sqlite { .. } => {}
            Plan::Postgres(options) => assert_eq!(&options.source, name),
            Plan::PgDump(options) => {
                // What is shown of a connection is a connection, and the same one but for its password.
                let said = options.connection.argument();
                let again = Connection::parse(&said).expect("it was made by us");
                assert!(!again.has_password() && again.argument() == said);
            }
        }
    }
    for group in config.groups.values() {
        assert!(group.sources.iter().all(|source| config.sources.contains_key(source)));
    }
});
