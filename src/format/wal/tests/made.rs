//! Logs that are written here, from records that are known: every length, every crossing of a border, crashes.

use super::super::*;
use super::{BLOCK, MIB, name, size};
use proptest::prelude::*;

/// Writes a log as a server does.
struct Log {
    base: SegmentName,
    bytes: Vec<u8>,
    prev: u64,
    /// Where records lie: beginning and end.
    places: Vec<(Lsn, Lsn)>,
}

impl Log {
    fn new(base: SegmentName) -> Self {
        Self { base, bytes: Vec::new(), prev: 0, places: Vec::new() }
    }

    fn page_header(&mut self, flags: u16, remaining: usize) {
        assert!(self.bytes.len().is_multiple_of(BLOCK));
        let long = self.bytes.len().is_multiple_of(MIB as usize);
        let address = self.base.start(size()).plus(self.bytes.len() as u64);
        self.bytes.extend(0xD118u16.to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.base.timeline.0.to_le_bytes());
        self.bytes.extend(address.0.to_le_bytes());
        self.bytes.extend((remaining as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend((MIB as u32).to_le_bytes());
            self.bytes.extend((BLOCK as u32).to_le_bytes());
        }
    }

    /// Writes a record, or only so many pages of it as `pages` allows: then a crash has lost the rest.
    fn put(&mut self, manager: u8, info: u8, body: &[u8], pages: usize) {
        if self.bytes.len().is_multiple_of(BLOCK) {
            self.page_header(0, 0);
        }
        let begin = self.base.start(size()).0 + self.bytes.len() as u64;
        let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
        record.extend(9u32.to_le_bytes());
        record.extend(self.prev.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        let (mut rest, mut page) = (record.as_slice(), 0);
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(BLOCK) {
                page += 1;
                if page == pages {
                    self.page_header(8, 0);
                    return;
                }
                self.page_header(1, rest.len());
            }
            let room = BLOCK - self.bytes.len() % BLOCK;
            let (piece, behind) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(piece);
            rest = behind;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.prev = begin;
        self.places.push((Lsn(begin), self.base.start(size()).plus(self.bytes.len() as u64)));
    }

    fn segments(&self) -> Vec<(Vec<u8>, SegmentName)> {
        let mut name = self.base;
        let mut all = Vec::new();
        for part in self.bytes.chunks(MIB as usize) {
            let mut whole = part.to_vec();
            whole.resize(MIB as usize, 0);
            all.push((whole, name));
            name = name.next(size()).unwrap();
        }
        all
    }
}

fn commit_body(micros: i64, extra: usize) -> Vec<u8> {
    let data = [&(micros - 946_684_800_000_000).to_le_bytes()[..], &vec![0xAB; extra]].concat();
    match u8::try_from(data.len()) {
        Ok(short) => [&[253, 7, 0, 252, 1, 2, 3, 4, 255, short][..], &data].concat(),
        Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes(), &data].concat(),
    }
}

fn point_body(name: &str) -> Vec<u8> {
    let mut data = vec![0; 8];
    data.extend(name.as_bytes());
    data.resize(72, 0);
    [&[255, 72][..], &data].concat()
}

/// A record of a log made by chance: what it is, how much it holds, whether a crash cuts it off.
#[derive(Debug, Clone)]
enum Made {
    Commit(i64, usize),
    Abort(i64, usize),
    Point(u16),
    Other(usize),
    Lost(usize),
    /// Fills the segment up to so many bytes before its end.
    Fill(usize),
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        6 => (0i64..1 << 50, prop_oneof![0usize..300, Just(0), 0usize..20_000]).prop_map(|(t, n)| Made::Commit(t, n)),
        2 => (0i64..1 << 50, 0usize..9_000).prop_map(|(t, n)| Made::Abort(t, n)),
        2 => any::<u16>().prop_map(Made::Point),
        3 => prop_oneof![0usize..5_000, 0usize..400_000].prop_map(Made::Other),
        1 => (20_000usize..60_000).prop_map(Made::Lost),
        5 => (1usize..20).prop_map(|n| Made::Fill(8 * n)),
    ]
}

