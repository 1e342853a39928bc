package policyd

import "github.com/prometheus/client_golang/prometheus"

// metrics are counted without a lookup by label on the hot path.
type metrics struct {
	connections  prometheus.Gauge
	transactions prometheus.GaugeFunc
	closed       prometheus.Counter
	answers      *prometheus.CounterVec
	dunno        prometheus.Counter
}

func newMetrics(transactions func() float64) metrics {
	m := metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postseal_policy_connections", Help: "Open connections of the policy server."}),
		transactions: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postseal_policy_transactions", Help: "SMTP transactions remembered by the policy server."}, transactions),
		closed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postseal_policy_closed_total", Help: "Connections closed instead of an answer: bad requests and trouble."}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_policy_answers_total", Help: "Answers of the policy server, by action."}, []string{"action"}),
	}
	m.dunno = m.answers.WithLabelValues(dunno.verb)
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.connections, m.transactions, m.closed, m.answers} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) count(verb string) {
	if verb == dunno.verb {
		m.dunno.Inc()
		return
	}
	m.answers.WithLabelValues(verb).Inc()
}
