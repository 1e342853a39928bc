-- The pickup that people use: accounts and devices of recipients, replies, the
-- sender's page and receipts, API keys, triggers. Everything confidential is
-- encrypted or hashed before it comes here. Times are Unix microseconds, UTC;
-- NULL is no time.

-- +goose Up

-- Rules may name the language of a recipient and demand an account. SQLite has no
-- ALTER for a CHECK; editing the schema's text is its documented way for a change
-- that touches no row (www.sqlite.org/lang_altertable.html, section 7).
ALTER TABLE rule ADD COLUMN language TEXT NOT NULL DEFAULT ''; -- BCP 47, '' for the default
ALTER TABLE escrow_item ADD COLUMN summary BLOB;                          -- what lists show, under the server's keys; NULL in mode sealed
ALTER TABLE escrow_item ADD COLUMN message_id TEXT NOT NULL DEFAULT '';   -- of the sealed message, without brackets
ALTER TABLE escrow_item ADD COLUMN receipt INTEGER NOT NULL DEFAULT 0 CHECK (receipt IN (0, 1)); -- a read receipt (RFC 8098) was asked for
ALTER TABLE escrow_item ADD COLUMN envid TEXT NOT NULL DEFAULT '';        -- RFC 3461, decoded
ALTER TABLE escrow_item ADD COLUMN ret TEXT NOT NULL DEFAULT '';          -- RFC 3461: FULL, HDRS
ALTER TABLE escrow_pickup ADD COLUMN notify TEXT NOT NULL DEFAULT '';     -- RFC 3461: NEVER, or of SUCCESS, FAILURE, DELAY by commas
ALTER TABLE escrow_pickup ADD COLUMN orcpt TEXT NOT NULL DEFAULT '';      -- RFC 3461, as it came
ALTER TABLE escrow_pickup ADD COLUMN language TEXT NOT NULL DEFAULT '';
ALTER TABLE escrow_pickup ADD COLUMN read_how TEXT NOT NULL DEFAULT '';   -- how the first reader was verified
ALTER TABLE escrow_pickup ADD COLUMN reminded_at INTEGER;                 -- the sender, before expiry unread
ALTER TABLE escrow_pickup ADD COLUMN settled_at INTEGER;                  -- the end was told to the sender, or need not be
UPDATE escrow_pickup SET settled_at = ended_at WHERE wrap IS NULL;        -- of what is over by now nobody is told
CREATE INDEX escrow_pickup_unsettled ON escrow_pickup (ended_at) WHERE wrap IS NULL AND settled_at IS NULL;

-- An inbox is read by the page, the newest first.
ALTER TABLE escrow_pickup ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0; -- of its item
UPDATE escrow_pickup SET created_at = (SELECT i.created_at FROM escrow_item i WHERE i.id = escrow_pickup.item_id);
CREATE INDEX escrow_pickup_inbox ON escrow_pickup (recipient_key, created_at, item_id);
DROP INDEX escrow_pickup_recipient; -- the new one serves for it

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
   SET sql = replace(sql, 'CHECK (verify IN (''code'', ''passphrase''))', 'CHECK (verify IN (''code'', ''passphrase'', ''account''))')
 WHERE type = 'table' AND name IN ('escrow_pickup', 'escrow_recipient');
PRAGMA writable_schema = RESET;

