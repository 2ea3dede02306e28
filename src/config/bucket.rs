//! `kind = "bucket"`: which buckets, and how their store is reached.

use std::path::PathBuf;

use serde::Deserialize;

use super::SourceSection;
use crate::model::RelPath;
use crate::source::BucketOptions;
use crate::store::{Credentials, Location, parse_url};

/// `[sources.<name>.store]`, `[copies.<name>.store]`: what URLs do not say. Without it the providers' own environment variables count alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// Another endpoint than the provider's.
    endpoint: Option<String>,
    /// S3's region.
    region: Option<String>,
    /// The bucket in the path of the request.
    path_style: Option<bool>,
    /// Allows plain HTTP.
    #[serde(default)]
    allow_http: bool,
    /// Requests without a signature.
    #[serde(default)]
    skip_signature: bool,
    /// A SHA-256 with each object that is put.
    #[serde(default)]
    checksums: bool,
    /// File with S3's access key id.
    access_key_id_file: Option<PathBuf>,
    /// File with S3's secret access key.
    secret_access_key_file: Option<PathBuf>,
    /// Azure's account.
    account: Option<String>,
    /// File with Azure's account key.
    account_key_file: Option<PathBuf>,
    /// File with Google's service account.
    service_account_file: Option<PathBuf>,
}

impl StoreSection {
    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            allow_http: self.allow_http,
            skip_signature: self.skip_signature,
            checksums: self.checksums,
            access_key_id_file: self.access_key_id_file.clone(),
            secret_access_key_file: self.secret_access_key_file.clone(),
            account: self.account.clone(),
            account_key_file: self.account_key_file.clone(),
            service_account_file: self.service_account_file.clone(),
            as_of: None,
        }
    }
}

/// Checks a section of this kind.
pub fn plan(section: &SourceSection) -> Result<BucketOptions, String> {
    let urls = match (&section.url, section.urls.is_empty()) {
        (Some(url), true) => [(String::new(), url.clone())].into(),
        (None, false) => section.urls.clone(),
        (Some(_), false) => return Err("`url` and `urls` are both given: leave one out".to_owned()),
        (None, true) => return Err("`url` is missing: the bucket, as s3://NAME/PREFIX; or `urls`".to_owned()),
    };
    for (name, url) in &urls {
        match parse_url(url).map_err(|e| e.to_string())? {
            Location::Local(_) => {
                return Err(format!("`{url}` is no bucket: its URL begins with s3://, az:// or gs://"));
            }
            _ if name.is_empty() && section.url.is_some() => {}
            _ => {
                let path = RelPath::new(name.as_bytes()).map_err(|e| e.to_string())?;
                if path.components().count() != 1 {
                    return Err(format!("`{name}` in `urls` must be one name, without `/`"));
                }
            }
        }
    }
    Ok(BucketOptions {
        urls,
        credentials: section.store.as_ref().map(StoreSection::credentials).unwrap_or_default(),
        exclude: section.exclude.clone(),
        blobs: section.blobs.unwrap_or(false),
    })
}
