// Package e2e runs the whole of Postseal beside a real Postfix, in the test bed
// of internal/lab, and reads from the destinations what arrived, and whether
// over TLS.
//
// Every scene ends with the one promise: nothing that must be encrypted was seen
// in plaintext anywhere. Each test is named by what it holds; docs/guards.md
// lists the guard that was taken away to see it fail.
package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

func TestMain(m *testing.M) { lab.Main(m) }

// patience is how long anything may take. It only bounds failing tests; Postfix
// itself remembers a map that was down for 30 seconds.
// POSTSEAL_LAB_PATIENCE sets another time.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("POSTSEAL_LAB_PATIENCE")); err == nil {
		return d
	}
	return 60 * time.Second
}()

// scene is a bed and what a test expects of it.
type scene struct {
	t *testing.T
	*lab.Bed
	marks int
	must  []string // marks that must never be seen in plaintext
	once  [][2]string
}

// newScene starts a bed, and checks at the end of the test that nothing leaked
// and nothing that arrived arrived twice.
func newScene(t *testing.T, o lab.Options) *scene {
	t.Helper()
	s := &scene{t: t, Bed: lab.NewBed(t, o)}
	t.Cleanup(s.verify)
	return s
}

// run runs a subtest that the scene's methods report to.
func (s *scene) run(name string, f func(t *testing.T)) {
	s.t.Helper()
	outer := s.t
	defer func() { s.t = outer }()
	outer.Run(name, func(t *testing.T) {
		s.t = t
		f(t)
	})
}

func (s *scene) verify() {
	for _, m := range s.Received() {
		for _, mark := range s.must {
			if !m.TLS && bytes.Contains(m.Data, []byte(mark)) {
				s.t.Errorf("LEAK: %s was seen in plaintext at %s", mark, m.Server)
			}
		}
	}
	for _, e := range s.once {
		if n := s.count(e[0], e[1]); n != 1 {
			s.t.Errorf("%s arrived %d times for %s, want once", e[0], n, e[1])
		}
	}
}

// mail is a message that was sent.
type mail struct {
	mark string
	data []byte
	*lab.Result
}

// text makes a message whose body has a mark of its own.
func (s *scene) text(subject string) (mark string, data []byte) {
	s.marks++
	mark = fmt.Sprintf("mark-%d-%s", s.marks, strings.NewReplacer("/", "-", " ", "-").Replace(s.t.Name()))
	return mark, lab.Text("sender@own.example", "list@lists.example", subject, "The text.\r\n.a dot\r\n"+mark)
}

