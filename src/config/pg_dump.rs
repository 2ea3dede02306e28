//! The keys of a source of kind `pg_dump`, checked.

use serde::Deserialize;

use super::SourceSection;
use crate::client::Connection;
use crate::source::{Databases, PgDumpOptions};

/// `databases`: a list of names, or the word `all`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a list of names, or \"all\"")]
pub enum DatabasesKey {
    /// `all`
    Word(String),
    /// Names.
    Names(Vec<String>),
}

/// Arguments of `pg_dump` that would take a dump out of our hands: long, short, and what says it here.
const TAKEN: [(&str, &str, &str); 7] = [
    ("--file", "-f", "the output is stored"),
    ("--format", "-F", "say `format`"),
    ("--compress", "-Z", "dumps are compressed when they are stored, and deduplicate only if they are not before"),
    ("--jobs", "-j", "say `jobs`"),
    ("--dbname", "-d", "say `connection` and `databases`"),
    ("--snapshot", "", "the snapshot is the one in which rows are counted"),
    ("--password", "-W", "say `password_file`"),
];

/// Checks that the keys fit each other.
pub(super) fn plan(section: &SourceSection) -> Result<PgDumpOptions, String> {
    let text = section.connection.as_deref().unwrap_or_default();
    let mut options = PgDumpOptions::new(Connection::parse(text).map_err(|e| e.to_string())?);
    if section.password_file.is_some() && options.connection.has_password() {
        return Err("`password_file` is given, and a password in `connection` too: leave that out".to_owned());
    }
    options.databases = databases(section)?;
    if let (Some(named), false) = (options.connection.database(), options.databases == Databases::OfConnection)
        && options.databases != Databases::Named(vec![named.to_owned()])
    {
        return Err(format!(
            "`connection` names the database `{named}`, and the databases are named too: leave one out"
        ));
    }
    options.format = section.format.unwrap_or_default();
    if section.jobs.is_some() && options.format != crate::model::DumpFormat::Directory {
        return Err("`jobs` needs `format = \"directory\"`: other dumps are written one table after another".to_owned());
    }
    if section.jobs == Some(0) {
        return Err("`jobs` must be 1 or more".to_owned());
    }
    for argument in &section.extra_args {
        for (long, short, instead) in TAKEN {
            let name = argument.split('=').next().unwrap_or_default();
            if name == long || (!short.is_empty() && argument.starts_with(short)) {
                return Err(format!("`{name}` cannot be among `extra_args`: {instead}"));
            }
        }
    }
    options.password_file.clone_from(&section.password_file);
    options.globals = section.globals.unwrap_or_default();
    options.row_counts = section.row_counts.unwrap_or(true);
    options.exclude_tables.clone_from(&section.exclude_tables);
    options.schemas.clone_from(&section.schemas);
    options.jobs = section.jobs;
    options.bin_dir.clone_from(&section.bin_dir);
    options.work_dir.clone_from(&section.work_dir);
    options.extra_args.clone_from(&section.extra_args);
    Ok(options)
}

fn databases(section: &SourceSection) -> Result<Databases, String> {
    if section.databases.is_some() && section.instance_name.is_some() {
        return Err("`databases` and `instance_name` are both given: the instance names its database".to_owned());
    }
    // Convex calls the database of an instance by the instance's name, with underscores.
    if let Some(instance) = &section.instance_name {
        return Ok(Databases::Named(vec![instance.replace('-', "_")]));
    }
    match &section.databases {
        None => Ok(Databases::OfConnection),
        Some(DatabasesKey::Word(word)) if word == "all" => Ok(Databases::All),
        Some(DatabasesKey::Word(word)) => Err(format!("`databases` is a list, or \"all\": write [\"{word}\"]")),
        Some(DatabasesKey::Names(names)) => {
            let twice = names.iter().enumerate().find(|(n, name)| names[..*n].contains(name));
            match twice {
                Some((_, name)) => Err(format!("`databases` names `{name}` twice")),
                None if names.is_empty() => Err("`databases` is empty: leave it out, or say \"all\"".to_owned()),
                None => Ok(Databases::Named(names.clone())),
            }
        }
    }
}
