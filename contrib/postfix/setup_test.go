package postfix

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

// need skips where Postfix's tools are missing, except in CI.
func need(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"postconf", "postmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", tool)
			}
			t.Skipf("%s is missing: install Postfix to run this test", tool)
		}
	}
}

const debianMain = "/usr/share/postfix/main.cf.debian"
const debianMaster = "/usr/share/postfix/master.cf.dist"

// config makes a configuration directory like Debian's, with more lines of main.cf
// and master.cf.
func config(t *testing.T, mainCF, masterCF string) *Instance {
	t.Helper()
	need(t)
	dir := t.TempDir()
	for name, f := range map[string]struct{ from, add string }{"main.cf": {debianMain, mainCF}, "master.cf": {debianMaster, masterCF}} {
		b, err := os.ReadFile(f.from)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if name == "main.cf" {
			text += "compatibility_level = 3.6\nmyhostname = mail.clinic.example\nmydestination = $myhostname, clinic.example, localhost\nrecipient_delimiter = +\nsmtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination\nmynetworks = 127.0.0.0/8\nalias_maps =\nalias_database =\n"
			text = strings.Replace(text, "compatibility_level = 3.6\n", "", 1)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+f.add), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Instance{ConfigDir: dir, TTL: -1}
}

func read(t *testing.T, p *Instance, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.ConfigDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func options(t *testing.T) Options {
	t.Helper()
	o := DefaultOptions()
	s, err := policy.ParseSubjects([]string{"[secure]"})
	if err != nil {
		t.Fatal(err)
	}
	o.Subjects, o.NoticeFrom, o.Out = s, "postseal@clinic.example", t.Output()
	return o
}

func TestSetupTwiceWritesTheSameBytes(t *testing.T) {
	p := config(t, "", "")
	if err := p.Setup(t.Context(), options(t)); err != nil {
		t.Fatal(err)
	}
	m, s, st := read(t, p, "main.cf"), read(t, p, "master.cf"), read(t, p, stateFile)
	if err := p.Setup(t.Context(), options(t)); err != nil {
		t.Fatal(err)
	}
	if read(t, p, "main.cf") != m || read(t, p, "master.cf") != s || read(t, p, stateFile) != st {
		t.Error("a second setup changed something")
	}
}
