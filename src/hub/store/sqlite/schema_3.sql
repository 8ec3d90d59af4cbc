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

-- The state that was last passed to fleet.on_change: 1 online, 0 offline; NULL: none, or an earlier version, read as online.
ALTER TABLE node ADD COLUMN hook_online INTEGER;
