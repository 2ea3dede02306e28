//! A versioned S3 bucket as it was at a moment: for what a thief with the host's credentials has deleted or overwritten, where the bucket keeps
//! versions (`ListObjectVersions`, docs of Amazon S3).
//!
//! Invariants: nothing is written; of each key the newest version from before the moment counts, and none where that is a delete marker.
//! Not here: other providers, whose versions object_store cannot list.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde::Deserialize;

use crate::model::Moment;

const STORE: &str = "S3";
/// A page has at most a thousand versions of keys that have at most 1024 bytes each.
const PAGE_MAX: usize = 16 << 20;

/// The bucket at a moment.
#[derive(Debug, Clone)]
pub(super) struct AsOf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: AmazonS3,
    client: HttpClient,
    region: String,
    signs: bool,
    at: Moment,
    /// The versions that listings have shown.
    known: Mutex<HashMap<Path, Option<Version>>>,
}

/// A version that counted at the moment.
#[derive(Debug, Clone)]
struct Version {
    id: String,
    meta: ObjectMeta,
}

/// One page of `ListObjectVersions`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_version_id_marker: Option<String>,
    version: Vec<Listed>,
    delete_marker: Vec<Listed>,
    common_prefixes: Vec<CommonPrefix>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    version_id: String,
    last_modified: Moment,
    #[serde(default)]
    size: u64,
    #[serde(rename = "ETag", default)]
    e_tag: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: STORE, source: source.into() }
}

fn read_only(operation: &str) -> Error {
    Error::PermissionDenied {
        path: operation.to_owned(),
        source: "what was there at another time is read, never written: leave `--as-of` out".into(),
    }
}

/// Of each key the newest version up to a moment; `None` where that is a delete marker. Pages come newest first, and equal times stay in
/// that order.
fn newest(page: Page, at: Moment, found: &mut HashMap<Path, (Moment, Option<Version>)>) -> Result<()> {
    let mut take = |listed: Listed, is_there: bool| -> Result<()> {
        if listed.last_modified > at {
            return Ok(());
        }
        // A key that no object of ours can have.
        let Ok(location) = Path::parse(&listed.key) else { return Ok(()) };
        if found.get(&location).is_some_and(|(time, _)| *time >= listed.last_modified) {
            return Ok(());
        }
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: listed.last_modified,
            size: listed.size,
            e_tag: listed.e_tag,
            version: Some(listed.version_id.clone()),
        };
        let version = is_there.then_some(Version { id: listed.version_id, meta });
        found.insert(location, (listed.last_modified, version));
        Ok(())
    };
    // Where an object was deleted within the second in which it was put, it is gone.
    page.delete_marker.into_iter().try_for_each(|marker| take(marker, false))?;
    page.version.into_iter().try_for_each(|version| take(version, true))
}

impl AsOf {
    pub fn new(bucket: AmazonS3, client: HttpClient, region: String, signs: bool, at: Moment) -> Self {
        Self(Arc::new(Inner { bucket, client, region, signs, at, known: Mutex::default() }))
    }

    /// The URL of the bucket itself.
    async fn url(&self) -> Result<url::Url> {
        let path = Path::from("x");
        let mut url = self.0.bucket.signed_url("GET".parse().map_err(generic)?, &path, SIGNED_FOR).await?;
        url.set_query(None);
        let folder = url.path().strip_suffix('x').unwrap_or("/").to_owned();
        url.set_path(&folder);
        Ok(url)
    }

    async fn page(&self, query: &[(&str, &str)]) -> Result<Page> {
        let mut url = self.url().await?;
        url.query_pairs_mut().append_pair("versions", "").extend_pairs(query);
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        // A space in a query is %20 where it is signed.
        let text = url.as_str().replace('+', "%20");
        *request.uri_mut() = text.parse().map_err(generic)?;
        if self.0.signs {
            let credential = self.0.bucket.credentials().get_credential().await?;
            AwsAuthorizer::new(&credential, "s3", &self.0.region).try_authorize(&mut request, None)?;
        }
        let response = self.0.client.execute(request).await.map_err(generic)?;
        let status = response.status().as_u16();
        let (mut chunks, mut body) = (response.into_body().bytes_stream(), BytesMut::new());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(generic)?;
            if body.len() + chunk.len() > PAGE_MAX {
                return Err(generic("a page of versions is larger than one can be"));
            }
            body.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&body);
        match status {
            200 if !text.contains("<ListVersionsResult") => Err(generic("the store does not list versions")),
            200 => quick_xml::de::from_str(&text).map_err(generic),
            401 | 403 => Err(Error::PermissionDenied {
                path: "its versions".to_owned(),
                source: "the store refuses to list them (`s3:ListBucketVersions`)".into(),
            }),
            404 => Err(Error::NotFound { path: "the bucket".to_owned(), source: "the store has none".into() }),
            other => Err(generic(format!("the list of versions was answered with {other}"))),
        }
    }

    /// What was there below a prefix of keys, as text; with a delimiter only what lies right below, and the folders.
    async fn versions(&self, prefix: &str, delimited: bool) -> Result<(Vec<Version>, Vec<Path>)> {
        let (mut found, mut folders) = (HashMap::new(), Vec::new());
        let mut marker: Option<(String, Option<String>)> = None;
        loop {
            let mut query = vec![("prefix", prefix)];
            if delimited {
                query.push(("delimiter", "/"));
            }
            if let Some((key, version)) = &marker {
                query.push(("key-marker", key));
                query.extend(version.as_deref().map(|version| ("version-id-marker", version)));
            }
            let page = self.page(&query).await?;
            for folder in &page.common_prefixes {
                folders.extend(Path::parse(folder.prefix.trim_end_matches('/')));
            }
            let next = page.is_truncated.then(|| page.next_key_marker.clone()).flatten();
            let next = next.map(|key| (key, page.next_version_id_marker.clone().filter(|marker| !marker.is_empty())));
            newest(page, self.0.at, &mut found)?;
            match next {
                Some(next) if marker.as_ref() != Some(&next) => marker = Some(next),
                Some(_) => return Err(generic("its pages of versions do not end")),
                None => break,
            }
        }
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (location, (_, version)) in &found {
            known.insert(location.clone(), version.clone());
        }
        Ok((found.into_values().filter_map(|(_, version)| version).collect(), folders))
    }

    async fn version(&self, location: &Path) -> Result<Version> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner).get(location).cloned();
        let version = match known {
            Some(known) => known,
            None => {
                let (found, _) = self.versions(location.as_ref(), false).await?;
                found.into_iter().find(|version| version.meta.location == *location)
            }
        };
        version.ok_or_else(|| Error::NotFound {
            path: location.to_string(),
            source: format!("there was none at {}", self.0.at).into(),
        })
    }
}

