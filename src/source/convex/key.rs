//! Where the URL and the key come from: the configuration, else the environment variables that the official command line reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use zeroize::Zeroizing;

use super::{ConvexOptions, Error};
use crate::client::convex::{self, AdminKey, BadKey, Deployment, Rights};
use crate::model::Moment;

/// The official command line's names.
const URL: &str = "CONVEX_SELF_HOSTED_URL";
const KEY: &str = "CONVEX_SELF_HOSTED_ADMIN_KEY";
/// A file with a key or a secret at most.
const FILE_MAX: u64 = 16 << 10;

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KeyFrom {
    /// `CONVEX_SELF_HOSTED_ADMIN_KEY`.
    #[default]
    Environment,
    /// A variable of another name.
    Variable(String),
    /// A file.
    File(PathBuf),
    /// It is made from the instance's secret.
    Secret {
        /// The instance's name.
        instance: String,
        /// The file with the secret.
        file: PathBuf,
    },
}

/// A session for what the options name. `rights` are those that a minted key gets.
pub fn resolve(
    options: &ConvexOptions,
    now: Moment,
    rights: Rights,
    stop: Arc<AtomicBool>,
) -> Result<Deployment, Error> {
    let url = options.url.clone().or_else(|| variable(URL)).ok_or(convex::Error::NoUrl)?;
    // The URL is checked first: the others name it in their messages.
    let place = convex::parse_url(&url)?.to_string();
    let parse = |text: &str, what: String| {
        AdminKey::parse(text).map_err(|source| convex::Error::BadKey { what: format!("admin key {what}"), source })
    };
    let of_variable = |name: &str| {
        let text = Zeroizing::new(variable(name).ok_or_else(|| convex::Error::NoKey(place.clone()))?);
        parse(&text, format!("in {name}"))
    };
    let key = match &options.key {
        KeyFrom::Environment => of_variable(KEY)?,
        KeyFrom::Variable(name) => of_variable(name)?,
        KeyFrom::File(path) => parse(&read(path, "read the admin key in")?, format!("in `{}`", path.display()))?,
        KeyFrom::Secret { instance, file } => mint(instance, file, rights, now)?,
    };
    Ok(Deployment::new(&url, key, options.patience, stop)?)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn mint(instance: &str, file: &Path, rights: Rights, now: Moment) -> Result<AdminKey, convex::Error> {
    let secret = read(file, "read the instance secret in")?;
    let bad = |source| convex::Error::BadKey { what: format!("instance secret in `{}`", file.display()), source };
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).map_err(|_| bad(BadKey::Cipher))?;
    let issued = u64::try_from(now.timestamp()).unwrap_or(0);
    AdminKey::mint(instance, &secret, rights, issued, nonce).map_err(bad)
}

fn read(path: &Path, doing: &'static str) -> Result<Zeroizing<String>, convex::Error> {
    use std::io::Read;
    let fail = |source| convex::Error::Io { doing, path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_MAX).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}
