package tlsmap

import "github.com/prometheus/client_golang/prometheus"

// metrics are counted without a lookup by label on the hot path.
type metrics struct {
	connections prometheus.Gauge
	closed      prometheus.Counter
	overrides   prometheus.Counter
	answers     *prometheus.CounterVec
	byMap       map[string]*[4]prometheus.Counter // by statuses
	other       *[4]prometheus.Counter
}

var statuses = [4]Status{OK, NotFound, Temp, Perm}

func newMetrics() metrics {
	m := metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postseal_map_connections", Help: "Open connections of the map server."}),
		closed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postseal_map_closed_total", Help: "Connections of the map server closed upon bad input."}),
		overrides: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postseal_override_uses_total", Help: "Answers of the map server in which a rule with --override passed by what the destination publishes."}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_map_answers_total", Help: "Answers of the map server, by map and status."}, []string{"map", "status"}),
		byMap: make(map[string]*[4]prometheus.Counter),
	}
	counters := func(name string) *[4]prometheus.Counter {
		var c [4]prometheus.Counter
		for i, st := range statuses {
			c[i] = m.answers.WithLabelValues(name, string(st))
		}
		return &c
	}
	for _, name := range Maps() {
		m.byMap[name] = counters(name)
	}
	m.other = counters("other")
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.connections, m.closed, m.overrides, m.answers} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) count(mapName string, st Status) {
	counters := m.byMap[mapName]
	if counters == nil {
		counters = m.other
	}
	for i, s := range statuses {
		if s == st {
			counters[i].Inc()
			return
		}
	}
}
