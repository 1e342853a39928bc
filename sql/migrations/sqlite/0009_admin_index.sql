-- What the admin pages list is read along these indexes, a page at a time. Those that
-- name an id are unique as it is: SQLite then knows that their order is one.

-- +goose Up
CREATE UNIQUE INDEX escrow_pickup_newest ON escrow_pickup (created_at, item_id, recipient_key);
CREATE UNIQUE INDEX escrow_pickup_state ON escrow_pickup (state, created_at, item_id, recipient_key);
CREATE UNIQUE INDEX escrow_pickup_bounced ON escrow_pickup (created_at, item_id, recipient_key) WHERE notice = 'bounced';
-- The domain is what is behind the last @.
CREATE INDEX escrow_pickup_domain ON escrow_pickup (substr(recipient_key, 1 + length(rtrim(recipient_key, replace(recipient_key, '@', '')))), created_at, item_id, recipient_key);

CREATE UNIQUE INDEX escrow_item_sender ON escrow_item (sender_key, created_at, id);
CREATE UNIQUE INDEX escrow_item_sender_domain ON escrow_item (sender_domain, created_at, id);
CREATE UNIQUE INDEX escrow_item_held ON escrow_item (created_at, id) WHERE held_at IS NOT NULL;
CREATE UNIQUE INDEX escrow_item_queue ON escrow_item (queue_id, created_at, id);

CREATE UNIQUE INDEX outbox_created ON outbox (created_at, id);
CREATE INDEX audit_kind ON audit (kind, at);
CREATE UNIQUE INDEX posture_event_lost ON posture_event (id) WHERE alarm = 1 AND kind IN ('tls-lost', 'dane-lost', 'mta-sts-lost'); -- what can be an alarm that has not ended

-- Exceptions, which are few among many.
CREATE UNIQUE INDEX rule_weaker ON rule (scope, pattern) WHERE weaken = 1;
CREATE UNIQUE INDEX rule_override ON rule (scope, pattern) WHERE override = 1;
CREATE UNIQUE INDEX rule_ending ON rule (scope, pattern) WHERE until_at IS NOT NULL;

-- +goose Down
DROP INDEX rule_ending;
DROP INDEX rule_override;
DROP INDEX rule_weaker;
DROP INDEX posture_event_lost;
DROP INDEX audit_kind;
DROP INDEX outbox_created;
DROP INDEX escrow_item_queue;
DROP INDEX escrow_item_held;
DROP INDEX escrow_item_sender_domain;
DROP INDEX escrow_item_sender;
DROP INDEX escrow_pickup_domain;
DROP INDEX escrow_pickup_bounced;
DROP INDEX escrow_pickup_state;
DROP INDEX escrow_pickup_newest;
