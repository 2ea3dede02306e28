//! The host's own copy of a source's newest manifest: what tells an unchanged file on a host that cannot read its backups.
//! Written beside the manifest in the store, published only when the snapshot exists.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::Error;
use crate::model::SnapshotId;

/// What goes into the file, digested on its way: a bit that flips in a copy must not become the place of other bytes.
struct Summed {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The host's own copy of the manifest, being written.
pub(super) struct LocalCopy {
    staged: PathBuf,
    target: PathBuf,
    id: SnapshotId,
    writer: zstd::stream::write::Encoder<'static, Summed>,
}

impl LocalCopy {
    /// Starts a copy beside the one that it will replace. The snapshot's id and the digest of all
    /// that follows are its first line, outside the compressed part.
    pub fn create(target: PathBuf, id: SnapshotId) -> Result<Self, Error> {
        // One name for every run: the source's lock lets one at a time, and what a killed one left is written over.
        let staged = target.with_extension("tmp");
        let io = |source| Error::Io { doing: "write", path: staged.clone(), source };
        let mut file = BufWriter::new(File::create(&staged).map_err(io)?);
        writeln!(file, "{id} {}", "0".repeat(2 * blake3::OUT_LEN)).map_err(io)?;
        let summed = Summed { file, hasher: blake3::Hasher::new() };
        let writer = zstd::stream::write::Encoder::new(summed, 1).map_err(io)?;
        Ok(Self { staged, target, id, writer })
    }

    /// Adds a line.
    pub fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        let path = self.staged.clone();
        self.writer.write_all(line).map_err(|source| Error::Io { doing: "write", path, source })
    }

    /// Not synced: a lost copy costs one full reading of the source, nothing else.
    pub fn publish(self) -> Result<(), Error> {
        let io = |source| Error::Io { doing: "write", path: self.target.clone(), source };
        let Summed { mut file, hasher } = self.writer.finish().map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        writeln!(file, "{} {}", self.id, hasher.finalize().to_hex()).map_err(io)?;
        file.flush().map_err(io)?;
        std::fs::rename(&self.staged, &self.target).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::read_local_manifest;

    #[test]
    fn a_copy_in_which_any_bit_flipped_is_no_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (target, id) = (folder.path().join("data.jsonl.zst"), SnapshotId::new(5, [7; 10]));
        let mut copy = LocalCopy::create(target.clone(), id).unwrap();
        copy.write(b"{\"manifest\":1}\n{\"path\":\"\",\"type\":\"dir\"}\n").unwrap();
        copy.publish().unwrap();
        let whole = std::fs::read(&target).unwrap();
        let mut reader = read_local_manifest(&target, &id.to_string()).unwrap();
        assert!(reader.next_entry().unwrap().is_some());
        assert!(read_local_manifest(&target, &SnapshotId::new(6, [7; 10]).to_string()).is_none());
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&target, bytes).unwrap();
            assert!(read_local_manifest(&target, &id.to_string()).is_none(), "byte {at}");
        }
    }
}
