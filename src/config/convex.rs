//! The keys of a source of kind `convex`, checked.

use std::time::Duration;

use super::SourceSection;
use crate::client::convex::parse_url;
use crate::source::convex::{ConvexOptions, KeyFrom};

/// Checks that the keys fit each other.
pub(super) fn plan(section: &SourceSection) -> Result<ConvexOptions, String> {
    let mut options = ConvexOptions::default();
    if let Some(url) = &section.url {
        parse_url(url).map_err(|e| e.to_string())?;
        options.url = Some(url.clone());
    }
    options.key = key(section)?;
    let files = section.files.unwrap_or(true);
    for pattern in section.tables.iter().chain(&section.exclude_tables) {
        let names: Vec<&str> = pattern.split('/').collect();
        if names.iter().any(|name| name.is_empty()) || names.last().is_some_and(|name| name.starts_with('_')) {
            return Err(format!("`{pattern}` names no table; write it as `users` or `component/users`, with `*`"));
        }
    }
    if let Some(span) = &section.stall_timeout {
        let time = span.delta().to_std().unwrap_or_default();
        if time < Duration::from_secs(1) {
            return Err("`stall_timeout` is too short; write it as `30min`".to_owned());
        }
        options.stall_timeout = time;
    }
    options.tables.clone_from(&section.tables);
    options.exclude_tables.clone_from(&section.exclude_tables);
    options.work_dir.clone_from(&section.work_dir);
    options.keep_exports = section.keep_exports.unwrap_or(false);
    options.files = files;
    Ok(options)
}

fn key(section: &SourceSection) -> Result<KeyFrom, String> {
    match (&section.admin_key_file, &section.admin_key_env, &section.instance_secret_file) {
        (None, None, None) if section.instance_name.is_some() => {
            Err("`instance_name` needs `instance_secret_file`; a key names its instance itself".to_owned())
        }
        (None, None, None) => Ok(KeyFrom::Environment),
        (Some(file), None, None) => Ok(KeyFrom::File(file.clone())),
        (None, Some(name), None) => Ok(KeyFrom::Variable(name.clone())),
        (None, None, Some(file)) => match &section.instance_name {
            Some(instance) => Ok(KeyFrom::Secret { instance: instance.clone(), file: file.clone() }),
            None => Err("`instance_secret_file` needs `instance_name`".to_owned()),
        },
        _ => Err("the key comes from one of `admin_key_file`, `admin_key_env` and `instance_secret_file`".to_owned()),
    }
}
