-- The administrator's rules, what is known of destinations, and the versions by
-- which running servers notice a change. Times are Unix microseconds, UTC; NULL
-- is no time.
-- Released: never edit; add the next number.

-- +goose Up
PRAGMA application_id = 1347642732; -- "PSel": tells a Postseal database from any other

CREATE TABLE meta (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

-- rules_version grows with every change of a rule, in the same transaction.
INSERT INTO meta (name, value) VALUES ('rules_version', 0), ('heartbeat', 0);

CREATE TABLE rule (
    id          INTEGER NOT NULL PRIMARY KEY,
    scope       TEXT    NOT NULL CHECK (scope IN ('recipient', 'sender', 'login')),
    pattern     TEXT    NOT NULL CHECK (pattern <> ''), -- canonical
    requirement TEXT    NOT NULL CHECK (requirement IN ('none', 'tls', 'encryption', 'escrow')),
    level       TEXT    NOT NULL DEFAULT '' CHECK (level IN ('', 'may', 'encrypt', 'verify', 'secure')),
    match_names TEXT    NOT NULL DEFAULT '', -- parted by colons
    protocols   TEXT    NOT NULL DEFAULT '',
    ciphers     TEXT    NOT NULL DEFAULT '',
    servername  TEXT    NOT NULL DEFAULT '',
    nexthop     TEXT    NOT NULL DEFAULT '',
    verify      TEXT    NOT NULL DEFAULT '', -- of the pickup: code, passphrase
    mode        TEXT    NOT NULL DEFAULT '', -- of the seal: recoverable, sealed
    weaken      INTEGER NOT NULL DEFAULT 0 CHECK (weaken IN (0, 1)),
    note        TEXT    NOT NULL DEFAULT '',
    until_at    INTEGER,                     -- end, exclusive
    created_at  INTEGER NOT NULL,
    UNIQUE (scope, pattern)
) STRICT;

CREATE TABLE posture (
    dest       TEXT    NOT NULL PRIMARY KEY, -- domain or next-hop
    state      TEXT    NOT NULL,
    checked_at INTEGER,
    worked_at  INTEGER,
    lost_at    INTEGER,
    expires_at INTEGER,
    failures   INTEGER NOT NULL DEFAULT 0,
    result     BLOB    NOT NULL               -- details, JSON
) STRICT;

CREATE INDEX posture_checked ON posture (checked_at);

-- +goose Down
DROP TABLE posture;
DROP TABLE rule;
DROP TABLE meta;
