package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// RowWriter writes rows in a format to w, and sums them up. It implements [Rows].
type RowWriter struct {
	Format  Format
	Summary Summary

	w    *bufio.Writer
	line []byte
}

// NewRowWriter writes to w; the header too, unless the output goes on with what is
// there.
func NewRowWriter(w io.Writer, f Format, goesOn bool) *RowWriter {
	out := &RowWriter{Format: f, w: bufio.NewWriterSize(w, 64<<10)}
	if !goesOn {
		out.w.WriteString(f.Header())
	}
	return out
}

// Write implements [Rows].
func (o *RowWriter) Write(r *Row) (err error) {
	if o.line, err = o.Format.Append(o.line[:0], r); err != nil {
		return err
	}
	o.Summary.Add(r)
	_, err = o.w.Write(o.line)
	return err
}

// Flush implements [Rows].
func (o *RowWriter) Flush() error { return o.w.Flush() }

// Resume reads what an earlier run of the same list wrote to f, takes as many items
// off in, and leaves f cut to whole lines and at its end: a run that was killed may
// have left a part of one. Where a row is not that of its item, f is of another list,
// which is an error, and nothing is changed. goesOn reports that the header stands there.
func Resume(f *os.File, format Format, in *Lines) (done Summary, goesOn bool, err error) {
	r := bufio.NewReaderSize(f, 64<<10)
	good := int64(0) // bytes of whole lines
	header := []byte(format.Header())
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what is left is torn
		}
		if err != nil {
			return done, false, err
		}
		if n == 1 && len(header) > 0 {
			if !bytes.Equal(line, header) {
				return done, false, fmt.Errorf("line 1 is not the header of this format: the file is of another run")
			}
			good += int64(len(line))
			continue
		}
		row, err := format.Parse(line)
		if err != nil {
			if _, end := r.Peek(1); errors.Is(end, io.EOF) {
				break // a last line of zeros or half of one, as a power cut leaves it
			}
			return done, false, fmt.Errorf("line %d is not a row of this format: %w", n, err)
		}
		item, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return done, false, fmt.Errorf("line %d is for %s, and the list has ended: the file is of another list", n, row.Asked)
		case err != nil:
			return done, false, err
		case row.Asked != oneLine(item.Asked):
			return done, false, fmt.Errorf("line %d is for %s, where the list (line %d) asks for %s: the file is of another list", n, row.Asked, item.Line, item.Asked)
		}
		done.Add(row)
		good += int64(len(line))
	}
	if err := f.Truncate(good); err != nil {
		return done, false, err
	}
	_, err = f.Seek(good, io.SeekStart)
	return done, good > 0, err
}

// Summary counts rows.
type Summary struct {
	Asked    int            `json:"asked"`
	Classes  map[string]int `json:"classes"`
	States   map[string]int `json:"states"`
	DANE     map[string]int `json:"dane"`
	STS      map[string]int `json:"mta_sts"`
	TLSRPT   int            `json:"tlsrpt"` // how many have such a record
	Channels map[string]int `json:"channels"`
	// Seconds and the rest are of this run alone, without what an earlier one did.
	Seconds  float64 `json:"seconds"`
	Sessions int64   `json:"sessions"` // SMTP sessions that were had
	Complete bool    `json:"complete"` // the whole list
}

// Add counts a row.
func (s *Summary) Add(r *Row) {
	s.Asked++
	for _, c := range []struct {
		m    *map[string]int
		word string
	}{{&s.Classes, r.Class}, {&s.States, r.State}, {&s.DANE, r.DANE}, {&s.STS, r.STS}, {&s.Channels, r.Channel}} {
		if *c.m == nil {
			*c.m = make(map[string]int)
		}
		if c.word != "" {
			(*c.m)[c.word]++
		}
	}
	if len(r.TLSRPT) > 0 {
		s.TLSRPT++
	}
}

// Below is how many rows are of a class below c; errors are below all but the least.
func (s *Summary) Below(c Class) int {
	n := 0
	for word, count := range s.Classes {
		if class, _ := ParseClass(word); class < c {
			n += count
		}
	}
	return n
}

// WriteText writes the summary for a person.
func (s *Summary) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%d checked", s.Asked)
	if s.Seconds > 0 {
		fmt.Fprintf(w, " in %s, with %d SMTP sessions", time.Duration(s.Seconds*float64(time.Second)).Round(time.Second/10), s.Sessions)
	}
	fmt.Fprintln(w)
	for _, c := range append(Classes(), ClassError) {
		if n := s.Classes[c]; n > 0 {
			fmt.Fprintf(w, "  %-9s %8d  %5.1f%%\n", c, n, 100*float64(n)/float64(s.Asked))
		}
	}
	if s.Asked > 0 {
		fmt.Fprintf(w, "DANE: %d, MTA-STS enforced: %d, testing: %d, TLSRPT: %d\n",
			s.DANE["full"]+s.DANE["partial"], s.STS["enforce"], s.STS["testing"], s.TLSRPT)
	}
}
