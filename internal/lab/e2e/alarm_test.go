package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/sql"
)

// hook is a webhook on loopback.
type hook struct {
	mu    sync.Mutex
	kinds []string // of the alarms it was told
	down  bool
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var p struct{ Alarms []struct{ Kind, Dest string } }
	if h.down || r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&p) != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	for _, a := range p.Alarms {
		h.kinds = append(h.kinds, a.Dest+" "+a.Kind)
	}
}

func (h *hook) told(what string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.kinds, what)
}

func (h *hook) set(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// TestAlarm is that a destination whose STARTTLS is stripped raises an alarm, by every
// way that is set, and over a restart; that what must be encrypted waits meanwhile and
// goes when TLS is back, and that the end is told too.
func TestAlarm(t *testing.T) {
	h := &hook{}
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	s := newScene(t, lab.Options{
		Rules: []string{"domain add tls.example --require encryption"},
		Env: []string{
			"POSTSEAL_GRACE=1h", "POSTSEAL_ALARM_AFTER=0s", "POSTSEAL_ALARM_MAIL=admin@own.example",
			"POSTSEAL_ALARM_WEBHOOK=" + web.URL + "/hook/SECRET",
		},
	})
	metric := func(name, value string) {
		t.Helper()
		if !lab.Poll(patience, func() bool {
			m, err := s.Postseal.Metrics()
			return err == nil && strings.Contains(m, "\n"+name+" "+value+"\n")
		}) {
			t.Errorf("%s is not %s", name, value)
		}
	}
	logged := func(text string) {
		t.Helper()
		if !lab.Poll(patience, func() bool { return strings.Contains(s.Postseal.Log(), text) }) {
			t.Errorf("the log has no %q", text)
		}
	}
	s.arrivesByTLS(s.send("a@own.example", "b@tls.example"), "b@tls.example")
	if !lab.Poll(patience, func() bool {
		out, err := s.CLI("posture", "list", "--state", "works")
		return err == nil && strings.Contains(out, "tls.example")
	}) {
		t.Fatal("the posture is not known")
	}

	h.set(true)
	s.host("tls.example").Update(func(b *fakesmtp.Behaviour) { b.STARTTLS = false })
	m := s.send("a@own.example", "c@tls.example")
	logged(`level=WARN msg="alarm: a destination has lost its TLS" dest=tls.example`)
	metric(`postseal_alarms_total{kind="tls-lost"}`, "1")
	metric("postseal_destinations_tls_lost", "1")
	s.waits(m, "c@tls.example", "")

	var told []byte
	if !lab.Poll(patience, func() bool {
		for _, got := range s.Postfix.Mailbox("admin@own.example") {
			told = got
		}
		return told != nil
	}) {
		t.Fatal("the administrator got no mail")
	}
	for _, want := range []string{"Subject: [Postseal] tls.example has lost its TLS: possible strip", "Auto-Submitted: auto-generated", "From: Postseal <" + lab.NoticeFrom + ">"} {
		if !bytes.Contains(told, []byte(want)) {
			t.Errorf("the mail has no %q:\n%s", want, told)
		}
	}
	out, err := s.CLI("explain", "--sender", "a@own.example", "--recipient", "c@tls.example")
	s.check(err)
	if !strings.Contains(out, "channel:     tls") || !strings.Contains(out, "; an alarm was raised on ") {
		t.Errorf("explain:\n%s", out)
	}
	resp, err := http.Get("http://127.0.0.1:8646/destinations")
	s.check(err)
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	s.check(err)
	if !bytes.Contains(page, []byte("has lost its TLS, seen from")) {
		t.Errorf("the page shows no alarm:\n%s", page)
	}

	// The webhook was down all the time; after a restart it is told. The mail is not
	// sent again.
	s.Postseal.Kill()
	h.set(false)
	s.check(s.Postseal.Start())
	s.check(s.Postfix.Reload()) // trivial-rewrite(8) remembers for 30 seconds that the map was down
	if !lab.Poll(patience, func() bool { return h.told("tls.example tls-lost") }) {
		t.Error("the webhook was not told after a restart")
	}
	metric("postseal_destinations_tls_lost", "1")
	if n := len(s.Postfix.Mailbox("admin@own.example")); n != 1 {
		t.Errorf("%d mails", n)
	}
	s.notSealed("c@tls.example")

	// TLS is back. When the posture is stale it is looked at again: here at once, and not
	// in ten minutes.
	s.Postseal.Kill()
	s.stale("tls.example")
	s.host("tls.example").Update(func(b *fakesmtp.Behaviour) { b.STARTTLS = true })
	s.check(s.Postseal.Start())
	s.check(s.Postfix.Reload())
	s.arrivesByTLS(m, "c@tls.example")
	s.arrivesByTLS(s.send("a@own.example", "d@tls.example"), "d@tls.example")
	logged(`msg="alarm: a destination has TLS again" dest=tls.example`)
	metric("postseal_destinations_tls_lost", "0")
	if !lab.Poll(patience, func() bool { return h.told("tls.example tls-back") }) {
		t.Error("the webhook was not told of the end")
	}
	if log := s.Postseal.Log(); strings.Contains(log, "SECRET") {
		t.Error("the log has the webhook's path")
	}
	out, err = s.CLI("posture", "show", "tls.example")
	s.check(err)
	if !strings.Contains(out, "ALARM has lost its TLS") || !strings.Contains(out, "ALARM has TLS again") {
		t.Errorf("posture show:\n%s", out)
	}
}

// TestAlarmOfDANE is that a host whose certificate its TLSA records stop to match raises
// an alarm of its own, and that what must be encrypted waits until they match again.
func TestAlarmOfDANE(t *testing.T) {
	const dest, host = "vouched.example", "mx1.vouched.example"
	var match func() error
	s := newScene(t, lab.Options{
		Rules: []string{"domain add " + dest + " --require encryption"},
		Env:   []string{"POSTSEAL_GRACE=1h"},
		Prepare: func(b *lab.Bed) error {
			match = func() error {
				return b.PublishTLSA(host, b.Host(host).Behaviour().Certificate, 0, [3]uint8{3, 1, 1})
			}
			return errors.Join(daneHosts(b, dest, lab.GoodTLS), match())
		},
	})
	s.arrivesByTLS(s.send("a@own.example", "b@"+dest), "b@"+dest)
	if !lab.Poll(patience, func() bool {
		out, err := s.CLI("posture", "list", "--state", "works")
		return err == nil && strings.Contains(out, dest)
	}) {
		t.Fatal("the posture is not known")
	}
	s.check(s.Record("_25._tcp."+host, "TLSA", wrongTLSA))
	s.check(s.Postfix.Reload()) // smtp(8) remembers TLSA records for their TTL
	m := s.send("a@own.example", "c@"+dest)
	// The look comes with the fallback, and that with a try of Postfix's: keep it awake.
	if !s.Wait(patience, func() bool { return strings.Contains(s.Postseal.Log(), "event=dane-lost") }) {
		t.Error("no alarm was raised")
	}
	s.waits(m, "c@"+dest, "")
	out, err := s.CLI("posture", "show", dest)
	s.check(err)
	if !strings.Contains(out, "ALARM TLSA records don't vouch for its hosts any more") || strings.Contains(out, "has lost its TLS") {
		t.Errorf("posture show:\n%s", out)
	}
	s.check(match())
	s.check(s.Postfix.Reload())
	s.arrivesByTLS(m, "c@"+dest)
	s.notSealed("c@" + dest)
}

// stale makes what is known of a destination old, while serve does not run.
func (s *scene) stale(dest string) {
	s.t.Helper()
	db, err := sql.Open(s.t.Context(), "sqlite:"+filepath.Join(s.Dir, "postseal.db"), sql.Options{})
	s.check(err)
	defer db.Close()
	r, err := db.Posture(s.t.Context(), dest)
	s.check(err)
	if r == nil {
		s.t.Fatalf("nothing is known of %s", dest)
	}
	r.Expires = r.Checked.Add(time.Millisecond)
	s.check(db.SavePosture(s.t.Context(), *r))
}

// TestProbeConnectsAsPostfix is that the destination can't tell the probe from Postfix
// by its address or its name.
func TestProbeConnectsAsPostfix(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules:   []string{"domain add tls.example --require encryption"},
		Postfix: lab.PostfixOptions{MainCF: map[string]string{"smtp_bind_address": "127.0.0.77", "smtp_helo_name": "out.own.example"}},
	})
	s.arrivesByTLS(s.send("a@own.example", "b@tls.example"), "b@tls.example")
	host := s.host("tls.example")
	mails, looks := 0, 0
	if !lab.Poll(patience, func() bool {
		mails, looks = 0, 0
		for _, session := range host.Sessions() {
			if !session.Ended {
				continue
			}
			if slices.ContainsFunc(session.Commands, func(c string) bool { return strings.HasPrefix(strings.ToUpper(c), "MAIL") }) {
				mails++
			} else {
				looks++
			}
		}
		return mails > 0 && looks > 0
	}) {
		t.Errorf("%d sessions of Postfix, %d of the probe", mails, looks)
	}
	for _, session := range host.Sessions() {
		if !strings.HasPrefix(session.Client, "127.0.0.77:") {
			t.Errorf("a session from %s: %q", session.Client, session.Commands)
		}
		for _, c := range session.Commands {
			if strings.HasPrefix(strings.ToUpper(c), "EHLO") && c != "EHLO out.own.example" {
				t.Errorf("%q from %s", c, session.Client)
			}
		}
	}

	// An address that this machine does not have is an error at start.
	s.check(s.Postseal.Stop())
	_, err := s.CLI("serve", "--probe-from", "192.0.2.77")
	if err == nil || !strings.Contains(err.Error(), "no connection can be made from 192.0.2.77") {
		t.Errorf("started all the same: %v", err)
	}
	s.check(s.Postseal.Start("POSTSEAL_PROBE_FROM=127.0.0.78"))
}
