package escrow

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sealed, opened, expired, retracted, wrong, locked prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		if r != nil {
			r.MustRegister(c)
		}
		return c
	}
	return &metrics{
		sealed:    counter("postseal_escrow_sealed_total", "Messages sealed, one for each recipient."),
		opened:    counter("postseal_escrow_opened_total", "Messages opened for the first time after verification."),
		expired:   counter("postseal_escrow_expired_total", "Messages that expired, one for each recipient."),
		retracted: counter("postseal_escrow_retracted_total", "Messages taken back, one for each recipient."),
		wrong:     counter("postseal_escrow_wrong_tries_total", "Wrong codes and passphrases."),
		locked:    counter("postseal_escrow_locks_total", "Locks after too many wrong tries."),
	}
}