/// A signature that nobody uses: the URL alone is wanted.
const SIGNED_FOR: std::time::Duration = std::time::Duration::from_secs(1);

/// A prefix of keys as text: of whole parts.
fn text_of(prefix: Option<&Path>) -> String {
    prefix.filter(|prefix| !prefix.as_ref().is_empty()).map(|prefix| format!("{prefix}/")).unwrap_or_default()
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as of {}", self.0.bucket, self.0.at)
    }
}

#[async_trait]
impl ObjectStore for AsOf {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only("writing"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("writing"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let version = self.version(location).await?;
        self.0.bucket.get_opts(location, options.with_version(Some(version.id))).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut all = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            all.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(all)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.and_then(|_| async { Err(read_only("deleting")) }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), text_of(prefix));
        let listed = async move {
            let (found, _) = this.versions(&prefix, false).await?;
            Ok::<_, Error>(stream::iter(found.into_iter().map(|version| Ok(version.meta))))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (found, common_prefixes) = self.versions(&text_of(prefix), true).await?;
        let objects = found.into_iter().map(|version| version.meta).collect();
        Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only("writing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        quick_xml::de::from_str(text).unwrap()
    }

    #[test]
    fn the_newest_version_up_to_the_moment_counts() {
        let version = |key: &str, id: &str, minute: u32| {
            format!(
                "<Version><Key>{key}</Key><VersionId>{id}</VersionId><IsLatest>false</IsLatest>\
                 <LastModified>2026-11-20T03:{minute:02}:00.000Z</LastModified><ETag>\"e\"</ETag><Size>3</Size>\
                 <Owner><ID>o</ID></Owner><StorageClass>STANDARD</StorageClass></Version>"
            )
        };
        let marker = |key: &str, minute: u32| {
            format!(
                "<DeleteMarker><Key>{key}</Key><VersionId>m</VersionId><IsLatest>true</IsLatest>\
                 <LastModified>2026-11-20T03:{minute:02}:00Z</LastModified></DeleteMarker>"
            )
        };
        // Overwritten at 20 and at 40, deleted at 30, deleted and put again, deleted as soon as it was put, later.
        let text = format!(
            "<?xml version=\"1.0\"?><ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
             <IsTruncated>false</IsTruncated>{}{}{}{}{}{}{}{}{}{}<CommonPrefixes><Prefix>p/q/</Prefix></CommonPrefixes></ListVersionsResult>",
            version("a", "3", 40),
            version("a", "2", 20),
            version("a", "1", 10),
            marker("b", 30),
            version("b", "1", 10),
            version("c", "2", 33),
            marker("c", 32),
            version("d", "1", 15),
            marker("d", 15),
            version("e", "1", 50)
        );
        let at = |minute: u32| format!("2026-11-20T03:{minute:02}:30Z").parse::<Moment>().unwrap();
        let there = |minute: u32| {
            let mut found = HashMap::new();
            newest(page(&text), at(minute), &mut found).unwrap();
            let mut all: Vec<String> = found
                .into_iter()
                .filter_map(|(path, (_, version))| version.map(|version| format!("{path}{}", version.id)))
                .collect();
            all.sort();
            all.join(" ")
        };
        assert_eq!(there(9), "");
        assert_eq!(there(12), "a1 b1");
        assert_eq!(there(25), "a2 b1");
        assert_eq!(there(35), "a2 c2");
        assert_eq!(there(59), "a3 c2 e1");
        assert_eq!(page(&text).common_prefixes[0].prefix, "p/q/");
        assert!(quick_xml::de::from_str::<Page>("<Error><Code>x").is_err());
    }
}
