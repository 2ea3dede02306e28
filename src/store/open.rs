//! From a URL to a store: local paths, `s3://`, `az://`, `gs://`. Credentials come from the providers' standard
//! environment variables or from files; they never stand in the URL.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};

use super::as_of::AsOf;
use super::root::Root;
use super::{Error, Limits, Store};
use crate::model::Moment;

/// Where a repository lies, as the URL says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory on this machine.
    Local(PathBuf),
    /// Amazon S3 or a compatible server.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix of all keys.
        prefix: String,
    },
    /// Azure Blob Storage.
    Azure {
        /// The container.
        container: String,
        /// The prefix of all keys.
        prefix: String,
    },
    /// Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// The prefix of all keys.
        prefix: String,
    },
}

/// What the URL does not say. Files are read when the store is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Another endpoint than the provider's.
    pub endpoint: Option<String>,
    /// S3's region.
    pub region: Option<String>,
    /// The bucket in the path of the request (the default for an endpoint of one's own), not in the host name.
    pub path_style: Option<bool>,
    /// Plain HTTP; refused unless asked for.
    pub allow_http: bool,
    /// Requests without a signature: for test servers and public buckets.
    pub skip_signature: bool,
    /// A SHA-256 with each object that is put to S3: what buckets ask for that lock objects by default.
    pub checksums: bool,
    /// File with S3's access key id.
    pub access_key_id_file: Option<PathBuf>,
    /// File with S3's secret access key.
    pub secret_access_key_file: Option<PathBuf>,
    /// Azure's account.
    pub account: Option<String>,
    /// File with Azure's account key.
    pub account_key_file: Option<PathBuf>,
    /// File with Google's service account, as JSON.
    pub service_account_file: Option<PathBuf>,
    /// Read a versioned bucket as it was then, and write nothing.
    pub as_of: Option<Moment>,
}

