-- What a node has last sent before it disconnected.
CREATE TABLE node_status (
    node INTEGER PRIMARY KEY,
    at INTEGER NOT NULL, -- Unix milliseconds of its arrival
    status TEXT NOT NULL, -- JSON
    snapshot BLOB NOT NULL, -- empty: none
    is_gzip INTEGER NOT NULL
);

-- SHA-256 of its credential; NULL: it has none.
ALTER TABLE node ADD COLUMN credential BLOB;

-- The state that fleet.on_change was run for: 1 online, 0 offline; NULL: none.
ALTER TABLE node ADD COLUMN reported_online INTEGER;
