-- The description that an hm-agent has sent: JSON; NULL: the node answers no requests.
ALTER TABLE node ADD COLUMN agent TEXT;
-- Of its join token.
ALTER TABLE node ADD COLUMN node_group TEXT;
