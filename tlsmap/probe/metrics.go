package probe

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
)

type metrics struct {
	outcomes *prometheus.CounterVec
	duration *prometheus.HistogramVec
	dropped  prometheus.Counter
	known    prometheus.Gauge
	alarms   *prometheus.CounterVec
	lost     prometheus.GaugeFunc
	lostNow  atomic.Pointer[func() int] // of the manager
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
	m.alarms = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postseal_alarms_total",
		Help: "Alarms about destinations, and their ends, by kind.",
	}, []string{"kind"})
	for _, k := range []Kind{TLSLost, TLSBack, DANELost, DANEBack, STSLost, STSBack} {
		m.alarms.WithLabelValues(string(k))
	}
	m.lost = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postseal_destinations_tls_lost",
		Help: "Destinations in memory that have lost the TLS they had for long.",
	}, func() float64 {
		if f := m.lostNow.Load(); f != nil {
			return float64((*f)())
		}
		return 0
	})
	for s := policy.Unknown; s <= policy.NoMail; s++ {
		m.outcomes.WithLabelValues(s.String())
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.outcomes, m.duration, m.dropped, m.known, m.alarms, m.lost} {
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
