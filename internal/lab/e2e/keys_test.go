package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// TestKeys gives a running server new keys while mail comes in and is sealed, and opens
// all of it afterwards: by the links, and by a recovery key from a backup, without key
// file, server or Postfix.
func TestKeys(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"sender add doc@own.example --require encryption --mode sealed", "sender add lab@own.example --require encryption",
	}})
	private, err := s.Postseal.CLI("key", "recovery-new", "--note", "the safe")
	s.check(err)
	if !strings.HasPrefix(private, "POSTSEAL-RECOVERY-") {
		t.Fatal("no private half was printed")
	}
	type sent struct {
		mail
		to string
	}
	var mu sync.Mutex
	var all []sent
	post := func(from string, n int) {
		to := string(rune('a'+n)) + "@plain.example"
		m := s.send(from, to)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, sent{m, to})
	}
	post("doc@own.example", 0)
	post("lab@own.example", 1)
	before := s.keyIDs()

	// One that is killed, while mail comes in; then again, to its end.
	var rotated sync.WaitGroup
	var first, second string
	var firstErr, secondErr error
	rotated.Go(func() {
		crashing := envOf(s.Postseal, "POSTSEAL_CRASH_AT=rotate-batch")
		first, firstErr = crashing.CLI("key", "rotate", "--json")
		second, secondErr = s.Postseal.CLI("key", "rotate", "--json")
	})
	for n := 2; n < 12; n++ {
		post([]string{"doc@own.example", "lab@own.example"}[n%2], n)
	}
	rotated.Wait()
	if firstErr == nil || !strings.Contains(firstErr.Error(), "killed") {
		t.Errorf("the first rotation was not killed: %v\n%s", firstErr, first)
	}
	s.check(secondErr)
	if !strings.Contains(second, `"resumed":true`) || !strings.Contains(second, `"step":"finished"`) {
		t.Errorf("the second rotation:\n%s", second)
	}
	after := s.keyIDs()
	if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
		t.Errorf("keys %v, then %v", before, after)
	}
	post("doc@own.example", 12)
	if !s.Postseal.Running() {
		t.Error("the server did not live through it")
	}
	// A process that has never had the old key: the running one remembers it for a while.
	s.check(s.Postseal.Stop())
	s.check(s.Postseal.Start())
	for _, m := range all {
		s.sealedAs(m.mail, m.to)
	}

	// Elsewhere.
	dir := t.TempDir()
	s.check(os.Chmod(dir, 0o777)) // the owner of the database writes there
	backup := filepath.Join(dir, "copy.db")
	_, err = s.Postseal.CLI("db", "backup", backup)
	s.check(err)
	elsewhere := &lab.Postseal{Binary: s.Postseal.Binary, Env: []string{"POSTSEAL_DB=sqlite:" + backup, "POSTSEAL_KEY_FILE=/nonexistent", "POSTSEAL_POSTFIX_CONFIG_DIR=/nonexistent"}}
	listed, err := s.Postseal.CLI("escrow", "list", "--json")
	s.check(err)
	var items []struct{ ID, Recipient, Mode string }
	s.check(json.Unmarshal([]byte(listed), &items))
	found := 0
	for _, it := range items {
		for _, m := range all {
			if m.to != it.Recipient {
				continue
			}
			found++
			got, err := elsewhere.CLIWith(private, "escrow", "recover", it.ID, "--output", "-")
			if err != nil {
				t.Errorf("%s: %v", it.Recipient, err)
			} else if !bytes.HasSuffix([]byte(got), m.data) {
				t.Errorf("%s: recovered is not what was sent:\n%q", it.Recipient, got)
			}
		}
	}
	if found != len(all) {
		t.Errorf("%d of %d messages are in the list", found, len(all))
	}
	log := s.Postseal.Log()
	if strings.Contains(log, strings.TrimSpace(private)[18:40]) {
		t.Error("the private half stands in the log")
	}
	if !strings.Contains(log, "key file read anew") {
		t.Error("the server did not read the key file anew")
	}
}

// envOf is the program with one more setting.
func envOf(p *lab.Postseal, env string) *lab.Postseal {
	return &lab.Postseal{Binary: p.Binary, Env: append(append([]string{}, p.Env...), env)}
}

// keyIDs lists the keys that something is under, or that are in the key file.
func (s *scene) keyIDs() (ids []string) {
	s.t.Helper()
	text, err := s.Postseal.CLI("key", "list", "--json")
	s.check(err)
	var all []struct {
		ID   string   `json:"id"`
		Held []string `json:"held_by"`
	}
	s.check(json.Unmarshal([]byte(text), &all))
	for _, k := range all {
		if ids = append(ids, k.ID); len(k.Held) != 1 {
			s.t.Errorf("key %s is held by %v", k.ID, k.Held)
		}
	}
	return ids
}
