package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

var shellWord = regexp.MustCompile(`(?:[^\s"']|"[^"]*"|'[^']*')+`)

// shellWords parts a command of the README as a shell would.
func shellWords(line string) []string {
	line, _, _ = strings.Cut(line, "  #")
	var all []string
	for _, w := range shellWord.FindAllString(line, -1) {
		all = append(all, strings.NewReplacer(`"`, "", `'`, "").Replace(w))
	}
	return all
}

// Every form of a rule in the README works as it stands there, each on a
// database of its own.
func TestReadmeRules(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for line := range strings.Lines(string(b)) {
		args := shellWords(strings.TrimSpace(line))
		if !strings.HasPrefix(line, "    postseal ") || len(args) < 3 || args[1] != "domain" && args[1] != "sender" && args[1] != "explain" && args[1] != "escrow" {
			continue
		}
		if args[1] == "escrow" && args[2] == "send" {
			continue // needs a server: TestEscrowSend
		}
		tried++
		t.Run(strings.Join(args[1:], " "), func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("POSTSEAL_DB", "sqlite:p.db")
			t.Setenv("POSTSEAL_KEY_FILE", "p.key")
			t.Setenv("POSTSEAL_OWN_DOMAIN", "own.example")
			t.Setenv("POSTSEAL_NOTICE_FROM", "postseal@own.example")
			t.Setenv("POSTSEAL_POSTFIX_CONFIG_DIR", "none")
			if err := os.WriteFile("rules.csv", []byte("a.example,tls,secure,.a.example,a note\nb@c.example,escrow\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			run := func(args ...string) {
				t.Helper()
				var out, errOut bytes.Buffer
				app := newApp(strings.NewReader(""), &out, &errOut)
				if err := app.Run(moveFlags(app, args)); err != nil {
					t.Errorf("%v\n%s%s", err, &out, &errOut)
				}
			}
			run("postseal", "key", "new")
			for i, a := range args {
				args[i] = strings.Replace(a, "2026-", "2099-", 1) // a day to come
			}
			if slices.Contains(args, "--weaken") {
				run("postseal", "sender", "add", "@clinic.example", "--require", "encryption")
			}
			run(args...)
		})
	}
	if tried < 12 {
		t.Errorf("%d commands found in the README, want a dozen at least", tried)
	}
}

// The README's postseal.toml is understood, and no value of it is refused.
func TestReadmeSettings(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "    portal-") || strings.HasPrefix(line, "    notice-from") {
			text.WriteString(line)
		}
	}
	file := filepath.Join(t.TempDir(), "postseal.toml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if _, err := toml.Decode(text.String(), &keys); err != nil || len(keys) != 5 {
		t.Fatalf("%d settings in the README's postseal.toml, want 5 (%v)", len(keys), err)
	}
	cfg, err := load(t, nil, "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.str("portal-listen"); got != "0.0.0.0:8645" {
		t.Errorf("portal-listen %q", got)
	}
}
