// Package notify writes the mails of the escrow and hands them to Postfix.
package notify

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sender hands mails from the outbox to Postfix.
type Sender struct {
	Outbox     Outbox // the vault
	Relay      string // HOST:PORT of the smtpd that takes notices
	ServerName string // for EHLO
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

type Outbox interface{}

func (s *Sender) Run(ctx context.Context) error { return errors.ErrUnsupported }
func (s *Sender) Wake()                         {}
func (s *Sender) Oldest(ctx context.Context) (age time.Duration, err error) {
	return 0, errors.ErrUnsupported
}
