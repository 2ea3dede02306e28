//! A session with a PostgreSQL server: text in, text out, one connection, blocking calls.
//!
//! Invariants: a session is what a backup lives in, so it is opened once and held; nothing of a password is in an error. Not
//! here: what is asked.

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::Connection;
use super::tls::{Mode, Tls};

/// What went wrong between us and the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string is none.
    #[error("the connection string is not understood")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No session.
    #[error("could not connect to PostgreSQL {place}")]
    Connect {
        /// Host and user, without the password.
        place: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused, or went away.
    #[error("PostgreSQL {place}: could not {doing}")]
    Query {
        /// Host and user.
        place: String,
        /// What was asked, in words.
        doing: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer makes no sense.
    #[error("PostgreSQL {place} answered `{answer}` when asked to {doing}")]
    Answer {
        /// Host and user.
        place: String,
        /// What was asked, in words.
        doing: &'static str,
        /// The answer.
        answer: String,
    },
}

impl Error {
    /// Whether the server was there, and did not do what was asked.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Query { .. })
    }
}

/// The server's message with its detail and hint: `tokio_postgres` says only "db error" by itself.
fn spoken(error: tokio_postgres::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let Some(db) = error.as_db_error() else { return Box::new(error) };
    let mut text = format!("{}: {}", db.severity(), db.message());
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text.into()
}

/// An open session.
pub struct Session {
    runtime: Runtime,
    client: Client,
    place: String,
}

fn from_environment(config: &mut Config) {
    let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let sockets = ["/var/run/postgresql", "/tmp"].into_iter().find(|dir| std::path::Path::new(dir).is_dir());
        config.host(var("PGHOST").unwrap_or_else(|| sockets.unwrap_or("localhost").to_owned()));
    }
    if let Some(port) = var("PGPORT").and_then(|port| port.parse().ok()).filter(|_| config.get_ports().is_empty()) {
        config.port(port);
    }
    if config.get_user().is_none() {
        let own = || uzers::get_current_username().map(|name| name.to_string_lossy().into_owned());
        config.user(var("PGUSER").or_else(own).unwrap_or_else(|| "postgres".to_owned()));
    }
    if config.get_dbname().is_none() {
        config.dbname(var("PGDATABASE").unwrap_or_else(|| "postgres".to_owned()));
    }
    if let Some(password) = var("PGPASSWORD").filter(|_| config.get_password().is_none()) {
        config.password(password);
    }
}

fn place_of(config: &Config) -> String {
    let host = config.get_hosts().first().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let host = host.or_else(|| config.get_hostaddrs().first().map(ToString::to_string));
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("at {}:{port} as `{}`", host.unwrap_or_default(), config.get_user().unwrap_or_default())
}

/// A connection string as libpq reads it, with what it says of TLS apart.
fn read(connection: &str) -> Result<(Config, Mode, Option<String>), Error> {
    // Errors of parsers may quote the string, and with it a password: they are not passed on.
    let syntax = || Error::Syntax("it is neither a URL `postgresql://...` nor `key=value` pairs".into());
    let mut parsed = Connection::parse(connection).map_err(|_| syntax())?;
    let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let mode = parsed.take("sslmode").or_else(|| var("PGSSLMODE")).unwrap_or_else(|| "prefer".to_owned());
    let unknown = || Error::Syntax(format!("`sslmode={mode}` is none of libpq's").into());
    let mode = Mode::parse(&mode).ok_or_else(unknown)?;
    let roots = parsed.take("sslrootcert").or_else(|| var("PGSSLROOTCERT"));
    // What concerns libpq alone.
    drop((parsed.take("gssencmode"), parsed.take("sslcompression"), parsed.take("sslsni")));
    let mut config: Config = parsed.pairs().parse().map_err(|_: tokio_postgres::Error| syntax())?;
    if let Some(password) = parsed.password() {
        config.password(password);
    }
    Ok((config, mode, roots))
}

/// Opens a connection, encrypted as it is asked for; sockets of this host never are.
fn open(
    runtime: &Runtime,
    config: &mut Config,
    mode: Mode,
    roots: Option<&str>,
) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let addresses = config.get_hostaddrs().to_vec();
    if config.get_hosts().is_empty() {
        // TLS wants a name, and an address is one.
        for address in addresses {
            config.host(address.to_string());
        }
    }
    let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    let plain = |config: &mut Config| {
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = runtime.block_on(config.connect(NoTls)).map_err(spoken)?;
        // The connection lives as long as the runtime does; when it breaks, the next question says so.
        drop(runtime.spawn(connection));
        Ok(client)
    };
    if is_local || mode == Mode::Disable {
        return plain(config);
    }
    config.ssl_mode(if mode == Mode::Prefer { SslMode::Prefer } else { SslMode::Require });
    match runtime.block_on(config.connect(Tls::new(mode, roots)?)) {
        Ok((client, connection)) => {
            drop(runtime.spawn(connection));
            Ok(client)
        }
        // As libpq does: what cannot be had encrypted is had plain, unless the server has judged the password.
        Err(e) if mode == Mode::Prefer && e.code().is_none_or(|code| code.code() == "28000") => plain(config),
        Err(e) => Err(spoken(e)),
    }
}

impl Session {
    /// Connects. `connection` is a URL or `key=value` pairs; what it leaves out comes from PGHOST and its kin.
    pub fn connect(connection: &str) -> Result<Self, Error> {
        Self::connect_to(connection, None)
    }

    /// The same with another database than the connection names.
    pub fn connect_to(connection: &str, database: Option<&str>) -> Result<Self, Error> {
        let (mut config, mode, roots) = read(connection)?;
        if let Some(database) = database {
            config.dbname(database);
        }
        from_environment(&mut config);
        config.application_name("lifeboat").connect_timeout(Duration::from_secs(15)).keepalives(true);
        config.options("-c search_path=pg_catalog -c client_encoding=UTF8 -c statement_timeout=0 -c lock_timeout=0");
        let place = place_of(&config);
        let fail = |source| Error::Connect { place: place.clone(), source };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| fail(Box::new(e)))?;
        let client = open(&runtime, &mut config, mode, roots.as_deref()).map_err(fail)?;
        let session = Self { runtime, client, place };
        session.rows(
            "turn its timeouts off",
            "SET idle_session_timeout = 0; SET idle_in_transaction_session_timeout = 0",
        )?;
        Ok(session)
    }

    /// Where it leads, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The rows of the last statement that has any, as text; NULL is `None`. `doing` is what messages say was tried.
    pub fn rows(&self, doing: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let fail = |source| Error::Query { place: self.place.clone(), doing, source };
        let messages = self.runtime.block_on(self.client.simple_query(sql)).map_err(|e| fail(spoken(e)))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first row, of exactly `N` columns; NULL is the empty text.
    pub fn row<const N: usize>(&self, doing: &'static str, sql: &str) -> Result<[String; N], Error> {
        let first = self.rows(doing, sql)?.into_iter().next().unwrap_or_default();
        let texts: Vec<String> = first.into_iter().map(Option::unwrap_or_default).collect();
        let answer = texts.join("|");
        texts.try_into().map_err(|_| Error::Answer { place: self.place.clone(), doing, answer })
    }

    /// An answer that should have been another one.
    pub fn unfit(&self, doing: &'static str, answer: impl Into<String>) -> Error {
        Error::Answer { place: self.place.clone(), doing, answer: answer.into() }
    }
}
