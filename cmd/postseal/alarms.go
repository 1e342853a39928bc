package main

import (
	"log/slog"
	"net/mail"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/relaymail"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/alarm"
)

// newAlarms makes what tells of alarms: by mail, through the port for notices, and by
// the webhook, as far as they are set.
func newAlarms(cfg *config, db *sql.DB, from, host string, log *slog.Logger, reg prometheus.Registerer) *alarm.Sender {
	s := &alarm.Sender{
		Store: db, Deliver: relaymail.Relay{Addr: cfg.str("notice-relay"), ServerName: host}.Send,
		URL: cfg.str("alarm-webhook"), Host: host, Log: log, Registerer: reg,
	}
	for address, into := range map[string]*string{from: &s.From, cfg.str("alarm-mail"): &s.To} {
		if a, err := mail.ParseAddress(address); err == nil { // checked before; empty: none
			*into = a.Address
		}
	}
	return s
}