fn write(log: &mut Log, made: &[Made]) -> (Vec<CommitTime>, Vec<String>) {
    let (mut ends, mut points) = (Vec::new(), Vec::new());
    for one in made {
        match one {
            Made::Commit(time, extra) => log.put(1, 0x80, &commit_body(*time, *extra), usize::MAX),
            Made::Abort(time, extra) => log.put(1, 0x40, &commit_body(*time, *extra), usize::MAX),
            Made::Point(number) => log.put(0, 0x70, &point_body(&number.to_string()), usize::MAX),
            Made::Other(length) => log.put(10, 0, &vec![0; *length], usize::MAX),
            Made::Lost(length) => log.put(10, 0, &vec![0; *length], 1 + length % 2),
            Made::Fill(left) => {
                let rest = |log: &Log| MIB as usize - log.bytes.len() % MIB as usize;
                while rest(log) > left + BLOCK {
                    let length = (rest(log) - left - BLOCK).clamp(32, 200_000);
                    log.put(10, 0, &vec![0; length - 24], usize::MAX);
                }
                if let Some(body) = rest(log).checked_sub(left + 24) {
                    log.put(10, 0, &vec![0; body], usize::MAX);
                }
            }
        }
        let end = log.places.last().map_or(Lsn(0), |place| place.1);
        match one {
            Made::Commit(time, _) => ends.push(CommitTime { time: *time, end, committed: true }),
            Made::Abort(time, _) => ends.push(CommitTime { time: *time, end, committed: false }),
            Made::Point(number) => points.push(number.to_string()),
            _ => {}
        }
    }
    (ends, points)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_commit_of_a_log_is_found_once(all in prop::collection::vec(made(), 1..40)) {
        let mut log = Log::new(name("000000030000000200000FFE"));
        let (ends, points) = write(&mut log, &all);
        let segments = log.segments();
        let facts: Vec<_> = segments.iter().map(|(bytes, name)| scan(bytes, *name).unwrap()).collect();
        let (mut commits, mut aborts, mut found) = (0, 0, Vec::new());
        let mut tail: Option<&Tail> = None;
        for (n, one) in facts.iter().enumerate() {
            prop_assert_eq!(one.full, n + 1 < facts.len() || log.bytes.len().is_multiple_of(MIB as usize), "{}", n);
            let joined = tail.zip(one.head.as_ref());
            if let Some(ended) = joined.and_then(|(tail, head)| join(tail, head)) {
                prop_assert!(ends.contains(&ended));
                if ended.committed { commits += 1 } else { aborts += 1 }
            }
            found.extend(joined.and_then(|(tail, head)| join_restore_point(tail, head)).map(|p| p.name));
            found.extend(one.restore_points.iter().map(|p| p.name.clone()));
            commits += one.commits;
            aborts += one.aborts;
            // Of those that end in this segment, without the one that crossed into it.
            let range = segments[n].1.range(size());
            let own: Vec<_> = ends.iter().zip(ends_begin(&log, &ends)).filter(|(end, begin)| {
                *begin >= range.start && end.end <= range.end
            }).map(|(end, _)| *end).collect();
            prop_assert_eq!(one.first, own.first().copied());
            prop_assert_eq!(one.last, own.last().copied());
            prop_assert_eq!(one.latest, own.iter().map(|end| end.time).max());
            prop_assert_eq!(one.last_commit_end, own.iter().rfind(|end| end.committed).map(|end| end.end));
            let last = log.places.iter().rfind(|(_, end)| *end > range.start && *end <= range.end);
            prop_assert_eq!(one.end, last.map_or(range.start, |place| place.1));
            tail = one.tail.as_ref();
            let json = serde_json::to_string(one).unwrap();
            prop_assert_eq!(&serde_json::from_str::<SegmentFacts>(&json).unwrap(), one);
        }
        prop_assert_eq!(commits, ends.iter().filter(|end| end.committed).count() as u64);
        prop_assert_eq!(aborts, ends.iter().filter(|end| !end.committed).count() as u64);
        prop_assert_eq!(found, points);
    }

    #[test]
    fn a_changed_bit_never_adds_anything(
        all in prop::collection::vec(made(), 1..12), at in any::<prop::sample::Index>(), bit in 0..8
    ) {
        let mut log = Log::new(name("000000030000000200000001"));
        write(&mut log, &all);
        let (mut bytes, name) = log.segments().swap_remove(0);
        let before = scan(&bytes, name).unwrap();
        bytes[at.index(log.bytes.len().min(MIB as usize))] ^= 1u8 << bit;
        if let Ok(after) = scan(&bytes, name) {
            prop_assert!(after.end <= before.end && after.commits <= before.commits && after.aborts <= before.aborts);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600), header: bool, block in 0usize..3, repeat in 1usize..2000
    ) {
        let name = name("000000030000000200000001");
        if header {
            let mut log = Log::new(name);
            log.page_header(bytes.first().map_or(0, |byte| u16::from(byte & 9)), bytes.len() * repeat / 3);
            log.bytes[36..40].copy_from_slice(&[1024u32, 8192, 65_536][block].to_le_bytes());
            bytes = [log.bytes, bytes.repeat(repeat)].concat();
        }
        if let Ok(facts) = scan(&bytes, name) {
            prop_assert!(facts.start <= facts.end && facts.end <= facts.start.plus(MIB));
        }
        let _ = check_segment(&bytes, name);
    }

    #[test]
    fn any_stumps_are_joined_or_not(
        front in prop::collection::vec(any::<u8>(), 0..97), back in prop::collection::vec(any::<u8>(), 0..97),
        numbers: [u32; 4], fitting: bool
    ) {
        let (total, mut length, crc, mut remaining) = (numbers[0], numbers[1], numbers[2], numbers[3]);
        if fitting {
            length %= total.max(1);
            remaining = total - length;
        }
        let tail = Tail { bytes: front, total, length, crc, start: Lsn(0) };
        let head = Head { bytes: back, remaining, length: remaining, crc, end: Some(Lsn(9)) };
        let _ = join(&tail, &head);
    }
}

