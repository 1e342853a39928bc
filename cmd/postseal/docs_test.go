package main

import (
	"os"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// docs/settings.md names every setting with its default and variable, and no
// other.
func TestSettingsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			rows[name] = line
		}
	}
	for _, s := range settings() {
		row, ok := rows[s.name]
		if !ok {
			t.Errorf("%s is not documented", s.name)
			continue
		}
		if !strings.Contains(row, s.env()) || !strings.Contains(row, "`"+s.value+"`") && s.value != "" {
			t.Errorf("%s: the row lacks its default %q or its variable %s: %s", s.name, s.value, s.env(), row)
		}
		delete(rows, s.name)
	}
	for name := range rows {
		t.Errorf("%s is documented and does not exist", name)
	}
}

// Every `postseal …` of the README and the docs names a command and flags that
// exist.
func TestDocsNameRealCommands(t *testing.T) {
	app := newApp(strings.NewReader(""), nil, nil)
	for _, file := range []string{"../../README.md", "../../docs/mail-flow.md", "../../docs/postfix.md", "../../docs/security.md", "../../docs/settings.md", "../../docs/develop.md", "../../docs/guards.md", "../../docs/senders.md", "../../docs/api.md", "../../docs/tlsrpt.md", "../../docs/verified-tls.md", "../../docs/operate.md", "../../docs/check.md", "../../docs/audit.md", "../../docs/admin.md"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "  #")
			for _, part := range strings.Split(line, "postseal ")[1:] {
				part, _, _ = strings.Cut(part, "`")
				part, _, _ = strings.Cut(part, "&&")
				words := strings.Fields(part)
				leaf, path := findCommand(app, words)
				if leaf == nil {
					continue // prose
				}
				if len(leaf.Subcommands) > 0 {
					t.Errorf("%s: %q is no whole command: %s", file, strings.Join(path, " "), strings.TrimSpace(line))
				}
				known := flagValues(append(append([]cli.Flag{}, leaf.Flags...), app.Flags...))
				for _, w := range words {
					if name, ok := strings.CutPrefix(strings.Trim(w, ".,;:()"), "--"); ok && name != "" && name != "help" {
						name, _, _ = strings.Cut(name, "=")
						if _, ok := known[name]; !ok {
							t.Errorf("%s: postseal %s has no --%s", file, strings.Join(path, " "), name)
						}
					}
				}
			}
		}
	}
}
