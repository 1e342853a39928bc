package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// gone reports whether a link opens nothing any more.
func gone(t *testing.T, link string) (page string, dead bool) {
	t.Helper()
	b := lab.NewBrowser()
	err := b.Get(link)
	return string(b.Page), err != nil || len(b.Forms()) == 0
}

// TestEscrowCommands is what an administrator does with sealed messages: look,
// send the notice anew, take back.
func TestEscrowCommands(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"sender add doc@own.example --require encryption",
		"domain add sealed.example --require escrow --mode sealed",
	}, Hosts: map[string]lab.Kind{"sealed.example": lab.NoTLS}})
	m := s.send("doc@own.example", "pat@plain.example")
	first := s.sealed(m, "pat@plain.example")
	items, err := s.Escrowed("pat@plain.example")
	s.check(err)
	id := items[0].ID

	if page, dead := gone(t, first); dead {
		t.Fatalf("the first link does not open:\n%s", page)
	}
	for _, args := range [][]string{{"escrow", "list", "--json"}, {"escrow", "show", id, "--json"}, {"escrow", "show", "--json", id}} {
		out, err := s.CLI(args...)
		s.check(err)
		var all []map[string]any
		if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
			t.Fatalf("%v: want an array of one: %v: %s", args, err, out)
		}
		for _, key := range []string{"id", "sender", "recipient", "state", "created", "expires"} {
			if all[0][key] == nil || all[0][key] == "" {
				t.Errorf("%v: no %s: %s", args, key, out)
			}
		}
	}

	s.run("resend", func(t *testing.T) {
		out, err := s.CLI("escrow", "resend", id)
		s.check(err)
		if !strings.Contains(out, "queued") {
			t.Errorf("resend said %q", out)
		}
		var links []string
		if !s.Wait(patience, func() bool { _, links = s.Notices("pat@plain.example"); return len(links) == 2 }) {
			t.Fatalf("%d notices, want two", len(links))
		}
		if links[1] == first {
			t.Error("the new notice has the old link")
		}
		if page, dead := gone(t, first); !dead {
			t.Errorf("the old link still opens:\n%s", page)
		}
		got, err := s.Pickup("pat@plain.example", links[1], "")
		s.check(err)
		if !bytes.HasSuffix(got, m.data) {
			t.Error("the new link gives another message")
		}
	})

	s.run("retract", func(t *testing.T) {
		_, links := s.Notices("pat@plain.example")
		_, err := s.CLI("escrow", "retract", id)
		s.check(err)
		holder, dead := gone(t, links[len(links)-1])
		if !dead {
			t.Errorf("a retracted message still opens:\n%s", holder)
		}
		const told = "taken this message back"
		if !strings.Contains(holder, told) {
			t.Errorf("who holds the link is not told that the message was taken back:\n%s", holder)
		}
		if stranger, _ := gone(t, links[len(links)-1]+"x"); strings.Contains(stranger, told) {
			t.Error("who does not hold the link is told that the message was taken back")
		}
		if old, _ := gone(t, first); strings.Contains(old, told) {
			t.Error("a dead link tells that the message was taken back")
		}
		for _, again := range [][]string{{"escrow", "retract", id}, {"escrow", "resend", id}} {
			if out, err := s.CLI(again...); err == nil {
				t.Errorf("%v of a retracted message: %s", again, out)
			}
		}
		out, err := s.CLI("escrow", "list", "--state", "retracted", "--json")
		s.check(err)
		if !strings.Contains(out, id) {
			t.Errorf("not listed as retracted: %s", out)
		}
	})

	s.run("sealed can't be sent anew", func(t *testing.T) {
		m := s.send("nobody@own.example", "sue@sealed.example")
		s.sealed(m, "sue@sealed.example")
		items, err := s.Escrowed("sue@sealed.example")
		s.check(err)
		if out, err := s.CLI("escrow", "resend", items[0].ID); err == nil || !strings.Contains(out+err.Error(), "sealed") {
			t.Errorf("resend of a sealed message: %v %s", err, out)
		}
	})

	s.run("listings", func(t *testing.T) {
		for _, args := range [][]string{
			{"domain", "list", "--json"}, {"sender", "list", "--json"}, {"recipient", "list", "--json"}, {"config", "--json"},
			{"check", "plain.example", "x@tls.example", "--json"}, {"check", "--json", "dead.example", "--timeout", "5s"},
			{"explain", "--json", "--sender", "doc@own.example", "--recipient", "pat@plain.example"}, {"postfix", "check", "--json"},
		} {
			out, err := s.CLI(args...)
			s.check(err)
			if !json.Valid([]byte(out)) {
				t.Errorf("%v is no JSON: %s", args, out)
			}
		}
		out, err := s.CLI("check", "plain.example", "tls.example")
		s.check(err)
		for _, want := range []string{"plain.example: none", "switch STARTTLS on", "tls.example: verified", "trusted certificate"} {
			if !strings.Contains(out, want) {
				t.Errorf("check does not say %q:\n%s", want, out)
			}
		}
	})
}

