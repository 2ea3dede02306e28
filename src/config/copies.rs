//! `[copies.<name>]`: second repositories, and the repository's own section as it is for one of them.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Config, RepositorySection, StoreSection, parse_size};
use crate::model::Retention;
use crate::repository::is_source_name;
use crate::store::{Location, parse_url};

/// `[copies.<name>]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopySection {
    /// Where it lies, as of a repository.
    pub url: String,
    /// BLAKE3 of its own `lifeboat.json`, as it was printed when it was made.
    pub fingerprint: Option<String>,
    /// How its store is reached; without it the providers' own environment variables count alone.
    #[serde(default)]
    pub store: StoreSection,
    /// Bytes a second to it at most, as `20M`.
    pub limit_upload: Option<String>,
    /// Bytes a second from it at most.
    pub limit_download: Option<String>,
    /// `false` for a server that gets conditional puts wrong.
    pub conditional_puts: Option<bool>,
    /// Whether a backup copies there when it is done: yes, unless it says `false`.
    pub after_backup: Option<bool>,
    /// Another place for its catalog.
    pub catalog: Option<PathBuf>,
    /// What to keep there of every source, in place of what is kept here.
    pub retention: Option<Retention>,
}

/// Whether two URLs name one place, however they are written. Of a directory its path counts, not what it links to.
pub fn same_place(one: &str, other: &str) -> bool {
    let place = |url: &str| match parse_url(url).ok()? {
        // Components leave out what only spelling adds.
        Location::Local(path) => Some(Location::Local(std::path::absolute(path).ok()?.components().collect())),
        other => Some(other),
    };
    one == other || place(one).is_some_and(|one| Some(one) == place(other))
}

impl Config {
    /// The copy of a name or of a URL.
    pub fn copy_named(&self, text: &str) -> Option<(&String, &CopySection)> {
        self.copies.get_key_value(text).or_else(|| self.copies.iter().find(|(_, copy)| same_place(&copy.url, text)))
    }

    /// This configuration as it is for whoever works on a copy: of the sources the same, of the repository what opens the copy.
    pub fn at_copy(&self, section: &CopySection) -> Self {
        let own = &self.repository;
        let store = section.store.credentials();
        let repository = RepositorySection {
            check_every: None,
            url: Some(section.url.clone()),
            recipients: own.recipients.clone(),
            identity_file: own.identity_file.clone(),
            fingerprint: section.fingerprint.clone(),
            state_dir: own.state_dir.clone(),
            catalog: section.catalog.clone(),
            endpoint: store.endpoint,
            region: store.region,
            path_style: store.path_style,
            allow_http: store.allow_http,
            skip_signature: store.skip_signature,
            checksums: store.checksums,
            access_key_id_file: store.access_key_id_file,
            secret_access_key_file: store.secret_access_key_file,
            account: store.account,
            account_key_file: store.account_key_file,
            service_account_file: store.service_account_file,
            limit_upload: section.limit_upload.clone(),
            limit_download: section.limit_download.clone(),
            concurrency: own.concurrency,
            conditional_puts: section.conditional_puts,
        };
        Self { repository, retention_here: section.retention.clone(), ..self.clone() }
    }

    /// The same for a URL that no section names.
    pub fn at_url(&self, url: &str) -> Self {
        let own = &self.repository;
        let repository = RepositorySection {
            check_every: None,
            url: Some(url.to_owned()),
            recipients: own.recipients.clone(),
            identity_file: own.identity_file.clone(),
            state_dir: own.state_dir.clone(),
            ..RepositorySection::default()
        };
        Self { repository, ..self.clone() }
    }

    pub(super) fn check_copies(&self) -> Result<(), (String, String)> {
        for (name, copy) in &self.copies {
            let wrong = |why: String| (format!("[copies.{name}]"), why);
            if !is_source_name(name) {
                return Err(wrong("a copy's name has letters, digits, `-`, `_` and `.`, at most 64".to_owned()));
            }
            parse_url(&copy.url).map_err(|e| wrong(e.to_string()))?;
            if self.repository.url.as_deref().is_some_and(|own| same_place(own, &copy.url)) {
                return Err(wrong("its URL is the repository's own".to_owned()));
            }
            for limit in [&copy.limit_upload, &copy.limit_download].into_iter().flatten() {
                parse_size(limit).map_err(wrong)?;
            }
            let policy = copy.retention.as_ref();
            if policy.is_some_and(|policy| policy.window.is_some()) {
                return Err(wrong(
                    "`window` belongs to sources; what is kept of a copy's snapshots is said by `keep_...`".to_owned(),
                ));
            }
            if let Some(policy) = policy.filter(|policy| policy.keeps_nothing()) {
                return Err((format!("[copies.{name}.retention]"), format!("it keeps nothing at all: {policy}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = "[repository]\nurl = \"/srv/one\"\nfingerprint = \"aa\"\nlimit_upload = \"1M\"\n\
        [sources.data]\nkind = \"volume\"\npath = \"/srv\"\n[sources.data.retention]\nkeep_daily = 3\n\
        [copies.offsite]\nurl = \"s3://acme/two\"\nfingerprint = \"bb\"\nstore = { region = \"eu\" }\n\
        retention = { keep_monthly = 12 }\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("lifeboat.toml")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }

    #[test]
    fn at_a_copy_its_own_section_counts() {
        let config = parse(TEXT).unwrap();
        assert_eq!(config.retention_of("data").unwrap().to_string(), "keep_daily 3");
        for name in ["offsite", "s3://acme/two", "s3://acme/two/"] {
            let (found, section) = config.copy_named(name).unwrap();
            assert_eq!(found, "offsite");
            let there = config.at_copy(section);
            assert_eq!(there.repository.url.as_deref(), Some("s3://acme/two"));
            assert_eq!(there.repository.fingerprint.as_deref(), Some("bb"));
            assert_eq!(
                (there.repository.region.as_deref(), there.repository.limit_upload.as_deref()),
                (Some("eu"), None)
            );
            assert_eq!(there.retention_of("data").unwrap().to_string(), "keep_monthly 12");
        }
        assert!(config.copy_named("/srv/one").is_none());
        let there = config.at_url("/srv/three");
        assert_eq!((there.repository.fingerprint, there.repository.limit_upload), (None, None));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, expected) in [
            ("s3://acme/two", "/srv/one/", "its URL is the repository's own"),
            ("s3://acme/two", "ftp://x", "[copies.offsite]"),
            ("fingerprint = \"bb\"", "limit_upload = \"fast\"", "`fast` is no size"),
            ("fingerprint = \"bb\"", "keep = 3", "keep"),
            ("keep_monthly = 12", "window = \"3d\"", "`window` belongs to sources"),
            ("keep_monthly = 12", "keep_last = 0", "keeps nothing"),
            ("copies.offsite", "copies.\"off site\"", "a copy's name"),
        ] {
            let error = parse(&TEXT.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
