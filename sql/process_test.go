package sql

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// child returns a command that runs TestChild of this test binary in a process
// of its own, with args for it.
func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), "POSTSEAL_TEST_CHILD="+strings.Join(args, "\n"))
	return cmd
}

func script(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := child(t, append([]string{path}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestChild is the other process of the tests here: PATH VERB ARGUMENT...
func TestChild(t *testing.T) {
	env, ok := os.LookupEnv("POSTSEAL_TEST_CHILD")
	if !ok {
		return // it runs in a process that another test starts
	}
	args := strings.Split(env, "\n")
	path, verb, ctx := args[0], args[1], context.Background()
	if verb == "drop" {
		if err := DropToOwner(path); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setuid(0); err == nil {
			t.Fatal("root was not given up for good")
		}
		groups, _ := os.Getgroups()
		for _, g := range append(groups, os.Getgid(), os.Getegid()) {
			if g == 0 || g == 42 {
				t.Fatalf("still in group %d of root", g)
			}
		}
	}
	db, err := Open(ctx, "sqlite:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	switch verb {
	case "add":
		if err := db.AddRule(ctx, recipient(args[2], policy.ForcedTLS), plus); err != nil {
			t.Fatal(err)
		}
	case "drop":
		if err := db.Writable(ctx); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			fi, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if uid := fi.Sys().(*syscall.Stat_t).Uid; strconv.Itoa(int(uid)) != args[2] {
				t.Errorf("%s belongs to %d, want %s", path+suffix, uid, args[2])
			}
		}
		db.Close()
	case "add-until-killed":
		for i := 0; ; i++ {
			if err := db.AddRule(ctx, recipient(fmt.Sprintf("%s-%d.example", args[2], i), policy.ForcedTLS), plus); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("added %d\n", i) // acknowledged
		}
	}
}

func TestKilledInTheMiddleOfCommits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postseal.db")
	total := 0
	for round := range 5 {
		name := fmt.Sprintf("r%d", round)
		cmd := child(t, path, "add-until-killed", name)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := -1
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if n, err := fmt.Sscanf(lines.Text(), "added %d", &last); n != 1 || err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			if last == 3+round {
				time.Sleep(time.Duration(round) * 700 * time.Microsecond)
				cmd.Process.Kill() // and read on: what it acknowledged until then counts
			}
		}
		cmd.Wait()
		if last < 3+round {
			t.Fatalf("round %d: the child ended by itself after %d", round, last)
		}
		db := openAt(t, path)
		if got := one[string](t, db.r, `PRAGMA integrity_check`); got != "ok" {
			t.Fatalf("round %d: %s", round, got)
		}
		rules, v, err := db.Rules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		have := make(map[string]bool)
		for _, r := range rules {
			have[r.Pattern] = true
		}
		for i := range last + 1 {
			if !have[fmt.Sprintf("%s-%d.example", name, i)] {
				t.Errorf("round %d: acknowledged rule %d of %d is lost", round, i, last)
			}
		}
		if v != int64(len(rules)) || len(rules) <= total {
			t.Errorf("round %d: %d rules at version %d", round, len(rules), v)
		}
		total = len(rules)
		db.Close()
	}
}

func TestDropToOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const owner = 65534
	dir, err := os.MkdirTemp("", "postseal-owner") // t.TempDir's parent is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, owner, owner); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "postseal.db")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func() { // the test binary itself may lie where only root can go; it is loaded by then
		t.Helper()
		cmd := child(t, path, "drop", strconv.Itoa(owner))
		cmd.Path = exe
		// With a group that is root's alone, so that keeping it is seen.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{0, 42}}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run() // missing: by its directory
	run() // there: by itself
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		fi, err := n.Info()
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != owner || st.Gid == 0 {
			t.Errorf("%s belongs to %d:%d", n.Name(), st.Uid, st.Gid)
		}
	}
	if len(names) == 0 {
		t.Error("no database was made")
	}
	if err := DropToOwner(filepath.Join(t.TempDir(), "x.db")); err != nil || os.Geteuid() != 0 {
		t.Errorf("root's own database: %v, euid %d", err, os.Geteuid())
	}
}
