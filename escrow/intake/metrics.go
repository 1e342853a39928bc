package intake

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are shared by all listeners that have one registerer.
type metrics struct {
	recipients *prometheus.CounterVec // by listener and outcome
	alarms     prometheus.Counter
	garbage    prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		recipients: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_intake_recipients_total", Help: "Recipients of messages taken from Postfix, by listener and outcome.",
		}, []string{"listener", "outcome"})),
		alarms: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postseal_intake_alarms_total", Help: "Refusals by our own ports of Postfix, and other trouble that an administrator must look at.",
		})),
		garbage: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postseal_intake_garbage_total", Help: "Connections closed upon bad input.",
		})),
	}
}

// register returns the collector of that name that is registered already, if
// there is one.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}
