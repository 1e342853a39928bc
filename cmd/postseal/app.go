package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"
)

// version is set by the build (-ldflags -X main.version=…).
var version = "devel"

// newApp returns the command line. Commands read from in and write their
// results to out; errOut gets logs and hints.
func newApp(in io.Reader, out, errOut io.Writer) *cli.App {
	return &cli.App{
		Name:    "postseal",
		Usage:   "mail that must be encrypted leaves over TLS, or waits sealed for its recipient",
		Version: version,
		Reader:  in, Writer: out, ErrWriter: errOut,
		DisableSliceFlagSeparator: true,
		HideHelpCommand:           true,
		ExitErrHandler:            func(*cli.Context, error) {}, // main prints the error and exits 1
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return err },
		CommandNotFound:           func(*cli.Context, string) {},
		Action:                    unknownCommand,
		Commands: []*cli.Command{
			serveCommand(),
			domainCommand(),
			senderCommand(),
			triggerCommand(),
			recipientCommand(),
			checkCommand(),
			postureCommand(),
			explainCommand(),
			mapCommand(),
			tlsrptCommand(),
			escrowCommand(),
			auditCommand(),
			adminCommand(),
			apiKeyCommand(),
			postfixCommand(),
			keyCommand(),
			dbCommand(),
			configCommand(),
			demoCommand(),
		},
	}
}

// unknownCommand is the action where words name no command.
func unknownCommand(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("unknown command %q; see postseal --help", c.Args().First())
	}
	return cli.ShowAppHelp(c)
}

// noun returns a command that only groups others.
func noun(name, usage string, verbs ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, Subcommands: verbs, HideHelpCommand: true,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return err },
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("unknown command %q; see postseal %s --help", name+" "+c.Args().First(), name)
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// verb returns a command that does something. Its flags always include
// --config.
func verb(name, args, usage string, flags []cli.Flag, action cli.ActionFunc) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: args, Flags: flags, Action: action, HideHelpCommand: true,
		OnUsageError: func(c *cli.Context, err error, _ bool) error {
			return fmt.Errorf("%s: %w; see postseal %s --help", commandName(c), err, commandName(c))
		},
	}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

// with joins lists of flags.
func with(lists ...[]cli.Flag) []cli.Flag {
	var all []cli.Flag
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func printJSON(c *cli.Context, v any) error {
	enc := json.NewEncoder(c.App.Writer)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func newLog(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	opts := &slog.HandlerOptions{}
	if os.Getenv("JOURNAL_STREAM") != "" { // the journal stamps lines itself
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
