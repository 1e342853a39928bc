package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// load runs a command with the given flags and returns its settings.
func load(t *testing.T, env map[string]string, args ...string) (*config, error) {
	t.Helper()
	var cfg *config
	app := newApp(strings.NewReader(""), io.Discard, io.Discard)
	app.Commands = []*cli.Command{verb("try", "", "", settingFlags(), func(c *cli.Context) (err error) {
		cfg, err = loadSettings(c, func(n string) (string, bool) { v, ok := env[n]; return v, ok })
		return err
	})}
	err := app.Run(moveFlags(app, append([]string{"postseal", "try"}, args...)))
	return cfg, err
}

func TestSettingSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte("grace = \"1h\"\nkey-file = \"/file\"\nresolver = [\"1.1.1.1:53\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"POSTSEAL_CONFIG": file, "POSTSEAL_KEY_FILE": "/env", "POSTSEAL_DB": "sqlite:/env", "POSTSEAL_RESOLVER": "2.2.2.2:53 3.3.3.3:53"}
	cfg, err := load(t, env, "--db", "sqlite:/flag")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]resolved{
		"db":               {Values: []string{"sqlite:/flag"}, Source: "flag --db"},
		"key-file":         {Values: []string{"/env"}, Source: "environment POSTSEAL_KEY_FILE"},
		"grace":            {Values: []string{"1h"}, Source: "file " + file},
		"message-lifetime": {Values: []string{"30d"}, Source: "default"},
		"resolver":         {Values: []string{"2.2.2.2:53", "3.3.3.3:53"}, Source: "environment POSTSEAL_RESOLVER"},
	} {
		want.Name = name
		if diff := cmp.Diff(want, cfg.values[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if d := cfg.duration("message-lifetime"); d != 30*24*time.Hour {
		t.Errorf("lifetime %v", d)
	}
}

func TestBadSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte("no-such-setting = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"an unknown key of the file", []string{"--config", file}, `unknown setting "no-such-setting"`},
		{"a file that is not there", []string{"--config", file + ".no"}, "no such file"},
		{"a duration", []string{"--grace", "soon"}, "grace (from flag --grace)"},
		{"a negative duration", []string{"--grace", "-5m"}, "not a duration"},
		{"a size", []string{"--max-message-size", "big"}, "not a size"},
		{"a listener", []string{"--policy-listen", "8641"}, "want HOST:PORT or unix:PATH"},
		{"the fallback on a socket", []string{"--fallback-listen", "unix:/x"}, "want HOST:PORT"},
		{"an unknown word", []string{"--forced-unreachable", "drop"}, "want queue, defer, reject"},
		{"a database", []string{"--db", "mysql:x"}, "want sqlite:PATH"},
		{"an own domain", []string{"--own-domain", "a b"}, "is not a domain name"},
		{"all domains as own", []string{"--own-domain", "*"}, "want a domain"},
		{"a subject", []string{"--secure-subject", "/(/"}, "secure-subject (from flag"},
		{"a sender of notices", []string{"--notice-from", "nobody"}, "want ADDRESS or NAME <ADDRESS>"},
		{"no lifetime", []string{"--message-lifetime", "0"}, "at least a second"},
		{"a delimiter", []string{"--recipient-delimiter", "a"}, "want punctuation"},
		{"a resolver", []string{"--resolver", "8.8.8.8"}, "want HOST:PORT"},
		{"a proxy", []string{"--portal-proxy", "here"}, "want an address or a network"},
		{"a webhook in clear", []string{"--alarm-webhook", "http://hooks.example/x"}, "by http only to this host itself"},
		{"a portal address", []string{"--portal-url", "portal.example"}, "want https://"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, nil, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute, "0.5d": 12 * time.Hour, "0s": 0} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "d", "5", "-1d", "1dx", "NaNd", "1e99d"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", in, got)
		}
	}
}
