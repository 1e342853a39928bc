-- The escrow: sealed messages, who may pick them up, the mails about them, and
-- what was done with which message. Everything confidential is encrypted or
-- hashed before it comes here. Times are Unix microseconds, UTC; NULL is no time.
-- Released: never edit; add the next number.

-- +goose Up
CREATE TABLE escrow_item (
    id         TEXT    NOT NULL PRIMARY KEY,
    sender     TEXT    NOT NULL,          -- envelope sender, '' for the null sender
    sender_key TEXT    NOT NULL,          -- folded
    queue_id   TEXT    NOT NULL,          -- Postfix's
    mode       TEXT    NOT NULL CHECK (mode IN ('recoverable', 'sealed')),
    size       INTEGER NOT NULL,          -- bytes of the raw message
    recover    BLOB,                      -- the key under the server's keys alone
    ended      INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1)), -- no pickup is left, chunks may go
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX escrow_item_created ON escrow_item (created_at);

CREATE TABLE escrow_chunk (
    item_id TEXT    NOT NULL REFERENCES escrow_item (id) ON DELETE CASCADE,
    n       INTEGER NOT NULL,             -- from 0
    data    BLOB    NOT NULL,             -- ciphertext
    PRIMARY KEY (item_id, n)
) STRICT;

CREATE TABLE escrow_pickup (
    id            TEXT    NOT NULL PRIMARY KEY,
    item_id       TEXT    NOT NULL REFERENCES escrow_item (id) ON DELETE CASCADE,
    recipient     TEXT    NOT NULL,
    recipient_key TEXT    NOT NULL,       -- folded
    verify        TEXT    NOT NULL CHECK (verify IN ('code', 'passphrase')),
    state         TEXT    NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'read', 'expired', 'retracted')),
    secret_hash   BLOB    NOT NULL,       -- SHA-256 of the link's secret
    passphrase    BLOB,                   -- how it is hashed: cost and salt
    wrap          BLOB,                   -- the key under link, passphrase and server's keys; NULL: over
    notice        TEXT    NOT NULL DEFAULT 'queued' CHECK (notice IN ('queued', 'sent', 'bounced')),
    answered      INTEGER NOT NULL DEFAULT 0 CHECK (answered IN (0, 1)), -- a reply to the notice was
    expires_at    INTEGER NOT NULL,
    read_at       INTEGER,
    ended_at      INTEGER,
    UNIQUE (item_id, recipient_key)
) STRICT;

CREATE INDEX escrow_pickup_recipient ON escrow_pickup (recipient_key);
CREATE INDEX escrow_pickup_due ON escrow_pickup (expires_at) WHERE wrap IS NOT NULL;

CREATE TABLE escrow_code (
    pickup_id  TEXT    NOT NULL REFERENCES escrow_pickup (id) ON DELETE CASCADE,
    tag        BLOB    NOT NULL,          -- keyed hash
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    PRIMARY KEY (pickup_id, tag)
) STRICT;

CREATE TABLE escrow_limit (
    key          TEXT    NOT NULL PRIMARY KEY, -- keyed hash
    tries        INTEGER NOT NULL,
    locks        INTEGER NOT NULL DEFAULT 0,   -- how often it was locked
    since_at     INTEGER NOT NULL,             -- of the first of these tries
    locked_at    INTEGER,
    locked_until INTEGER,
    told         INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1)), -- somebody, of this lock
    last_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE escrow_recipient (
    address    TEXT    NOT NULL PRIMARY KEY, -- folded
    verify     TEXT    NOT NULL CHECK (verify IN ('code', 'passphrase')),
    passphrase BLOB,                         -- how it is hashed
    hashed     BLOB,                         -- under the server's keys
    changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    id         TEXT    NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL,
    pickup_id  TEXT    REFERENCES escrow_pickup (id) ON DELETE CASCADE,
    sealed     BLOB    NOT NULL,             -- envelope and text under the server's keys
    attempts   INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,
    until_at   INTEGER                       -- not sent after that
) STRICT;

CREATE INDEX outbox_due ON outbox (due_at);
CREATE INDEX outbox_pickup ON outbox (pickup_id);

CREATE TABLE settlement (
    digest       BLOB    NOT NULL,
    sender       TEXT    NOT NULL,           -- folded
    recipient    TEXT    NOT NULL,           -- folded
    outcome      TEXT    NOT NULL CHECK (outcome IN ('sealed', 'reinjected')),
    created_at   INTEGER NOT NULL,
    confirmed_at INTEGER,
    PRIMARY KEY (digest, sender, recipient)
) STRICT;

CREATE INDEX settlement_created ON settlement (created_at);
CREATE INDEX settlement_pinned ON settlement (recipient) WHERE outcome = 'sealed' AND confirmed_at IS NULL;

-- +goose Down
DROP TABLE settlement;
DROP TABLE outbox;
DROP TABLE escrow_recipient;
DROP TABLE escrow_limit;
DROP TABLE escrow_code;
DROP TABLE escrow_pickup;
DROP TABLE escrow_chunk;
DROP TABLE escrow_item;
