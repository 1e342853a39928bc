package escrow

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sealed, opened, expired, retracted, wrong, locked prometheus.Counter

	held     prometheus.Gauge
	quotas   *prometheus.GaugeVec
	refusals *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		if r != nil {
			r.MustRegister(c)
		}
		return c
	}
	m := &metrics{
		held: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postseal_escrow_held_bytes", Help: "Bytes of messages that are held."}),
		quotas: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postseal_escrow_quota_used_ratio", Help: "Share of a quota that is used, where it is 0.8 or more: total, or @DOMAIN of senders.",
		}, []string{"of"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_escrow_quota_refusals_total", Help: "Tries to seal that a quota refused: total, domain.",
		}, []string{"of"}),
		sealed:    counter("postseal_escrow_sealed_total", "Messages sealed, one for each recipient."),
		opened:    counter("postseal_escrow_opened_total", "Messages opened for the first time after verification."),
		expired:   counter("postseal_escrow_expired_total", "Messages that expired, one for each recipient."),
		retracted: counter("postseal_escrow_retracted_total", "Messages taken back, one for each recipient."),
		wrong:     counter("postseal_escrow_wrong_tries_total", "Wrong codes and passphrases."),
		locked:    counter("postseal_escrow_locks_total", "Locks after too many wrong tries."),
	}
	if r != nil {
		r.MustRegister(m.held, m.quotas, m.refusals)
		for _, of := range []string{"total", "domain"} {
			m.refusals.WithLabelValues(of) // there from the start
		}
	}
	return m
}
