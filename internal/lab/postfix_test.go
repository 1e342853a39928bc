package lab

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// newPlain starts an internet of the usual destinations and a Postfix without
// Postseal.
func newPlain(t *testing.T, o PostfixOptions) (*Internet, *Postfix) {
	t.Helper()
	Require(t)
	dir, err := NewDir()
	if err != nil {
		t.Fatal(err)
	}
	n, err := NewInternet(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	for d, k := range map[string]Kind{"tls.example": GoodTLS, "plain.example": NoTLS, "broken.example": BrokenTLS, "grey.example": Greylists, "dead.example": Dead} {
		if _, err := n.Add(d, k); err != nil {
			t.Fatal(err)
		}
	}
	o.CAFile = n.CA.File
	p, err := NewPostfix(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Logf("postfix started in %v", time.Since(start))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Log())
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n, p
}

func TestPlainPostfixReachesTheInternet(t *testing.T) {
	for _, chroot := range []bool{false, true} {
		t.Run(map[bool]string{false: "as root", true: "chrooted as in Debian"}[chroot], func(t *testing.T) {
			n, p := newPlain(t, PostfixOptions{Chroot: chroot})
			body := Text("a@own.example", "b@tls.example", "hello", "one\r\n.two\r\n"+strings.Repeat("x", 900)+"\r\n")
			res, err := Send(Message{From: "a@own.example", Data: body, To: []string{
				"b@tls.example", "b@plain.example", "b@broken.example", "b@grey.example", "b@dead.example", "colleague@own.example"}})
			if err != nil || !res.Accepted() {
				t.Fatalf("send: %+v, %v", res, err)
			}
			for domain, wantTLS := range map[string]bool{"tls.example": true, "plain.example": false, "broken.example": false, "grey.example": true} {
				// With timers this short qmgr sets a message aside now and then; a
				// flush wakes it.
				var m fakesmtp.Mail
				ok := false
				for try := 0; try < 10 && !ok; try++ {
					m, ok = n.Host(domain).WaitFor(func(m fakesmtp.Mail) bool { return m.HasTo("b@" + domain) }, 3*time.Second)
					if !ok {
						_ = p.Flush()
					}
				}
				if !ok {
					t.Errorf("nothing arrived at %s", domain)
					continue
				}
				if m.TLS != wantTLS {
					t.Errorf("%s: TLS = %v, want %v", domain, m.TLS, wantTLS)
				}
				if !bytes.HasSuffix(m.Data, body) {
					t.Errorf("%s: the message was changed:\n%q", domain, m.Data)
				}
			}
			if !Poll(5*time.Second, func() bool { return len(p.Mailbox("colleague@own.example")) == 1 }) {
				t.Error("nothing in the mailbox of the own domain")
			}
			if !Poll(5*time.Second, func() bool {
				why, queued := p.QueuedFor("b@dead.example")
				return queued && strings.Contains(why, "refused")
			}) {
				t.Error("mail to dead.example is not waiting in the queue")
			}
		})
	}
}
