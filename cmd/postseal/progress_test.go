package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressText(t *testing.T) {
	tests := []struct {
		bar     bool
		earlier int
		total   int
		done    int64
		after   time.Duration
		want    string
	}{
		{true, 0, 100_000, 0, 0, "[..............................] 0 of 100,000, 0.0%, 0/s"},
		{true, 0, 100_000, 25_000, 100 * time.Second, "[#######.......................] 25,000 of 100,000, 25.0%, 250/s, 5 min 0 s left"},
		{false, 50_000, 100_000, 1_000, 10 * time.Second, "51,000 of 100,000, 51.0%, 100/s, 8 min 10 s left"}, // the rate is of this run
		{true, 0, 10, 10, time.Second, "[##############################] 10 of 10, 100.0%, 10/s"},
		{true, 0, -1, 1234, 10 * time.Second, "1,234 checked, 123/s"},
		{true, 0, 0, 0, time.Second, "[##############################] 0 of 0, 100.0%, 0/s"},
		{false, 0, 10_000_000, 100, time.Second, "100 of 10,000,000, 0.0%, 100/s, 27 h 46 min left"},
	}
	for _, tt := range tests {
		if got := progressText(tt.bar, tt.earlier, tt.total, tt.done, tt.after); got != tt.want {
			t.Errorf("%+v:\n%s", tt, got)
		}
	}
}

// TestProgressInAPipe: a log gets a line every half minute, and no control characters.
func TestProgressInAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, false, 0, 1000, func() int64 { return 100 })
		time.Sleep(95 * time.Second)
		p.end()
		if n := strings.Count(out.String(), "\n"); n != 3 || strings.ContainsAny(out.String(), "\r\x1b") {
			t.Errorf("%d lines in 95 s: %q", n, &out)
		}
	})
}
