package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

func TestPostureCommands(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTSEAL_DB", "sqlite:"+filepath.Join(dir, "postseal.db"))
	t.Setenv("POSTSEAL_OWN_DOMAIN", "own.example")
	t.Setenv("POSTSEAL_NOTICE_FROM", "postseal@own.example")
	t.Setenv("POSTSEAL_POSTFIX_CONFIG_DIR", filepath.Join(dir, "none"))
	db, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(dir, "postseal.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-10 * time.Minute).UTC().Truncate(time.Second)
	err = db.SavePostures(t.Context(), []probe.Record{
		lostDestination("lost.example", at),
		{Dest: "good.example", State: policy.Works, Checked: at, Worked: at, Since: at, Result: []byte("{}")},
		{Dest: "[192.0.2.1]:25", State: policy.Unknown},
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	run := func(args ...string) (string, error) {
		var out, errs bytes.Buffer
		app := newApp(strings.NewReader(""), &out, &errs)
		err := app.RunContext(t.Context(), moveFlags(app, append([]string{"postseal"}, args...)))
		return out.String(), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	if out := must("posture", "list"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "ALARM tls-lost") || !strings.Contains(out, "TLS never seen to work") {
		t.Errorf("list:\n%s", out)
	}
	if out := must("posture", "list", "--alarm"); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "lost.example  absent  TLS from ") {
		t.Errorf("list --alarm:\n%s", out)
	}
	if out := must("posture", "list", "--state", "works", "--contains", "GOOD"); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "good.example") {
		t.Errorf("list --state works:\n%s", out)
	}
	if _, err := run("posture", "list", "--state", "fine"); err == nil || !strings.Contains(err.Error(), "want works, absent") {
		t.Errorf("a state that there is not: %v", err)
	}
	var lines []postureLine
	if err := json.Unmarshal([]byte(must("posture", "list", "--json")), &lines); err != nil || len(lines) != 3 || lines[2].Alarms[0] != probe.TLSLost {
		t.Errorf("list --json: %v, %v", lines, err)
	}

	out := must("posture", "show", "Lost.Example.")
	for _, want := range []string{
		"lost.example: absent", "ALARM: a destination has lost its TLS", "mail to it: plain", "nothing is required",
		"ALARM has lost its TLS, seen from",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("show: no %q in\n%s", want, out)
		}
	}
	must("domain", "add", "lost.example", "--require", "encryption")
	if out := must("posture", "show", "lost.example"); !strings.Contains(out, "the message waits") || !strings.Contains(out, "; an alarm was raised on "+at.Format(time.RFC3339)) {
		t.Errorf("show with a rule:\n%s", out)
	}
	var shown shownPosture
	if err := json.Unmarshal([]byte(must("posture", "show", "lost.example", "--json")), &shown); err != nil || len(shown.History) != 1 ||
		shown.History[0].Kind != probe.TLSLost || shown.Verdict == nil || shown.Verdict.Channel != "tls" || shown.State != policy.Absent || len(shown.Result) == 0 {
		t.Errorf("show --json: %+v, %v", shown, err)
	}
	if out := must("posture", "show", "[192.0.2.1]:25"); strings.Contains(out, "mail to it") || !strings.Contains(out, "nothing has changed") {
		t.Errorf("show of a host:\n%s", out)
	}
	if _, err := run("posture", "show", "nobody.example"); err == nil || !strings.Contains(err.Error(), "nothing is known of nobody.example") {
		t.Errorf("an unknown one: %v", err)
	}
}
