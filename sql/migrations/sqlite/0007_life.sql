-- The life of a sealed message: how long it can be picked up by rule, legal hold, and
-- how much is held. Durations and times are in microseconds; NULL is none.

-- +goose Up
ALTER TABLE rule ADD COLUMN lifetime INTEGER;     -- of a message
ALTER TABLE rule ADD COLUMN min_lifetime INTEGER; -- no other rule shortens it below
ALTER TABLE rule ADD COLUMN max_lifetime INTEGER; -- nothing makes it longer

ALTER TABLE escrow_pickup ADD COLUMN lifetime INTEGER; -- as the rules said when it was sealed; NULL: the setting
ALTER TABLE escrow_pickup ADD COLUMN most_at INTEGER;  -- it can't be extended beyond
ALTER TABLE escrow_pickup ADD COLUMN held_wrap BLOB;   -- where it ended while on hold: what its wrap was

-- As for other boxes, see 0006.
-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_pickup_held_wrap_insert BEFORE INSERT ON escrow_pickup WHEN NEW.held_wrap IS NOT NULL AND substr(NEW.held_wrap, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_pickup_held_wrap_update BEFORE UPDATE OF held_wrap ON escrow_pickup WHEN NEW.held_wrap IS NOT NULL AND substr(NEW.held_wrap, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- Legal hold. While it is held an item does not count as ended.
ALTER TABLE escrow_item ADD COLUMN held_at INTEGER;
ALTER TABLE escrow_item ADD COLUMN held_by TEXT NOT NULL DEFAULT '';
ALTER TABLE escrow_item ADD COLUMN held_note TEXT NOT NULL DEFAULT '';

CREATE INDEX escrow_item_over ON escrow_item (id) WHERE ended = 1;

-- Bytes of messages that are held, by sender domain; '' for the null sender. What has
-- ended does not count: its chunks go at once. Triggers keep it, so that it is right
-- whoever changes an item.
ALTER TABLE escrow_item ADD COLUMN sender_domain TEXT NOT NULL DEFAULT '';
UPDATE escrow_item SET sender_domain = replace(sender_key, rtrim(sender_key, replace(sender_key, '@', '')), '') WHERE sender_key LIKE '%@%';

CREATE TABLE escrow_usage (
    domain TEXT    NOT NULL PRIMARY KEY,
    bytes  INTEGER NOT NULL CHECK (bytes >= 0),
    items  INTEGER NOT NULL CHECK (items >= 0)
) STRICT;

INSERT INTO escrow_usage (domain, bytes, items) SELECT sender_domain, sum(size), count(*) FROM escrow_item WHERE ended = 0 GROUP BY sender_domain;

-- +goose StatementBegin
CREATE TRIGGER escrow_usage_more AFTER INSERT ON escrow_item WHEN NEW.ended = 0 BEGIN
    INSERT INTO escrow_usage (domain, bytes, items) VALUES (NEW.sender_domain, NEW.size, 1)
        ON CONFLICT (domain) DO UPDATE SET bytes = bytes + excluded.bytes, items = items + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER escrow_usage_ended AFTER UPDATE OF ended ON escrow_item WHEN OLD.ended = 0 AND NEW.ended = 1 BEGIN
    UPDATE escrow_usage SET bytes = bytes - OLD.size, items = items - 1 WHERE domain = OLD.sender_domain;
    DELETE FROM escrow_usage WHERE domain = OLD.sender_domain AND items = 0;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER escrow_usage_gone AFTER DELETE ON escrow_item WHEN OLD.ended = 0 BEGIN
    UPDATE escrow_usage SET bytes = bytes - OLD.size, items = items - 1 WHERE domain = OLD.sender_domain;
    DELETE FROM escrow_usage WHERE domain = OLD.sender_domain AND items = 0;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER key_retired_escrow_pickup_held_wrap_update;
DROP TRIGGER key_retired_escrow_pickup_held_wrap_insert;
DROP TRIGGER escrow_usage_gone;
DROP TRIGGER escrow_usage_ended;
DROP TRIGGER escrow_usage_more;
DROP TABLE escrow_usage;
