-- The audit log: entries in a chain of hashes, signed checkpoints. Times are Unix
-- microseconds, UTC.

-- +goose Up

CREATE TABLE audit (
    seq       INTEGER NOT NULL PRIMARY KEY,  -- from 1, without gaps
    format    INTEGER NOT NULL,              -- of what is hashed
    at        INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    actor     TEXT    NOT NULL,              -- kind of actor
    name      TEXT    NOT NULL,              -- such as the Unix user
    client    TEXT    NOT NULL,              -- IP address
    item      TEXT,                          -- NULL: about none
    sender    TEXT    NOT NULL,              -- folded
    recipient TEXT,                          -- folded; NULL: about none
    details   TEXT    NOT NULL,              -- JSON object of strings
    hash      BLOB    NOT NULL CHECK (length(hash) = 32) -- SHA-256 of the entry and of the hash before it
) STRICT;

CREATE INDEX audit_item ON audit (item, seq) WHERE item IS NOT NULL;
CREATE INDEX audit_recipient ON audit (recipient, seq) WHERE recipient IS NOT NULL;
CREATE INDEX audit_at ON audit (at);

-- How far the chain reached.
CREATE TABLE audit_checkpoint (
    id        INTEGER NOT NULL PRIMARY KEY,
    kind      TEXT    NOT NULL CHECK (kind IN ('daily', 'asked', 'cut')), -- cut: what is up to it was pruned
    at        INTEGER NOT NULL,
    seq       INTEGER NOT NULL,              -- of the newest entry
    hash      BLOB    NOT NULL CHECK (length(hash) = 32), -- its hash
    signature BLOB    NOT NULL               -- Ed25519
) STRICT;

CREATE INDEX audit_checkpoint_kind ON audit_checkpoint (kind, at);

-- Against mistakes, ours included: who can write to the file can drop these too, and
-- is found by the chain.
-- +goose StatementBegin
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
WHEN OLD.seq > (SELECT coalesce(max(seq), 0) FROM audit_checkpoint WHERE kind = 'cut') BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE audit_checkpoint;
DROP TABLE audit;
