// Package alarm tells the administrator when a destination has lost its TLS, or what it
// publishes to be verified by, and when it is back.
//
// The prober notices (tlsmap/probe), writes it to the history, the log and the metrics;
// from the history a [Sender] tells of it by mail and webhook. What was not told yet is
// told after a restart. Nothing is decided here: an alarm weakens nothing and seals
// nothing.
package alarm

import (
	"context"
	"time"

	"github.com/postseal/postseal/tlsmap/probe"
)

// Way is a way to tell of alarms.
type Way string

// The ways.
const (
	Mail    Way = "mail"
	Webhook Way = "webhook"
)

// Store holds the alarms.
type Store interface {
	// UntoldAlarms returns alarms that a way has not taken yet, the oldest first.
	UntoldAlarms(ctx context.Context, way Way, limit int) ([]probe.Event, error)
	// AlarmsTaken notes that a way has taken alarms.
	AlarmsTaken(ctx context.Context, way Way, ids []int64, at time.Time) error
	// SettleAlarms closes the alarms that all of these ways have taken.
	SettleAlarms(ctx context.Context, ways []Way, at time.Time) error
	// LostSince returns how many destinations have lost their TLS since that time and
	// have it not back yet.
	LostSince(ctx context.Context, since time.Time) (int, error)
}
