//! Reading logs into the catalog, and adding a commit to the host's own.
//!
//! A log is trusted commit by commit: name = BLAKE3 of the bytes, the writer's signature, repository, writer and sequence
//! as in the name, parents present. What is wrong is a [`Problem`], by name; reading goes on with the rest, because during
//! an incident half a log is better than none. Two commits of one place are a fork: both are read, both are parents of
//! the next. Order: list, put, list again, catalog.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::keeping::keeper_may_say;
use super::layout::{COMMIT_CONTEXT, commit_key, is_writer_name, parse_commit_key};
use super::problem::{Problem, SyncReport};
use super::rulings::parse_ruling_key;
use super::{Error, Repository};
use crate::catalog::{self, ChunkTables, CommitAt, Head, WriterRow};
use crate::model::{Commit, CommitHeader, CommitId, CommitLine, Moment, Seen, limits};
use crate::progress::{Event, Progress};
use crate::seal::{open_signed, sign_text};

/// Places below the newest known commit that are listed again.
const LOOK_BACK: u64 = 100;
/// No log grows by so many commits between two looks; a name beyond is somebody's junk.
const LEAP_MAX: u64 = 1_000_000;

/// Makes a commit's lines, given the number of the first frame that it adds.
pub(super) type MakeLines<'f> = &'f mut dyn FnMut(&mut Repository, u64) -> Result<Vec<CommitLine>, Error>;

/// One object of a log.
pub(super) struct Listed {
    pub key: String,
    pub head: Head,
    pub size: u64,
    pub received: Moment,
}

impl Repository {
    /// Reads every log beyond what the catalog knows. Logs that no key at hand opens are noted by name only.
    pub fn sync(&mut self, progress: &dyn Progress) -> Result<SyncReport, Error> {
        let mut report = SyncReport::default();
        let names = match self.hold {
            // A keeper's catalog of a writer is of that one alone.
            Some(_) => vec![self.host()?.name.clone()],
            None => self.store.folders("writers")?,
        };
        for name in names {
            if !is_writer_name(&name) {
                let why = "its name is no writer's name".to_owned();
                report.problems.push(Problem::BadWriter { writer: name, why });
                continue;
            }
            self.sync_writer(&name, &mut report, progress)?;
        }
        self.check_seen(&mut report)?;
        self.leave_out_lost(&mut report.problems)?;
        Ok(report)
    }

    /// What a writer said of its own commits, that they are lost, is a problem no more.
    pub(super) fn leave_out_lost(&self, problems: &mut Vec<Problem>) -> Result<(), Error> {
        let mut lost: HashSet<(String, CommitId)> = HashSet::new();
        for (row, name) in self.catalog.writers()? {
            lost.extend(self.catalog.lost(row)?.into_iter().map(|digest| (name.clone(), digest)));
        }
        problems.retain(|problem| match problem {
            Problem::MissingCommit { writer, digest, .. } => !lost.contains(&(writer.clone(), *digest)),
            Problem::BadCommit { key, .. } => {
                let writer = key.strip_prefix("writers/").and_then(|rest| rest.split('/').next());
                let digest = parse_commit_key(key).map(|(_, digest)| digest);
                !writer.zip(digest).is_some_and(|(writer, digest)| lost.contains(&(writer.to_owned(), digest)))
            }
            _ => true,
        });
        Ok(())
    }

