package escrow_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/sql"
)

// TestChild is the process that TestKilled kills.
func TestChild(t *testing.T) {
	point := os.Getenv("POSTSEAL_TEST_CRASH")
	if point == "" {
		return // it runs in a process that another test starts
	}
	ctx := context.Background()
	db, err := sql.Open(ctx, "sqlite:"+os.Getenv("POSTSEAL_TEST_DB"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := escrow.LoadKeys(os.Getenv("POSTSEAL_TEST_KEYS"))
	if err != nil {
		t.Fatal(err)
	}
	die := func(at string) {
		if at == point {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	v, err := escrow.NewVault(escrow.Options{
		Store: db, Keys: keys, PortalURL: "https://portal.clinic.example/x", NoticeFrom: "notice@clinic.example", Crash: die,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Seal(ctx, message([]byte("survives"))); err != nil && !errors.Is(err, escrow.ErrSettled) {
		t.Fatal(err)
	}
	s := notify.Sender{Outbox: v, Relay: os.Getenv("POSTSEAL_TEST_RELAY"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Crash: die}
	s.Run(ctx)
}

// Killed at each point, the message either exists whole, with its notice, or not
// at all; and a retry completes it.
func TestKilled(t *testing.T) {
	for _, tt := range []struct {
		point         string
		exists        bool
		queued, taken int // notices, after the kill
	}{
		{"seal-before-commit", false, 0, 0},
		{"seal-after-commit", true, 1, 0},
		{"before-send", true, 1, 0},
		{"after-send", true, 1, 1}, // the only point where it may be sent twice
		{"after-sent", true, 0, 1},
	} {
		t.Run(tt.point, func(t *testing.T) {
			b := newBench(t)
			b.db.Close()
			relay := newRelay(t)
			exe, err := os.Executable()
			b.must(err)
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestChild$")
			cmd.Env = append(os.Environ(), "POSTSEAL_TEST_CRASH="+tt.point, "POSTSEAL_TEST_DB="+b.path(),
				"POSTSEAL_TEST_KEYS="+b.keys, "POSTSEAL_TEST_RELAY="+relay.addr)
			out, _ := cmd.CombinedOutput()
			if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("was not killed: %v\n%s", cmd.ProcessState, out)
			}
			b.db = nil
			b.now.Store(4e15) // far in the future: the child had the real time
			b.start()
			list, err := b.List(t.Context(), escrow.Filter{})
			b.must(err)
			var queued int
			b.must(count(t, b.path(), &queued))
			if (len(list) == 1) != tt.exists || queued != tt.queued || len(relay.taken()) != tt.taken {
				t.Errorf("%d pickups, %d notices queued, %d taken", len(list), queued, len(relay.taken()))
			}
			settled, err := b.db.Settled(t.Context(), message([]byte("survives")).Digest, sender, []string{recipient})
			b.must(err)
			if (len(settled) == 1) != tt.exists {
				t.Errorf("settled: %v", settled)
			}
		})
	}
}
