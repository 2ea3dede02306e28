//! A bucket that is somebody's own, not a repository: its objects are listed and read under the names that they have, and written when one is
//! restored into it.
//!
//! Invariants: an object is read as one version, or not at all; nothing is deleted; what is there is replaced only where that was asked
//! for. Not here: what the objects are.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, GetRange, MultipartUpload, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload,
};

use super::error::Failure;
use super::{Credentials, Error, Limits, Location, Patience, Store, open_url, parse_url, read_body};
use crate::model::Moment;

/// So much of an object is asked for at a time. An S3 store wants parts of at least 5 MiB.
const PART: u64 = 8 << 20;
/// Parts of an upload at most, as Amazon has it; a large object gets larger parts.
const PARTS_MAX: u64 = 9_999;
/// Objects of a listing at most: some 1,000 bytes of memory each, until all are sorted.
const OBJECTS_MAX: usize = 4 << 20;

/// A bucket, or what lies below a prefix of one.
#[derive(Clone, Debug)]
pub struct Bucket(Store);

/// An object as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name below the prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub written: Moment,
    /// The store's mark of its content, where it has one.
    pub tag: Option<String>,
}

/// What a store tells with an object beside its bytes: `content-type` and the like; a user's own names begin with `meta.`.
pub type Told = Vec<(String, String)>;

impl Bucket {
    /// A bucket by its URL: `s3://`, `az://`, `gs://`.
    pub fn open(url: &str, credentials: &Credentials) -> Result<Self, Error> {
        if matches!(parse_url(url)?, Location::Local(_)) {
            let why = "a bucket's URL begins with s3://, az:// or gs://; a directory is a source of kind `volume`";
            return Err(Error::BadUrl { url: url.to_owned(), why: why.to_owned() });
        }
        let patience = Patience { tries: 2, ..Patience::default() };
        let limits = Limits { client_retries: 5, patience, ..Limits::default() };
        Ok(Self(open_url(url, credentials, limits, false)?))
    }

    /// Its URL.
    pub fn label(&self) -> &str {
        self.0.label()
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        let root = self.0.0.root.as_ref();
        let full = if root.is_empty() { key.to_owned() } else { format!("{root}/{key}") };
        let bad = |e: object_store::path::Error| Error::BadUrl { url: self.label().to_owned(), why: e.to_string() };
        // As it is: other people's names may hold what ours never do.
        Path::parse(full).map_err(bad)
    }

    /// Everything that is there, in no order.
    pub fn list(&self) -> Result<Vec<Object>, Error> {
        let root = &self.0.0.root;
        self.0.call("list", "", 64 << 20, || async {
            let prefix = (!root.as_ref().is_empty()).then_some(root);
            let mut stream = self.0.0.objects.list(prefix);
            let mut all = Vec::new();
            while let Some(object) = stream.next().await {
                let object = object?;
                let key = self.0.key_of(&object.location);
                all.push(Object { key, size: object.size, written: object.last_modified, tag: object.e_tag });
                if all.len() > OBJECTS_MAX {
                    return Err(Failure::Long { size: all.len() as u64, limit: OBJECTS_MAX as u64 });
                }
            }
            Ok(all)
        })
    }

    /// Begins to read an object: its first bytes are here when this returns.
    pub fn read(&self, object: &Object) -> Result<ObjectReader, Error> {
        let path = self.path(&object.key)?;
        let mut reader = ObjectReader {
            bucket: self.clone(),
            path,
            key: object.key.clone(),
            size: object.size,
            next: 0,
            tag: None,
            part: io::Cursor::default(),
            told: Vec::new(),
        };
        reader.fetch()?;
        Ok(reader)
    }

    /// Writes an object; true where it is new or was replaced, false where another one is there and stays.
    pub fn write(
        &self,
        key: &str,
        size: u64,
        told: &Told,
        replace: bool,
        content: &mut dyn Read,
    ) -> Result<bool, WriteError> {
        let path = self.path(key)?;
        if !replace && self.head(&path, key)?.is_some() {
            return Ok(false);
        }
        let attributes = attributes_of(told);
        if size <= PART {
            let mut body = Vec::with_capacity(size as usize);
            content.read_to_end(&mut body).map_err(WriteError::Content)?;
            let body = Bytes::from(body);
            let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
            let put = |mode: PutMode| {
                self.0.call("store", key, size, || async {
                    let options =
                        PutOptions { mode: mode.clone(), attributes: attributes.clone(), ..PutOptions::default() };
                    let done = self.0.0.objects.put_opts(&path, PutPayload::from(body.clone()), options).await;
                    done.map(drop).map_err(Failure::from)
                })
            };
            return match put(mode) {
                Ok(()) => Ok(true),
                // An answer of ours was lost, or somebody was faster with something else.
                Err(Error::Unreachable { source, .. }) if is_there(&source) => Ok(self.head(&path, key)? == Some(size)),
                Err(Error::Unreachable { source, .. }) if super::error::is_unsupported(&source) => {
                    put(PutMode::Overwrite)?;
                    Ok(true)
                }
                Err(e) => Err(e.into()),
            };
        }
        self.write_parts(&path, key, size, attributes, content).map(|()| true)
    }

