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

-- Of what was taken over before this was counted: wherever something was missing, nothing is known.
INSERT INTO unmapped
    SELECT s.writer, s.id, 1 FROM snapshot s
    WHERE EXISTS (SELECT 1 FROM log_commit c WHERE c.writer = s.writer AND c.readable = 0)
       OR EXISTS (SELECT 1 FROM lost l WHERE l.writer = s.writer);
