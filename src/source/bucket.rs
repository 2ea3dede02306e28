//! Buckets of an object store as a source: each object a file below the name of its bucket, with what the store tells beside its bytes as
//! extended attributes.
//!
//! An object that the manifest before has with the same size, time and tag is taken over unread, so that of blobs which are never changed
//! a backup reads the new names alone. Two names of which one is a directory of the other cannot both be files: that is told, never guessed
//! at. Invariant: an object is stored as one version of it. Not here: versions, and objects that archives hold (they must be thawed first).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::cutting::{SAMPLE, choose_cutting};
use super::{Error, Found, FoundEntry, Opened, Source};
use crate::model::{Digest, Entry, EntryKind, FileContent, Moment, RawText, RelPath, Stamp, VolumeFacts};
use crate::store::{Bucket, Credentials, Object, Told};

/// Before the names of what a store tells of an object, as extended attributes of its file.
const ATTRIBUTE: &str = "user.object.";

/// What is backed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketOptions {
    /// URLs by the directory that each becomes; of a single one the name is empty.
    pub urls: BTreeMap<String, String>,
    /// What the URLs do not say.
    pub credentials: Credentials,
    /// Patterns to leave out, with the meaning of `.gitignore` lines.
    pub exclude: Vec<String>,
    /// Whether its objects are blobs that rows of another source name.
    pub blobs: bool,
}

/// Buckets to back up.
pub struct BucketSource {
    buckets: BTreeMap<String, Bucket>,
    exclude: Gitignore,
    blobs: bool,
    now: Moment,
    stop: AtomicBool,
    /// What a walk found, by path: which bucket, and the object.
    found: Mutex<BTreeMap<RelPath, (String, Object)>>,
    /// What was deleted between the list and the reading. A marker of a folder whose name ends in `/` is listed without that.
    gone: Mutex<BTreeSet<RelPath>>,
}

impl BucketSource {
    /// A source over buckets; nothing is asked of them yet.
    pub fn new(options: &BucketOptions, now: Moment) -> Result<Self, Error> {
        let mut buckets = BTreeMap::new();
        for (name, url) in &options.urls {
            buckets.insert(name.clone(), Bucket::open(url, &options.credentials)?);
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in &options.exclude {
            let bad = |e: ignore::Error| Error::Pattern { pattern: pattern.clone(), why: e.to_string() };
            builder.add_line(None, pattern).map_err(bad)?;
        }
        let bad = |e: ignore::Error| Error::Pattern { pattern: options.exclude.join(", "), why: e.to_string() };
        Ok(Self {
            buckets,
            exclude: builder.build().map_err(bad)?,
            blobs: options.blobs,
            now,
            stop: AtomicBool::new(false),
            found: Mutex::default(),
            gone: Mutex::default(),
        })
    }

    /// Lists all of them, in path order.
    fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut all = Vec::new();
        for (name, bucket) in &self.buckets {
            for object in bucket.list()? {
                let text = if name.is_empty() { object.key.clone() } else { format!("{name}/{}", object.key) };
                let path = RelPath::new(text.as_bytes());
                let is_out = || {
                    let path = std::path::Path::new(std::ffi::OsStr::new(text.as_str()));
                    !path.as_os_str().is_empty() && self.exclude.matched_path_or_any_parents(path, false).is_ignore()
                };
                match path {
                    Ok(_) if is_out() => {}
                    Ok(path) => all.push(Listed { path, bucket: name.clone(), object, odd: None }),
                    Err(e) => {
                        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                        let tame: String = text.chars().map(plain).take(200).collect();
                        let path = RelPath::new(tame).unwrap_or_default();
                        all.push(Listed { path, bucket: name.clone(), object, odd: Some(e.to_string()) });
                    }
                }
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }
}

struct Listed {
    path: RelPath,
    bucket: String,
    object: Object,
    odd: Option<String>,
}

impl Listed {
    fn entry(&self) -> FoundEntry {
        let content = FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() };
        let mut entry = Entry::bare(self.path.clone(), EntryKind::File(content));
        let written = self.object.written;
        entry.mode = 0o600;
        entry.mtime = Stamp(written.timestamp(), written.timestamp_subsec_nanos());
        // What tells that nothing has changed: the store's time, and its tag where it has one.
        entry.ctime = Some(entry.mtime);
        let tag = blake3::hash(self.object.tag.as_deref().unwrap_or_default().as_bytes());
        let head: [u8; 8] = std::array::from_fn(|n| tag.as_bytes()[n]);
        entry.inode = Some(u64::from_be_bytes(head) >> 12);
        FoundEntry::new(entry, self.object.size, false)
    }
}

/// Directories that the paths lie in.
fn directories<'p>(paths: impl Iterator<Item = &'p RelPath>) -> BTreeSet<RelPath> {
    let mut all = BTreeSet::from([RelPath::root()]);
    for path in paths {
        let mut parent = path.parent();
        while let Some(dir) = parent {
            parent = dir.parent();
            if !all.insert(dir) {
                break;
            }
        }
    }
    all
}

