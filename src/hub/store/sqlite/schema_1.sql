CREATE TABLE node (
    -- The rows of a deleted node in hm_mean expire. Their id must not be used again.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    first_seen INTEGER NOT NULL,
    -- As registered over Core; NULL: not registered.
    hostname TEXT,
    ip_address TEXT,
    os_info TEXT,
    updated_at INTEGER
);

-- What rarely differs between the reports of a node.
CREATE TABLE hm_workload (
    id INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    models TEXT NOT NULL, -- JSON array of strings
    gpu_name TEXT NOT NULL,
    memory_total INTEGER NOT NULL,
    last_used INTEGER NOT NULL, -- by a segment that was created then
    UNIQUE (project, models, gpu_name, memory_total)
);

-- Reports in the order of their arrival: a commit appends to few pages, whatever the number of nodes.
CREATE TABLE hm_recent (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    workload INTEGER NOT NULL,
    utilization INTEGER NOT NULL,
    memory_used INTEGER NOT NULL,
    adjusted INTEGER NOT NULL
);

-- Older reports, moved here in segments. Within a segment they are ordered by node, so that a query reads few pages; segments
-- are appended whole and deleted whole.
CREATE TABLE hm_report (
    segment INTEGER NOT NULL,
    node INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    workload INTEGER NOT NULL,
    utilization INTEGER NOT NULL,
    memory_used INTEGER NOT NULL,
    adjusted INTEGER NOT NULL,
    PRIMARY KEY (segment, node, sent)
) WITHOUT ROWID;

CREATE TABLE hm_segment (
    id INTEGER PRIMARY KEY,
    first_sent INTEGER NOT NULL,
    last_sent INTEGER NOT NULL,
    created INTEGER NOT NULL
);

-- Sums over slots of 5 minutes.
CREATE TABLE hm_mean (
    slot INTEGER NOT NULL, -- sent / 300000
    node INTEGER NOT NULL,
    reports INTEGER NOT NULL,
    utilization INTEGER NOT NULL,
    memory_used INTEGER NOT NULL,
    PRIMARY KEY (slot, node)
) WITHOUT ROWID;

CREATE TABLE core_capacity (
    id INTEGER PRIMARY KEY,
    memory_total,
    disk_total,
    last_used INTEGER NOT NULL
);
CREATE INDEX core_capacity_values ON core_capacity (memory_total, disk_total);

-- As hm_recent and hm_report. Columns without a type have an integer that means hundredths, or a real number.
CREATE TABLE core_recent (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    node INTEGER NOT NULL,
    at INTEGER NOT NULL,
    cpu_usage,
    memory_usage,
    disk_usage,
    load_average,
    capacity INTEGER,
    memory_available,
    disk_available,
    uptime
);

CREATE TABLE core_metric (
    segment INTEGER NOT NULL,
    node INTEGER NOT NULL,
    at INTEGER NOT NULL,
    id INTEGER NOT NULL,
    cpu_usage,
    memory_usage,
    disk_usage,
    load_average,
    capacity INTEGER,
    memory_available,
    disk_available,
    uptime,
    PRIMARY KEY (segment, node, at, id)
) WITHOUT ROWID;

CREATE TABLE core_segment (
    id INTEGER PRIMARY KEY,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    metrics INTEGER NOT NULL
);

CREATE TABLE command (
    id INTEGER PRIMARY KEY,
    command_id TEXT NOT NULL UNIQUE,
    node INTEGER NOT NULL,
    text TEXT NOT NULL,
    timeout_s INTEGER NOT NULL,
    status TEXT NOT NULL, -- pending, running, success, failed, timeout
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER
);
CREATE INDEX command_node ON command (node, id);
CREATE INDEX command_open ON command (created_at) WHERE status IN ('pending', 'running');

CREATE TABLE command_result (
    command INTEGER PRIMARY KEY REFERENCES command (id) ON DELETE CASCADE,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    exit_code INTEGER,
    execution_time_ms INTEGER,
    created_at INTEGER NOT NULL
);