// submit sends a message, whatever the replies.
func (s *scene) submit(m lab.Message) mail {
	s.t.Helper()
	mark := ""
	if m.Data == nil {
		mark, m.Data = s.text("a private subject")
	}
	res, err := lab.Send(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return mail{mark, m.Data, res}
}

// secret is submit of a message that must be encrypted.
func (s *scene) secret(m lab.Message) mail {
	s.t.Helper()
	if m.Data == nil {
		var mark string
		mark, m.Data = s.text("a private subject")
		s.must = append(s.must, mark)
		sent := s.submit(m)
		sent.mark = mark
		return sent
	}
	return s.submit(m)
}

// accepted fails the test where not every recipient and the data were accepted.
func (s *scene) accepted(m mail) mail {
	s.t.Helper()
	for to, r := range m.Rcpt {
		if !strings.HasPrefix(r, "2") {
			s.t.Fatalf("RCPT TO:<%s> was answered %q", to, r)
		}
	}
	if !m.Accepted() {
		s.t.Fatalf("the message was answered %q", m.Data)
	}
	return m
}

// send sends a message that must be encrypted and is accepted.
func (s *scene) send(from string, to ...string) mail {
	s.t.Helper()
	return s.accepted(s.secret(lab.Message{From: from, To: to}))
}

// plain sends a message of which nothing is required.
func (s *scene) plain(from string, to ...string) mail {
	s.t.Helper()
	return s.accepted(s.submit(lab.Message{From: from, To: to}))
}

func (s *scene) count(mark, to string) int {
	n := 0
	for _, m := range s.Received() {
		if m.Accepted && m.HasTo(to) && bytes.Contains(m.Data, []byte(mark)) {
			n++
		}
	}
	return n
}

// arrives waits until the message has arrived for a recipient, and returns it.
// At the end of the test it must have arrived once.
func (s *scene) arrives(m mail, to string) fakesmtp.Mail {
	s.t.Helper()
	var found fakesmtp.Mail
	if !s.Wait(patience, func() bool {
		for _, got := range s.Received() {
			if got.Accepted && got.HasTo(to) && bytes.Contains(got.Data, []byte(m.mark)) {
				found = got
				return true
			}
		}
		return false
	}) {
		why, queued := s.Postfix.QueuedFor(to)
		s.t.Fatalf("nothing arrived for %s (queued: %v, %s)", to, queued, why)
	}
	s.once = append(s.once, [2]string{m.mark, to})
	return found
}

// arrivesByTLS is arrives, over TLS.
func (s *scene) arrivesByTLS(m mail, to string) fakesmtp.Mail {
	s.t.Helper()
	got := s.arrives(m, to)
	if !got.TLS {
		s.t.Errorf("the message for %s arrived in plaintext", to)
	}
	return got
}

// hops counts how often Postfix has taken the message.
func hops(m fakesmtp.Mail) int {
	head, _, _ := bytes.Cut(m.Data, []byte("\r\n\r\n"))
	return strings.Count("\r\n"+strings.ToLower(string(head)), "\r\nreceived:")
}

// waits waits until a recipient has been deferred twice, with reason in the
// last reply, and checks that nothing has arrived or was sealed.
func (s *scene) waits(m mail, to, reason string) {
	s.t.Helper()
	if !s.Wait(patience, func() bool {
		log := s.Postfix.Log()
		n := 0
		for line := range strings.Lines(log) {
			if strings.Contains(line, "to=<"+to+">") && strings.Contains(line, "status=deferred") {
				n++
			}
		}
		return n >= 2
	}) {
		s.t.Fatalf("mail for %s was not deferred twice", to)
	}
	// While it is tried the queue shows no reason.
	var why string
	var queued bool
	if !lab.Poll(patience, func() bool {
		why, queued = s.Postfix.QueuedFor(to)
		return queued && why != "" && strings.Contains(why, reason)
	}) {
		s.t.Errorf("%s: queued %v for %q, want it to wait for %q", to, queued, why, reason)
	}
	if n := s.count(m.mark, to); n != 0 {
		s.t.Errorf("%s: arrived though it must wait", to)
	}
	s.notSealed(to)
}

func (s *scene) notSealed(to string) {
	s.t.Helper()
	items, err := s.Escrowed(to)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(items) != 0 {
		s.t.Errorf("%s: sealed %d times, want never", to, len(items))
	}
}

// sealed waits until the message is sealed for a recipient, once, and the notice
// has arrived; it returns the link.
func (s *scene) sealed(m mail, to string) string {
	s.t.Helper()
	link, err := s.WaitNotice(to, patience)
	if err != nil {
		s.t.Fatal(err)
	}
	items, err := s.Escrowed(to)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(items) != 1 {
		s.t.Errorf("%s: sealed %d times, want once", to, len(items))
	}
	if n := s.count(m.mark, to); n != 0 {
		s.t.Errorf("%s: sealed, and delivered too", to)
	}
	return link
}

// sealedAs is sealed, and the download is the message as it was sent.
func (s *scene) sealedAs(m mail, to string) {
	s.t.Helper()
	link := s.sealed(m, to)
	got, err := s.Pickup(to, link, "")
	if err != nil {
		s.t.Errorf("pickup for %s: %v", to, err)
		return
	}
	if !bytes.HasSuffix(got, m.data) {
		s.t.Errorf("%s: the download is not the message that was sent:\n%q\nwant the end to be\n%q", to, got, m.data)
	}
}

// mailbox waits for one message in an own mailbox.
func (s *scene) mailbox(m mail, address string) []byte {
	s.t.Helper()
	var found [][]byte
	if !s.Wait(patience, func() bool {
		found = nil
		for _, got := range s.Postfix.Mailbox(address) {
			if bytes.Contains(got, []byte(m.mark)) {
				found = append(found, got)
			}
		}
		return len(found) > 0
	}) {
		s.t.Fatalf("nothing in the mailbox of %s", address)
	}
	if len(found) != 1 {
		s.t.Errorf("%s has the message %d times, want once", address, len(found))
	}
	return found[0]
}

// drained waits until nothing is queued for address.
func (s *scene) drained(address string) {
	s.t.Helper()
	if !s.Wait(patience, func() bool { _, queued := s.Postfix.QueuedFor(address); return !queued }) {
		why, _ := s.Postfix.QueuedFor(address)
		s.t.Errorf("mail for %s is still queued: %s", address, why)
	}
}

// rule runs a command that changes rules while serve runs.
func (s *scene) rule(command string) {
	s.t.Helper()
	if err := s.Rule(command); err != nil {
		s.t.Fatal(err)
	}
}

// host returns the server of a domain of the bed.
func (s *scene) host(domain string) *lab.Host {
	s.t.Helper()
	h := s.Host(domain)
	if h == nil {
		s.t.Fatalf("no host for %s", domain)
	}
	return h
}

func (s *scene) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}
