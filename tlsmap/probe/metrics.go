package probe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
)

type metrics struct {
	outcomes *prometheus.CounterVec
	duration *prometheus.HistogramVec
	dropped  prometheus.Counter
	known    prometheus.Gauge
}

// newMetrics registers the metrics with reg, where it is not nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_probe_outcomes_total",
			Help: "Looks at destinations, by what was found.",
		}, []string{"state"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postseal_probe_duration_seconds",
			Help:    "How long a look at a destination took.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"state"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postseal_probe_dropped_total",
			Help: "Looks that were put off because too many were waiting.",
		}),
		known: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postseal_postures",
			Help: "Destinations whose posture is remembered.",
		}),
	}
	for s := policy.Unknown; s <= policy.NoMail; s++ {
		m.outcomes.WithLabelValues(s.String())
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.outcomes, m.duration, m.dropped, m.known} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(s policy.State, took time.Duration) {
	m.outcomes.WithLabelValues(s.String()).Inc()
	m.duration.WithLabelValues(s.String()).Observe(took.Seconds())
}
