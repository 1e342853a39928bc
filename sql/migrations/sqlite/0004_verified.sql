-- Verified TLS: MTA-STS policies, the history of destinations and alarms, reports of
-- TLS failures, overrides. Times are Unix microseconds, UTC; NULL is no time.

-- +goose Up

-- The policy of a domain (RFC 8461) as last fetched. It outlives the posture.
CREATE TABLE mta_sts (
    domain     TEXT    NOT NULL PRIMARY KEY, -- policy domain, canonical
    id         TEXT    NOT NULL,             -- of the TXT record that led to it
    policy     BLOB    NOT NULL,             -- as fetched, at most 64 KiB
    fetched_at INTEGER NOT NULL,             -- when it was last got
    expires_at INTEGER NOT NULL,             -- fetched_at and max_age
    failed_at  INTEGER,                      -- since when refreshes fail; NULL: they do not
    error      TEXT    NOT NULL DEFAULT ''   -- and why
) STRICT;

-- TLS has worked without a break since then, as of worked_at.
ALTER TABLE posture ADD COLUMN since_at INTEGER;

-- What changed at a destination, and what of it is an alarm.
CREATE TABLE posture_event (
    id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    dest    TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    kind    TEXT    NOT NULL, -- tls-appeared, tls-lost, certificate, key, mx, dane, mta-sts, …
    detail  TEXT    NOT NULL, -- JSON: before, after, reason
    alarm   INTEGER NOT NULL DEFAULT 0 CHECK (alarm IN (0, 1)),
    mailed_at INTEGER,        -- of an alarm: when the mail of it was taken
    posted_at INTEGER,        -- when the webhook took it
    told_at   INTEGER         -- when all ways in force had; NULL: not yet
) STRICT;

CREATE INDEX posture_event_dest ON posture_event (dest, id);
CREATE INDEX posture_event_at ON posture_event (at);
CREATE INDEX posture_event_alarm ON posture_event (dest, id) WHERE alarm = 1;
CREATE INDEX posture_event_untold ON posture_event (id) WHERE alarm = 1 AND told_at IS NULL;

-- Sessions counted for the reports of RFC 8460, a row for each kind of outcome.
CREATE TABLE tlsrpt_count (
    day      TEXT    NOT NULL, -- UTC, 2026-11-27
    domain   TEXT    NOT NULL, -- policy domain
    policy   TEXT    NOT NULL, -- JSON of the policy object (section 4.2)
    outcome  TEXT    NOT NULL, -- JSON of the failure details without the count; '' for success
    sessions INTEGER NOT NULL,
    PRIMARY KEY (day, domain, policy, outcome)
) STRICT, WITHOUT ROWID;

-- Reports on their way, and those of late. Of one domain and day there can be
-- more than one where somebody sent what there was before the day was over.
CREATE TABLE tlsrpt_report (
    id         TEXT    NOT NULL, -- report-id
    day        TEXT    NOT NULL,
    domain     TEXT    NOT NULL,
    uri        TEXT    NOT NULL, -- mailto: or https:, as published
    report     BLOB    NOT NULL, -- JSON, gzip
    tries      INTEGER NOT NULL DEFAULT 0,
    next_at    INTEGER,          -- NULL: done with
    error      TEXT    NOT NULL DEFAULT '', -- of the last try
    created_at INTEGER NOT NULL,
    PRIMARY KEY (id, uri)
) STRICT;

CREATE INDEX tlsrpt_report_next ON tlsrpt_report (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX tlsrpt_report_domain ON tlsrpt_report (domain);

ALTER TABLE rule ADD COLUMN override INTEGER NOT NULL DEFAULT 0 CHECK (override IN (0, 1));

-- +goose Down
ALTER TABLE rule DROP COLUMN override;
DROP TABLE tlsrpt_report;
DROP TABLE tlsrpt_count;
DROP TABLE posture_event;
ALTER TABLE posture DROP COLUMN since_at;
DROP TABLE mta_sts;
