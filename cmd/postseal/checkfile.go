package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/tlsmap/check"
	"github.com/postseal/postseal/tlsmap/probe"
)

// How much a check in bulk keeps, about 2 kB for each session and 300 bytes for each
// answer, and how many addresses of one host it looks at.
const (
	bulkSessions  = 20_000
	bulkAnswers   = 50_000
	bulkAddresses = 4
	maxParallel   = 1024
)

// checkFileFlags are those of postseal check --file.
func checkFileFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "file", Usage: "check all that `FILE` lists, one a line; - is the standard input"},
		&cli.StringFlag{Name: "output", Usage: "with --file: write to `FILE` instead of the standard output"},
		&cli.BoolFlag{Name: "resume", Usage: "with --output: go on where an earlier run of the same list ended"},
		&cli.StringFlag{Name: "format", Usage: "with --file: `FORMAT` jsonl (JSON lines) or csv; default: csv where the output is called .csv, else jsonl"},
		&cli.BoolFlag{Name: "full", Usage: "with --file: keep the whole report in each JSON line"},
		&cli.IntFlag{Name: "parallel", Usage: "with --file: look at `N` destinations at a time", Value: 64},
		&cli.StringFlag{Name: "summary-json", Usage: "with --file: write the summary to `FILE` as JSON too"},
	}
}

// checkFile checks a list of any length.
func checkFile(c *cli.Context) (err error) {
	if c.NArg() > 0 {
		return fmt.Errorf("check: either --file or arguments, not both: %q", c.Args().First())
	}
	o, err := fileOptions(c)
	if err != nil {
		return err
	}
	list, total, err := openList(c, o.file)
	if err != nil {
		return err
	}
	defer list.Close()
	lines := check.NewLines(list)
	out, err := openRows(c, o, lines)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.close(); e != nil && err == nil {
			err = e
		}
	}()
	below, err := failBelow(c)
	if err != nil {
		return err
	}
	k, err := openCheckKit(c, o.apply)
	if err != nil {
		return err
	}
	defer k.close()

	earlier := out.rows.Summary.Asked
	bulk := &check.Bulk{Parallel: o.parallel, Look: func(ctx context.Context, asked string) *check.Row {
		return k.row(ctx, asked, o)
	}}
	start := time.Now()
	show := newProgress(c.App.ErrWriter, out.terminal, earlier, total, bulk.Looked)
	err = bulk.Run(c.Context, lines, out.rows)
	show.end()

	sum := &out.rows.Summary
	sum.Seconds, sum.Sessions, sum.Complete = time.Since(start).Seconds(), k.prober.Sessions(), err == nil
	sum.WriteText(c.App.ErrWriter)
	if e := writeSummary(c.String("summary-json"), sum); e != nil && err == nil {
		err = e
	}
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("interrupted after %d", sum.Asked)
		if o.output != "" {
			err = fmt.Errorf("%w: the same command with --resume goes on", err)
		}
	}
	if err == nil && sum.Below(below) > 0 {
		return errBelow
	}
	return err
}

// bulkOptions are the flags, checked.
type bulkOptions struct {
	file, output string
	resume, full bool
	format       check.Format
	parallel     int
	timeout      time.Duration
}

func fileOptions(c *cli.Context) (o bulkOptions, err error) {
	o = bulkOptions{file: c.String("file"), output: c.String("output"), resume: c.Bool("resume"), full: c.Bool("full"), parallel: c.Int("parallel")}
	format := c.String("format")
	if format == "" {
		format = string(check.JSONLines)
		if strings.EqualFold(filepath.Ext(o.output), ".csv") {
			format = string(check.CSV)
		}
	}
	if o.format, err = check.ParseFormat(format); err != nil {
		return o, fmt.Errorf("--format: %w", err)
	}
	if o.timeout, err = parseDuration(c.String("timeout")); err != nil {
		return o, fmt.Errorf("--timeout: %w", err)
	}
	switch {
	case o.resume && o.output == "":
		return o, errors.New("--resume wants --output FILE, of the run that it goes on with")
	case o.full && o.format != check.JSONLines:
		return o, errors.New("--full wants --format jsonl")
	case o.parallel < 1 || o.parallel > maxParallel:
		return o, fmt.Errorf("--parallel %d: want 1 to %d", o.parallel, maxParallel)
	}
	return o, nil
}

// openList opens the list and counts what it asks for; -1 where it can't be read
// twice.
func openList(c *cli.Context, file string) (io.ReadCloser, int, error) {
	if file == "-" {
		return io.NopCloser(c.App.Reader), -1, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, fmt.Errorf("--file: %w", err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return f, -1, err
	}
	total, err := check.CountItems(f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("--file %s: %w", file, err)
	}
	return f, total, nil
}

// rowsOut is where rows go.
type rowsOut struct {
	rows     *check.RowWriter
	file     *os.File // nil: the standard output
	terminal bool     // the rows themselves are seen by a person
}

// openRows opens the output. A file is locked, since two runs would spoil it, and one
// that has something in it is left alone without --resume: it may be the work of hours.
func openRows(c *cli.Context, o bulkOptions, in *check.Lines) (*rowsOut, error) {
	if o.output == "" {
		return &rowsOut{rows: check.NewRowWriter(c.App.Writer, o.format, false), terminal: isTerminal(c.App.Writer)}, nil
	}
	f, err := os.OpenFile(o.output, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	out, err := prepareRows(f, o, in)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("--output %s: %w", o.output, err)
	}
	return out, nil
}

func prepareRows(f *os.File, o bulkOptions, in *check.Lines) (*rowsOut, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe or /dev/null
		if o.resume {
			return nil, errors.New("--resume wants a regular file")
		}
		return &rowsOut{rows: check.NewRowWriter(f, o.format, false), file: f}, nil
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another run is writing it (%w)", err)
	}
	if !o.resume {
		if info.Size() > 0 {
			return nil, fmt.Errorf("there is something in it already: --resume goes on with it: %w", fs.ErrExist)
		}
		return &rowsOut{rows: check.NewRowWriter(f, o.format, false), file: f}, nil
	}
	done, goesOn, err := check.Resume(f, o.format, in)
	if err != nil {
		return nil, fmt.Errorf("can't resume: %w", err)
	}
	rows := check.NewRowWriter(f, o.format, goesOn)
	rows.Summary = done
	return &rowsOut{rows: rows, file: f}, nil
}

func (o *rowsOut) close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

func writeSummary(file string, s *check.Summary) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(b, '\n'), 0o666)
	}
	if err != nil {
		return fmt.Errorf("--summary-json: %w", err)
	}
	return nil
}

// apply has the prober look at many, politely.
func (o *bulkOptions) apply(p *probe.Options, c *check.Options) {
	p.Resolver = p.Resolver.Many(2*o.parallel, bulkAnswers)
	p.MaxParallel, p.MaxShared, p.MaxHostAddr = 2*o.parallel, bulkSessions, bulkAddresses
	c.Shared = true
}

// row looks at one item of a list.
func (k *checkKit) row(ctx context.Context, asked string, o bulkOptions) *check.Row {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	q, err := parseQuestion(asked)
	if err != nil {
		return check.ErrorRow(asked, err)
	}
	return check.RowOf(asked, k.check(ctx, q, true), o.full)
}
