package tlsmap

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: it ends after its time for who waits on it, whatever becomes of the
// connection, and when the answer is given.
func TestPatience(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		outer, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, 1))
		p := within(outer, time.Minute)
		cancel()
		if p.Err() != nil || p.Value(key{}) != 1 {
			t.Errorf("after a shutdown: %v, %v", p.Err(), p.Value(key{}))
		}
		inner, end := context.WithTimeout(p, time.Hour)
		defer end()
		start := time.Now()
		<-inner.Done()
		if took := time.Since(start); took != time.Minute || p.Err() != context.DeadlineExceeded {
			t.Errorf("ended after %v, %v", took, p.Err())
		}
		p = within(t.Context(), time.Minute)
		done := p.Done()
		p.end()
		<-done
		p = within(t.Context(), time.Minute)
		p.end() // nobody waited
		<-p.Done()
	})
}
