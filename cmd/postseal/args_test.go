package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

func TestMoveFlags(t *testing.T) {
	app := newApp(strings.NewReader(""), io.Discard, io.Discard)
	tests := []struct {
		name, in, want string
	}{
		{"flags after the argument", "domain add bank.example --require tls", "domain add --require tls -- bank.example"},
		{"flags before the argument", "domain add --require tls bank.example", "domain add --require tls -- bank.example"},
		{"flags on both sides", "domain add --require tls bank.example --note T", "domain add --require tls --note T -- bank.example"},
		{"a boolean flag takes no value", "domain list --json", "domain list --json"},
		{"a boolean flag before an argument", "check --json example.org", "check --json -- example.org"},
		{"an equals sign", "domain add bank.example --require=tls", "domain add --require=tls -- bank.example"},
		{"a repeated flag", "domain add b.example --match a --match b", "domain add --match a --match b -- b.example"},
		{"a value that begins with a dash", "domain add b.example --note -x", "domain add --note -x -- b.example"},
		{"a value that is a command's name", "domain add b.example --note domain", "domain add --note domain -- b.example"},
		{"flags before the noun", "--db sqlite:x domain list", "domain list --db sqlite:x"},
		{"flags between noun and verb", "domain --db sqlite:x list", "domain list --db sqlite:x"},
		{"two dashes end the flags", "domain show -- --odd", "domain show -- --odd"},
		{"an argument of one dash", "domain import -", "domain import -- -"},
		{"an argument named as a verb", "domain add add --require tls", "domain add --require tls -- add"},
		{"an unknown flag is left to cli", "domain add b.example --bogus", "domain add --bogus -- b.example"},
		{"an unknown command is left to cli", "bogus --x y", "--x bogus y"},
		{"no arguments", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := moveFlags(app, append([]string{"postseal"}, strings.Fields(tt.in)...))
			if diff := cmp.Diff(append([]string{"postseal"}, strings.Fields(tt.want)...), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every flag of every command must be understood wherever it stands.
func TestMoveFlagsForEveryFlag(t *testing.T) {
	app := newApp(strings.NewReader(""), io.Discard, io.Discard)
	var walk func(path []string, cmds []*cli.Command)
	walk = func(path []string, cmds []*cli.Command) {
		for _, c := range cmds {
			p := append(append([]string{"postseal"}, path...), c.Name)
			if len(c.Subcommands) > 0 {
				walk(append(path, c.Name), c.Subcommands)
				continue
			}
			for _, f := range c.Flags {
				flag := []string{"--" + f.Names()[0]}
				if _, boolean := f.(*cli.BoolFlag); !boolean {
					flag = append(flag, "value")
				}
				want := append(append(append([]string{}, p...), flag...), "--", "arg")
				got := moveFlags(app, append(append(append([]string{}, p...), "arg"), flag...))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%v: %s", p, diff)
				}
			}
		}
	}
	walk(nil, app.Commands)
}

func FuzzMoveFlags(f *testing.F) {
	f.Add("domain\x00add\x00x\x00--require\x00tls")
	f.Add("--\x00-\x00")
	app := newApp(strings.NewReader(""), io.Discard, io.Discard)
	f.Fuzz(func(t *testing.T, joined string) {
		in := strings.Split(joined, "\x00")
		out := moveFlags(app, append([]string{"postseal"}, in...))
		count := map[string]int{}
		for _, a := range in {
			count[a]++
		}
		for _, a := range out[1:] {
			count[a]--
		}
		delete(count, "--")
		for a, n := range count {
			if n != 0 {
				t.Fatalf("%q: %q appears %d times too few in %q", in, a, n, out)
			}
		}
	})
}
