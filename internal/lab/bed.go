package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// Options describe a bed. The zero Options are a Postfix for own.example with
// Postseal set up beside it, on the usual internet.
type Options struct {
	Binary  string // of postseal; "" builds it
	Postfix PostfixOptions
	Hosts   map[string]Kind // destinations beside [UsualHosts]
	Serve   []string        // more arguments of serve
	Env     []string        // more settings for every command, POSTSEAL_NAME=VALUE
	Verify  string          // setting verify; "": code
	// Rules are commands, such as "domain add x.example --require tls", that are
	// run before serve starts.
	Rules []string
	// Prepare, if set, runs before postfix setup: the administrator's own
	// configuration.
	Prepare func(*Bed) error
	// NoSetup leaves Postfix alone: no postfix setup, and serve is not started.
	NoSetup bool
}

// UsualHosts are the destinations of every bed.
var UsualHosts = map[string]Kind{
	"tls.example": GoodTLS, "plain.example": NoTLS, "broken.example": BrokenTLS, "grey.example": Greylists, "dead.example": Dead,
}

// NoticeFrom is the sender of the bed's notices.
const NoticeFrom = "postseal@own.example"

// Bed is an internet, a Postfix and a Postseal.
type Bed struct {
	Dir string
	*Internet
	Postfix  *Postfix
	Postseal *Postseal
}

// StartBed makes a bed below dir, see [NewDir]. On an error nothing is left
// running.
func StartBed(dir string, o Options) (b *Bed, err error) {
	b = &Bed{Dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if o.Binary == "" {
		if o.Binary, err = Build(); err != nil {
			return b, err
		}
	}
	if b.Internet, err = NewInternet(dir); err != nil {
		return b, err
	}
	for _, hosts := range []map[string]Kind{UsualHosts, o.Hosts} {
		for _, d := range sortedKeys(hosts) {
			if _, err := b.Internet.Add(d, hosts[d]); err != nil {
				return b, err
			}
		}
	}
	o.Postfix.CAFile = b.CA.File
	if b.Postfix, err = NewPostfix(dir, o.Postfix); err != nil {
		return b, err
	}
	for _, d := range append([]string{"own.example"}, append(o.Postfix.OwnDomains, o.Postfix.LocalDomains...)...) {
		if err := errors.Join(b.Record(d, "MX", "10 mail.own.example."), b.Record("mail.own.example", "A", OwnAddr)); err != nil {
			return b, err
		}
	}
	b.Postseal = &Postseal{
		Binary:  o.Binary,
		LogFile: filepath.Join(dir, "postseal.log"),
		Args:    o.Serve,
		Env: append([]string{
			"POSTSEAL_DB=sqlite:" + filepath.Join(dir, "postseal.db"),
			"POSTSEAL_KEY_FILE=" + filepath.Join(dir, "postseal.key"),
			"POSTSEAL_POSTFIX_CONFIG_DIR=" + b.Postfix.ConfigDir,
			"POSTSEAL_TLS_ROOTS=" + b.CA.File,
			"POSTSEAL_NOTICE_FROM=" + NoticeFrom,
			"POSTSEAL_GRACE=3s",
			"POSTSEAL_VERIFY=" + o.verify(),
		}, o.Env...),
	}
	if _, err := b.Postseal.CLI("key", "new"); err != nil {
		return b, err
	}
	for _, r := range o.Rules {
		if _, err := b.Postseal.CLI(strings.Fields(r)...); err != nil {
			return b, err
		}
	}
	if o.Prepare != nil {
		if err := o.Prepare(b); err != nil {
			return b, err
		}
	}
	if o.NoSetup {
		return b, b.Postfix.Start()
	}
	if _, err := b.Postseal.CLI("postfix", "setup", "--config-dir", b.Postfix.ConfigDir); err != nil {
		return b, err
	}
	if err := b.Postfix.age(); err != nil {
		return b, err
	}
	if err := b.Postseal.Start(); err != nil {
		return b, err
	}
	return b, b.Postfix.Start()
}

func sortedKeys(m map[string]Kind) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Close ends everything. It first ends Postfix, so that nothing is retried.
func (b *Bed) Close() error {
	var errs []error
	if b.Postfix != nil {
		errs = append(errs, b.Postfix.Stop())
	}
	if b.Postseal != nil {
		errs = append(errs, b.Postseal.Stop())
	}
	if b.Internet != nil {
		errs = append(errs, b.Internet.Close())
	}
	return errors.Join(errs...)
}

// NewBed is StartBed for tests: it fails t on any error, and shows the logs
// when t has failed.
func NewBed(t TB, o Options) *Bed {
	t.Helper()
	Require(t)
	dir, err := NewDir()
	if err != nil {
		t.Fatalf("bed: %v", err)
	}
	b, err := StartBed(dir, o)
	if err != nil {
		t.Fatalf("bed: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", b.Logs())
		}
		if err := b.Close(); err != nil {
			t.Errorf("close bed: %v", err)
		}
		os.RemoveAll(dir)
	})
	return b
}