/// Where the records of these ends begin.
fn ends_begin(log: &Log, ends: &[CommitTime]) -> Vec<Lsn> {
    ends.iter().map(|end| log.places.iter().find(|place| place.1 == end.end).unwrap().0).collect()
}

#[test]
fn names_beyond_the_limit_are_counted() {
    let mut log = Log::new(name("000000010000000000000001"));
    for _ in 0..RESTORE_POINTS_MAX + 3 {
        log.put(0, 0x70, &point_body("p"), usize::MAX);
    }
    let (bytes, name) = log.segments().swap_remove(0);
    let facts = scan(&bytes, name).unwrap();
    assert_eq!((facts.restore_points.len(), facts.more_restore_points), (RESTORE_POINTS_MAX, 3));
}

#[test]
fn leftovers_of_a_recycled_file_are_no_log() {
    // An old record with a CRC that matches, at a page that says its place: only the place of the record before gives it away.
    let mut log = Log::new(name("000000010000000000000001"));
    log.put(1, 0, &commit_body(5, 0), usize::MAX);
    let end = log.bytes.len();
    log.prev = 12_345;
    log.put(1, 0, &commit_body(6, 0), usize::MAX);
    let (bytes, name) = log.segments().swap_remove(0);
    let facts = scan(&bytes, name).unwrap();
    assert_eq!((facts.commits, facts.end), (1, facts.start.plus(end as u64)));
    assert!(!facts.full);
}

#[test]
fn a_page_that_is_not_its_own_ends_the_log() {
    let mut log = Log::new(name("000000030000000000000001"));
    log.put(1, 0, &commit_body(5, 0), usize::MAX);
    let end = log.bytes.len() as u64;
    log.put(10, 0, &vec![0; 3 * BLOCK], usize::MAX);
    log.put(1, 0, &commit_body(6, 0), usize::MAX);
    let (bytes, name) = log.segments().swap_remove(0);
    assert_eq!(scan(&bytes, name).unwrap().commits, 2);
    // Magic, flags (a long header, an unknown flag, no continuation), timeline (lower, higher), address, what remains.
    for (at, byte) in [(0, 0x16), (2, 3), (3, 1), (2, 0), (4, 2), (4, 4), (9, 0), (15, 1), (16, 1), (19, 1)] {
        let mut bytes = bytes.clone();
        assert_ne!(bytes[BLOCK + at], byte);
        bytes[BLOCK + at] = byte;
        let facts = scan(&bytes, name).unwrap();
        assert_eq!((facts.commits, facts.end), (1, facts.start.plus(end)), "byte {at}");
        assert!(!facts.full && facts.tail.is_none());
    }
}

#[test]
fn the_first_record_of_a_segment_follows_one_before_it() {
    let base = name("000000010000000000000001");
    let mut log = Log::new(base);
    log.prev = base.start(size()).0;
    log.put(1, 0, &commit_body(5, 0), usize::MAX);
    let (bytes, name) = log.segments().swap_remove(0);
    let facts = scan(&bytes, name).unwrap();
    assert_eq!((facts.commits, facts.end), (0, facts.start));
}

#[test]
fn a_record_that_follows_none_crosses_no_border() {
    let mut log = Log::new(name("000000010000000000000001"));
    write(&mut log, &[Made::Commit(5, 0), Made::Fill(64)]);
    for (prev, crosses) in [(log.prev, true), (log.prev + 8, false)] {
        let mut log = Log { base: log.base, bytes: log.bytes.clone(), prev, places: Vec::new() };
        log.put(1, 0, &commit_body(6, 200), usize::MAX);
        let segments = log.segments();
        let facts = scan(&segments[0].0, segments[0].1).unwrap();
        assert_eq!((facts.full, facts.tail.is_some()), (crosses, crosses));
    }
}

#[test]
fn a_record_longer_than_a_segment_fills_it() {
    let mut log = Log::new(name("000000010000000000000001"));
    log.put(1, 0, &commit_body(5, 0), usize::MAX);
    log.put(1, 0, &commit_body(6, 5 << 19), usize::MAX);
    log.put(1, 0, &commit_body(7, 0), usize::MAX);
    let facts: Vec<_> = log.segments().iter().map(|(bytes, name)| scan(bytes, *name).unwrap()).collect();
    assert_eq!(facts.iter().map(|f| f.full).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(facts.iter().map(|f| f.commits).collect::<Vec<_>>(), [1, 0, 1]);
    let middle = &facts[1];
    assert_eq!((middle.end, middle.tail.as_ref()), (middle.start, None));
    let head = middle.head.as_ref().unwrap();
    assert!(head.end.is_none() && head.length < head.remaining);
    assert_eq!(join(facts[0].tail.as_ref().unwrap(), head), None);
    assert_eq!(join(facts[0].tail.as_ref().unwrap(), facts[2].head.as_ref().unwrap()), None);
}
