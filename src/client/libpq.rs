//! Connection strings as libpq reads them: URLs, `key=value` pairs, or the bare name of a database.
//!
//! They are read just far enough to set the database, to take the password out, and to say them again as `key=value`; what
//! the keys mean is libpq's business, and so are the PG* variables of the environment, which programs inherit. Invariants:
//! what is shown, logged or given as an argument holds no secret; a connection without a key leaves it to libpq's defaults.

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Error;

/// What is shown in place of a secret.
const HIDDEN: &str = "…";
/// Secrets that libpq takes from nowhere but a connection string: they would have to stand in arguments.
const ONLY_IN_ARGUMENTS: [&str; 4] = ["sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];
/// A server that is gone without a word is noticed after some two minutes, not after two hours.
const KEEPALIVES: [(&str, &str); 3] =
    [("keepalives_idle", "60"), ("keepalives_interval", "10"), ("keepalives_count", "6")];

/// Where a server is and who asks. The password is kept apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    pairs: Vec<(String, String)>,
    password: Option<String>,
}

impl Connection {
    /// Reads a URL, `key=value` pairs, or the name of a database.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let url = ["postgresql://", "postgres://"].iter().find_map(|start| text.strip_prefix(start));
        let pairs = match url {
            Some(rest) => parse_url(rest),
            None if text.contains('=') => parse_pairs(text),
            None if text.is_empty() => Ok(Vec::new()),
            None => Ok(vec![("dbname".to_owned(), text.to_owned())]),
        };
        let mut connection = Self { pairs: Vec::new(), password: None };
        for (key, value) in pairs.map_err(Error::BadConnection)? {
            // Anything else could become several keys when it is said again.
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                return Err(Error::BadConnection(format!("`{}` is no key of libpq", key.escape_debug())));
            }
            if ONLY_IN_ARGUMENTS.contains(&key.as_str()) {
                let why = format!(
                    "`{key}` would show in the arguments of programs; write it into a service file and say `service=NAME`"
                );
                return Err(Error::BadConnection(why));
            }
            if key == "password" {
                connection.password = Some(value).filter(|password| !password.is_empty());
            } else {
                connection.set(&key, value);
            }
        }
        Ok(connection)
    }

    /// Whether a text is the URL of a PostgreSQL server.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("postgresql://") || text.starts_with("postgres://")
    }

    fn set(&mut self, key: &str, value: String) {
        self.pairs.retain(|(known, _)| known != key);
        self.pairs.push((key.to_owned(), value));
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, value)| known == key && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The database that it names.
    pub fn database(&self) -> Option<&str> {
        self.get("dbname")
    }

    /// The user that it names.
    pub fn user(&self) -> Option<&str> {
        self.get("user")
    }

    /// Whether it brings a password along.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// All of it, the password too: for our own sessions, never for arguments or messages.
    pub fn with_secrets(&self) -> String {
        let mut pairs = self.pairs.clone();
        pairs.extend(self.password.clone().map(|password| ("password".to_owned(), password)));
        join(&pairs)
    }

    /// Takes a key out.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == key)?;
        Some(self.pairs.remove(at).1).filter(|value| !value.is_empty())
    }

    /// The password that it brings along.
    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// All but the password, as `key=value`; empty where nothing is said.
    pub(super) fn pairs(&self) -> String {
        join(&self.pairs)
    }

    /// The same server, another database.
    pub fn with_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.set("dbname", name.to_owned());
        other
    }

    /// The same server, with this password.
    pub fn with_password(self, password: String) -> Self {
        Self { password: Some(password).filter(|password| !password.is_empty()), ..self }
    }

    /// Where the server is, as a URL: neither a database nor a role.
    pub fn url(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs = self.where_it_is().map(|(key, value)| format!("{key}={}", encode(value)));
        format!("postgresql://?{}", pairs.collect::<Vec<_>>().join("&"))
    }

    /// Which server, and which database of it, whoever connects and however.
    pub fn place(&self) -> String {
        let database = self.database().map(|name| ("dbname", name));
        let pairs = self.where_it_is().chain(database).map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    }

    fn where_it_is(&self) -> impl Iterator<Item = (&str, &str)> {
        ["host", "hostaddr", "port"].into_iter().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// What stands in the argument of a program: everything but the password.
    pub fn argument(&self) -> String {
        let mut pairs = self.pairs.clone();
        for (key, value) in KEEPALIVES {
            if !self.pairs.iter().any(|(known, _)| known == key || known == "keepalives") {
                pairs.push((key.to_owned(), value.to_owned()));
            }
        }
        join(&pairs)
    }

    /// What stands in the environment of a program, beside what it inherits.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        // Messages are read: they must not be translated.
        let mut all = vec![("LC_ALL", "C".to_owned()), ("LANGUAGE", String::new())];
        all.extend(self.password.clone().map(|password| ("PGPASSWORD", password)));
        let unset = |name: &str| std::env::var_os(name).is_none();
        if unset("PGCONNECT_TIMEOUT") {
            all.push(("PGCONNECT_TIMEOUT", "30".to_owned()));
        }
        if unset("PGAPPNAME") {
            all.push(("PGAPPNAME", "lifeboat".to_owned()));
        }
        all
    }

    /// Takes the password out of what a program said, should it ever say it.
    pub fn scrub(&self, text: &str) -> String {
        match &self.password {
            Some(password) if password.len() > 2 => text.replace(password.as_str(), HIDDEN),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pairs.is_empty() {
            true => f.write_str("the default connection"),
            false => f.write_str(&join(&self.pairs)),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({self})")
    }
}

fn join(pairs: &[(String, String)]) -> String {
    let quoted = pairs.iter().map(|(key, value)| {
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
        match plain {
            true => format!("{key}={value}"),
            false => format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

type Pairs = Result<Vec<(String, String)>, String>;

/// `key = value`, separated by spaces; values may be quoted, a backslash takes the next character as it is.
fn parse_pairs(text: &str) -> Pairs {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("a key without `=` behind it")?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("a key without `=` behind it".to_owned());
        }
        let mut chars = after.trim_start().char_indices();
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        if quoted {
            chars.next();
        }
        let (mut value, mut end, mut closed) = (String::new(), after.len(), !quoted);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                '\'' if quoted => {
                    (end, closed) = (at + 1, true);
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !closed {
            return Err(format!("the value of `{key}` has no closing quote"));
        }
        pairs.push((key.to_owned(), value));
        rest = after[end..].trim_start();
    }
    Ok(pairs)
}

/// What follows `postgresql://`: `user:password@host:port,host:port/database?key=value&...`, each part may be missing.
fn parse_url(rest: &str) -> Pairs {
    let mut pairs = Vec::new();
    let slash = rest.find('/').unwrap_or(rest.len());
    let rest = match rest[..slash].find('@') {
        None => rest,
        Some(at) => {
            let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
            pairs.push(("user".to_owned(), decode(user)?));
            pairs.push(("password".to_owned(), decode(password)?));
            &rest[at + 1..]
        }
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in rest[..end].split(',') {
        let (host, port) = match one.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or("an address in `[` without `]`")?;
                (host, after.strip_prefix(':').unwrap_or(after))
            }
            None => one.split_once(':').unwrap_or((one, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    pairs.push(("host".to_owned(), hosts.join(",")));
    // One port serves all hosts; none at all leaves it to the default.
    let any_port = ports.iter().any(|port| !port.is_empty());
    pairs.push(("port".to_owned(), if any_port { ports.join(",") } else { String::new() }));
    let (path, query) = rest[end..].split_once('?').unwrap_or((&rest[end..], ""));
    pairs.push(("dbname".to_owned(), decode(path.strip_prefix('/').unwrap_or(path))?));
    pairs.retain(|(_, value)| value.chars().any(|c| c != ','));
    for one in query.split('&').filter(|one| !one.is_empty()) {
        let (key, value) = one.split_once('=').ok_or_else(|| format!("`{one}` in the URL has no `=`"))?;
        let (key, value) = (decode(key)?, decode(value)?);
        // As JDBC has it; libpq reads it so too.
        pairs.push(if key == "ssl" && value == "true" { ("sslmode".into(), "require".into()) } else { (key, value) });
    }
    Ok(pairs)
}

fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match byte {
            b'%' => {
                let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|value| *value != 0);
                out.push(
                    value.ok_or("a `%` in the URL is not followed by two hexadecimal digits (write `%25` for it)")?,
                );
                at += 3;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| "the URL is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Connection::parse(text).unwrap().to_string()
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        for (url, pairs) in [
            ("postgresql://", "the default connection"),
            ("postgresql://localhost", "host=localhost"),
            ("postgres://localhost:5433/mydb", "host=localhost port=5433 dbname=mydb"),
            ("postgresql://user:secret@localhost", "user=user host=localhost"),
            ("postgresql://127.0.0.1:5432?sslmode=disable", "host=127.0.0.1 port=5432 sslmode=disable"),
            ("postgresql://[2001:db8::1234]:5/db", "host=2001:db8::1234 port=5 dbname=db"),
            ("postgresql:///mydb?host=/var/run/pg&port=5433", "dbname=mydb host=/var/run/pg port=5433"),
            ("postgresql://%2Fvar%2Flib/dbname", "host=/var/lib dbname=dbname"),
            (
                "postgresql://a:1,b:2/db?target_session_attrs=any",
                "host=a,b port=1,2 dbname=db target_session_attrs=any",
            ),
            ("postgresql://h/my%20db?ssl=true", "host=h dbname='my db' sslmode=require"),
            ("postgresql://u:p?w@h/db", "user=u host=h dbname=db"),
        ] {
            assert_eq!(shown(url), pairs, "{url}");
        }
        for bad in [
            "postgresql://h?a%20b=c",
            "postgresql://h/%zz",
            "postgresql://[::1/db",
            "postgresql://h/db?x",
            "postgresql://h?sslpassword=x",
        ] {
            assert!(matches!(Connection::parse(bad), Err(Error::BadConnection(_))), "{bad}");
        }
    }

    #[test]
    fn pairs_are_read_as_libpq_reads_them() {
        assert_eq!(shown("host=/run user = me  dbname=app"), "host=/run user=me dbname=app");
        assert_eq!(shown(r"dbname='my \'db\\' application_name=a\ b"), r"dbname='my \'db\\' application_name='a b'");
        assert_eq!(shown("app"), "dbname=app");
        assert_eq!(shown("dbname=a dbname=b"), "dbname=b");
        for bad in ["dbname='x", "host=a b", "= b"] {
            assert!(Connection::parse(bad).is_err(), "{bad}");
        }
        let again = Connection::parse(&shown(r"dbname='my \'db\\' host=h")).unwrap();
        assert_eq!(again.database(), Some(r"my 'db\"));
    }

    #[test]
    fn the_password_is_in_the_environment_and_nowhere_else() {
        for text in ["postgresql://me:hush%2Fhush@h/db", "host=h user=me password='hush/hush' dbname=db"] {
            let connection = Connection::parse(text).unwrap();
            for shown in [connection.to_string(), format!("{connection:?}"), connection.argument()] {
                assert!(!shown.contains("hush"), "{shown}");
            }
            assert!(connection.environment().contains(&("PGPASSWORD", "hush/hush".to_owned())));
            assert_eq!(connection.scrub("no hush/hush here"), "no … here");
            let other = connection.with_database("it's");
            assert_eq!((other.database(), other.has_password()), (Some("it's"), true));
            assert!(other.argument().contains(r"dbname='it\'s'"));
        }
    }
}