/// Reads a repository URL or a plain path.
pub fn parse_url(text: &str) -> Result<Location, Error> {
    let bad = |why: &str| Error::BadUrl { url: hide_secrets(text), why: why.to_owned() };
    if text.is_empty() {
        return Err(bad("it is empty"));
    }
    if !text.contains("://") {
        if ["s3:", "az:", "gs:", "file:"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(bad("a URL has two slashes behind its scheme, as `s3://bucket/prefix`"));
        }
        return Ok(Location::Local(PathBuf::from(text)));
    }
    let url = url::Url::parse(text).map_err(|e| bad(&e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("credentials do not belong into a URL; use the environment or the `*_file` options"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("options do not belong into a URL; put them under [repository]"));
    }
    let host = || match url.host_str() {
        Some(host) if !host.is_empty() => Ok(host.to_owned()),
        _ => Err(bad("the bucket is missing")),
    };
    // As it was typed: `my prefix` is one, not `my%20prefix`.
    let prefix = object_store::path::Path::from_url_path(url.path());
    // The parser's own words repeat the path, which in a mistyped URL may hold a password.
    let prefix = prefix.map_err(|_| bad("its path has a part that is empty, or that no object's name can have"))?;
    let prefix = prefix.as_ref().to_owned();
    match url.scheme() {
        "file" => url.to_file_path().map(Location::Local).map_err(|()| bad("write `file:///absolute/path`")),
        "s3" | "s3a" => Ok(Location::S3 { bucket: host()?, prefix }),
        "az" | "azure" | "abfs" => Ok(Location::Azure { container: host()?, prefix }),
        "gs" => Ok(Location::Gcs { bucket: host()?, prefix }),
        other => Err(bad(&format!("`{other}://` is none of file, s3, az, gs"))),
    }
}

/// A text that was meant as a URL, without what may be a secret in it: whatever stands between its scheme and an `@`, and
/// whatever follows a `?`. It need not be a URL: mistyped ones end in messages too.
fn hide_secrets(text: &str) -> String {
    let is_scheme = |scheme: &&str| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    };
    let (scheme, rest) = match text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let (before, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    match rest.split_once('?') {
        Some((rest, _)) => format!("{scheme}{before}{rest}?…"),
        None => format!("{scheme}{before}{rest}"),
    }
}

/// Opens the store of a URL. With `create` a local directory is made where there is none.
pub fn open_url(text: &str, credentials: &Credentials, limits: Limits, create: bool) -> Result<Store, Error> {
    let location = parse_url(text)?;
    if credentials.as_of.is_some() && !matches!(location, Location::S3 { .. }) {
        let why = "only an S3 bucket that keeps versions can be read as it was at another time".to_owned();
        return Err(Error::BadUrl { url: text.to_owned(), why });
    }
    let mut local = None;
    let (objects, root): (Arc<dyn ObjectStore>, String) = match location {
        Location::Local(path) => {
            let objects = Arc::new(open_local(&path, text, create)?);
            local = Some(Root::of(&path));
            (objects, String::new())
        }
        Location::S3 { bucket, prefix } => (open_s3(&bucket, text, credentials, &limits)?, prefix),
        Location::Azure { container, prefix } => {
            (Arc::new(open_azure(&container, text, credentials, &limits)?), prefix)
        }
        Location::Gcs { bucket, prefix } => (Arc::new(open_gcs(&bucket, text, credentials, &limits)?), prefix),
    };
    let root = object_store::path::Path::parse(&root);
    let root = root.map_err(|e| Error::BadUrl { url: text.to_owned(), why: e.to_string() })?;
    Store::at(objects, root, text, limits, local)
}

/// Files whose name ends in `#` and digits: object_store writes so, and renames when all is written.
pub(super) fn unfinished(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn open_local(path: &Path, url: &str, create: bool) -> Result<LocalFileSystem, Error> {
    let open = |source: Box<dyn std::error::Error + Send + Sync>| Error::Open { url: url.to_owned(), source };
    if create {
        std::fs::create_dir_all(path).map_err(|e| open(Box::new(e)))?;
    } else if !path.is_dir() {
        // As for a bucket without our object in it: there is no repository, and nothing is wrong with the machine.
        return Err(Error::NotFound { store: url.to_owned(), key: "lifeboat.json".to_owned() });
    }
    // fsync of file and directory: what was acknowledged survives a power cut.
    let objects = LocalFileSystem::new_with_prefix(path).map_err(|e| open(Box::new(e)))?.with_fsync(true);
    // Whoever deletes the last object of a folder leaves no empty folder: stores have none.
    Ok(objects.with_automatic_cleanup(true))
}

/// Our own loop retries, so that every store is treated alike and the tries are counted; but for uploads in parts, which only the client can.
fn retries(limits: &Limits) -> RetryConfig {
    let retry_timeout = limits.patience.deadline / 2;
    RetryConfig { max_retries: limits.client_retries, retry_timeout, ..RetryConfig::default() }
}

fn client(credentials: &Credentials) -> ClientOptions {
    // Deadlines are the caller's; a limit of the client's own would cut large bodies off.
    ClientOptions::new().with_allow_http(allows_http(credentials)).with_timeout_disabled()
}

/// Plain HTTP is asked for by the configuration or by the provider's own variable.
fn allows_http(credentials: &Credentials) -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE"));
    credentials.allow_http || set("AWS_ALLOW_HTTP") || set("AZURE_ALLOW_HTTP")
}

fn check_http(url: &str, credentials: &Credentials) -> Result<(), Error> {
    let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|n| std::env::var(n).ok());
    match credentials.endpoint.as_ref().or(named.as_ref()) {
        Some(endpoint) if endpoint.starts_with("http://") && !allows_http(credentials) => Err(Error::BadUrl {
            url: url.to_owned(),
            why: format!("the endpoint `{endpoint}` is plain HTTP; set `allow_http = true` if that is meant"),
        }),
        _ => Ok(()),
    }
}

fn read_secret(file: &Path, url: &str) -> Result<String, Error> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::BadUrl {
        url: url.to_owned(),
        why: format!("its credentials file `{}` cannot be read: {e}", file.display()),
    })?;
    Ok(text.trim().to_owned())
}

fn opened<T>(result: object_store::Result<T>, url: &str) -> Result<T, Error> {
    result.map_err(|e| Error::Open { url: url.to_owned(), source: Box::new(e) })
}

