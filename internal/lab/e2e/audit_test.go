package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// logged is an entry of the audit log.
type logged struct {
	Kind, Actor, Name, Client, Item, Sender, Recipient string
	Details                                            map[string]string
}

// auditLog returns what postseal audit list gives, the oldest first.
func (s *scene) auditLog(flags ...string) (list []logged) {
	s.t.Helper()
	out, err := s.CLI(append([]string{"audit", "list", "--oldest", "--limit", "0", "--json"}, flags...)...)
	s.check(err)
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var e logged
		s.check(d.Decode(&e))
		list = append(list, e)
	}
	return list
}

// inOrder reports the first of want that is not among the kinds of list, in its order.
func inOrder(list []logged, want ...string) (missing string) {
	for _, e := range list {
		if len(want) > 0 && e.Kind == want[0] {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		return want[0]
	}
	return ""
}

// TestAuditLog is that the audit log tells of a sealed message what was decided and
// done, step by step, without a word of it, and that it verifies: here, and elsewhere.
func TestAuditLog(t *testing.T) {
	s := replyScene(t, lab.Options{})
	b, link := s.sealedFor("doc@own.example", patient, "audited")
	item := strings.Split(link[strings.Index(link, "/m/")+3:], "/")[0]
	m, text, file := s.secretReply()
	s.check(b.Reply(link, "send", text, false, file))
	s.mailbox(m, "doc@own.example")
	steps := []string{"sealed", "notice-queued", "notice-sent", "code-queued", "verified", "read", "downloaded", "reply-queued", "reply-sent"}
	s.run("has each step in its order", func(t *testing.T) {
		var list []logged
		if !s.Wait(patience, func() bool { list = s.auditLog("--item", item); return inOrder(list, steps...) == "" }) {
			t.Fatalf("%s is not in it, or not in its place: %+v", inOrder(list, steps...), list)
		}
		_, err := s.CLI("escrow", "retract", item)
		s.check(err)
		list = s.auditLog("--item", item)
		if missing := inOrder(list, append(steps, "retracted")...); missing != "" {
			t.Errorf("%s is not in it: %+v", missing, list)
		}
		for _, e := range list {
			switch e.Kind {
			case "sealed":
				if e.Actor != "postfix" || e.Sender != "doc@own.example" || e.Recipient != patient || e.Details["queue_id"] == "" {
					t.Errorf("%+v", e)
				}
			case "verified", "read", "downloaded":
				if e.Actor != "portal" || e.Sender != "doc@own.example" || e.Recipient != patient { // no proxy says from where
					t.Errorf("%+v", e)
				}
			case "retracted":
				if e.Actor != "command" || e.Name == "" || e.Details["by"] != "administrator" {
					t.Errorf("%+v", e)
				}
			}
		}
	})
	s.run("has the decisions", func(t *testing.T) {
		var list []logged // without what the policy service said
		for _, e := range s.auditLog("--recipient", patient) {
			if e.Name != "policy" {
				list = append(list, e)
			}
		}
		if missing := inOrder(list, "decision", "sealed"); missing != "" || list[0].Details["requires"] != "encryption" || !strings.Contains(list[0].Details["rules"], "plain.example") {
			t.Errorf("%s is not in it: %+v", missing, list)
		}
		mail := s.submit(lab.Message{From: "doc@own.example", To: []string{patient}})
		s.accepted(mail)
		answered := func() bool {
			for _, e := range s.auditLog("--recipient", patient, "--kind", "decision") {
				if e.Name == "policy" && e.Actor == "postfix" && e.Client != "" {
					return true
				}
			}
			return false
		}
		if !s.Wait(patience, answered) {
			t.Errorf("not the policy service's: %+v", s.auditLog("--kind", "decision"))
		}
	})
	s.run("has no word of it, and verifies", func(t *testing.T) {
		dir := t.TempDir()
		export := filepath.Join(dir, "export.jsonl")
		_, err := s.CLI("audit", "export", "--output", export)
		s.check(err)
		data, err := os.ReadFile(export)
		s.check(err)
		words := append([]string{link[strings.LastIndex(link, "/")+1:], lab.Password, "Monday", "Röntgen", "audited@mua.example", file.Name}, s.must...)
		for _, w := range words {
			if bytes.Contains(data, []byte(w)) {
				t.Errorf("%q is in the audit log", w)
			}
		}
		out, err := s.CLI("audit", "verify")
		if err != nil || !strings.Contains(out, "1 checkpoints agree") {
			t.Errorf("%v: %s", err, out)
		}
		key, err := s.CLI("audit", "key")
		s.check(err)
		out, err = s.CLI("audit", "verify", "--file", export, "--public-key", strings.TrimSpace(key))
		if err != nil {
			t.Errorf("the export: %v: %s", err, out)
		}
		changed := bytes.Replace(data, []byte(patient), []byte("pam@plain.example"), 1)
		s.check(os.WriteFile(export, changed, 0o600))
		if out, err := s.CLI("audit", "verify", "--file", export, "--public-key", strings.TrimSpace(key)); err == nil {
			t.Errorf("a changed export verifies: %s", out)
		}
	})
}
