-- A million rules are read at once, and their changes one by one.

-- +goose Up

-- Which rules have changed, in order, so that a server with a million of them reads
-- only those. Triggers write it, so that no way of changing a rule is missed. An entry
-- with an empty scope says that more changed than is worth listing: the transaction that
-- writes it has the row rules_unlisted in meta meanwhile. The oldest entries are
-- deleted; the numbers have no gaps, by which a reader sees what it has missed.
CREATE TABLE rule_change (
    seq     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    scope   TEXT    NOT NULL,
    pattern TEXT    NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER rule_added AFTER INSERT ON rule
WHEN NOT EXISTS (SELECT 1 FROM meta WHERE name = 'rules_unlisted')
BEGIN
    INSERT INTO rule_change (scope, pattern) VALUES (new.scope, new.pattern);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER rule_changed AFTER UPDATE ON rule
WHEN NOT EXISTS (SELECT 1 FROM meta WHERE name = 'rules_unlisted')
BEGIN
    INSERT INTO rule_change (scope, pattern) VALUES (new.scope, new.pattern);
    INSERT INTO rule_change (scope, pattern) SELECT old.scope, old.pattern WHERE old.scope <> new.scope OR old.pattern <> new.pattern;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER rule_removed AFTER DELETE ON rule
WHEN NOT EXISTS (SELECT 1 FROM meta WHERE name = 'rules_unlisted')
BEGIN
    INSERT INTO rule_change (scope, pattern) VALUES (old.scope, old.pattern);
END;
-- +goose StatementEnd

-- All rules once more, as they were at one of these changes, in a form that takes a
-- tenth of the time to read. Without it, or where it can't be used, the rules themselves
-- are read.
CREATE TABLE rule_pack (
    part INTEGER NOT NULL PRIMARY KEY, -- 0: the head, JSON
    data BLOB    NOT NULL
) STRICT;

-- +goose Down
DROP TABLE rule_pack;
DROP TRIGGER rule_removed;
DROP TRIGGER rule_changed;
DROP TRIGGER rule_added;
DROP TABLE rule_change;
