-- When packs' bytes were last read and found in order, by name, in seconds since 1970: what nightly checks go by. It tells of
-- this host's work, not of the logs, so it outlives a rebuild.
CREATE TABLE ledger (
    pack     BLOB PRIMARY KEY,
    verified INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
