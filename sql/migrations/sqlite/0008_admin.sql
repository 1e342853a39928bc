-- Administrators who sign in to the pages of the admin port. Times are Unix
-- microseconds, UTC; NULL is no time.

-- +goose Up
CREATE TABLE admin (
    name       TEXT    NOT NULL PRIMARY KEY, -- folded
    role       TEXT    NOT NULL CHECK (role IN ('viewer', 'operator')),
    password   BLOB    NOT NULL,             -- Argon2id output and how, under the server's keys
    totp       BLOB    NOT NULL,             -- secret, under the server's keys
    totp_step  INTEGER NOT NULL DEFAULT 0,   -- the last one used: a code counts once
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,             -- password, TOTP, role; never twice the same
    used_at    INTEGER                       -- the last sign-in
) STRICT;

-- As for other boxes, see 0006.
-- +goose StatementBegin
CREATE TRIGGER key_retired_admin_password_insert BEFORE INSERT ON admin WHEN substr(NEW.password, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER key_retired_admin_password_update BEFORE UPDATE OF password ON admin WHEN substr(NEW.password, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER key_retired_admin_totp_insert BEFORE INSERT ON admin WHEN substr(NEW.totp, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER key_retired_admin_totp_update BEFORE UPDATE OF totp ON admin WHEN substr(NEW.totp, 3, 4) IN (SELECT id FROM key_retired)
BEGIN
    SELECT RAISE(ABORT, 'key retired');
END;
-- +goose StatementEnd

-- A browser that is signed in. Who came by an identity provider has no row in admin.
CREATE TABLE admin_session (
    id         BLOB    NOT NULL PRIMARY KEY, -- keyed hash of the cookie's token
    name       TEXT    NOT NULL,             -- as it is shown and logged
    admin      TEXT    REFERENCES admin (name) ON DELETE CASCADE, -- NULL: by an identity provider
    issuer     TEXT    NOT NULL DEFAULT '',  -- of the provider
    subject    TEXT    NOT NULL DEFAULT '',
    email      TEXT    NOT NULL DEFAULT '',  -- that the provider has verified, or ''
    created_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL,             -- to a minute
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX admin_session_admin ON admin_session (admin);
CREATE INDEX admin_session_expires ON admin_session (expires_at);

-- +goose Down
DROP TABLE admin_session;
DROP TABLE admin;