    /// Whether a writer has a description that the admission key signed; what is wrong with it goes to the report.
    fn is_described(&mut self, name: &str, report: &mut SyncReport) -> Result<bool, Error> {
        use crate::store::Error as E;
        match self.writer_description(name) {
            Ok(_) => Ok(true),
            Err(Error::Store(e @ (E::TooLarge { .. } | E::Truncated { .. }))) => {
                report.problems.push(Problem::BadWriter { writer: name.to_owned(), why: e.to_string() });
                Ok(false)
            }
            Err(Error::Store(store @ crate::store::Error::NotFound { .. })) => {
                // A crashed `init` leaves this: nothing can be signed by a writer without a description.
                tracing::debug!(writer = name, %store, "a writer without a description is left out");
                if !self.list_log(name, None)?.is_empty() {
                    let why = "its description is missing".to_owned();
                    report.problems.push(Problem::BadWriter { writer: name.to_owned(), why });
                }
                Ok(false)
            }
            Err(e @ Error::BadObject { .. }) => {
                // A crashed `init` of another repository id may leave one without a log: litter, not an alarm.
                if !self.list_log(name, None)?.is_empty() {
                    report.problems.push(Problem::BadWriter { writer: name.to_owned(), why: e.to_string() });
                }
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn sync_writer(&mut self, name: &str, report: &mut SyncReport, progress: &dyn Progress) -> Result<(), Error> {
        if !self.is_described(name, report)? {
            return Ok(());
        }
        let row = self.catalog.writer(name)?;
        let mut known = self.catalog.newest(row)?;
        let readable = !self.log_openers(name).is_empty();
        // By place and name: a commit that was read, put at another place, is somebody's doing and is told.
        let mut have: HashSet<Head> = self.catalog.commits(row, true)?.into_iter().collect();
        let unread = self.catalog.commits(row, false)?;
        // Some way back: a clone of this host may have committed below the newest place that is known here.
        let mut from = known.map(|head| head.sequence.saturating_sub(LOOK_BACK));
        if readable {
            // Commits that were seen when no key was at hand, or that were damaged, are tried again.
            from = unread.first().map(|head| head.sequence).min(from).or(from);
        } else {
            have.extend(&unread);
        }
        // And those of which the store was never asked when it received them: once, after an older lifeboat.
        from = self.catalog.first_unreceived(row)?.min(from).or(from);
        if self.hold.is_some() {
            // Whatever was put far back, a keeper sees it before it has been there for the hold.
            from = None;
        }
        let (mut listed, rulings) = self.list_log_and_rulings(name, from)?;
        self.take_rulings(name, &rulings, report)?;
        if self.counts_too_much(name, row)? {
            report.problems.push(Problem::StillCounted { writer: name.to_owned() });
        }
        let end = self.log_end(name)?;
        known = known.filter(|known| end.is_none_or(|end| known.sequence <= end));
        self.leave_out(name, &mut listed)?;
        let sane = known.map_or(0, |head| head.sequence) + LEAP_MAX;
        for junk in listed.iter().filter(|l| l.head.sequence > sane) {
            let why = "its place is far beyond the log's end".to_owned();
            report.problems.push(Problem::BadCommit { key: junk.key.clone(), why });
        }
        listed.retain(|l| l.head.sequence <= sane);
        if let Some(known) = known
            && !listed.iter().any(|l| l.head == known)
        {
            let Head { sequence, digest } = known;
            report.problems.push(Problem::MissingCommit { writer: name.to_owned(), sequence, digest });
        }
        self.set_believed_until(name, &listed)?;
        let mut fresh: Vec<&Listed> = listed.iter().filter(|l| !have.contains(&l.head)).collect();
        self.in_order_of_belief(&mut fresh);
        if !fresh.is_empty() {
            progress.event(Event::Stage("reading the log"));
        }
        for object in fresh {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            if readable {
                self.take_commit(name, row, object, report)?;
            } else {
                self.catalog.note_unreadable(row, object.head)?;
            }
            report.commits += 1;
        }
        if readable {
            self.recount_behind_holes(name, row, &unread, &listed)?;
            let received: Vec<_> = listed.iter().map(|listed| (listed.head, listed.received)).collect();
            self.catalog.note_received(row, &received)?;
            self.believe_held(name, row)?;
        }
        // Several ends: a fork that no commit has joined yet. A joined one is history.
        // And of a log that has ended: nobody may join it any more.
        let heads = self.catalog.heads(row)?;
        if heads.len() > 1 && self.standing(name)?.current().is_some() {
            let twice = listed.windows(2).find(|pair| pair[0].head.sequence == pair[1].head.sequence);
            let sequence = twice.map_or(heads[0].sequence, |pair| pair[0].head.sequence);
            report.problems.push(Problem::Fork { writer: name.to_owned(), sequence });
        }
        Ok(())
    }

    /// Snapshots that were taken over while a commit before them could not be read lack that commit's frames: once it was
    /// read, they are counted again.
    fn recount_behind_holes(
        &mut self,
        name: &str,
        row: WriterRow,
        unread: &[Head],
        listed: &[Listed],
    ) -> Result<(), Error> {
        if unread.is_empty() {
            return Ok(());
        }
        let still = self.catalog.commits(row, false)?;
        let Some(closed) = unread.iter().filter(|head| !still.contains(head)).map(|head| head.sequence).min() else {
            return Ok(());
        };
        let have: HashSet<Head> = self.catalog.commits(row, true)?.into_iter().collect();
        for object in listed.iter().filter(|l| l.head.sequence > closed && have.contains(&l.head)) {
            let commit = self.read_commit(name, object)?;
            self.catalog.recount(CommitAt { writer: row, digest: object.head.digest, commit: &commit })?;
        }
        Ok(())
    }

    /// The log from a place on, in its order.
    pub(super) fn list_log(&self, writer: &str, from: Option<u64>) -> Result<Vec<Listed>, Error> {
        Ok(self.list_log_and_rulings(writer, from)?.0)
    }

    /// The same, and the keys of the rulings, which sort behind every commit.
    pub(super) fn list_log_and_rulings(
        &self,
        writer: &str,
        from: Option<u64>,
    ) -> Result<(Vec<Listed>, Vec<String>), Error> {
        let folder = format!("writers/{writer}/log");
        // The offset sorts before every name of its sequence, so that the last known commit is listed too.
        let after = from.map(|sequence| format!("{folder}/{sequence:012}"));
        let (mut all, mut rulings): (Vec<Listed>, Vec<String>) = (Vec::new(), Vec::new());
        for object in self.store.list(&folder, after.as_deref())? {
            match parse_commit_key(&object.key) {
                Some((sequence, digest)) => {
                    let head = Head { sequence, digest };
                    all.push(Listed { key: object.key, head, size: object.size, received: object.received });
                }
                None if parse_ruling_key(&object.key).is_some() => rulings.push(object.key),
                None => tracing::warn!(key = object.key, "an object in a log that is no commit is left out"),
            }
        }
        all.sort_by_key(|l| l.head);
        Ok((all, rulings))
    }

    fn take_commit(
        &mut self,
        writer: &str,
        row: WriterRow,
        object: &Listed,
        report: &mut SyncReport,
    ) -> Result<(), Error> {
        let commit = match self.open_commit(writer, object) {
            // Before it is looked into: what is in a commit that does not count is nobody's concern.
            Ok((era, _)) if !self.counts(writer, era, object)? => return Ok(()),
            Ok((signer, content)) => self.parse_commit(writer, object, signer, &content).map(|commit| (signer, commit)),
            Err(e) => Err(e),
        };
        let mut commit = match commit {
            Ok((signer, commit)) => self.believed(object, signer, commit)?,
            // Not noted in the catalog: only what is signed, and what a signed commit names as its parent, is a part of
            // a log. Anybody who may write to the store can put other things there.
            Err(Error::BadObject { key, why }) => {
                report.problems.push(Problem::BadCommit { key, why });
                return Ok(());
            }
            Err(Error::NewerCommit { key, program }) => {
                self.not_understood.insert(writer.to_owned(), (key.clone(), program.clone()));
                report.problems.push(Problem::NewerCommit { key, program });
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        commit.header.parents = self.counting_parents(writer, &commit.header)?;
        for parent in &commit.header.parents {
            if self.catalog.knows(row, parent)? {
                continue;
            }
            let sequence = commit.header.sequence.saturating_sub(1);
            let writer = writer.to_owned();
            report.problems.push(Problem::MissingCommit { writer, sequence, digest: *parent });
            self.catalog.note_unreadable(row, Head { sequence, digest: *parent })?;
        }
        let at = CommitAt { writer: row, digest: object.head.digest, commit: &commit };
        match self.catalog.ingest(at, &ChunkTables::new(), 0) {
            Ok(_) => Ok(()),
            Err(catalog::Error::BadCommit { why, .. }) => {
                report.problems.push(Problem::BadCommit { key: object.key.clone(), why });
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Reads one commit that counts; whatever is wrong with it is `BadObject`.
    pub(super) fn read_commit(&mut self, writer: &str, object: &Listed) -> Result<Commit, Error> {
        let (era, content) = self.open_commit(writer, object)?;
        if self.counts(writer, era, object)? {
            return self.parse_commit(writer, object, era, &content);
        }
        Err(Error::BadObject { key: object.key.clone(), why: "it was signed after that key's time".to_owned() })
    }

    /// Reads one commit, and says which era's key signed it: whether it counts is another question. What is wrong is `BadObject`.
    pub(super) fn read_signed(&mut self, writer: &str, object: &Listed) -> Result<(usize, Commit), Error> {
        let (era, content) = self.open_commit(writer, object)?;
        Ok((era, self.parse_commit(writer, object, era, &content)?))
    }

    /// What one of the signers of a log signed under the name of a commit, and which.
    fn open_commit(&mut self, writer: &str, object: &Listed) -> Result<(usize, Vec<u8>), Error> {
        let bad = |why: String| Error::BadObject { key: object.key.clone(), why };
        if object.size > limits::COMMIT_MAX as u64 {
            return Err(bad(format!("it has {} bytes, more than a commit may have", object.size)));
        }
        let sealed = match self.store.get(&object.key, limits::COMMIT_MAX as u64) {
            Ok(sealed) => sealed,
            Err(e @ (crate::store::Error::Truncated { .. } | crate::store::Error::NotFound { .. })) => {
                return Err(bad(e.to_string()));
            }
            Err(e) => return Err(e.into()),
        };
        if blake3::hash(&sealed).as_bytes() != object.head.digest.as_bytes() {
            return Err(bad("its bytes do not match its name".to_owned()));
        }
        let standing = self.standing(writer)?;
        let mut why = "no key at hand opens it".to_owned();
        let opened = self.log_openers(writer).into_iter().find_map(|opener| {
            opener.open_compressed(&sealed, limits::COMMIT_MAX).map_err(|e| why = e.to_string()).ok()
        });
        let text = match opened {
            Some(text) => text,
            None => self.resealed_text(writer, object)?.ok_or_else(|| bad(why))?,
        };
        let mut signed = Err(bad("nobody may have signed it".to_owned()));
        for (signer, (key, _)) in standing.signers().into_iter().enumerate().rev() {
            match open_signed(COMMIT_CONTEXT, &text, &key, writer) {
                Ok(content) => {
                    signed = Ok((signer, content.to_vec()));
                    break;
                }
                Err(e) if signed.is_err() => signed = Err(bad(e.to_string())),
                Err(_) => {}
            }
        }
        signed
    }

    /// Reads what was signed under the name of a commit: it must be made for that place, and say what its signer may say.
    fn parse_commit(&mut self, writer: &str, object: &Listed, signer: usize, content: &[u8]) -> Result<Commit, Error> {
        let bad = |why: String| Error::BadObject { key: object.key.clone(), why };
        let commit = Commit::parse(content).map_err(|why| match Commit::made_by_newer(content) {
            Some(program) => Error::NewerCommit { key: object.key.clone(), program },
            None => bad(why),
        })?;
        let header = &commit.header;
        let place = (header.repository, header.writer.as_str(), header.sequence);
        if place != (self.description.repository, writer, object.head.sequence) {
            return Err(bad(format!("it is commit {} of `{}`, put here", header.sequence, header.writer)));
        }
        if self.standing(writer)?.is_keeper(signer) && !commit.lines.iter().all(keeper_may_say) {
            return Err(bad("a keeper signed it, and it says what only its writer may".to_owned()));
        }
        Ok(commit)
    }

    /// What commits say that they saw of other writers must still be in the store: a withheld end is noticed here.
    fn check_seen(&mut self, report: &mut SyncReport) -> Result<(), Error> {
        for (_, writer, head) in self.catalog.unseen()? {
            // A keeper's catalog is of one writer alone.
            if self.hold.is_some() || self.is_left_out(&writer, &head)? {
                continue;
            }
            let Head { sequence, digest } = head;
            let missing = Problem::MissingCommit { writer, sequence, digest };
            if !report.problems.contains(&missing) {
                report.problems.push(missing);
            }
        }
        Ok(())
    }

    /// Reads this host's own log beyond what the catalog knows.
    pub(super) fn sync_own(&mut self, progress: &dyn Progress) -> Result<SyncReport, Error> {
        let (name, mut report) = (self.host()?.name.clone(), SyncReport::default());
        self.sync_writer(&name, &mut report, progress)?;
        self.check_may_write()?;
        self.leave_out_lost(&mut report.problems)?;
        Ok(report)
    }

    /// Adds a commit to the host's log. `lines` is given the number of the first frame that the commit adds, because
    /// snapshots count their frames in it. Waits for other processes of this host; whatever they committed meanwhile is
    /// read first. Where there are no lines, there is no commit.
    pub(super) fn commit(
        &mut self,
        now: Moment,
        chunks: &ChunkTables,
        progress: &dyn Progress,
        lines: MakeLines<'_>,
    ) -> Result<(Option<CommitId>, SyncReport), Error> {
        self.commit_lines(now, chunks, progress, lines, false)
    }

    /// The same with a commit that may say nothing.
    pub(super) fn commit_even_nothing(
        &mut self,
        now: Moment,
        chunks: &ChunkTables,
        progress: &dyn Progress,
        lines: MakeLines<'_>,
    ) -> Result<(Option<CommitId>, SyncReport), Error> {
        self.commit_lines(now, chunks, progress, lines, true)
    }

    fn commit_lines(
        &mut self,
        now: Moment,
        chunks: &ChunkTables,
        progress: &dyn Progress,
        lines: MakeLines<'_>,
        even_nothing: bool,
    ) -> Result<(Option<CommitId>, SyncReport), Error> {
        let _lock = self.folder.commit_lock()?;
        let name = self.host()?.name.clone();
        let mut report = SyncReport::default();
        self.sync_writer(&name, &mut report, progress)?;
        self.check_may_write()?;
        let row = self.catalog.writer(&name)?;
        let (_, moves) = self.catalog.next_numbers(row)?;
        if !moves.is_empty() {
            // The fork is joined by a commit of its own, so that whatever follows counts in the new numbers.
            let join = moves.into_iter().map(CommitLine::Renumber).collect();
            self.append(&name, row, now, join, &ChunkTables::new())?;
        }
        let (first_frame, _) = self.catalog.next_numbers(row)?;
        let mut content = lines(self, first_frame)?;
        if content.is_empty() && !even_nothing {
            self.leave_out_lost(&mut report.problems)?;
            return Ok((None, report));
        }
        content.extend(self.seen_lines(&name)?);
        let id = self.append(&name, row, now, content, chunks)?;
        // The commit is made; a store that fails now must not make it look as if it were not.
        if let Err(e) = self.sync_writer(&name, &mut report, progress) {
            progress.event(Event::Warning(&format!("the log was not read again after the commit: {e}")));
        }
        // Ended or given away meanwhile: then what was committed may count for nobody.
        self.check_standing()?;
        self.leave_out_lost(&mut report.problems)?;
        Ok((Some(id), report))
    }

    /// Refuses to add to a log that is this host's no more, or of which newer commits are not understood: the next one would stand beside them.
    pub(super) fn check_may_write(&self) -> Result<(), Error> {
        self.check_standing()?;
        match self.not_understood.get(&self.host()?.name) {
            Some((key, program)) => Err(Error::NewerCommit { key: key.clone(), program: program.clone() }),
            None => Ok(()),
        }
    }

    fn seen_lines(&mut self, own: &str) -> Result<Vec<CommitLine>, Error> {
        let mut seen = Vec::new();
        for (row, writer) in self.catalog.writers()? {
            if writer != own
                && let Some(Head { sequence, digest }) = self.catalog.newest(row)?
            {
                seen.push(Seen { writer, sequence, digest });
            }
        }
        Ok(seen.into_iter().map(CommitLine::Seen).collect())
    }

    fn append(
        &mut self,
        name: &str,
        row: WriterRow,
        now: Moment,
        lines: Vec<CommitLine>,
        chunks: &ChunkTables,
    ) -> Result<CommitId, Error> {
        let heads = self.catalog.heads(row)?;
        let sequence = heads.iter().map(|head| head.sequence).max().unwrap_or(0) + 1;
        let (first_frame, _) = self.catalog.next_numbers(row)?;
        let header = CommitHeader {
            commit: 1,
            repository: self.description.repository,
            writer: name.to_owned(),
            sequence,
            parents: heads.iter().map(|head| head.digest).collect(),
            time: now,
            first_frame,
            program: concat!("lifeboat ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let commit = Commit { header, lines };
        let bad = |why: String| Error::BadObject { key: format!("commit {sequence}"), why };
        let text = commit.encode().map_err(|e| bad(e.to_string()))?;
        if text.len() > limits::COMMIT_MAX {
            return Err(bad("it would be larger than a commit may be".to_owned()));
        }
        let host = self.host()?;
        let keys = |source| Error::Keys { what: "the commit".to_owned(), source };
        let sealed =
            self.log_sealer()?.seal_compressed(&sign_text(COMMIT_CONTEXT, &text, &host.signing)).map_err(keys)?;
        let digest = CommitId::new(*blake3::hash(&sealed).as_bytes());
        self.store.appender().create(&commit_key(name, sequence, &digest), &[Bytes::from(sealed)])?;
        self.catalog.ingest(CommitAt { writer: row, digest, commit: &commit }, chunks, now.timestamp())?;
        Ok(digest)
    }

    /// Reads the directories of packs whose chunk ids are not in the catalog: what a rebuilt catalog needs before it can
    /// deduplicate. Packs that do not open are named and left out.
    pub fn load_chunks(&mut self, writer: &str, progress: &dyn Progress) -> Result<u64, Error> {
        let row = self.catalog.writer(writer)?;
        let unknown: Vec<catalog::PackRow> =
            self.catalog.packs(row)?.into_iter().filter(|pack| !pack.chunks_known && !pack.deleted).collect();
        let mut loaded = 0;
        if !unknown.is_empty() {
            progress.event(Event::Stage("reading pack directories"));
            progress.event(Event::Expect { items: unknown.len() as u64, bytes: 0 });
        }
        for pack in unknown {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            match self.directory(writer, &pack.id, pack.directory_at, pack.directory_length) {
                Ok(directory) => {
                    self.catalog.add_chunks(&pack, &directory.chunks)?;
                    loaded += 1;
                }
                Err(Error::Store(crate::store::Error::NotFound { .. }))
                | Err(Error::Store(crate::store::Error::Truncated { .. }))
                | Err(Error::Pack { .. }) => {
                    let text = format!("pack {} does not open and is not used; `lifeboat check` says more", pack.id);
                    progress.event(Event::Warning(&text));
                }
                Err(e) => return Err(e),
            }
            progress.event(Event::Done { items: 1, bytes: 0 });
        }
        Ok(loaded)
    }

    /// Reads the repository anew: forgets the catalog, reads all logs and the directories of the host's own packs.
    pub fn rebuild_catalog(&mut self, progress: &dyn Progress) -> Result<SyncReport, Error> {
        let io = |source| Error::Io { doing: "lock", path: self.folder.path().to_owned(), source };
        // Others keep numbers of its rows in mind, a run that is backing up above all.
        let alone = self.catalog_lock.become_alone().map_err(io)?;
        let report = if alone { self.rebuild_alone(progress) } else { Err(Error::CatalogInUse) };
        self.catalog_lock.share().map_err(|source| Error::Io {
            doing: "lock",
            path: self.folder.path().to_owned(),
            source,
        })?;
        report
    }

    fn rebuild_alone(&mut self, progress: &dyn Progress) -> Result<SyncReport, Error> {
        let _lock = self.folder.commit_lock()?;
        self.catalog.clear()?;
        let fingerprint = self.fingerprint.to_string();
        self.catalog.set_fact("repository", &fingerprint)?;
        let report = self.sync(progress)?;
        if let Ok(host) = self.host() {
            let name = host.name.clone();
            self.load_chunks(&name, progress)?;
        }
        Ok(report)
    }

    /// Names of all writers with their rows.
    pub fn writer_names(&self) -> Result<HashMap<WriterRow, String>, Error> {
        Ok(self.catalog.writers()?.into_iter().collect())
    }
}