// TestUnixSockets is everything that may listen on a unix socket doing so.
func TestUnixSockets(t *testing.T) {
	dir, err := lab.NewDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := func(name string) string { return filepath.Join(dir, name) }
	env := []string{}
	for setting, name := range map[string]string{
		"POLICY_LISTEN": "policy", "MAP_LISTEN": "map", "LMTP_LISTEN": "lmtp", "LMTP_ESCROW_LISTEN": "lmtp-e",
		"LMTP_TLS_LISTEN": "lmtp-t", "LMTP_DECIDE_LISTEN": "lmtp-d", "PORTAL_LISTEN": "portal",
	} {
		env = append(env, "POSTSEAL_"+setting+"=unix:"+sock(name))
	}
	s := newScene(t, lab.Options{Env: env, Rules: []string{
		"sender add doc@own.example --require encryption", "domain add bank.example --require tls", "domain add old.example --require escrow",
	}, Hosts: map[string]lab.Kind{"bank.example": lab.GoodTLS, "old.example": lab.GoodTLS}})
	main, err := os.ReadFile(filepath.Join(s.Postfix.ConfigDir, "main.cf"))
	s.check(err)
	for _, want := range []string{"socketmap:unix:" + sock("map") + ":transport", "unix:" + sock("policy")} {
		if !strings.Contains(string(main), want) {
			t.Errorf("main.cf does not name %s", want)
		}
	}
	out, err := s.CLI("map", "query", "transport", "joe@old.example")
	s.check(err)
	if want := "escrow:unix:" + sock("lmtp-e"); strings.TrimSpace(out) != want {
		t.Errorf("transport %q, want %q", out, want)
	}
	// The portal's link is for a proxy; here is one.
	ln, err := net.Listen("tcp", "127.0.0.1:8645")
	s.check(err)
	ctx := t.Context()
	go lab.Relay(ctx, ln, "unix", sock("portal"))

	one := s.send("doc@own.example", "a@tls.example", "b@plain.example", "c@own.example", "d@bank.example")
	s.arrivesByTLS(one, "a@tls.example")
	s.arrivesByTLS(one, "d@bank.example")
	s.mailbox(one, "c@own.example")
	s.sealedAs(one, "b@plain.example")
	two := s.send("other@own.example", "joe@old.example")
	s.sealed(two, "joe@old.example")
	three := s.send("other@own.example", "e@bank.example")
	s.arrivesByTLS(three, "e@bank.example")
	if out, err := s.CLI("postfix", "check"); err != nil {
		t.Errorf("postfix check: %v\n%s", err, out)
	}
}

// TestMetricsAreThere is that /metrics has what docs/operate.md lists.
func TestMetricsAreThere(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, lab.Options{
		Rules: []string{"sender add doc@own.example --require encryption"},
		Env:   []string{"POSTSEAL_ALARM_MAIL=admin@own.example", "POSTSEAL_TLSRPT_FROM=tls-reports@own.example"},
	})
	m := s.send("doc@own.example", "a@tls.example", "b@plain.example")
	s.arrivesByTLS(m, "a@tls.example")
	s.sealedAs(m, "b@plain.example")
	c, err := net.Dial("tcp", "127.0.0.1:8642")
	s.check(err)
	io.WriteString(c, "garbage")
	c.Close()
	metrics, err := s.Postseal.Metrics()
	s.check(err)
	listed := 0
	for line := range strings.Lines(string(doc)) {
		if !strings.HasPrefix(line, "| postseal_") {
			continue
		}
		names, _, _ := strings.Cut(line[2:], " |")
		first := ""
		for name := range strings.SplitSeq(names, ", ") {
			name, _, _ = strings.Cut(strings.TrimSpace(name), "{")
			if first == "" {
				first = name
			}
			if strings.HasPrefix(name, "_") { // the rest of a family
				name = strings.Join(strings.Split(first, "_")[:2], "_") + name
			}
			if !strings.HasPrefix(name, "postseal_") {
				continue // labels with a comma
			}
			listed++
			if name == "postseal_escrow_quota_used_ratio" {
				continue // there only while a quota is nearly used up, which TestQuotas sees
			}
			if !strings.Contains(metrics, "\n# TYPE "+name+" ") {
				t.Errorf("docs/operate.md lists %s, which /metrics does not have", name)
			}
		}
	}
	if listed < 12 {
		t.Errorf("%d metrics found in docs/operate.md", listed)
	}
}
