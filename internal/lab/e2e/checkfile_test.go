package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
)

// TestCheckFile is a check in bulk as an administrator runs it: two thousand domains
// that share five mail hosts, killed and interrupted on the way.
func TestCheckFile(t *testing.T) {
	lab.Require(t)
	dir, err := lab.NewDir()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := lab.Build()
	if err != nil {
		t.Fatal(err)
	}
	n, err := lab.NewInternet(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	const domains, shared = 2000, 5
	var hosts []*lab.Host
	for i := range shared {
		kind := []lab.Kind{lab.GoodTLS, lab.NoTLS}[i%2]
		h, err := n.Add(fmt.Sprintf("host%d.example", i), kind)
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	var list strings.Builder
	list.WriteString("# two thousand domains\n\n")
	var records []string
	for i := range domains {
		d := fmt.Sprintf("d%d.example", i)
		records = append(records, fmt.Sprintf("%s 600 IN MX 10 %s.", d, hosts[i%shared].Name))
		fmt.Fprintln(&list, d)
	}
	if err := n.DNS.Add(records...); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "domains.txt")
	if err := os.WriteFile(file, []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(bin, append([]string{"check", "--file", file, "--tls-roots", n.CA.File, "--postfix-config-dir", dir + "/none"}, args...)...)
		cmd.Env = append(os.Environ(), "POSTSEAL_DB=sqlite:"+dir+"/postseal.db")
		return cmd
	}
	sessions := func() (counts []int) {
		for _, h := range hosts {
			counts = append(counts, len(h.Sessions()))
		}
		return counts
	}
	// rows fails the test where a file has not one row for each domain, in order.
	rows := func(t *testing.T, name string) {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
		if len(lines) != domains {
			t.Fatalf("%d rows, want %d", len(lines), domains)
		}
		for i, line := range lines {
			var row struct{ Asked, Class, State string }
			if err := json.Unmarshal(line, &row); err != nil {
				t.Fatalf("row %d: %v: %s", i, err, line)
			}
			want := []string{"works", "absent"}[i%shared%2]
			if row.Asked != fmt.Sprintf("d%d.example", i) || row.State != want {
				t.Fatalf("row %d: %s, want %s", i, line, want)
			}
		}
	}

	t.Run("each shared host is asked once", func(t *testing.T) {
		out := filepath.Join(dir, "whole.jsonl")
		said, err := command("--output", out, "--summary-json", filepath.Join(dir, "summary.json")).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		rows(t, out)
		for i, c := range sessions() {
			if c != 1 {
				t.Errorf("host %d: %d sessions for %d domains, want 1", i, c, domains/shared)
			}
		}
		var sum struct {
			Asked, Sessions int
			Complete        bool
			States          map[string]int
		}
		b, _ := os.ReadFile(filepath.Join(dir, "summary.json"))
		if err := json.Unmarshal(b, &sum); err != nil || sum.Asked != domains || sum.Sessions != shared || !sum.Complete || sum.States["works"] != domains*3/5 {
			t.Errorf("summary: %v, %s", err, b)
		}
		if said, err := command("--output", out).CombinedOutput(); err == nil || !strings.Contains(string(said), "--resume") {
			t.Errorf("the work of an earlier run was to be overwritten: %v: %s", err, said)
		}
		rows(t, out)
	})

	// Slow enough to be killed on the way.
	slow := func(h *lab.Host) {
		b := h.Behaviour()
		b.BannerDelay = 300 * time.Millisecond
		h.Set(b)
	}
	for _, h := range hosts {
		slow(h)
	}
	for _, end := range []struct {
		name   string
		signal syscall.Signal
	}{{"killed", syscall.SIGKILL}, {"interrupted", syscall.SIGINT}} {
		t.Run(end.name, func(t *testing.T) {
			out := filepath.Join(dir, end.name+".jsonl")
			cmd := command("--output", out, "--parallel", "4")
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if !lab.Poll(patience, func() bool { b, _ := os.ReadFile(out); return bytes.Count(b, []byte("\n")) > 100 }) {
				t.Fatal("no rows come")
			}
			cmd.Process.Signal(end.signal)
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("it was over before it was %s: %v", end.name, err)
			}
			if end.signal == syscall.SIGINT && (exit.ExitCode() != 1 || !strings.Contains(said.String(), "--resume goes on")) {
				t.Errorf("exit %d, and it said: %s", exit.ExitCode(), &said)
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString(`{"asked":"d`) // what a kill in the middle of a write leaves
			f.Close()
			if said, err := command("--output", out, "--resume").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			rows(t, out)
		})
	}
}
