//! Every limit on one page; their relations are checked by the compiler. Sizes are bytes.

/// Plain bytes at which a frame is closed.
pub const FRAME_TARGET: usize = 2 << 20;
/// Plain bytes that a frame may hold at most; a reader refuses more.
pub const FRAME_MAX: usize = 8 << 20;
/// Stored bytes at which a pack is closed.
pub const PACK_TARGET: usize = 32 << 20;
/// Chunks at which a pack is closed, however well they compress: its directory's table has 36 bytes for each.
pub const PACK_CHUNKS: usize = 500_000;
/// Stored bytes that a pack may hold at most; a reader refuses more.
pub const PACK_MAX: u64 = 256 << 20;
/// Plain bytes of a pack's directory at most.
pub const DIRECTORY_MAX: usize = 64 << 20;
/// Plain bytes of a commit at most.
pub const COMMIT_MAX: usize = 256 << 20;
/// Frame numbers and places in logs at most: sums of a few stay far from overflowing, and every JSON reader keeps them exact.
pub const NUMBER_MAX: u64 = 1 << 53;
/// Phases and checks of a drill's record at most.
pub const DRILL_PARTS_MAX: usize = 1000;
/// Bytes of small JSON objects (`lifeboat.json`, keys, writers) at most.
pub const SMALL_MAX: usize = 1 << 20;
/// Extents that one line of a manifest holds: some 3.5 MB. Where a file has more, further lines follow.
pub const EXTENTS_PER_LINE: usize = 50_000;
/// Extents of one file at most: 64 TiB of one that is whole, and still 1.2 TB where one chunk in four is another day's.
pub const EXTENTS_MAX: usize = 32 << 20;
/// A further line of a manifest, which holds nothing but extents, at most.
pub const MANIFEST_MORE_MAX: usize = 8 << 20;
/// One line of a manifest at most.
pub const MANIFEST_LINE_MAX: usize = 64 << 20;
/// The longest chunk of any cutting.
pub const CHUNK_MAX: usize = 1 << 20;
/// A file up to this size is read whole by one thread and kept in one buffer.
pub const SMALL_FILE_MAX: u64 = 1 << 20;
/// Block in which large files are read.
pub const READ_BLOCK: usize = 1 << 20;
/// What sealing may add to a frame: age's header for up to 20 recipients and 16 bytes for each 64 KiB.
pub const SEAL_OVERHEAD: usize = 16 << 10;
/// Two ranges of a pack closer than this are fetched by one request.
pub const FETCH_GAP: u64 = 256 << 10;
/// One fetch at most.
pub const FETCH_MAX: u64 = 16 << 20;
/// Entries of a manifest that a restore holds at once.
pub const RESTORE_WINDOW_ENTRIES: usize = 200_000;
/// Extents that they have at most, but for those of the last one: some 60 bytes each.
pub const RESTORE_WINDOW_EXTENTS: usize = 2_000_000;
/// Plain bytes that one window of a restore writes or compares at most.
pub const RESTORE_WINDOW_BYTES: u64 = 64 << 30;
/// Plain bytes of a segment of a stream at most: the largest that PostgreSQL's WAL can have.
pub const SEGMENT_MAX: usize = 1 << 30;
/// Symbolic links, names and xattr values at most, as Linux has them.
pub const XATTR_MAX: usize = 64 << 10;

const _: () = assert!(FRAME_TARGET + CHUNK_MAX <= FRAME_MAX);
const _: () = assert!(PACK_TARGET + FRAME_MAX + SEAL_OVERHEAD < PACK_MAX as usize);
const _: () = assert!(PACK_CHUNKS * 36 + (FRAME_MAX / 512) * 36 + (16 << 20) < DIRECTORY_MAX);
const _: () = assert!(SMALL_FILE_MAX as usize <= CHUNK_MAX);
const _: () = assert!(EXTENTS_PER_LINE * 100 + (8 << 20) < MANIFEST_LINE_MAX);
const _: () = assert!(EXTENTS_PER_LINE * 140 < MANIFEST_MORE_MAX);
const _: () = assert!(FETCH_MAX as usize > FRAME_MAX + SEAL_OVERHEAD);