    fn write_parts(
        &self,
        path: &Path,
        key: &str,
        size: u64,
        attributes: Attributes,
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = self.0.call("store", key, 0, || async {
            Ok(self.0.0.objects.put_multipart_opts(path, options.clone()).await?)
        })?;
        match self.send_parts(&mut *upload, key, size, content) {
            Ok(()) => Ok(()),
            Err(e) => {
                // Parts that nobody completes cost money for ever.
                let deadline = self.0.0.patience.deadline;
                let _ = self.0.0.runtime.block_on(async { tokio::time::timeout(deadline, upload.abort()).await });
                Err(e)
            }
        }
    }

    fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        key: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        let part = PART.max(size.div_ceil(PARTS_MAX));
        let failed = |source| {
            let store = self.label().to_owned();
            Error::Unreachable { verb: "store", store, key: key.to_owned(), tries: 1, source: Box::new(source) }
        };
        let late = |_| Error::Deadline { verb: "store", store: self.label().to_owned(), key: key.to_owned(), tries: 1 };
        // A slow line sends 64 KiB a second.
        let deadline = self.0.0.patience.deadline + std::time::Duration::from_secs(part >> 16);
        let mut left = size;
        while left > 0 {
            let length = left.min(part);
            let mut body = Vec::with_capacity(length as usize);
            content.take(length).read_to_end(&mut body).map_err(WriteError::Content)?;
            if body.len() as u64 != length {
                return Err(WriteError::Content(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= length;
            let sent = upload.put_part(PutPayload::from(Bytes::from(body)));
            self.0
                .0
                .runtime
                .block_on(async { tokio::time::timeout(deadline, sent).await })
                .map_err(late)?
                .map_err(failed)?;
        }
        let complete = upload.complete();
        self.0
            .0
            .runtime
            .block_on(async { tokio::time::timeout(deadline, complete).await })
            .map_err(late)?
            .map_err(failed)?;
        Ok(())
    }

    fn head(&self, path: &Path, key: &str) -> Result<Option<u64>, Error> {
        match self.0.call("read", key, 0, || async { Ok(self.0.0.objects.head(path).await?) }) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn is_there(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
}

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The bucket.
    #[error(transparent)]
    Store(#[from] Error),
    /// Its bytes could not be read.
    #[error("its content could not be read")]
    Content(#[source] io::Error),
}

const NAMED: [(&str, Attribute); 5] = [
    ("content-type", Attribute::ContentType),
    ("content-encoding", Attribute::ContentEncoding),
    ("content-disposition", Attribute::ContentDisposition),
    ("content-language", Attribute::ContentLanguage),
    ("cache-control", Attribute::CacheControl),
];

fn told_of(attributes: &Attributes) -> Told {
    let mut told: Told = attributes
        .iter()
        .filter_map(|(name, value)| {
            let name = match name {
                Attribute::Metadata(name) => format!("meta.{name}"),
                other => NAMED.iter().find(|(_, one)| one == other)?.0.to_owned(),
            };
            Some((name, value.to_string()))
        })
        .collect();
    told.sort();
    told
}

fn attributes_of(told: &Told) -> Attributes {
    let one = |(name, value): &(String, String)| {
        let known = NAMED.iter().find(|(known, _)| known == name).map(|(_, one)| one.clone());
        let name = known.or_else(|| Some(Attribute::Metadata(name.strip_prefix("meta.")?.to_owned().into())))?;
        Some((name, AttributeValue::from(value.clone())))
    };
    told.iter().filter_map(one).collect()
}

/// The bytes of an object, a part at a time.
pub struct ObjectReader {
    bucket: Bucket,
    path: Path,
    key: String,
    /// By the listing first, then by the store's own answer.
    size: u64,
    next: u64,
    tag: Option<String>,
    part: io::Cursor<Vec<u8>>,
    told: Told,
}

impl ObjectReader {
    /// What the store told beside the bytes.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Its size as the store answered.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn fetch(&mut self) -> Result<(), Error> {
        let whole = self.next == 0 && self.size <= PART;
        let end = (self.next + PART).min(self.size);
        let options = GetOptions {
            range: (!whole).then_some(GetRange::Bounded(self.next..end)),
            // Behind the first part it is that version or none.
            if_match: self.tag.clone(),
            ..GetOptions::default()
        };
        let (body, size, tag, told) = self.bucket.0.call("read", &self.key, PART, || async {
            let result = self.bucket.0.0.objects.get_opts(&self.path, options.clone()).await?;
            let (size, tag, told) = (result.meta.size, result.meta.e_tag.clone(), told_of(&result.attributes));
            let expected = result.range.end.saturating_sub(result.range.start);
            // What has grown since the listing is for the next backup.
            if expected > PART {
                return Err(Failure::Long { size: expected, limit: PART });
            }
            let body = read_body(result, Vec::new(), PART).await?;
            let got = body.len() as u64;
            if got == expected { Ok((body, size, tag, told)) } else { Err(Failure::Short { got, expected }) }
        })?;
        if self.next == 0 {
            (self.size, self.tag, self.told) = (size, tag, told);
        } else if size != self.size {
            let (store, key) = (self.bucket.label().to_owned(), self.key.clone());
            return Err(Error::Truncated { store, key, got: size, expected: self.size });
        }
        let traffic = self.bucket.0.traffic();
        traffic.gets.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.next += body.len() as u64;
        self.part = io::Cursor::new(body);
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.part.read(out)?;
            if count > 0 || out.is_empty() || self.next >= self.size {
                return Ok(count);
            }
            self.fetch().map_err(io::Error::other)?;
            if self.part.get_ref().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
