//! A stream of tar: POSIX pax where ustar has no room (long names, nanoseconds, extended attributes).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ::tar::{Builder, EntryType, Header};

use super::Error;
use crate::model::{Entry, EntryKind};

/// Writes entries one after another.
pub struct TarStream<W: Write> {
    builder: Builder<W>,
    name: PathBuf,
}

impl<W: Write> TarStream<W> {
    /// A stream; `name` is what messages call it.
    pub fn new(output: W, name: &Path) -> Self {
        Self { builder: Builder::new(output), name: name.to_owned() }
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io { doing: "write", path: self.name.clone(), source }
    }

    /// Writes an entry. `content` yields exactly a file's size. Sockets are left out, as tar does.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        let mut header = Header::new_ustar();
        let (kind, link) = match &entry.kind {
            EntryKind::File(_) => (EntryType::Regular, None),
            EntryKind::Dir => (EntryType::Directory, None),
            EntryKind::Symlink { target } => (EntryType::Symlink, Some(target.as_bytes().to_vec())),
            EntryKind::Hardlink { target } => (EntryType::Link, Some(target.as_bytes().to_vec())),
            EntryKind::Fifo => (EntryType::Fifo, None),
            EntryKind::Char { .. } => (EntryType::Char, None),
            EntryKind::Block { .. } => (EntryType::Block, None),
            EntryKind::Socket => return Ok(()),
        };
        header.set_entry_type(kind);
        header.set_mode(entry.mode);
        header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or(0));
        if let EntryKind::Char { device } | EntryKind::Block { device } = &entry.kind {
            let set = header.set_device_major(device.0).and_then(|()| header.set_device_minor(device.1));
            set.map_err(|e| self.io(e))?;
        }
        let mut path = if entry.path.is_root() { b"./".to_vec() } else { entry.path.as_bytes().to_vec() };
        if entry.is_dir() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let extras = self.fill(&mut header, entry, &path, link.as_deref())?;
        if !extras.is_empty() {
            let extras = extras.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.builder.append_pax_extensions(extras).map_err(|e| self.io(e))?;
        }
        header.set_cksum();
        let result = self.builder.append(&header, content);
        result.map_err(|e| self.io(e))
    }

    /// Sets what fits into the header; the rest is returned as pax records.
    fn fill(
        &self,
        header: &mut Header,
        entry: &Entry,
        path: &[u8],
        link: Option<&[u8]>,
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut extras: Vec<(String, Vec<u8>)> = Vec::new();
        put(&mut header.as_old_mut().name, path, "path", &mut extras);
        if let Some(link) = link {
            put(&mut header.as_old_mut().linkname, link, "linkpath", &mut extras);
        }
        // ustar's octal fields hold 21 bits of owners and 33 of sizes.
        let mut number = |key: &str, value: u64, limit: u64| {
            if value < limit {
                return value;
            }
            extras.push((key.to_owned(), value.to_string().into_bytes()));
            0
        };
        header.set_uid(number("uid", entry.uid.into(), 1 << 21));
        header.set_gid(number("gid", entry.gid.into(), 1 << 21));
        header.set_size(number("size", entry.size(), 1 << 33));
        for (user, is_user) in [(&entry.user, true), (&entry.group, false)] {
            if let Some(name) = user.as_deref().filter(|name| name.len() < 32) {
                let set = if is_user { header.set_username(name) } else { header.set_groupname(name) };
                set.map_err(|e| self.io(e))?;
            }
        }
        if entry.mtime.1 != 0 || entry.mtime.0 < 0 {
            let text = decimal(entry.mtime.0, entry.mtime.1);
            extras.push(("mtime".to_owned(), text.into_bytes()));
        }
        for (key, value) in &entry.xattrs {
            extras.push((format!("SCHILY.xattr.{key}"), value.as_bytes().to_vec()));
        }
        Ok(extras)
    }

    /// Writes the end and hands the output back.
    pub fn finish(self) -> Result<W, Error> {
        let name = self.name;
        let io = |source| Error::Io { doing: "write", path: name.clone(), source };
        let mut output = self.builder.into_inner().map_err(io)?;
        output.flush().map_err(io)?;
        Ok(output)
    }
}

/// A time as pax writes it: seconds with a fraction that counts away from zero.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    let whole = (seconds + 1).unsigned_abs();
    format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds)
}

fn put(field: &mut [u8; 100], bytes: &[u8], key: &str, extras: &mut Vec<(String, Vec<u8>)>) {
    let fits = bytes.len().min(field.len());
    field[..fits].copy_from_slice(&bytes[..fits]);
    if bytes.len() > fits {
        extras.push((key.to_owned(), bytes.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn times_before_1970_count_away_from_zero() {
        assert_eq!(decimal(5, 250_000_000), "5.250000000");
        assert_eq!(decimal(-1, 750_000_000), "-0.250000000");
        assert_eq!(decimal(-2, 500_000_000), "-1.500000000");
        assert_eq!(decimal(-2, 0), "-2.000000000");
    }
}
