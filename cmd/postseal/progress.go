package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// How often progress is shown, on a terminal and elsewhere.
const (
	progressBar   = 200 * time.Millisecond
	progressLine  = 30 * time.Second
	progressWidth = 30 // of the bar itself
)

// progress shows how far a long run is: a bar on a terminal, else a line now and
// then.
type progress struct {
	w       io.Writer
	bar     bool
	earlier int // done by an earlier run
	total   int // -1: not known
	done    func() int64
	start   time.Time
	stop    chan struct{}
	ended   sync.WaitGroup
}

// newProgress shows progress on w until end is called. Where the results themselves
// go to the terminal (busy) a bar would stand between them, so there is none.
func newProgress(w io.Writer, busy bool, earlier, total int, done func() int64) *progress {
	p := &progress{w: w, bar: isTerminal(w) && !busy, earlier: earlier, total: total, done: done, start: time.Now(), stop: make(chan struct{})}
	every := progressLine
	if p.bar {
		every = progressBar
	}
	p.ended.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.show()
			case <-p.stop:
				return
			}
		}
	})
	return p
}

// end leaves the line of the bar empty.
func (p *progress) end() {
	close(p.stop)
	p.ended.Wait()
	if p.bar {
		io.WriteString(p.w, "\r\x1b[K")
	}
}

func (p *progress) show() {
	text := progressText(p.bar, p.earlier, p.total, p.done(), time.Since(p.start))
	if p.bar {
		if f, ok := p.w.(*os.File); ok {
			if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && len(text) >= width {
				text = text[:width-1]
			}
		}
		fmt.Fprintf(p.w, "\r%s\x1b[K", text)
		return
	}
	fmt.Fprintln(p.w, text)
}

// progressText says how far it is: done in this run beyond earlier, of total (-1: not
// known), after a time.
func progressText(bar bool, earlier, total int, done int64, after time.Duration) string {
	at := int64(earlier) + done
	rate := float64(done) / max(after.Seconds(), 0.001)
	if total < 0 {
		return fmt.Sprintf("%s checked, %.0f/s", thousands(at), rate)
	}
	part := 1.0
	if total > 0 {
		part = min(1, float64(at)/float64(total))
	}
	var b strings.Builder
	if bar {
		full := int(part * progressWidth)
		fmt.Fprintf(&b, "[%s%s] ", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full))
	}
	fmt.Fprintf(&b, "%s of %s, %.1f%%, %.0f/s", thousands(at), thousands(int64(total)), 100*part, rate)
	if left := int64(total) - at; left > 0 && done > 0 {
		fmt.Fprintf(&b, ", %s left", roughly(time.Duration(float64(left)/rate*float64(time.Second))))
	}
	return b.String()
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// roughly writes a duration with its two largest units: nobody waits by the second.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(1, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
