//! `globals.sql` before it is run: roles and tablespaces that the server has already are left as they are, so that a restore
//! gives nobody another password.

/// The text without the lines that make or change what is there. `roles` and `tablespaces` are the names on the server.
pub(super) fn without_known(text: &str, roles: &[String], tablespaces: &[String]) -> String {
    let is_known = |line: &str| {
        let named = |start: &str, known: &[String]| {
            line.strip_prefix(start).and_then(name).is_some_and(|(name, _)| known.contains(&name))
        };
        let altered = line.strip_prefix("ALTER ROLE ").and_then(name);
        named("CREATE ROLE ", roles)
            || named("CREATE TABLESPACE ", tablespaces)
            || altered.is_some_and(|(name, rest)| rest.starts_with(" WITH ") && roles.contains(&name))
    };
    text.split_inclusive('\n').filter(|line| !is_known(line)).collect()
}

/// The tablespaces that the text makes.
pub(super) fn tablespaces(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(name(line.strip_prefix("CREATE TABLESPACE ")?)?.0)).collect()
}

/// The name that a text begins with, quoted or not, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ';').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                name.push('"');
            }
            '"' => return Some((name, &quoted[at + 1..])),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_as_it_is() {
        let text = "SET x = 1;\nCREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER PASSWORD 'x';\n\
                    CREATE ROLE \"My \"\"Role\"\"\";\nALTER ROLE \"My \"\"Role\"\"\" WITH LOGIN;\nALTER ROLE new SET a TO 'b';\n\
                    CREATE ROLE new;\nALTER ROLE new WITH LOGIN;\nCREATE TABLESPACE fast OWNER x LOCATION '/y';\n";
        let roles = ["postgres".to_owned(), "My \"Role\"".to_owned()];
        let left = without_known(text, &roles, &["fast".to_owned()]);
        let expected = "SET x = 1;\nALTER ROLE new SET a TO 'b';\nCREATE ROLE new;\nALTER ROLE new WITH LOGIN;\n";
        assert_eq!(left, expected);
        assert_eq!(without_known(text, &[], &[]), text);
        assert_eq!(tablespaces(text), ["fast"]);
    }
}
