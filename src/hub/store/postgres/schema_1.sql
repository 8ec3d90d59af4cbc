-- Times are Unix milliseconds.

CREATE FUNCTION unix_ms() RETURNS bigint LANGUAGE sql STABLE AS
    $$ SELECT floor(extract(epoch FROM now()) * 1000)::bigint $$;

CREATE TABLE node (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    first_seen bigint NOT NULL,
    -- As registered over Core; NULL: not registered.
    hostname text,
    ip_address text,
    os_info text,
    updated_at bigint,
    -- The description that an hm-agent has sent: JSON; NULL: the node answers no requests.
    agent text,
    -- Of its join token.
    node_group text,
    -- SHA-256 of its credential; NULL: it has none.
    credential bytea,
    -- The state that was last passed to fleet.on_change; NULL: none.
    hook_online boolean
);

-- What a node has last sent before it disconnected.
CREATE TABLE node_status (
    node bigint PRIMARY KEY REFERENCES node ON DELETE CASCADE,
    at bigint NOT NULL,
    status text NOT NULL, -- JSON
    snapshot bytea NOT NULL, -- empty: none
    is_gzip boolean NOT NULL
);

-- What rarely differs between the reports of a node.
CREATE TABLE hm_workload (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- SHA-256 of the other columns, which are too long for an index.
    digest bytea NOT NULL UNIQUE,
    project text NOT NULL,
    models text NOT NULL, -- JSON array of strings
    gpu_name text NOT NULL,
    memory_total bigint NOT NULL,
    -- With a delay of up to an hour.
    last_used bigint NOT NULL
);

-- A partition for each day (UTC) of `sent`, so that a repeat is found wherever it arrives, and old reports are dropped at once. What is
-- older than a year or of a day without a partition is in hm_report_other.
CREATE TABLE hm_report (
    node bigint NOT NULL,
    sent bigint NOT NULL,
    workload bigint NOT NULL,
    utilization bigint NOT NULL,
    memory_used bigint NOT NULL,
    arrived bigint NOT NULL,
    adjusted boolean NOT NULL,
    PRIMARY KEY (node, sent)
) PARTITION BY RANGE (sent);
CREATE TABLE hm_report_other PARTITION OF hm_report DEFAULT;
CREATE INDEX hm_report_other_arrived ON hm_report_other (arrived);

-- Sums over slots of 5 minutes of the reports of dropped partitions. Those of other reports are computed.
CREATE TABLE hm_mean (
    node bigint NOT NULL,
    slot bigint NOT NULL, -- sent / 300000
    reports bigint NOT NULL,
    utilization double precision NOT NULL,
    memory_used double precision NOT NULL,
    PRIMARY KEY (node, slot)
) PARTITION BY RANGE (slot);

CREATE SEQUENCE core_metric_id;
CREATE TABLE core_metric (
    id bigint NOT NULL,
    node bigint NOT NULL,
    at bigint NOT NULL,
    cpu_usage double precision,
    memory_usage double precision,
    disk_usage double precision,
    load_average double precision,
    memory_total double precision,
    memory_available double precision,
    disk_total double precision,
    disk_available double precision,
    uptime double precision
) PARTITION BY RANGE (at);
CREATE INDEX core_metric_node ON core_metric (node, at, id);
CREATE TABLE core_metric_other PARTITION OF core_metric DEFAULT;

-- The partitions of days. `day` counts from 1970-01-01.
CREATE TABLE day_partition (
    parent text NOT NULL,
    day integer NOT NULL,
    -- Of the last record, with a delay of some minutes.
    last_arrival bigint NOT NULL,
    PRIMARY KEY (parent, day)
);

CREATE TABLE command (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command_id text COLLATE "C" NOT NULL UNIQUE,
    node bigint NOT NULL REFERENCES node ON DELETE CASCADE,
    text text NOT NULL,
    timeout_s bigint NOT NULL,
    status text NOT NULL, -- pending, running, success, failed, timeout
    created_at bigint NOT NULL,
    started_at bigint,
    completed_at bigint,
    -- Id of the attempt in which a hub has taken it to send it; empty: the hub that stored it sends it, or it was sent when the node
    -- registered; NULL: no hub has.
    taken_by text
);
CREATE INDEX command_node ON command (node, id);
CREATE INDEX command_open ON command (created_at) WHERE status IN ('pending', 'running');

CREATE TABLE command_result (
    command bigint PRIMARY KEY REFERENCES command ON DELETE CASCADE,
    stdout text NOT NULL,
    stderr text NOT NULL,
    exit_code bigint,
    execution_time_ms bigint,
    created_at bigint NOT NULL
);
