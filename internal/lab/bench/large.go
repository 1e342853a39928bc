package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-message"

	"github.com/postseal/postseal/escrow/lmtp"
	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// Aims for the memory of serve above idle.
const (
	aimOne     = 32 << 20 // with one message of 50 MB in hand
	aimFurther = 8 << 20  // more for each further one
)

// large measures the memory that serve needs while messages of 50 MB are taken, opened
// and downloaded, one, two and four at once; each time in a process of its own.
func large(ctx context.Context, s *settings, dir string) error {
	heading("Memory of postseal serve above idle, in MiB: messages of 50 MB at once, taken by LMTP, opened and downloaded over HTTP")
	fmt.Printf("  %-4s %8s %8s %8s %10s %9s %7s %9s %14s\n", "", "idle", "taken", "opened", "downloaded", "a file", "CPU s", "most", "each further")
	var one int64
	for _, n := range []int{1, 2, 4, 8} {
		sub, err := os.MkdirTemp(dir, "large-")
		if err != nil {
			return err
		}
		most, err := s.largeAtOnce(ctx, sub, n)
		if err != nil {
			return fmt.Errorf("%d at once: %w", n, err)
		}
		if n == 1 {
			one = most
			fmt.Println()
		} else {
			fmt.Printf(" %14s\n", mib((most-one)/int64(n-1)))
		}
		if err := os.RemoveAll(sub); err != nil {
			return err
		}
	}
	fmt.Printf("  aims: less than %s for one, no more than %s for each further one\n", mib(aimOne), mib(aimFurther))
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }

// largeAtOnce prints a line, without its end, and returns the most that was in use
// above idle, in bytes.
func (s *settings) largeAtOnce(ctx context.Context, dir string, n int) (int64, error) {
	m, err := startMailbox(ctx, s, dir)
	if err != nil {
		return 0, err
	}
	defer m.close()
	p := m.p
	// What the first message brings in, such as the pages of the program, is no memory
	// that a large one needs.
	for i := range 3 {
		small := letter(10_000)
		if err := m.take(ctx, "small", i, small); err != nil {
			return 0, err
		}
		b, err := m.open("small", i)
		if err == nil {
			err = download(b, "/raw", len(small))
		}
		if err != nil {
			return 0, err
		}
	}
	time.Sleep(time.Second)
	idle := p.resident()
	var most int64
	cpu := p.cpu()
	step := func(do func(i int) error) (string, error) {
		if err := p.forgetPeak(); err != nil {
			return "", err
		}
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = do(i) })
		}
		wg.Wait()
		above := p.peak() - idle
		most = max(most, above)
		return mib(above), errors.Join(errs...)
	}
	texts, browsers := make([][]byte, n), make([]*lab.Browser, n)
	for i := range n {
		texts[i] = letter(largest)
	}
	line := []string{mib(idle)}
	for _, do := range []func(i int) error{
		func(i int) error { return m.take(ctx, "large", i, texts[i]) },
		func(i int) (err error) { browsers[i], err = m.open("large", i); return err },
		func(i int) error { return download(browsers[i], "/raw", len(texts[i])) },
		func(i int) error { return download(browsers[i], "/part/2", 0) },
	} {
		above, err := step(do)
		if err != nil {
			return 0, err
		}
		line = append(line, above)
	}
	each := (p.cpu() - cpu).Seconds() / float64(n)
	fmt.Printf("  %-4d %8s %8s %8s %10s %9s %7.2f %9s", n, line[0], line[1], line[2], line[3], line[4], each, mib(most))
	return most, nil
}

// mailbox is where messages are given to serve, and where its mails come.
type mailbox struct {
	p       *server
	postfix *fakesmtp.Server
	names   *fakedns.Server
}

