// Package logtext has the log of a test that reads it while a server still writes it.
package logtext

import (
	"strings"
	"sync"
)

// Log is a log. Its zero value is empty.
type Log struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements [io.Writer].
func (t *Log) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

// String returns what was written so far.
func (t *Log) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
