-- What hubs that share the fleet tell each other.

-- A hub. Its id stays the same over restarts.
CREATE TABLE instance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    -- Address of its web port for other hubs and for Prometheus: hub.url.
    url text,
    version text NOT NULL,
    schema_version integer NOT NULL,
    -- Other hubs authenticate with it.
    secret text NOT NULL,
    -- Counts up while the hub runs.
    renewals bigint NOT NULL,
    renewed timestamptz NOT NULL DEFAULT now()
);

-- The hub that has the connection of a node. protocol: 1 hm, 2 Core.
CREATE TABLE link (
    node bigint NOT NULL REFERENCES node ON DELETE CASCADE,
    protocol smallint NOT NULL,
    -- NULL: the node is not connected.
    instance bigint,
    -- Increased by each connection that is published; a release keeps it.
    epoch bigint NOT NULL,
    changed xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (node, protocol)
);
CREATE INDEX link_changed ON link (changed);
CREATE INDEX link_instance ON link (instance);

-- What other hubs show of a node that is connected. It is lost in a crash of the database, and then written again.
CREATE UNLOGGED TABLE node_state (
    node bigint NOT NULL,
    instance bigint NOT NULL,
    state text NOT NULL, -- JSON
    changed xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (node, instance)
) WITH (fillfactor = 70);
CREATE INDEX node_state_changed ON node_state (changed);

-- Nodes that operators have removed lately.
CREATE TABLE forgotten_node (
    id bigint GENERATED ALWAYS AS IDENTITY,
    node bigint NOT NULL,
    -- Whether its records were deleted, too.
    is_purged boolean NOT NULL DEFAULT false,
    name text COLLATE "C" NOT NULL,
    forgotten timestamptz NOT NULL DEFAULT now(),
    changed xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX forgotten_node_changed ON forgotten_node (changed);

-- A hub reads what other transactions have changed since its last reading.
ALTER TABLE node ADD COLUMN changed xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX node_changed ON node (changed);

CREATE FUNCTION set_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER node_changed BEFORE UPDATE ON node FOR EACH ROW EXECUTE FUNCTION set_changed();

CREATE FUNCTION note_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO forgotten_node (node, name) VALUES (OLD.id, OLD.name);
    DELETE FROM node_state WHERE node = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER node_forgotten AFTER DELETE ON node FOR EACH ROW EXECUTE FUNCTION note_forgotten();

-- Wakes the hub that is connected with the node.
CREATE FUNCTION notify_of_command() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('hm_hub_' || instance, 'command') FROM link
        WHERE node = NEW.node AND protocol = 2 AND instance IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER command_created AFTER INSERT ON command FOR EACH ROW WHEN (NEW.taken_by IS NULL)
    EXECUTE FUNCTION notify_of_command();
