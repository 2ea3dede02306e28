//! `postgresql.conf`: its settings line by line, what it includes, and one file made of it and of what it includes.
//!
//! Invariants: lines that are not understood stay as they are; inclusion ends at [`DEPTH_MAX`]. Pure: whoever calls brings the
//! files. Not here: `pg_hba.conf`, and what a setting means.

use std::path::{Path, PathBuf};

/// Inclusions within inclusions at most; PostgreSQL's own limit.
pub const DEPTH_MAX: usize = 10;

/// A setting or a directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// In small letters.
    pub name: String,
    /// Without its quotes.
    pub value: String,
}

/// What a line includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Include {
    /// One file.
    File(PathBuf),
    /// The `.conf` files of a directory, in the order of their names.
    Dir(PathBuf),
}

/// What a line sets; `None` for comments, empty lines, and what is none.
pub fn setting(line: &str) -> Option<Setting> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted)?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    Some(Setting { name: name.to_ascii_lowercase(), value })
}

/// The text up to the closing quote; a quote is doubled or has a backslash before it.
fn unquoted(text: &str) -> Option<String> {
    let (mut value, mut chars) = (String::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => value.extend(chars.next()),
            '\'' => return Some(value),
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    None
}

/// What a setting includes, seen from a file in `directory`.
pub fn include(setting: &Setting, directory: &Path) -> Option<Include> {
    let path = || directory.join(&setting.value);
    match setting.name.as_str() {
        "include" | "include_if_exists" => Some(Include::File(path())),
        "include_dir" => Some(Include::Dir(path())),
        _ => None,
    }
}

/// Where the files come from.
pub trait Files {
    /// A file's text; `None` where there is none.
    fn read(&self, path: &Path) -> Option<String>;
    /// The files of a directory that an `include_dir` takes, in order.
    fn list(&self, directory: &Path) -> Vec<PathBuf>;
}

/// One text of a file and all that it includes, where `drops` turns lines into comments and says why.
pub fn flatten(text: &str, directory: &Path, files: &dyn Files, drops: &dyn Fn(&Setting) -> Option<String>) -> String {
    let mut all = String::new();
    add(text, directory, files, drops, 0, &mut all);
    all
}

fn add(
    text: &str,
    directory: &Path,
    files: &dyn Files,
    drops: &dyn Fn(&Setting) -> Option<String>,
    depth: usize,
    all: &mut String,
) {
    for line in text.lines() {
        let found = setting(line);
        if let Some(why) = found.as_ref().and_then(drops) {
            all.push_str(&format!("# {why}: {}\n", line.trim()));
            continue;
        }
        let Some(included) = found.as_ref().and_then(|found| include(found, directory)) else {
            all.push_str(line);
            all.push('\n');
            continue;
        };
        all.push_str(&format!("# included here: {}\n", line.trim()));
        let paths = match included {
            Include::File(path) => vec![path],
            Include::Dir(path) => files.list(&path),
        };
        for path in paths.into_iter().filter(|_| depth < DEPTH_MAX) {
            match files.read(&path) {
                Some(text) => {
                    all.push_str(&format!("# from {}\n", path.display()));
                    add(&text, path.parent().unwrap_or(directory), files, drops, depth + 1, all);
                }
                None => all.push_str(&format!("# not stored: {}\n", path.display())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn lines_are_read_as_the_server_does() {
        for (line, expected) in [
            ("port = 5433", Some(("port", "5433"))),
            ("  Port 5433 # comment", Some(("port", "5433"))),
            ("hba_file='/etc/it''s \\'x\\''  # y", Some(("hba_file", "/etc/it's 'x'"))),
            ("include_dir = 'conf.d'", Some(("include_dir", "conf.d"))),
            ("a.b=on#x", Some(("a.b", "on"))),
            ("# port = 1", None),
            ("", None),
            ("x = 'never ends", None),
            ("9x = 1", None),
        ] {
            let found = setting(line).map(|found| (found.name, found.value));
            assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{line}");
        }
    }

    struct Held(BTreeMap<PathBuf, String>);

    impl Files for Held {
        fn read(&self, path: &Path) -> Option<String> {
            self.0.get(path).cloned()
        }
        fn list(&self, directory: &Path) -> Vec<PathBuf> {
            self.0.keys().filter(|path| path.parent() == Some(directory)).cloned().collect()
        }
    }

    #[test]
    fn one_file_is_made_of_several() {
        let all = [("/etc/pg/conf.d/a.conf", "a = 1\ninclude '../b.conf'"), ("/etc/pg/conf.d/../b.conf", "b = 2")];
        let files = Held(all.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect());
        let drops = |found: &Setting| (found.name == "hba_file").then(|| "elsewhere".to_owned());
        let text = "hba_file = '/x'\ninclude_dir 'conf.d'\ninclude_if_exists 'none'\nc = 3";
        let made = flatten(text, Path::new("/etc/pg"), &files, &drops);
        let set: Vec<String> = made.lines().filter_map(setting).map(|found| found.name).collect();
        assert_eq!(set, ["a", "b", "c"], "{made}");
        assert!(made.contains("# elsewhere: hba_file = '/x'") && made.contains("# not stored: /etc/pg/none"), "{made}");
        // A circle ends.
        let round = Held(BTreeMap::from([(PathBuf::from("/r"), "include '/r'".to_owned())]));
        assert!(flatten("include '/r'", Path::new("/"), &round, &|_| None).len() < 2000);
    }

    proptest! {
        #[test]
        fn any_line_is_a_setting_or_none(line in "\\PC*") {
            let _ = setting(&line);
        }
    }
}