// Logs returns the logs of all parts, and the queue.
func (b *Bed) Logs() string {
	queue, _ := b.Postfix.Queue()
	q, _ := json.MarshalIndent(queue, "", " ")
	return fmt.Sprintf("==== mail log\n%s\n==== postseal log\n%s\n==== queue\n%s\n==== arrived\n%s", b.Postfix.Log(), b.Postseal.Log(), q, b.Arrivals())
}

// Arrivals lists what arrived where, one line each.
func (b *Bed) Arrivals() string {
	var out strings.Builder
	for _, m := range b.Received() {
		how := "PLAINTEXT"
		if m.TLS {
			how = m.TLSVersion
		}
		var to []string
		for _, r := range m.To {
			to = append(to, r.Address)
		}
		fmt.Fprintf(&out, "%s %s: <%s> -> %s, %s, accepted=%v, %d bytes\n", m.Time.Format("15:04:05.000"), m.Server, m.From, strings.Join(to, " "), how, m.Accepted, len(m.Data))
	}
	return out.String()
}

// Wait is [Poll] that wakes Postfix's queue every few seconds. qmgr(8) leaves a
// message aside that it meets while it is still being delivered, until the next
// one comes; with timers as short as the bed's that happens.
func (b *Bed) Wait(timeout time.Duration, done func() bool) bool {
	next := time.Now().Add(3 * time.Second)
	return Poll(timeout, func() bool {
		if time.Now().After(next) {
			next = time.Now().Add(3 * time.Second)
			b.Postfix.Flush() // a failure shows as what does not come
		}
		return done()
	})
}

// CLI runs a command of postseal.
func (b *Bed) CLI(args ...string) (string, error) { return b.Postseal.CLI(args...) }

// Rule runs a command that changes rules, and waits until the running server
// has them.
func (b *Bed) Rule(command string) error {
	n := strings.Count(b.Postseal.Log(), "rules changed")
	if _, err := b.CLI(strings.Fields(command)...); err != nil {
		return err
	}
	if b.Postseal.Running() && !Poll(5*time.Second, func() bool { return strings.Count(b.Postseal.Log(), "rules changed") > n }) {
		return fmt.Errorf("postseal %s: did not reach the running server", command)
	}
	return nil
}

// Item is one line of escrow list.
type Item struct {
	ID        string    `json:"id"`
	Sender    string    `json:"sender"`
	Recipient string    `json:"recipient"`
	State     string    `json:"state"`
	Expires   time.Time `json:"expires"`
}

// AllEscrowed lists all pickups.
func (b *Bed) AllEscrowed() ([]Item, error) {
	out, err := b.CLI("escrow", "list", "--json")
	if err != nil {
		return nil, err
	}
	var all []Item
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("escrow list: %w: %s", err, out)
	}
	return all, nil
}

// Escrowed lists the pickups of a recipient.
func (b *Bed) Escrowed(recipient string) ([]Item, error) {
	all, err := b.AllEscrowed()
	if err != nil {
		return nil, err
	}
	var mine []Item
	for _, i := range all {
		if strings.EqualFold(i.Recipient, recipient) {
			mine = append(mine, i)
		}
	}
	return mine, nil
}

// textOf returns the text of a mail that Postseal wrote.
func textOf(data []byte) []byte {
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return data
	}
	var body io.Reader = m.Body
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return data
	}
	return text
}

var linkLine = regexp.MustCompile(`(?m)^(https?://\S+/m/\S+)\r?$`)

// Notices returns the notices that arrived for a recipient, with their links.
func (b *Bed) Notices(recipient string) (mails []fakesmtp.Mail, links []string) {
	for _, m := range b.Received() {
		if m.HasTo(recipient) && m.Accepted {
			if link := linkLine.FindSubmatch(textOf(m.Data)); link != nil {
				mails, links = append(mails, m), append(links, string(link[1]))
			}
		}
	}
	return mails, links
}

// WaitNotice waits for the first notice to a recipient and returns its link.
func (b *Bed) WaitNotice(recipient string, timeout time.Duration) (link string, err error) {
	if !b.Wait(timeout, func() bool {
		_, links := b.Notices(recipient)
		if len(links) > 0 {
			link = links[0]
		}
		return link != ""
	}) {
		return "", fmt.Errorf("no notice arrived for %s within %s", recipient, timeout)
	}
	return link, nil
}

func (o *Options) verify() string {
	if o.Verify == "" {
		return "code"
	}
	return o.Verify
}