fn open_s3(bucket: &str, url: &str, credentials: &Credentials, limits: &Limits) -> Result<Arc<dyn ObjectStore>, Error> {
    check_http(url, credentials)?;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retries(limits));
    builder = builder.with_client_options(client(credentials)).with_allow_http(allows_http(credentials));
    if let Some(endpoint) = &credentials.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &credentials.region {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = credentials.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if let Some(file) = &credentials.access_key_id_file {
        builder = builder.with_access_key_id(read_secret(file, url)?);
    }
    if let Some(file) = &credentials.secret_access_key_file {
        builder = builder.with_secret_access_key(read_secret(file, url)?);
    }
    if credentials.checksums {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let bucket = opened(builder.with_skip_signature(credentials.skip_signature).build(), url)?;
    let Some(at) = credentials.as_of else { return Ok(Arc::new(bucket)) };
    let client = opened(ReqwestConnector::default().connect(&client(credentials)), url)?;
    Ok(Arc::new(AsOf::new(bucket, client, region, !credentials.skip_signature, at)))
}

fn open_azure(
    container: &str,
    url: &str,
    credentials: &Credentials,
    limits: &Limits,
) -> Result<impl ObjectStore, Error> {
    check_http(url, credentials)?;
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(retries(limits));
    builder = builder.with_client_options(client(credentials)).with_allow_http(allows_http(credentials));
    if let Some(endpoint) = &credentials.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(account) = &credentials.account {
        builder = builder.with_account(account);
    }
    if let Some(file) = &credentials.account_key_file {
        builder = builder.with_access_key(read_secret(file, url)?);
    }
    opened(builder.with_skip_signature(credentials.skip_signature).build(), url)
}

fn open_gcs(bucket: &str, url: &str, credentials: &Credentials, limits: &Limits) -> Result<impl ObjectStore, Error> {
    check_http(url, credentials)?;
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retries(limits));
    builder = builder.with_client_options(client(credentials));
    if let Some(endpoint) = &credentials.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    if let Some(file) = &credentials.service_account_file {
        builder = builder.with_service_account_path(file.display().to_string());
    }
    if credentials.skip_signature {
        // object_store 0.14 asks for a token all the same when it puts: it gets an empty one.
        let nobody = GcpCredential { bearer: String::new() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    }
    opened(builder.with_skip_signature(credentials.skip_signature).build(), url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_name_places() {
        let s3 = |bucket: &str, prefix: &str| Location::S3 { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(parse_url("s3://acme/prod/a/").unwrap(), s3("acme", "prod/a"));
        assert_eq!(parse_url("s3://acme").unwrap(), s3("acme", ""));
        assert_eq!(parse_url("s3://acme/my prefix/für%20uns").unwrap(), s3("acme", "my prefix/für uns"));
        assert_eq!(parse_url("file:///srv/backup").unwrap(), Location::Local("/srv/backup".into()));
        assert_eq!(parse_url("./repo").unwrap(), Location::Local("./repo".into()));
        assert!(matches!(parse_url("az://c/p").unwrap(), Location::Azure { .. }));
        assert!(matches!(parse_url("gs://b").unwrap(), Location::Gcs { .. }));
    }

    #[test]
    fn bad_urls_are_refused_without_showing_secrets() {
        for bad in [
            "",
            "s3:/x",
            "ftp://x/y",
            "s3://key:hunter2@acme/x",
            "s3:/key:hunter2@acme/x",
            "s3:key:hunter2@acme",
            "key:hunter2@x s3://acme",
            "key:hunter2@x ://acme",
            "s3://acme/x?region=eu",
            "s3://acme/x?secret_access_key=hunter2",
            "s3:///x",
            "file://host/x",
        ] {
            let error = parse_url(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn plain_http_is_refused_unless_asked_for() {
        let plain = Credentials { endpoint: Some("http://127.0.0.1:1".into()), ..Credentials::default() };
        for url in ["s3://b", "az://b", "gs://b"] {
            let error = open_url(url, &plain, Limits::default(), false).unwrap_err().to_string();
            assert!(error.contains("allow_http"), "{error}");
        }
    }
}
