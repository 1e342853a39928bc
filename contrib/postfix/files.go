package postfix

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// state is what Setup leaves for Undo: what was there, byte for byte, and by what
// it is known that nobody has changed it since.
type state struct {
	Version      int               `json:"version"`
	Main         []byte            `json:"main_before"`
	Master       []byte            `json:"master_before"`
	MainAfter    string            `json:"main_after_sha256"`
	MasterAfter  string            `json:"master_after_sha256"`
	Parameters   map[string]string `json:"parameters"` // of our block
	FilesWritten []string          `json:"files"`
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func readState(dir string) (*state, error) {
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("%s has version %d, this program knows 1: use the newer program", filepath.Join(dir, stateFile), s.Version)
	}
	return &s, nil
}

// before reads the files and returns them as they are, and as they would be without
// our lines.
func (p *Instance) before(dir string) (*plan, error) {
	pl := &plan{}
	for _, f := range []struct {
		name string
		to   *string
	}{{"main.cf", &pl.mainNow}, {"master.cf", &pl.masterNow}} {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return nil, err
		}
		*f.to = string(b)
	}
	st, err := readState(dir)
	if err != nil {
		return nil, err
	}
	if pl.masterBefore, _, err = strip(pl.masterNow); err != nil {
		return nil, fmt.Errorf("master.cf: %w", err)
	}
	if pl.mainBefore, err = stripMain(pl.mainNow, st); err != nil {
		return nil, fmt.Errorf("main.cf: %w", err)
	}
	if st != nil {
		if sum(pl.mainNow) == st.MainAfter {
			pl.mainBefore = string(st.Main)
		}
		if sum(pl.masterNow) == st.MasterAfter {
			pl.masterBefore = string(st.Master)
		}
	}
	return pl, nil
}

// stripMain is strip for a main.cf that postconf -e may have changed inside our
// lines: a parameter that no longer has the value we wrote keeps the administrator's,
// less what is ours.
func stripMain(now string, st *state) (string, error) {
	theirs, ours, err := strip(now)
	if err != nil || st == nil {
		return theirs, err
	}
	changed := make(map[string]string)
	for name, value := range parameters(ours) {
		old, known := st.Parameters[name]
		if old != value && !strings.HasPrefix(name, "postseal_") && (!known || !sameList(old, value)) {
			changed[name] = withoutOurs(name, value)
		}
	}
	if len(changed) == 0 {
		return theirs, nil
	}
	theirs, _, err = strip(drop(now, changed))
	if err != nil {
		return "", err
	}
	theirs = endWithNewline(theirs)
	names := make([]string, 0, len(changed))
	for n := range changed {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		theirs += n + " = " + changed[n] + "\n"
	}
	return theirs, nil
}

func sameList(a, b string) bool { return slices.Equal(splitList(a), splitList(b)) }

// withoutOurs takes our entries out of a list that somebody changed.
func withoutOurs(name, value string) string {
	words := splitList(value)
	var out []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case strings.EqualFold(w, "check_policy_service") && i+1 < len(words) && words[i+1] == "$postseal_policy":
			i++
			continue
		case strings.HasPrefix(w, "socketmap:") && isOurMap(w),
			strings.HasPrefix(w, "regexp:") && (strings.HasSuffix(w, "/"+headerChecksFile) || strings.HasSuffix(w, "/"+noticeFile)):
			continue
		}
		out = append(out, w)
	}
	return joinRestrictions(out, ", ")
}

// isOurMap reports whether a socketmap is one of Postseal's, by its name.
func isOurMap(m string) bool {
	i := strings.LastIndexByte(m, ':')
	switch m[i+1:] {
	case "transport", "tls-policy", "secure-tls-policy", "sender-transport":
		return true
	}
	return false
}

// write replaces the files, main.cf before master.cf: a map that names a transport
// which is not there yet defers mail, the other order might let it pass.
func (p *Instance) write(dir string, pl *plan) error {
	st := state{Version: 1, Main: []byte(pl.mainBefore), Master: []byte(pl.masterBefore),
		MainAfter: sum(pl.main), MasterAfter: sum(pl.master), Parameters: pl.written}
	for name := range pl.files {
		st.FilesWritten = append(st.FilesWritten, name)
	}
	slices.Sort(st.FilesWritten)
	b, err := json.MarshalIndent(st, "", "\t")
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, stateFile), string(b)+"\n", 0o600); err != nil {
		return err
	}
	for _, name := range st.FilesWritten {
		if err := replaceFile(filepath.Join(dir, name), pl.files[name], 0o644); err != nil {
			return err
		}
	}
	if err := replaceFile(filepath.Join(dir, "main.cf"), pl.main, 0o644); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, "master.cf"), pl.master, 0o644); err != nil {
		return err
	}
	for _, name := range []string{headerChecksFile, noticeFile} {
		if _, wanted := pl.files[name]; !wanted {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// replaceFile writes a file under another name and renames it, keeping the owner and
// the mode of the one before; a link is followed. A file that is the same already is
// left alone.
func replaceFile(path, text string, mode fs.FileMode) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	uid, gid := -1, -1
	if fi, err := os.Stat(path); err == nil {
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			return nil
		}
		mode = fi.Mode().Perm()
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(st.Uid), int(st.Gid)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer os.Remove(tmp)
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		err = f.Chown(uid, gid)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		d.Sync()
		d.Close()
	}
	return nil
}

// show writes what changes, as a diff without context, and reports whether anything
// does.
func (pl *plan) show(w io.Writer) bool {
	changed := diff(w, "main.cf", pl.mainNow, pl.main)
	return diff(w, "master.cf", pl.masterNow, pl.master) || changed
}

// diff writes the lines that differ. Both sides share most lines in one order, so
// the longest common subsequence is found only in what a common head and tail
// leave.
func diff(w io.Writer, name, old, new string) bool {
	if old == new {
		return false
	}
	fmt.Fprintf(w, "--- %s\n+++ %s\n", name, name)
	a, b := strings.SplitAfter(old, "\n"), strings.SplitAfter(new, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	line := func(sign, s string) { fmt.Fprintf(w, "%s%s\n", sign, strings.TrimSuffix(s, "\n")) }
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			if a[i] != "" {
				line("-", a[i])
			}
			i++
		default:
			if b[j] != "" {
				line("+", b[j])
			}
			j++
		}
	}
	return true
}
