package mtasts

import (
	"context"
	"time"
)

// Record is what is kept of a policy over a restart.
type Record struct {
	Domain  string
	ID      string // of the TXT record that led to it
	Text    []byte // as fetched
	Fetched time.Time
	Expires time.Time // Fetched and max_age
	// Failed is since when refreshes fail, and Error why; zero and "" where the last
	// one did not.
	Failed time.Time
	Error  string
}

// Store keeps policies. The Cache calls it from several goroutines.
type Store interface {
	// LoadPolicies calls each with every policy until that fails.
	LoadPolicies(ctx context.Context, each func(Record) error) error
	// LoadPolicy returns the policy of a domain; ok is false where there is none.
	LoadPolicy(ctx context.Context, domain string) (r Record, ok bool, err error)
	// SavePolicy puts r in the place of the policy of its domain.
	SavePolicy(ctx context.Context, r Record) error
	// CountPolicies returns how many there are.
	CountPolicies(ctx context.Context) (int, error)
	// NotePolicy notes Failed and Error of a domain's policy.
	NotePolicy(ctx context.Context, domain string, failed time.Time, reason string) error
	// DeletePolicies forgets what expired before that time.
	DeletePolicies(ctx context.Context, before time.Time) error
}

// ReadOnly returns a store that reads s and changes nothing: for commands that look
// at what the server keeps.
func ReadOnly(s Store) Store { return readOnly{s} }

type readOnly struct{ Store }

func (readOnly) SavePolicy(context.Context, Record) error                    { return nil }
func (readOnly) NotePolicy(context.Context, string, time.Time, string) error { return nil }
func (readOnly) DeletePolicies(context.Context, time.Time) error             { return nil }
