package postfix

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMain puts the configuration directories into memory where it can: every Setup
// syncs a handful of files, which on a busy disk takes seconds.
func TestMain(m *testing.M) {
	if d, err := os.MkdirTemp("/dev/shm", "postseal-"); err == nil {
		os.Setenv("TMPDIR", d)
		code := m.Run()
		os.RemoveAll(d)
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// age makes the files of a configuration directory look old: Postfix's tools wait for
// seconds where one was changed just now.
func age(t *testing.T, p *Instance) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.ConfigDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	p.Forget()
	old := time.Now().Add(-time.Hour)
	for _, f := range files {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
}
