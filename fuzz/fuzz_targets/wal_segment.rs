//! WAL segments: any bytes, any content below a right header, and whole logs of records whose CRCs match. Facts stay within
//! the segment, those of a part are the beginning of those of the whole, memory is bounded by a constant; every commit of a
//! log is found once, wherever it crosses a border.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::format::wal::{SegmentFacts, check_segment, join, join_restore_point, scan};
use lifeboat::model::{SegmentName, SegmentSize, Timeline};
use lifeboat_fuzz::{MIB, bounded};

const BLOCK: usize = 8192;
const NAME: SegmentName = SegmentName { timeline: Timeline(3), log: 2, segment: 0xFFE };
/// Of a log in all.
const LOG_MAX: usize = 3 * MIB;

fuzz_target!(|input: &[u8]| {
    let _ = (check_segment(input, NAME), bounded(MIB, || scan(input, NAME)));
    let mut log = Log::default();
    for (n, page) in input.chunks(BLOCK - 40).enumerate() {
        log.header(if n == 0 { u16::from(page[0] & 9) } else { 1 }, input.len());
        log.bytes.extend_from_slice(page);
        log.bytes.resize((n + 1) * BLOCK, 0);
    }
    if let Ok(whole) = bounded(MIB, || scan(&log.bytes, NAME)) {
        within(&whole);
        let cut = log.bytes.len() / 3;
        if let Ok(part) = scan(&log.bytes[..cut], NAME) {
            assert!(part.end <= whole.end && part.commits <= whole.commits && part.aborts <= whole.aborts);
            assert!(whole.restore_points.starts_with(&part.restore_points));
        }
    }
    records(input);
});

fn within(facts: &SegmentFacts) {
    assert!(facts.start <= facts.end && facts.end.since(facts.start) <= MIB as u64);
    for ended in facts.first.iter().chain(&facts.last) {
        assert!(facts.start < ended.end && ended.end <= facts.end);
        let _ = ended.moment();
    }
    let text = serde_json::to_string(facts).expect("JSON");
    assert_eq!(&serde_json::from_str::<SegmentFacts>(&text).expect("our own"), facts);
}

/// The input as orders to a writer of logs: kind, length (u16), a number; the bytes of the record.
fn records(mut input: &[u8]) {
    let (mut log, mut known, mut wild) = (Log::default(), 0, 0);
    while let Some(([kind, low, high, number], rest)) = input.split_first_chunk::<4>() {
        if log.bytes.len() > LOG_MAX {
            break;
        }
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        input = rest;
        match kind % 4 {
            0 => {
                // Of a commit's data only the time is read; what follows is anything.
                let data = [&[254][..], &(8 + length as u32).to_le_bytes(), &[*number; 8], body].concat();
                log.put(1, [0x00, 0x80, 0x20, 0x30, 0x40][usize::from(number % 5)], &data);
                known += 1;
            }
            1 => {
                let manager = number % 3;
                // A switch would end the segment, which this writer does not do.
                let info = if manager == 0 && low & 0xF0 == 0x40 { 0 } else { *low };
                log.put(manager, info, body);
                wild += u64::from(manager == 1);
            }
            2 => log.put(9, 0, &vec![*low; usize::from(*number) * 512]),
            _ => {
                let left = MIB - log.bytes.len() % MIB;
                let padding = left.saturating_sub(8 * usize::from(*number) + 24);
                log.put(9, 0, &vec![0; padding - padding / BLOCK * 24]);
            }
        }
    }
    let size = SegmentSize::new(MIB as u64).expect("a size");
    let (mut name, mut tail, mut found) = (NAME, None, 0);
    let count = log.bytes.len().div_ceil(MIB);
    for (n, part) in log.bytes.chunks(MIB).enumerate() {
        let facts = bounded(MIB, || scan(part, name)).expect("a right header");
        within(&facts);
        assert_eq!(facts.full, n + 1 < count || part.len() == MIB);
        if let (Some(tail), Some(head)) = (&tail, &facts.head) {
            found += u64::from(join(tail, head).is_some());
            let _ = join_restore_point(tail, head);
        }
        found += facts.commits + facts.aborts;
        if n + 1 == count {
            assert_eq!(facts.end.since(facts.start), part.len() as u64, "the log's end");
        }
        tail = facts.tail;
        name = name.next(size).expect("not the last");
    }
    assert!((known..=known + wild).contains(&found), "{known} ends of transactions, {wild} perhaps, {found} found");
}

/// Writes a log as a server does.
#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    prev: u64,
}

impl Log {
    fn start() -> u64 {
        (u64::from(NAME.log) << 32) + u64::from(NAME.segment) * MIB as u64
    }

    fn header(&mut self, flags: u16, remaining: usize) {
        let long = self.bytes.len().is_multiple_of(MIB);
        let address = Self::start() + self.bytes.len() as u64;
        self.bytes.extend_from_slice(&0xD118u16.to_le_bytes());
        self.bytes.extend_from_slice(&(flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend_from_slice(&NAME.timeline.0.to_le_bytes());
        self.bytes.extend_from_slice(&address.to_le_bytes());
        self.bytes.extend_from_slice(&u64::from(remaining as u32).to_le_bytes());
        if long {
            self.bytes.extend_from_slice(&7u64.to_le_bytes());
            self.bytes.extend_from_slice(&(MIB as u32).to_le_bytes());
            self.bytes.extend_from_slice(&(BLOCK as u32).to_le_bytes());
        }
    }

    fn put(&mut self, manager: u8, info: u8, body: &[u8]) {
        if self.bytes.len().is_multiple_of(BLOCK) {
            self.header(0, 0);
        }
        let begin = Self::start() + self.bytes.len() as u64;
        let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&9u32.to_le_bytes());
        record.extend_from_slice(&self.prev.to_le_bytes());
        record.extend_from_slice(&[info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend_from_slice(&crc.to_le_bytes());
        record.extend_from_slice(body);
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(BLOCK) {
                self.header(1, rest.len());
            }
            let room = BLOCK - self.bytes.len() % BLOCK;
            let (piece, behind) = rest.split_at(room.min(rest.len()));
            self.bytes.extend_from_slice(piece);
            rest = behind;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.prev = begin;
    }
}