// startMailbox runs serve on a new database in dir.
func startMailbox(ctx context.Context, s *settings, dir string) (*mailbox, error) {
	names, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &mailbox{names: names}
	m.postfix, err = fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{Name: "mail.own.example"})
	if err == nil {
		m.p, err = startPostseal(ctx, s, dir, names.Addr(), "--notice-relay", m.postfix.Addr(), "--verify", "code")
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *mailbox) close() {
	if m.p != nil {
		m.p.stop()
	}
	if m.postfix != nil {
		m.postfix.Close()
	}
	m.names.Close()
}

func address(name string, i int) string { return fmt.Sprintf("%s%d@else.example", name, i) }

func (m *mailbox) take(ctx context.Context, name string, i int, text []byte) error {
	results, err := lmtp.Deliver(ctx, m.p.escrow, "mail.own.example", 5*time.Minute,
		lmtp.Envelope{From: "joe@own.example", To: []string{address(name, i)}},
		func(w io.Writer) error { _, err := w.Write(text); return err })
	if err == nil && (len(results) != 1 || !results[0].Taken()) {
		err = fmt.Errorf("not taken: %v", results)
	}
	return err
}

// open follows the link of the notice and proves to be the recipient; the page that
// remains is the message's.
func (m *mailbox) open(name string, i int) (*lab.Browser, error) {
	link, err := m.mailed(name, i, func(text string) string { return strings.TrimSpace(linkLine.FindString(text)) })
	if err != nil {
		return nil, err
	}
	b := lab.NewBrowser()
	b.Client.Timeout = 5 * time.Minute
	if err := b.Get(link); err != nil {
		return nil, err
	}
	for _, f := range b.Forms() {
		if strings.HasSuffix(f.Action, "/code") {
			if err := b.Submit(f); err != nil {
				return nil, err
			}
			break
		}
	}
	code, err := m.mailed(name, i, func(text string) string {
		if c := codeLine.FindStringSubmatch(text); c != nil && !linkLine.MatchString(text) {
			return c[1]
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	for _, f := range b.Forms() {
		if len(f.Empty) == 1 {
			f.Fields.Set(f.Empty[0].Name, code)
			if err := b.Submit(f); err != nil {
				return nil, err
			}
			break
		}
	}
	if !strings.HasSuffix(b.URL.Path, "/message") {
		return nil, fmt.Errorf("the message is not shown: %d", b.Status)
	}
	return b, nil
}

// mailed waits for a mail to a recipient in which something is found.
func (m *mailbox) mailed(name string, i int, find func(text string) string) (found string, err error) {
	_, ok := m.postfix.WaitFor(func(mail fakesmtp.Mail) bool {
		if mail.HasTo(address(name, i)) {
			found = find(textOf(mail.Data))
		}
		return found != ""
	}, time.Minute)
	if !ok {
		return "", errors.New("a mail does not come")
	}
	return found, nil
}

// textOf returns the plain text of a mail.
func textOf(data []byte) string {
	var text strings.Builder
	e, err := message.Read(bytes.NewReader(data))
	if err != nil {
		return ""
	}
	e.Walk(func(_ []int, part *message.Entity, err error) error {
		if t, _, _ := part.Header.ContentType(); err == nil && t == "text/plain" {
			_, err = io.Copy(&text, part.Body)
		}
		return err
	})
	return text.String()
}

// download reads what is at a path below the message; size is how long it must be, in
// bytes, 0 where that is not known.
func download(b *lab.Browser, path string, size int) error {
	at := *b.URL
	at.Path = strings.TrimSuffix(at.Path, "/message") + path
	at.RawQuery = ""
	res, err := b.Client.Get(at.String())
	if err != nil {
		return errors.New("the portal does not answer") // the error names the URL, which is secret
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && (res.StatusCode != 200 || n == 0 || size > 0 && n != int64(size)) {
		err = fmt.Errorf("%s: %d, %d bytes", path, res.StatusCode, n)
	}
	return err
}

// forgetPeak starts anew what peak tells (proc(5), clear_refs).
func (p *server) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

// peak is the most memory that the process had since forgetPeak, in bytes.
func (p *server) peak() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}
