-- The whole schema of the catalog, as the newest migration leaves it. A test proves that the migrations lead here.
-- The catalog is a cache of the repository's logs and pack directories: deleted, it is rebuilt.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- One row for each writer of the repository, ours among them.
CREATE TABLE writer (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- Commits that were read (or seen by name only, where this host cannot open them: readable = 0).
CREATE TABLE log_commit (
    id          INTEGER PRIMARY KEY,
    writer      INTEGER NOT NULL REFERENCES writer(id),
    sequence    INTEGER NOT NULL,
    digest      BLOB NOT NULL UNIQUE,
    readable    INTEGER NOT NULL,
    time        INTEGER NOT NULL, -- microseconds since 1970, by the writer's clock
    first_frame INTEGER NOT NULL, -- number of its first frame, as the newest join of a fork has it
    written     INTEGER NOT NULL, -- the same as the commit itself has it
    frames      INTEGER NOT NULL,
    first_row   INTEGER NOT NULL  -- row of its first frame; the others follow
) STRICT;
CREATE INDEX log_commit_place ON log_commit (writer, sequence);

CREATE TABLE commit_parent (
    child  INTEGER NOT NULL REFERENCES log_commit(id),
    parent BLOB NOT NULL,
    PRIMARY KEY (child, parent)
) STRICT, WITHOUT ROWID;
CREATE INDEX commit_parent_of ON commit_parent (parent);

-- What joins of forks say: frames of `target` are counted from `first_frame` by that commit and all after it.
CREATE TABLE renumber (
    log_commit  INTEGER NOT NULL REFERENCES log_commit(id),
    target      BLOB NOT NULL,
    first_frame INTEGER NOT NULL,
    PRIMARY KEY (log_commit, target)
) STRICT, WITHOUT ROWID;

-- The newest commit of `writer` that `witness` says it has seen: a withheld end is noticed by it.
CREATE TABLE seen (
    witness  INTEGER NOT NULL REFERENCES writer(id),
    writer   TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    PRIMARY KEY (witness, writer)
) STRICT, WITHOUT ROWID;

CREATE TABLE pack (
    id               INTEGER PRIMARY KEY,
    writer           INTEGER NOT NULL REFERENCES writer(id),
    log_commit       INTEGER NOT NULL REFERENCES log_commit(id),
    name             BLOB NOT NULL,
    size             INTEGER NOT NULL,
    kind             TEXT NOT NULL,
    recipients       BLOB NOT NULL,
    directory_at     INTEGER NOT NULL,
    directory_length INTEGER NOT NULL,
    chunks_known     INTEGER NOT NULL, -- 1 when its directory's chunk ids are in frame_chunks and chunk
    state            INTEGER NOT NULL, -- 0 good, 1 missing in the store, 2 damaged in the store
    seen             INTEGER NOT NULL, -- seconds since 1970: when it was put or listed with its right length
    UNIQUE (writer, name)
) STRICT;

-- Frames, in the order of the log. `key` is the first 8 bytes of `name`.
CREATE TABLE frame (
    id     INTEGER PRIMARY KEY,
    writer INTEGER NOT NULL,
    number INTEGER NOT NULL,
    key    INTEGER NOT NULL,
    name   BLOB NOT NULL,
    pack   INTEGER NOT NULL REFERENCES pack(id),
    at     INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    plain  INTEGER NOT NULL,
    state  INTEGER NOT NULL -- 0 good, 2 damaged in the store
) STRICT;
CREATE INDEX frame_key ON frame (key);
CREATE INDEX frame_number ON frame (writer, number);
CREATE INDEX frame_pack ON frame (pack);

-- Chunk ids of a frame as its pack's directory has them: rows of length (u32, little-endian) and id (32 bytes), then the first
-- 8 bytes of the BLAKE3 of these rows.
CREATE TABLE frame_chunks (
    frame  INTEGER PRIMARY KEY REFERENCES frame(id),
    chunks BLOB NOT NULL
) STRICT;

-- The deduplication index: first 8 bytes of a chunk id, and a frame that holds it. A hit loads the frame's ids.
CREATE TABLE chunk (
    key   INTEGER NOT NULL,
    frame INTEGER NOT NULL,
    PRIMARY KEY (key, frame)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshot (
    id         TEXT PRIMARY KEY,
    writer     INTEGER NOT NULL REFERENCES writer(id),
    log_commit INTEGER NOT NULL REFERENCES log_commit(id),
    source     TEXT NOT NULL,
    ended      INTEGER NOT NULL, -- microseconds since 1970
    complete   INTEGER NOT NULL,
    record     TEXT NOT NULL     -- the record as JSON; `uses` in this catalog's frame ids
) STRICT;
CREATE INDEX snapshot_source ON snapshot (source, ended);

-- How much of a frame the newest snapshot of a source still uses, where that is little: the next backup rewrites those.
CREATE TABLE sparse (
    source TEXT NOT NULL,
    frame  INTEGER NOT NULL,
    used   INTEGER NOT NULL,
    PRIMARY KEY (source, frame)
) STRICT, WITHOUT ROWID;

-- When packs' bytes were last read and found in order, by name, in seconds since 1970: what nightly checks go by. It tells of
-- this host's work, not of the logs, so it outlives a rebuild.
CREATE TABLE ledger (
    pack     BLOB PRIMARY KEY,
    verified INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Commits of which their own writer said that they are lost, and that what was left of them is said again.
CREATE TABLE lost (
    writer INTEGER NOT NULL REFERENCES writer(id),
    digest BLOB NOT NULL,
    PRIMARY KEY (writer, digest)
) STRICT, WITHOUT ROWID;

-- Segments of streams. `log_commit` is null until a commit names them: such rows are this host's own and outlive a rebuild,
-- because a segment is acknowledged before the next commit.
CREATE TABLE segment (
    writer     TEXT NOT NULL, -- by name: rows outlive a rebuild, numbers of writers do not
    stream     TEXT NOT NULL,
    epoch      TEXT NOT NULL,
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL,
    record     TEXT NOT NULL, -- as JSON
    log_commit INTEGER,
    PRIMARY KEY (writer, stream, epoch, name, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX segment_fresh ON segment (writer) WHERE log_commit IS NULL;

-- When the store received a commit, by its own clock: the earliest that it ever said. Retention goes by it, because a host's clock
-- may lie. It tells of the store, not of the logs, so it outlives a rebuild.
CREATE TABLE received (
    digest BLOB PRIMARY KEY,
    at     INTEGER NOT NULL -- microseconds since 1970
) STRICT, WITHOUT ROWID;

-- Forgotten, pinned and unpinned snapshots, as the lines of commits say it; of a writer's own log alone.
CREATE TABLE mark (
    writer     INTEGER NOT NULL REFERENCES writer(id),
    snapshot   TEXT NOT NULL,
    log_commit INTEGER NOT NULL REFERENCES log_commit(id),
    kind       TEXT NOT NULL, -- forget, pin or unpin
    PRIMARY KEY (writer, snapshot, log_commit, kind)
) STRICT, WITHOUT ROWID;

-- What lines say of packs and segments of their own log's writer: retired, kept after all, deleted. `object` is a pack's name (32 bytes),
-- or the key of a segment below its writer's folder. Once something is deleted, what was said of it before is left out.
CREATE TABLE retirement (
    writer     INTEGER NOT NULL REFERENCES writer(id),
    object     BLOB NOT NULL,
    log_commit INTEGER NOT NULL REFERENCES log_commit(id),
    kind       TEXT NOT NULL,    -- retire, keep or deleted
    grace      INTEGER NOT NULL, -- seconds, of retire
    PRIMARY KEY (writer, object, log_commit, kind)
) STRICT, WITHOUT ROWID;

-- What that comes to: objects that are retired, or gone. The newest word in the log counts.
CREATE TABLE retired (
    writer     INTEGER NOT NULL REFERENCES writer(id),
    object     BLOB NOT NULL,
    log_commit INTEGER NOT NULL REFERENCES log_commit(id),
    grace      INTEGER NOT NULL,
    deleted    INTEGER NOT NULL, -- 1 when it is gone
    PRIMARY KEY (writer, object)
) STRICT, WITHOUT ROWID;

-- Snapshots of which it is not known here which frames they use: in a log with a hole. Nothing of their writer may be called unused.
CREATE TABLE unmapped (
    writer   INTEGER NOT NULL REFERENCES writer(id),
    snapshot TEXT NOT NULL,
    frames   INTEGER NOT NULL, -- how many are not known
    PRIMARY KEY (writer, snapshot)
) STRICT, WITHOUT ROWID;

-- How drills ended, as the lines of commits say it.
CREATE TABLE drill (
    writer     INTEGER NOT NULL REFERENCES writer(id),
    id         TEXT NOT NULL,
    log_commit INTEGER NOT NULL REFERENCES log_commit(id),
    source     TEXT NOT NULL,
    began      INTEGER NOT NULL, -- microseconds since 1970
    record     TEXT NOT NULL,    -- as JSON
    PRIMARY KEY (writer, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX drill_source ON drill (source, began);

-- What this host saw when it last looked at the store ('' as subject) or at a source. As the ledger it outlives a rebuild.
CREATE TABLE sight (
    subject TEXT NOT NULL,
    what    TEXT NOT NULL,    -- check; retention; slot NAME; live WHAT
    at      INTEGER NOT NULL, -- milliseconds since 1970
    words   TEXT,             -- what is wrong; NULL where nothing is
    facts   TEXT NOT NULL,    -- as JSON
    PRIMARY KEY (subject, what)
) STRICT, WITHOUT ROWID;
