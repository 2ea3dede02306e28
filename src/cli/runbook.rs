//! Runbooks: pages of docs/runbooks, cut down to a kind of source and with values of this moment in them.
//!
//! A page has parts for some kinds alone, between `<!-- kind: a b -->` and `<!-- /kind -->`, and one block of values, `export NAME=VALUE   # what
//! it is`, right below the heading `## Values`. Blocks of shell that are run as they stand are marked `sh`, others `sh not-run`.
//! Not here: where values come from (`commands::runbook`).

use std::collections::BTreeMap;

/// The pages, by the cases that they are for.
const PAGES: [(&str, &str); 7] = [
    ("database-corrupted", include_str!("../../docs/runbooks/database-corrupted.md")),
    ("bad-deploy", include_str!("../../docs/runbooks/bad-deploy.md")),
    ("host-lost", include_str!("../../docs/runbooks/host-lost.md")),
    ("region-lost", include_str!("../../docs/runbooks/region-lost.md")),
    ("ransomware", include_str!("../../docs/runbooks/ransomware.md")),
    ("key-lost", include_str!("../../docs/runbooks/key-lost.md")),
    ("new-infrastructure", include_str!("../../docs/runbooks/new-infrastructure.md")),
];

/// Values that say less than they must, whatever is known: of a server where it is, and not who may write there.
const UNSURE: [&str; 1] = ["SERVER"];

/// The cases.
pub fn cases() -> Vec<&'static str> {
    PAGES.iter().map(|(case, _)| *case).collect()
}

/// The page of a case.
pub fn page(case: &str) -> Option<&'static str> {
    PAGES.iter().find(|(name, _)| *name == case).map(|(_, page)| *page)
}

/// The lines of a page that are for a kind; all of them where no kind is known.
fn of_kind<'p>(page: &'p str, kind: Option<&str>) -> Vec<&'p str> {
    let mut kept = Vec::new();
    let mut here = true;
    for line in page.lines() {
        if let Some(kinds) = line.strip_prefix("<!-- kind: ") {
            let kinds = kinds.trim_end_matches("-->").split_whitespace();
            here = kind.is_none_or(|kind| kinds.into_iter().any(|one| one == kind));
        } else if line == "<!-- /kind -->" {
            here = true;
        } else if here {
            kept.push(line);
        }
    }
    kept
}

/// A value as a shell reads it back.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+=,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// Whether a text uses a variable.
fn uses(text: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let of = |mark: String| text.match_indices(&mark).any(|(at, mark)| ends(&text[at + mark.len()..]));
    of(format!("${name}")) || of(format!("${{{name}"))
}

/// A page for a kind of source, with values. What is not known stays as it is in the page, and is marked. `more` are exports that no page
/// has, because only who used a flag needs them.
pub fn render(page: &str, kind: Option<&str>, values: &BTreeMap<&str, String>, more: &[(&str, String)]) -> String {
    let lines = of_kind(page, kind);
    let rest = lines.iter().filter(|line| !line.starts_with("export ")).copied().collect::<Vec<_>>().join("\n");
    let mut text = String::new();
    let mut more = more.iter().filter(|(name, _)| !page.contains(&format!("export {name}=")));
    for line in lines {
        let Some((name, after)) = line.strip_prefix("export ").and_then(|line| line.split_once('=')) else {
            // Two empty lines where a part was left out.
            if !(line.is_empty() && text.ends_with("\n\n")) {
                text.push_str(line);
                text.push('\n');
            }
            continue;
        };
        for (name, value) in more.by_ref() {
            text.push_str(&format!("export {name}={}   # as this command was called\n", quoted(value)));
        }
        let comment = after.split_once(" # ").map_or("", |(_, comment)| comment.trim());
        // The program reads these by itself.
        let is_read = name.starts_with("LIFEBOAT_") || name.starts_with("CONVEX_");
        match values.get(name) {
            _ if !is_read && !uses(&rest, name) => {}
            Some(value) => {
                let set = if UNSURE.contains(&name) { "SET THIS: " } else { "" };
                text.push_str(&format!("export {name}={}   # {set}{comment}\n", quoted(value)));
            }
            None => text.push_str(&format!(
                "{}   # SET THIS: {comment}\n",
                line.split(" # ").next().unwrap_or(line).trim_end()
            )),
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# T\n\n## Values\n\n```sh\nexport LIFEBOAT_CONFIG=/etc/x   # the configuration\nexport SOURCE=app   # the source\n\
                        export PGDATA=/var   # data\nexport URL=http://x   # the API\n```\n\n<!-- kind: postgres -->\nuse \"$PGDATA.old\"\n<!-- /kind -->\n\
                        <!-- kind: convex -->\nuse ${URL}\n<!-- /kind -->\n\nall $SOURCE\n";

    #[test]
    fn parts_and_values_are_those_of_the_kind() {
        let values = [("SOURCE", "it's".to_owned()), ("LIFEBOAT_CONFIG", "/etc/l.toml".to_owned())].into();
        let text = render(
            PAGE,
            Some("postgres"),
            &values,
            &[("LIFEBOAT_STATE_DIR", "/s".to_owned()), ("LIFEBOAT_CONFIG", "/no".to_owned())],
        );
        assert_eq!(
            text,
            "# T\n\n## Values\n\n```sh\nexport LIFEBOAT_STATE_DIR=/s   # as this command was called\nexport LIFEBOAT_CONFIG=/etc/l.toml   # the configuration\n\
             export SOURCE='it'\\''s'   # the source\nexport PGDATA=/var   # SET THIS: data\n```\n\nuse \"$PGDATA.old\"\n\nall $SOURCE\n"
        );
        let text = render(PAGE, Some("convex"), &values, &[]);
        assert!(text.contains("export URL=http://x   # SET THIS: the API") && !text.contains("PGDATA"), "{text}");
        let all = render(PAGE, None, &values, &[]);
        assert!(all.contains("$PGDATA") && all.contains("${URL}"), "{all}");
    }

    #[test]
    fn a_name_is_used_only_whole() {
        assert!(uses("x $TO y", "TO") && uses("\"$TO\"", "TO") && uses("${TO}_x", "TO") && uses("$TO", "TO"));
        assert!(!uses("$TOTAL", "TO") && !uses("TO", "TO") && !uses("${TOTAL}", "TO"));
    }

    /// What the engine relies on, and the test that runs the pages.
    #[test]
    fn every_page_is_well_formed() {
        for (case, page) in PAGES {
            assert!(page.contains("\n## Values\n\n```sh\nexport "), "{case}");
            assert_eq!(page.matches("<!-- kind: ").count(), page.matches("<!-- /kind -->").count(), "{case}");
            let mut open = false;
            for line in page.lines() {
                if let Some(mark) = line.strip_prefix("```") {
                    assert!(open && mark.is_empty() || !open && ["sh", "sh not-run"].contains(&mark), "{case}: {line}");
                    open = !open;
                }
                let bare = line.strip_prefix("export ").is_none_or(|line| line.contains(" # "));
                assert!(bare, "{case}: a value without what it is: {line}");
            }
            for kind in ["postgres", "pg_dump", "convex", "volume", "sqlite", "tarball", "command", "bucket"] {
                let text = render(page, Some(kind), &BTreeMap::new(), &[]);
                assert!(!text.contains("<!--") && text.contains("\n## "), "{case} {kind}");
            }
        }
    }
}
