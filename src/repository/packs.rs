//! Packs in the store against packs in the catalog: what is missing is known before anything refers to it, and what a
//! crashed run left is verified and adopted.

use std::collections::HashMap;

use super::{Error, Repository};
use crate::catalog::{ChunkTables, PackState, pack_key};
use crate::model::{
    ChunkList, CommitFrame, CommitLine, DirectoryPlace, FrameId, Moment, PackId, PackLine, SnapshotRecord, limits,
};
use crate::pack::{FOOTER, parse_footer};
use crate::progress::{Event, Progress};

/// A listing older than this is not trusted for deduplication, in seconds.
const LISTING_AGE_MAX: i64 = 24 * 3600;

/// What a listing of the host's packs found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackListing {
    /// Packs that are there with their right length.
    pub good: u64,
    /// Packs of the log that are not in the store.
    pub missing: Vec<PackId>,
    /// Packs that are retired and not in the store any more, which no commit has said yet.
    pub gone: Vec<PackId>,
    /// Packs that have another length in the store.
    pub wrong_length: Vec<PackId>,
    /// Packs in the store that no commit names: their ids and sizes.
    pub unknown: Vec<(PackId, u64)>,
}

/// What a pack says of itself, after its bytes matched its name and its signature its writer.
pub(super) struct Verified {
    /// The line that a commit adds it by.
    pub line: PackLine,
    /// The chunks of its frames.
    pub chunks: Vec<ChunkList>,
    /// The snapshot whose manifest ends in it.
    pub snapshot: Option<SnapshotRecord>,
}

impl Repository {
    /// Lists a writer's packs and records in the catalog which are there.
    pub fn list_packs(&mut self, writer: &str, now: Moment) -> Result<PackListing, Error> {
        let row = self.catalog.writer(writer)?;
        // The catalog first: a pack that another process stores meanwhile must not be missed in a listing that is older.
        let known = self.catalog.packs(row)?;
        let mut there: HashMap<PackId, u64> = HashMap::new();
        for object in self.store.list(&format!("writers/{writer}/packs"), None)? {
            let id = object.key.rsplit('/').next().and_then(|name| name.parse::<PackId>().ok());
            match id {
                Some(id) if object.key == pack_key(writer, &id) => drop(there.insert(id, object.size)),
                _ => tracing::warn!(key = object.key, "an object among the packs that is no pack is left out"),
            }
        }
        let (mut listing, mut states) = (PackListing::default(), Vec::new());
        for pack in known {
            // What was deleted and is there again, because a write landed late, is a prune's business.
            if pack.deleted {
                there.remove(&pack.id);
                continue;
            }
            let state = match there.remove(&pack.id) {
                Some(size) if size == pack.size && pack.state == PackState::Damaged => PackState::Damaged,
                Some(size) if size == pack.size => {
                    listing.good += 1;
                    PackState::Good
                }
                Some(_) => {
                    listing.wrong_length.push(pack.id);
                    PackState::Damaged
                }
                None => {
                    let to = if pack.retired { &mut listing.gone } else { &mut listing.missing };
                    to.push(pack.id);
                    PackState::Missing
                }
            };
            states.push((pack.row, state));
        }
        self.catalog.set_pack_states(&states, now.timestamp())?;
        self.catalog.set_fact(&format!("packs of {writer} listed"), &now.timestamp().to_string())?;
        listing.unknown = there.into_iter().collect();
        listing.unknown.sort();
        Ok(listing)
    }

    /// What a run does before it trusts the catalog: lists its packs once a day, and after a run that did not end;
    /// adopts what such a run left.
    pub fn prepare_run(&mut self, source: &str, now: Moment, progress: &dyn Progress) -> Result<(), Error> {
        // Before anything is stored for nothing.
        self.check_may_write()?;
        let name = self.host()?.name.clone();
        let listed = self.catalog.fact(&format!("packs of {name} listed"))?.and_then(|text| text.parse::<i64>().ok());
        // A listing from the future is a clock that was set back: not to be trusted either.
        let fresh = listed.is_some_and(|at| (0..LISTING_AGE_MAX).contains(&(now.timestamp() - at)));
        let clean = self.catalog.fact(&format!("run of {source}"))?.is_none_or(|state| state == "ended");
        // Of several sources one after another the first may have taken long: what was retired since is not referred to.
        if self.horizon.is_some() {
            self.sync_own(progress)?;
        }
        if !(fresh && clean) {
            progress.event(Event::Stage("listing packs"));
            let listing = self.list_packs(&name, now)?;
            for (what, packs) in
                [("missing in the store", &listing.missing), ("cut off in the store", &listing.wrong_length)]
            {
                if let Some(first) = packs.first() {
                    progress.event(Event::Warning(&format!(
                        "{} packs are {what} (the first: {first}); what the source still has of them is stored anew; \
                         `lifeboat check` names the snapshots that are hurt",
                        packs.len()
                    )));
                }
            }
            self.adopt(&name, &listing.unknown, now, progress)?;
        }
        self.load_chunks(&name, progress)?;
        self.horizon = Some(self.catalog.last_commit_row()?);
        Ok(self.catalog.set_fact(&format!("run of {source}"), "open")?)
    }

