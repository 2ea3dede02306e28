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

-- Chunk tables end with a sum of theirs from now on; those without are read again from the directories of the packs.
DELETE FROM frame_chunks;
DELETE FROM chunk;
UPDATE pack SET chunks_known = 0;
