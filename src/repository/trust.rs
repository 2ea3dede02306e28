//! What deduplication may refer to: frames and chunks of this writer, in packs that were put or listed within the last
//! day, sealed to today's recipients, not damaged, not marked for rewriting. It has its own connection to the catalog, so
//! that the thread that walks a source can ask while another one commits.
//!
//! Frames that only forgotten snapshots use are as good as others until a commit retires their packs: a snapshot that refers to them
//! names them in its `uses`. What was retired before the run began is not referred to. What is retired while it goes on still is, so that
//! what it has found stays found; `keeps` then sees to it that those packs stay.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::by_digest::ByDigest;
use super::{Error, Repository};
use crate::catalog::{Catalog, FrameState, WriterRow};
use crate::model::{ChunkId, Digest, Extent, FrameId};

/// Answers for frames that are kept at hand at most; beyond it all are asked for again.
const FRAMES_KEPT: usize = 100_000;
/// Chunks of loaded frames that are kept at hand at most.
const CHUNKS_KEPT: usize = 200_000;

/// Questions that are answered as of one moment at most.
const ASKED_MAX: u32 = 1_000;

/// A frame that may be referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// The frame's row in the catalog.
    pub row: i64,
    /// Plain bytes.
    pub plain: u64,
}

/// Answers what may be referred to.
pub struct Trust {
    catalog: Catalog,
    writer: WriterRow,
    list: Digest,
    marked: Arc<HashSet<i64>>,
    frames: HashMap<FrameId, Option<Trusted>>,
    /// Row and id of the frame that a chunk lies in, and its place there.
    chunks: HashMap<ChunkId, (i64, FrameId, u32), ByDigest>,
    loaded: HashSet<i64>,
    indexed: bool,
    /// What was retired by commits up to this row of the catalog is not referred to.
    horizon: i64,
    /// Questions to the catalog since it was read anew.
    asked: u32,
}

impl Repository {
    /// A view of what this host may refer to. `marked` are the frames whose chunks are to be stored anew.
    pub fn trust(&mut self, marked: Arc<HashSet<i64>>) -> Result<Trust, Error> {
        let writer = self.host_row()?;
        let catalog = Catalog::open(self.catalog.path())?;
        let indexed = catalog.has_chunks()?;
        let horizon = self.run_horizon()?;
        Ok(Trust {
            catalog,
            horizon,
            writer,
            list: self.host()?.recipients_list,
            marked,
            frames: HashMap::new(),
            chunks: HashMap::default(),
            loaded: HashSet::new(),
            indexed,
            asked: 0,
        })
    }
}

impl Trust {
    /// The frame, if it may be referred to.
    pub fn frame(&mut self, id: &FrameId) -> Result<Option<Trusted>, Error> {
        if let Some(known) = self.frames.get(id) {
            return Ok(*known);
        }
        self.ask()?;
        let found = self.catalog.find_frame_of(self.writer, id)?.filter(|frame| {
            let retired = (1..=self.horizon).contains(&frame.retired);
            frame.state == FrameState::Good
                && frame.recipients == self.list
                && !retired
                && !self.marked.contains(&frame.row)
        });
        let answer = found.map(|frame| Trusted { row: frame.row, plain: frame.plain });
        if self.frames.len() >= FRAMES_KEPT {
            self.frames.clear();
        }
        self.frames.insert(*id, answer);
        Ok(answer)
    }

    /// Whether every frame of the extents may be referred to.
    pub fn all(&mut self, extents: &[Extent]) -> Result<bool, Error> {
        for extent in extents {
            if let Some(id) = extent.frame {
                match self.frame(&id)? {
                    Some(frame) if extent.offset + extent.length <= frame.plain => {}
                    _ => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    /// Where a chunk lies already: a frame that may be referred to, and its place in it.
    pub fn chunk(&mut self, id: &ChunkId) -> Result<Option<(FrameId, u32)>, Error> {
        if let Some((_, frame, offset)) = self.chunks.get(id) {
            return Ok(Some((*frame, *offset)));
        }
        if !self.indexed {
            return Ok(None);
        }
        self.ask()?;
        for row in self.catalog.frames_with(self.writer, id)? {
            // Newest first. Where that one is to be emptied, an older copy lies in a frame that was emptied before: to refer to
            // it would bring a frame back of which nothing else is used.
            if self.marked.contains(&row) {
                return Ok(None);
            }
            if !self.load(row)? {
                continue;
            }
            if let Some((_, frame, offset)) = self.chunks.get(id) {
                return Ok(Some((*frame, *offset)));
            }
        }
        Ok(None)
    }

    /// Chunks that were committed meanwhile may be asked for from now on.
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.indexed = true;
        self.frames.retain(|_, known| known.is_some());
        self.pause()
    }

    /// Before something that takes long, a commit above all: SQLite's log cannot begin anew while somebody reads.
    pub fn pause(&mut self) -> Result<(), Error> {
        self.asked = 0;
        Ok(self.catalog.end_reading()?)
    }

    /// Before a question: many of them are answered as of one moment.
    fn ask(&mut self) -> Result<(), Error> {
        if self.asked >= ASKED_MAX {
            self.asked = 0;
            self.catalog.end_reading()?;
        }
        if self.asked == 0 {
            self.catalog.begin_reading()?;
        }
        self.asked += 1;
        Ok(())
    }

    /// Loads a frame's chunks: neighbours of a chunk that was found are what is asked for next.
    fn load(&mut self, row: i64) -> Result<bool, Error> {
        if self.loaded.contains(&row) {
            return Ok(true);
        }
        let frame = self.catalog.frame(row)?;
        if self.frame(&frame.id)?.is_none() {
            return Ok(false);
        }
        let Some(chunks) = self.catalog.chunks_of(row)? else { return Ok(false) };
        // A length that rotted would shift all chunks behind it: a reference to wrong bytes that nothing would notice.
        if chunks.iter().map(|(_, length)| u64::from(*length)).sum::<u64>() != frame.plain {
            tracing::warn!(frame = %frame.id.short(), "its chunks in the catalog do not add up; it is not referred to");
            return Ok(false);
        }
        if self.chunks.len() >= CHUNKS_KEPT {
            self.chunks.clear();
            self.loaded.clear();
        }
        let mut offset = 0;
        for (id, length) in chunks {
            let place = self.chunks.entry(id).or_insert((row, frame.id, offset));
            // The copy in the newest frame is the one that is referred to.
            if place.0 < row {
                *place = (row, frame.id, offset);
            }
            offset += length;
        }
        self.loaded.insert(row);
        Ok(true)
    }
}
