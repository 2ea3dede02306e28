-- What this host saw when it last looked at the store ('' as subject) or at a source. As the ledger it outlives a rebuild.
CREATE TABLE sight (
    subject TEXT NOT NULL,
    what    TEXT NOT NULL,    -- check; retention; slot NAME; live WHAT
    at      INTEGER NOT NULL, -- milliseconds since 1970
    words   TEXT,             -- what is wrong; NULL where nothing is
    facts   TEXT NOT NULL,    -- as JSON
    PRIMARY KEY (subject, what)
) STRICT, WITHOUT ROWID;
