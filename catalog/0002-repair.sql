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
