//! The tables of a database and how many rows they hold: counted at the moment of a dump, and again where it was restored.
//!
//! Counted are ordinary tables and partitions of users' schemas; not those of an extension, whose rows a dump leaves to it.

use super::Error;
use super::session::{Session, literal};
use crate::model::TableRows;

/// Which tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Patterns of `pg_dump --schema`; none means all.
    pub schemas: Vec<String>,
    /// Patterns of `pg_dump --exclude-table`.
    pub exclude_tables: Vec<String>,
}

/// One table, by its names and as SQL calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    quoted: String,
}

const LIST: &str = "\
SELECT coalesce(jsonb_agg(jsonb_build_array(n.nspname, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname)) \
ORDER BY n.nspname, c.relname), '[]') \
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// The tables that are there, in the order of their names.
pub fn list(session: &mut Session, wanted: &Wanted) -> Result<Vec<Table>, Error> {
    let mut sql = LIST.to_owned();
    if !wanted.schemas.is_empty() {
        let any = wanted.schemas.iter().map(|pattern| matches("n.nspname", &split(pattern).1));
        sql.push_str(&format!(" AND ({})", any.collect::<Vec<_>>().join(" OR ")));
    }
    for pattern in &wanted.exclude_tables {
        let (schema, table) = split(pattern);
        let in_schema = match schema {
            Some(schema) => matches("n.nspname", &schema),
            // A name alone is looked for where this user would find it.
            None => {
                let visible = session.visible.iter().map(|schema| literal(schema)).collect::<Vec<_>>();
                if visible.is_empty() { "false".to_owned() } else { format!("n.nspname IN ({})", visible.join(", ")) }
            }
        };
        sql.push_str(&format!(" AND NOT ({in_schema} AND {})", matches("c.relname", &table)));
    }
    let rows: Vec<(String, String, String)> = session.json(&sql, "a list of tables")?;
    Ok(rows.into_iter().map(|(schema, name, quoted)| Table { schema, name, quoted }).collect())
}

/// Counts the rows of tables one after another; `go_on` is asked between them.
pub fn count(
    session: &mut Session,
    tables: &[Table],
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<TableRows>>, Error> {
    let mut counted = Vec::with_capacity(tables.len());
    for table in tables {
        if !go_on() {
            return Ok(None);
        }
        let rows = session.number(&format!("SELECT count(*) FROM ONLY {}", table.quoted))?;
        counted.push(TableRows { schema: table.schema.clone(), table: table.name.clone(), rows });
    }
    Ok(Some(counted))
}

fn matches(column: &str, regex: &str) -> String {
    format!("{column}::text ~ {}", literal(&format!("^({regex})$")))
}

/// A pattern of psql and pg_dump as regular expressions: of the schema, where it names one, and of the last part.
/// Outside of quotes letters are folded, `*` and `?` are wild and `.` separates; the rest is a regular expression already.
fn split(pattern: &str) -> (Option<String>, String) {
    let (mut parts, mut quoted) = (vec![String::new()], false);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let part = match parts.last_mut() {
            Some(part) => part,
            None => break,
        };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            c if quoted => {
                if "|*+?()[]{}.^$\\".contains(c) {
                    part.push('\\');
                }
                part.push(c);
            }
            '.' => parts.push(String::new()),
            '*' => part.push_str(".*"),
            '?' => part.push('.'),
            '$' => part.push_str("\\$"),
            c => part.push(c.to_ascii_lowercase()),
        }
    }
    let table = parts.pop().unwrap_or_default();
    (parts.pop(), table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_pg_dump_means_by_them() {
        let of = |schema: Option<&str>, table: &str| (schema.map(str::to_owned), table.to_owned());
        for (pattern, expected) in [
            ("Logs", of(None, "logs")),
            ("audit.*", of(Some("audit"), ".*")),
            ("a?b*", of(None, "a.b.*")),
            ("\"Mixed.Case\".\"a*\"", of(Some("Mixed\\.Case"), "a\\*")),
            ("\"say \"\"hi\"\"\"", of(None, "say \"hi\"")),
            ("db.s.t", of(Some("s"), "t")),
            ("old_[0-9]", of(None, "old_[0-9]")),
        ] {
            assert_eq!(split(pattern), expected, "{pattern}");
        }
        assert_eq!(matches("n", "it's"), "n::text ~ '^(it''s)$'");
        assert_eq!(matches("n", "a\\."), "n::text ~  E'^(a\\\\.)$'");
    }
}
