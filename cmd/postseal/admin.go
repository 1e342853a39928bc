package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postseal/postseal/internal/adminlogin"
)

// readiness is one condition of readiness.
type readiness struct {
	name string
	ok   func(context.Context) error
}

// pages are pages of the admin port.
type pages interface{ register(*http.ServeMux) }

// allPages are several.
type allPages []pages

func (all allPages) register(mux *http.ServeMux) {
	for _, p := range all {
		p.register(mux)
	}
}

// loginPages are those of the login.
type loginPages struct{ *adminlogin.Login }

func (p loginPages) register(mux *http.ServeMux) { p.Register(mux) }

// adminHandler serves /healthz (the program runs), /readyz (it can do its job)
// and /metrics, the API, and the pages.
func adminHandler(reg *prometheus.Registry, api http.Handler, pages pages, checks []readiness) http.Handler {
	mux := http.NewServeMux()
	if pages != nil {
		pages.register(mux)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		status, text := http.StatusOK, ""
		for _, c := range checks {
			if err := c.ok(ctx); err != nil {
				status = http.StatusServiceUnavailable
				text += fmt.Sprintf("%s: %v\n", c.name, err)
			} else {
				text += c.name + ": ok\n"
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	})
	mux.Handle("/api/", api)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}
