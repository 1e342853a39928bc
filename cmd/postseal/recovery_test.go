package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestWhatIsRecoveredHasANameOnlyWhenItIsWhole: whoever kills the command, or fills the disk,
// leaves no plaintext.
func TestWhatIsRecoveredHasANameOnlyWhenItIsWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "message.eml")
	files := func() (names []string) {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names
	}
	broken := errors.New("disk full")
	err := writeNew(nil, path, func(w io.Writer) error {
		w.Write(make([]byte, 1<<20))
		if left := files(); len(left) != 0 {
			t.Errorf("while it is written: %q", left)
		}
		return broken
	})
	if !errors.Is(err, broken) || len(files()) != 0 {
		t.Errorf("%v, %q", err, files())
	}
	write := func(text string) error {
		return writeNew(nil, path, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	}
	if err := write("plain"); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := write("another"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("it was replaced: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "plain" || err != nil || len(files()) != 1 {
		t.Errorf("%q, %v, %q", b, err, files())
	}
}
