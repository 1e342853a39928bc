package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// moveFlags returns args (the program's name first) with every flag of the
// command that they name moved before its arguments, since cli/v2 stops reading
// flags at the first argument. Flags may stand anywhere: before the command's
// name, between noun and verb, before and after arguments; "--" ends them. What
// takes a value is known from the command's own definitions. A flag that the
// command does not define stays where it is, for cli to complain about.
func moveFlags(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	leaf, path := findCommand(app, args[1:])
	takesValue := flagValues(app.Flags)
	if leaf != nil {
		for name, v := range flagValues(leaf.Flags) {
			takesValue[name] = v
		}
	}
	var flags, rest []string
	todo := slices.Clone(path)
	for i := 1; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(a) > 1 && a[0] == '-' {
			name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
			flags = append(flags, a)
			if takesValue[name] && !hasValue {
				if i++; i == len(args) { // without its value: cli complains if nothing follows
					return slices.Concat(args[:1], path, flags)
				}
				flags = append(flags, args[i])
			}
			continue
		}
		if len(todo) > 0 && a == todo[0] {
			todo = todo[1:]
			continue
		}
		rest = append(rest, a)
	}
	out := append([]string{args[0]}, path...)
	out = append(out, flags...)
	if leaf != nil && len(rest) > 0 {
		out = append(out, "--")
	}
	return append(out, rest...)
}

// findCommand walks the words of args down the tree of commands and returns the
// deepest command they name, with its path.
func findCommand(app *cli.App, args []string) (*cli.Command, []string) {
	var leaf *cli.Command
	var path []string
	level := app.Commands
	known := map[string]bool{}
	collectValues(app.Flags, app.Commands, known)
	for i := 0; i < len(args) && len(level) > 0; i++ {
		a := args[i]
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' {
			name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
			if known[name] && !hasValue {
				i++
			}
			continue
		}
		found := (*cli.Command)(nil)
		for _, c := range level {
			if c.HasName(a) {
				found = c
			}
		}
		if found == nil {
			break
		}
		leaf, path, level = found, append(path, a), found.Subcommands
	}
	return leaf, path
}

func collectValues(flags []cli.Flag, commands []*cli.Command, into map[string]bool) {
	for n, v := range flagValues(flags) {
		into[n] = into[n] || v
	}
	for _, c := range commands {
		collectValues(c.Flags, c.Subcommands, into)
	}
}

// flagValues maps each name of flags to whether it takes a value.
func flagValues(flags []cli.Flag) map[string]bool {
	m := make(map[string]bool)
	for _, f := range flags {
		_, boolean := f.(*cli.BoolFlag)
		for _, n := range f.Names() {
			m[n] = !boolean
		}
	}
	return m
}

// commandName returns the command as it is typed, without the program's name.
func commandName(c *cli.Context) string {
	return strings.TrimPrefix(c.Command.HelpName, c.App.Name+" ")
}

// wantArgs checks the number of arguments left over by the flags; max < 0 is
// any number.
func wantArgs(c *cli.Context, least, most int, what string) error {
	n := c.NArg()
	if n >= least && (most < 0 || n <= most) {
		return nil
	}
	name := commandName(c)
	if n < least {
		return fmt.Errorf("%s: want %s; see postseal %s --help", name, what, name)
	}
	return fmt.Errorf("%s: unexpected argument %q: want %s", name, c.Args().Get(most), what)
}
