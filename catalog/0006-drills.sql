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
