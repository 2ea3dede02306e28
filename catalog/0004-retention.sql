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
