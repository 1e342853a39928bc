package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
)

// channels by which a recipient of TestTorture may get a message.
type channels struct{ tls, clear, sealed, own int }

func (c channels) String() string {
	return fmt.Sprintf("%d by TLS, %d in clear, %d sealed, %d in the own mailbox", c.tls, c.clear, c.sealed, c.own)
}

// tortured is a message of TestTorture.
type tortured struct {
	from string
	to   []string
	data []byte
}

// TestTorture sends 200 messages to five recipients each, while Postseal is killed
// without warning and started again. Then it counts: each recipient has got its
// message once, whole, by the channel that its rules say.
//
// One exception is part of what is promised (docs/mail-flow.md): where the program
// was killed between Postfix's 250 to a re-injection and the note of it, the message
// is re-injected again. Postfix's own log tells how often that was; a recipient has
// then as many copies as were re-injected, each by the right channel.
//
// POSTSEAL_TORTURE_SEED repeats a run's choices.
func TestTorture(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("POSTSEAL_TORTURE_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("seed %d", seed)
	const messages, senders, kills = 200, 8, 8
	rng := rand.New(rand.NewPCG(seed, 1))

	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"forced.example": lab.GoodTLS, "enc.example": lab.NoTLS},
		Rules: []string{
			"sender add doc@own.example --require encryption",
			"sender add vault@own.example --require escrow",
			"domain add forced.example --require tls",
			"domain add enc.example --require encryption",
		},
		Env: []string{"POSTSEAL_SECURE_SUBJECT=[secure]"},
	})
	mails, want := makeTortured(rng, messages)

	// Postseal is killed, and is away for a moment.
	var killed []time.Time
	killing := make(chan error, 1)
	go func() {
		rng := rand.New(rand.NewPCG(seed, 2))
		killing <- func() error {
			for range kills {
				time.Sleep(time.Duration(300+rng.IntN(2200)) * time.Millisecond)
				killed = append(killed, time.Now())
				s.Postseal.Kill()
				time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
				if err := s.Postseal.Start(); err != nil {
					return err
				}
				// Else Postfix remembers for 30 seconds that a map was down.
				if err := s.Postfix.Reload(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()

	// Clients send, and send again what Postfix did not take.
	next := make(chan tortured)
	var clients sync.WaitGroup
	var tries atomic.Int64
	for range senders {
		clients.Go(func() {
			for m := range next {
				deadline := time.Now().Add(2 * time.Minute)
				for !sendTortured(m) {
					tries.Add(1)
					if time.Now().After(deadline) {
						t.Errorf("a message of %s was never taken", m.from)
						break
					}
					time.Sleep(200 * time.Millisecond)
				}
			}
		})
	}
	for i, m := range mails {
		next <- m
		if i%10 == 0 {
			time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
		}
	}
	close(next)
	clients.Wait()
	if err := <-killing; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages taken, %d tries refused, %d kills", messages, tries.Load(), len(killed))

	// Everything settles.
	s.check(s.Postfix.Reload())
	if !s.Wait(2*patience, func() bool {
		q, err := s.Postfix.Queue()
		if err != nil || len(q) > 0 {
			s.Postfix.Flush()
			time.Sleep(500 * time.Millisecond)
			return false
		}
		return true
	}) {
		q, _ := s.Postfix.Queue()
		t.Fatalf("%d messages are still queued, the first is %+v", len(q), q[0])
	}

	got := s.tally(mails)
	again := 0
	copies := reinjections(s.Postfix.Log())
	for to, w := range want {
		g := got[to]
		n := max(1, len(copies[to]))
		if n > 1 {
			again++
			if !explained(copies[to], killed) {
				t.Errorf("%s was re-injected %d times, and no kill explains it: %v, killed at %v", to, n, copies[to], killed)
			}
		}
		if g != w.times(n) {
			t.Errorf("%s got %v, want %v", to, g, w.times(n))
		}
	}
	t.Logf("%d of %d recipients were re-injected again after a kill", again, len(want))

	// A sealed message can be picked up, after all that.
	picked := 0
	for to, w := range want {
		if w.sealed == 0 || picked == 5 {
			continue
		}
		picked++
		link, err := s.WaitNotice(to, patience)
		s.check(err)
		text, err := s.Pickup(to, link, "")
		s.check(err)
		if m := messageFor(mails, to); !bytes.HasSuffix(text, m.data) {
			t.Errorf("%s: the download is not what was sent", to)
		}
	}
}

func (c channels) times(n int) channels {
	return channels{c.tls * n, c.clear * n, c.sealed * n, c.own * n}
}

// makeTortured makes the messages, and what each recipient must get. Every recipient
// gets one message.
func makeTortured(rng *rand.Rand, n int) ([]tortured, map[string]channels) {
	want := make(map[string]channels)
	var mails []tortured
	for i := range n {
		from, subject := "a@own.example", "plain words"
		required, escrowOnly := true, false
		switch rng.IntN(6) {
		case 0, 1:
			from = "doc@own.example"
		case 2:
			from, escrowOnly = "vault@own.example", true
		case 3:
			subject = "[secure] words"
		case 4:
			subject = "=?utf-8?B?W3NlY3VyZV0gZ3LDvMOfZQ==?="
		default:
			required = false
		}
		m := tortured{from: from}
		domains := []string{"tls.example", "plain.example", "broken.example", "grey.example", "own.example", "enc.example", "forced.example"}
		if escrowOnly {
			domains = domains[:6] // tls and escrow exclude each other
		}
		rng.Shuffle(len(domains), func(i, j int) { domains[i], domains[j] = domains[j], domains[i] })
		for _, d := range domains[:5] {
			to := fmt.Sprintf("r%d@%s", i, d)
			m.to = append(m.to, to)
			w := channels{tls: 1}
			switch {
			case d == "own.example":
				w = channels{own: 1}
			case escrowOnly, d == "enc.example", required && (d == "plain.example" || d == "broken.example"):
				w = channels{sealed: 1}
			case d == "plain.example", d == "broken.example":
				w = channels{clear: 1}
			}
			want[to] = w
		}
		size := rng.IntN(20_000)
		if rng.IntN(25) == 0 {
			size = 300_000 // more than a spool keeps in memory
		}
		body := fmt.Sprintf("torture-%d-\r\n", i) + strings.Repeat(strings.Repeat("x", 60)+"\r\n", size/62) + fmt.Sprintf("end-%d-", i)
		m.data = lab.Text(m.from, "list@lists.example", subject, body)
		mails = append(mails, m)
	}
	return mails, want
}

// sendTortured reports whether Postfix took the message for all recipients. It gives
// it to all or to none.
func sendTortured(m tortured) bool {
	c, err := lab.Dial(lab.LocalAddr+":25", "")
	if err != nil {
		return false
	}
	defer c.Close()
	for _, line := range append([]string{"MAIL FROM:<" + m.from + ">"}, m.to...) {
		if !strings.HasPrefix(line, "MAIL") {
			line = "RCPT TO:<" + line + ">"
		}
		if reply, err := c.Cmd(line); err != nil || !strings.HasPrefix(reply, "2") {
			return false
		}
	}
	reply, err := c.Body(m.data, false)
	return err == nil && strings.HasPrefix(reply, "2")
}

func messageFor(mails []tortured, to string) *tortured {
	var i int
	if _, err := fmt.Sscanf(to, "r%d@", &i); err != nil || i >= len(mails) {
		return nil
	}
	return &mails[i]
}

var tortureMark = regexp.MustCompile(`(?m)^torture-(\d+)-`)

// tally counts what each recipient has got. A message that is not whole is an error.
func (s *scene) tally(mails []tortured) map[string]channels {
	got := make(map[string]channels)
	for _, m := range s.Received() {
		mark := tortureMark.FindSubmatch(m.Data)
		if mark == nil {
			continue // a notice
		}
		for _, r := range m.To {
			c := got[r.Address]
			sent := messageFor(mails, r.Address)
			switch {
			case m.TLS && m.Accepted:
				c.tls++
			case !m.TLS:
				c.clear++ // accepted or not: it was seen
			default:
				continue
			}
			if sent == nil || !bytes.HasSuffix(m.Data, sent.data) {
				s.t.Errorf("%s got another message than was sent to it", r.Address)
			}
			got[r.Address] = c
		}
	}
	out, err := s.CLI("escrow", "list", "--json")
	s.check(err)
	var items []lab.Item
	s.check(json.Unmarshal([]byte(out), &items))
	for _, i := range items {
		c := got[i.Recipient]
		c.sealed++
		got[i.Recipient] = c
	}
	files, err := filepath.Glob(filepath.Join(s.Postfix.Dir, "mailboxes/all/new/*"))
	s.check(err)
	delivered := regexp.MustCompile(`(?m)^Delivered-To: (\S+)$`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		s.check(err)
		if to := delivered.FindSubmatch(text); to != nil && tortureMark.Match(text) {
			c := got[string(to[1])]
			c.own++
			got[string(to[1])] = c
		}
	}
	return got
}

var (
	reinjected  = regexp.MustCompile(`(?m)^(\S+ +\d+ [\d:]+) \S+ postfix/postseal-(?:plain|secure|forced)\S*/?smtpd\[\d+\]: (\w+): client=`)
	queueActive = regexp.MustCompile(`(?m)postfix/qmgr\[\d+\]: (\w+): from=`)
	deliveredTo = regexp.MustCompile(`(?m)\[\d+\]: (\w+): to=<([^>]+)>`)
)

// reinjections returns when each recipient's message was given back to Postfix, and
// taken, from its log.
func reinjections(log string) map[string][]time.Time {
	taken := make(map[string]bool)
	for _, m := range queueActive.FindAllStringSubmatch(log, -1) {
		taken[m[1]] = true
	}
	at := make(map[string]time.Time)
	for _, m := range reinjected.FindAllStringSubmatch(log, -1) {
		when, err := time.ParseInLocation("2006 Jan 2 15:04:05", strconv.Itoa(time.Now().Year())+" "+strings.Join(strings.Fields(m[1]), " "), time.Local)
		if err == nil && taken[m[2]] {
			at[m[2]] = when
		}
	}
	copies := make(map[string][]time.Time)
	seen := make(map[string]bool)
	for _, m := range deliveredTo.FindAllStringSubmatch(log, -1) {
		if when, ok := at[m[1]]; ok && !seen[m[1]+m[2]] {
			seen[m[1]+m[2]] = true
			copies[m[2]] = append(copies[m[2]], when)
		}
	}
	return copies
}

// explained reports whether there is a kill for each re-injection but the last one.
func explained(at []time.Time, killed []time.Time) bool {
	n := 0
	for _, a := range at {
		for _, k := range killed {
			if d := k.Sub(a); d > -2*time.Second && d < 5*time.Second { // the log has whole seconds
				n++
				break
			}
		}
	}
	return n >= len(at)-1
}
