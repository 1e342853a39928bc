-- The server's keys are rotated, and an offline key recovers messages. No key is here:
-- the server's lie in a file, the private half of a recovery key on paper. Times are
-- Unix microseconds, UTC; NULL is no time.

-- +goose Up

-- Rotations of the server's keys.
CREATE TABLE key_rotation (
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    to_key   TEXT    NOT NULL, -- id of the new key, eight hex digits
    begun_at INTEGER NOT NULL,
    done_at  INTEGER           -- nothing is left under an older key
) STRICT;

-- Keys under which nothing may be stored any more. The triggers below hold that,
-- whichever process writes with whatever keys it has read when: what was found to be
-- under the new key stays so, and the old key can be destroyed.
CREATE TABLE key_retired (
    id         BLOB    NOT NULL PRIMARY KEY, -- four bytes, as they stand in a ciphertext
    retired_at INTEGER NOT NULL
) STRICT;

-- Processes that have the server's keys in memory.
CREATE TABLE key_holder (
    id          TEXT    NOT NULL PRIMARY KEY, -- random
    host        TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    keys        TEXT    NOT NULL, -- ids, parted by commas
    primary_key TEXT    NOT NULL, -- id of the one that encrypts
    seen_at     INTEGER NOT NULL
) STRICT;

-- Recovery keys: public halves.
CREATE TABLE recovery_key (
    id         TEXT    NOT NULL PRIMARY KEY,
    public     BLOB    NOT NULL,
    tag        BLOB    NOT NULL, -- keyed hash: the server has made it, nobody who only writes to the database
    note       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER           -- new messages get no wrap for it from then on
) STRICT;

CREATE TABLE escrow_recovery (
    item_id TEXT NOT NULL REFERENCES escrow_item (id) ON DELETE CASCADE,
    key_id  TEXT NOT NULL REFERENCES recovery_key (id),
    wrap    BLOB NOT NULL, -- the message's key, for the recovery key
    PRIMARY KEY (item_id, key_id)
) STRICT;

CREATE INDEX escrow_recovery_key ON escrow_recovery (key_id);

-- When the last pickup of a message ends, its keys go: those for recovery too.
-- +goose StatementBegin
CREATE TRIGGER escrow_recovery_ends AFTER UPDATE OF ended ON escrow_item WHEN NEW.ended = 1
BEGIN
    DELETE FROM escrow_recovery WHERE item_id = NEW.id;
END;
-- +goose StatementEnd

-- A box is a version byte and what Tink encrypts: 1, the key's id in four bytes, the
-- rest. In a wrap to recover that stands after the tag and length (one byte or two) of
-- its first protobuf field.

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_item_recover_insert BEFORE INSERT ON escrow_item WHEN NEW.recover IS NOT NULL AND substr(NEW.recover, CASE WHEN substr(NEW.recover, 3, 1) < x'80' THEN 5 ELSE 6 END, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_item_recover_update BEFORE UPDATE OF recover ON escrow_item WHEN NEW.recover IS NOT NULL AND substr(NEW.recover, CASE WHEN substr(NEW.recover, 3, 1) < x'80' THEN 5 ELSE 6 END, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_item_summary_insert BEFORE INSERT ON escrow_item WHEN NEW.summary IS NOT NULL AND substr(NEW.summary, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_item_summary_update BEFORE UPDATE OF summary ON escrow_item WHEN NEW.summary IS NOT NULL AND substr(NEW.summary, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_pickup_wrap_insert BEFORE INSERT ON escrow_pickup WHEN NEW.wrap IS NOT NULL AND substr(NEW.wrap, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_pickup_wrap_update BEFORE UPDATE OF wrap ON escrow_pickup WHEN NEW.wrap IS NOT NULL AND substr(NEW.wrap, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_recipient_hashed_insert BEFORE INSERT ON escrow_recipient WHEN NEW.hashed IS NOT NULL AND substr(NEW.hashed, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_recipient_hashed_update BEFORE UPDATE OF hashed ON escrow_recipient WHEN NEW.hashed IS NOT NULL AND substr(NEW.hashed, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_outbox_sealed_insert BEFORE INSERT ON outbox WHEN NEW.sealed IS NOT NULL AND substr(NEW.sealed, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_outbox_sealed_update BEFORE UPDATE OF sealed ON outbox WHEN NEW.sealed IS NOT NULL AND substr(NEW.sealed, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_account_password_insert BEFORE INSERT ON escrow_account WHEN NEW.password IS NOT NULL AND substr(NEW.password, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_account_password_update BEFORE UPDATE OF password ON escrow_account WHEN NEW.password IS NOT NULL AND substr(NEW.password, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_account_totp_insert BEFORE INSERT ON escrow_account WHEN NEW.totp IS NOT NULL AND substr(NEW.totp, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_account_totp_update BEFORE UPDATE OF totp ON escrow_account WHEN NEW.totp IS NOT NULL AND substr(NEW.totp, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_passkey_credential_insert BEFORE INSERT ON escrow_passkey WHEN NEW.credential IS NOT NULL AND substr(NEW.credential, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_passkey_credential_update BEFORE UPDATE OF credential ON escrow_passkey WHEN NEW.credential IS NOT NULL AND substr(NEW.credential, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_reply_wrap_insert BEFORE INSERT ON escrow_reply WHEN NEW.wrap IS NOT NULL AND substr(NEW.wrap, CASE WHEN substr(NEW.wrap, 3, 1) < x'80' THEN 5 ELSE 6 END, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER key_retired_escrow_reply_wrap_update BEFORE UPDATE OF wrap ON escrow_reply WHEN NEW.wrap IS NOT NULL AND substr(NEW.wrap, CASE WHEN substr(NEW.wrap, 3, 1) < x'80' THEN 5 ELSE 6 END, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER key_retired_escrow_reply_wrap_update;
DROP TRIGGER key_retired_escrow_reply_wrap_insert;
DROP TRIGGER key_retired_escrow_passkey_credential_update;
DROP TRIGGER key_retired_escrow_passkey_credential_insert;
DROP TRIGGER key_retired_escrow_account_totp_update;
DROP TRIGGER key_retired_escrow_account_totp_insert;
DROP TRIGGER key_retired_escrow_account_password_update;
DROP TRIGGER key_retired_escrow_account_password_insert;
DROP TRIGGER key_retired_outbox_sealed_update;
DROP TRIGGER key_retired_outbox_sealed_insert;
DROP TRIGGER key_retired_escrow_recipient_hashed_update;
DROP TRIGGER key_retired_escrow_recipient_hashed_insert;
DROP TRIGGER key_retired_escrow_pickup_wrap_update;
DROP TRIGGER key_retired_escrow_pickup_wrap_insert;
DROP TRIGGER key_retired_escrow_item_summary_update;
DROP TRIGGER key_retired_escrow_item_summary_insert;
DROP TRIGGER key_retired_escrow_item_recover_update;
DROP TRIGGER key_retired_escrow_item_recover_insert;
DROP TRIGGER escrow_recovery_ends;
DROP TABLE escrow_recovery;
DROP TABLE recovery_key;
DROP TABLE key_holder;
DROP TABLE key_retired;
DROP TABLE key_rotation;