impl Source for BucketSource {
    fn kind(&self) -> &'static str {
        "bucket"
    }

    fn root(&self) -> String {
        self.buckets.values().map(Bucket::label).collect::<Vec<_>>().join(", ")
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let listed = self.list()?;
        let dirs = directories(listed.iter().map(|one| &one.path));
        let mut found: BTreeMap<RelPath, (String, Object)> = BTreeMap::new();
        let mut items: Vec<(RelPath, Found)> = Vec::with_capacity(listed.len() + dirs.len());
        for one in listed {
            let why = match one.odd {
                Some(ref why) => Some(why.clone()),
                // A marker that some tools make for a folder: the folder is there by what is in it.
                None if dirs.contains(&one.path) && one.object.size == 0 => continue,
                None if dirs.contains(&one.path) => Some("other objects lie below its name".to_owned()),
                None if found.contains_key(&one.path) => Some("another object has the same path".to_owned()),
                None => None,
            };
            match why {
                Some(why) => items.push((one.path.clone(), Found::Skipped { path: one.path, why })),
                None => {
                    items.push((one.path.clone(), Found::Entry(Box::new(one.entry()))));
                    found.insert(one.path, (one.bucket, one.object));
                }
            }
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        for dir in dirs {
            let mut entry = Entry::bare(dir.clone(), EntryKind::Dir);
            entry.mode = 0o700;
            entry.mtime = Stamp(self.now.timestamp(), self.now.timestamp_subsec_nanos());
            items.push((dir, Found::Entry(Box::new(FoundEntry::new(entry, 0, false)))));
        }
        items.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, item) in items {
            if self.stop.load(Ordering::Relaxed) || !each(item) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&found.entry.path).cloned();
        let (name, object) = known.ok_or("it is not in the list")?;
        let bucket = self.buckets.get(&name).ok_or("its bucket is not there")?;
        let read = bucket.read(&object).inspect_err(|e| {
            if matches!(e, crate::store::Error::NotFound { .. }) {
                self.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(found.entry.path.clone());
            }
        });
        let mut file = read.map_err(|e| match std::error::Error::source(&e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        })?;
        let xattrs = xattrs_of(file.told());
        let size = file.size();
        let mut head = Vec::with_capacity(SAMPLE);
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, SAMPLE as u64), &mut head)
            .map_err(|e| e.to_string())?;
        let cutting = choose_cutting(&found.entry.path, size, &head);
        // Of what was written anew since it was listed the newer version is stored, whole.
        let file = Box::new(std::io::Read::chain(std::io::Cursor::new(head), file));
        Ok(Opened { file, data: None, cutting, xattrs, size, changed: Box::new(|| None) })
    }

    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }

    fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// An object that cannot be read is named; the others are a backup.
    fn all_or_nothing(&self) -> bool {
        false
    }

    fn forgives(&self, path: &RelPath) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    fn facts(&self) -> serde_json::Value {
        serde_json::to_value(VolumeFacts { blobs: self.blobs, ..VolumeFacts::default() }).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn xattrs_of(told: &Told) -> BTreeMap<String, RawText> {
    told.iter().map(|(name, value)| (format!("{ATTRIBUTE}{name}"), RawText(value.clone().into_bytes()))).collect()
}

/// What a store is told of an object that is written back.
pub fn told_of(entry: &Entry) -> Told {
    let told = entry.xattrs.iter().filter_map(|(name, value)| {
        let text = String::from_utf8(value.0.clone()).ok()?;
        Some((name.strip_prefix(ATTRIBUTE)?.to_owned(), text))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_tells_goes_there_and_back() {
        let told: Told = vec![("content-type".into(), "image/png".into()), ("meta.owner".into(), "ü".into())];
        let mut entry = Entry::bare(RelPath::root(), EntryKind::Dir);
        entry.xattrs = xattrs_of(&told);
        entry.xattrs.insert("user.other".into(), RawText(b"x".to_vec()));
        assert_eq!(told_of(&entry), told);
    }
}