    /// The highest row of a commit when the run began.
    pub(super) fn run_horizon(&self) -> Result<i64, Error> {
        Ok(self.horizon.map_or_else(|| self.catalog.last_commit_row(), Ok)?)
    }

    /// Notes that a run ended, so that the next need not look for what it left.
    pub fn run_ended(&mut self, source: &str) -> Result<(), Error> {
        Ok(self.catalog.set_fact(&format!("run of {source}"), "ended")?)
    }

    /// Takes packs over that no commit names: each is read whole, must match its name, and must have a directory that
    /// this writer signed. Others are left where they are.
    fn adopt(
        &mut self,
        writer: &str,
        unknown: &[(PackId, u64)],
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        if unknown.is_empty() {
            return Ok(());
        }
        progress.event(Event::Stage("verifying packs of a run that did not end"));
        let (mut lines, mut chunks) = (Vec::new(), ChunkTables::new());
        for (id, size) in unknown {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(found) = self.verify_pack(writer, id, *size)? {
                chunks.insert(*id, found.chunks);
                lines.push(found.line);
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let adopted = lines.len();
        let mut content = Some(lines);
        self.commit(now, &chunks, progress, &mut |repository, _| {
            let fresh = repository.unknown_packs(content.take().unwrap_or_default())?;
            // Verifying took its time, and to a keeper they are litter.
            repository.check_unnamed(&fresh, true)?;
            Ok(fresh.into_iter().map(CommitLine::Pack).collect())
        })?;
        tracing::info!(adopted, "packs of a run that did not end are used");
        Ok(())
    }

    /// Reads a pack whole. Nothing where it is not what its name says, or not signed by its writer.
    pub(super) fn verify_pack(&mut self, writer: &str, id: &PackId, size: u64) -> Result<Option<Verified>, Error> {
        if !(FOOTER..=limits::PACK_MAX).contains(&size) {
            return Ok(None);
        }
        let body = match self.store.get(&pack_key(writer, id), limits::PACK_MAX) {
            Ok(body) => body,
            Err(crate::store::Error::NotFound { .. } | crate::store::Error::Truncated { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if blake3::hash(&body).as_bytes() != id.as_bytes() {
            return Ok(None);
        }
        let end = body.len() - FOOTER as usize;
        let Ok((at, length)) = parse_footer(&body[end..], body.len() as u64) else { return Ok(None) };
        // No commit vouches for it: only who writes the log now does.
        let keys: Vec<_> = self.standing(writer)?.current().map(|era| era.key).into_iter().collect();
        let sealed = &body[at as usize..(at + length) as usize];
        let directory = match self.parse_directory_of(writer, id, sealed, at, &keys) {
            Ok(directory) => directory,
            Err(Error::Pack { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let line = PackLine {
            id: *id,
            size: body.len() as u64,
            kind: directory.kind,
            recipients: directory.recipients,
            directory: DirectoryPlace { at, length },
            frames: directory.frames.iter().map(|f| CommitFrame(f.id, f.at, f.stored, f.plain)).collect(),
        };
        Ok(Some(Verified { line, chunks: directory.chunks, snapshot: directory.snapshot }))
    }
}

impl Repository {
    /// Packs that the catalog does not know: another process may have adopted some that this run stored.
    pub(super) fn unknown_packs(&mut self, lines: Vec<PackLine>) -> Result<Vec<PackLine>, Error> {
        let (writer, mut unknown) = (self.host_row()?, Vec::new());
        for line in lines {
            if self.catalog.find_pack(writer, &line.id)?.is_none() {
                unknown.push(line);
            }
        }
        Ok(unknown)
    }

    /// The frames of a pack of this host, by name.
    pub(super) fn frames_in(&mut self, pack: &PackId) -> Result<Vec<FrameId>, Error> {
        let writer = self.host_row()?;
        match self.catalog.find_pack(writer, pack)? {
            Some(row) => Ok(self.catalog.frames_of(row.row)?.into_iter().map(|frame| frame.id).collect()),
            None => Ok(Vec::new()),
        }
    }

    /// The number of a frame that this commit adds, or that is there already.
    pub(super) fn number(&mut self, id: &FrameId, fresh: &HashMap<FrameId, u64>) -> Result<u64, Error> {
        if let Some(number) = fresh.get(id) {
            return Ok(*number);
        }
        let writer = self.host_row()?;
        Ok(self.catalog.find_frame_of(writer, id)?.ok_or(Error::UnknownFrame(*id))?.number)
    }
}