-- A recipient who has enrolled.
CREATE TABLE escrow_account (
    address    TEXT    NOT NULL PRIMARY KEY, -- folded
    tag        TEXT    NOT NULL UNIQUE,      -- keyed hash of the address, for paths
    handle     BLOB    NOT NULL UNIQUE,      -- WebAuthn user handle, random
    password   BLOB,                         -- Argon2id output and how, under the server's keys
    totp       BLOB,                         -- secret, under the server's keys
    totp_step  INTEGER NOT NULL DEFAULT 0,   -- the last one used: a code counts once
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE escrow_passkey (
    id         BLOB    NOT NULL PRIMARY KEY, -- credential id
    address    TEXT    NOT NULL REFERENCES escrow_account (address) ON DELETE CASCADE,
    credential BLOB    NOT NULL,             -- public key, counter, flags, under the server's keys
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER
) STRICT;

CREATE INDEX escrow_passkey_address ON escrow_passkey (address);

-- A browser in which a recipient is verified.
CREATE TABLE escrow_device (
    id         BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the cookie's token
    address    TEXT    NOT NULL,             -- folded
    how        TEXT    NOT NULL CHECK (how IN ('code', 'account')),
    name       TEXT    NOT NULL,             -- for the recipient's list of devices
    created_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX escrow_device_address ON escrow_device (address);
CREATE INDEX escrow_device_expires ON escrow_device (expires_at);

-- A WebAuthn or TOTP ceremony that was used: none is used twice. One that was only
-- begun is in the hands of the browser, encrypted under the server's keys.
CREATE TABLE escrow_ceremony (
    id         BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of its token
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX escrow_ceremony_expires ON escrow_ceremony (expires_at);

-- A reply: a draft, then on its way to the sender through Postfix.
CREATE TABLE escrow_reply (
    id         TEXT    NOT NULL PRIMARY KEY,
    pickup_id  TEXT    NOT NULL REFERENCES escrow_pickup (id) ON DELETE CASCADE,
    state      TEXT    NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'queued', 'sent', 'failed')),
    wrap       BLOB,                         -- the key of its content, under the server's keys; NULL: over
    sealed     BLOB    NOT NULL,             -- envelope, header, text and file names, under that key
    version    INTEGER NOT NULL DEFAULT 0,   -- one more at each change: a writer names the one it has read
    size       INTEGER NOT NULL DEFAULT 0,   -- bytes of its files
    attempts   INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    due_at     INTEGER,                      -- next try, where queued
    sent_at    INTEGER
) STRICT;

CREATE INDEX escrow_reply_pickup ON escrow_reply (pickup_id);
CREATE UNIQUE INDEX escrow_reply_draft ON escrow_reply (pickup_id) WHERE state = 'draft';
CREATE INDEX escrow_reply_due ON escrow_reply (due_at) WHERE state = 'queued';

CREATE TABLE escrow_reply_chunk (
    reply_id TEXT    NOT NULL REFERENCES escrow_reply (id) ON DELETE CASCADE,
    file     INTEGER NOT NULL,               -- number of the file in its reply
    n        INTEGER NOT NULL,               -- from 0
    data     BLOB    NOT NULL,               -- ciphertext
    PRIMARY KEY (reply_id, file, n)
) STRICT;

-- What happened to a pickup, for the sender's page. No secret, no word of a message.
CREATE TABLE escrow_event (
    id        INTEGER NOT NULL PRIMARY KEY,
    item_id   TEXT    NOT NULL REFERENCES escrow_item (id) ON DELETE CASCADE,
    pickup_id TEXT    NOT NULL REFERENCES escrow_pickup (id) ON DELETE CASCADE,
    at        INTEGER NOT NULL,
    what      TEXT    NOT NULL,
    detail    TEXT    NOT NULL DEFAULT ''    -- such as the verification used
) STRICT;

CREATE INDEX escrow_event_pickup ON escrow_event (pickup_id, id);
CREATE INDEX escrow_event_item ON escrow_event (item_id);

-- Systems that may send by HTTP.
CREATE TABLE api_key (
    id         TEXT    NOT NULL PRIMARY KEY,
    hash       BLOB    NOT NULL UNIQUE,      -- SHA-256 of the key
    note       TEXT    NOT NULL,
    senders    TEXT    NOT NULL,             -- patterns it may send as, parted by commas
    created_at INTEGER NOT NULL,
    used_at    INTEGER,
    until_at   INTEGER
) STRICT;

-- A message that the API has taken, so that a repeated request is not sent twice.
CREATE TABLE api_request (
    key_id     TEXT    NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    idempotency TEXT   NOT NULL,             -- the caller's Idempotency-Key
    digest     BLOB    NOT NULL,             -- of the request
    answer     BLOB,                         -- JSON: what became of each recipient; NULL while under way
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, idempotency)
) STRICT;

-- Content that requires something, and who may use it.
CREATE TABLE content_rule (
    id          INTEGER NOT NULL PRIMARY KEY,
    kind        TEXT    NOT NULL CHECK (kind IN ('subject', 'header', 'sensitivity')),
    header      TEXT    NOT NULL DEFAULT '', -- name of the field, for kind header
    pattern     TEXT    NOT NULL CHECK (pattern <> ''),
    sender      TEXT    NOT NULL DEFAULT '*', -- pattern of envelope senders who may use it
    requirement TEXT    NOT NULL CHECK (requirement IN ('tls', 'encryption', 'escrow')),
    remove      INTEGER NOT NULL DEFAULT 0 CHECK (remove IN (0, 1)), -- the tag, before the message goes on
    note        TEXT    NOT NULL DEFAULT '',
    until_at    INTEGER,
    created_at  INTEGER NOT NULL,
    UNIQUE (kind, header, pattern, sender)
) STRICT;

-- +goose Down
DROP TABLE content_rule;
DROP TABLE api_request;
DROP TABLE api_key;
DROP TABLE escrow_event;
DROP TABLE escrow_reply_chunk;
DROP TABLE escrow_reply;
DROP TABLE escrow_ceremony;
DROP TABLE escrow_device;
DROP TABLE escrow_passkey;
DROP TABLE escrow_account;
