package postfix

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// ErrNoHeaderChecks reports that main.cf does not name our table for header_checks:
// Setup has not been run since there are triggers.
var ErrNoHeaderChecks = errors.New("header_checks of main.cf does not have Postseal's table")

// triggerLines are the lines of our table.
func (o *Options) triggerLines() []string {
	return o.Triggers.HeaderChecks(o.Splitter.Transport(policy.Encryption), o.Splitter.Transport(policy.None))
}

// headerChecks is the text of our table.
func (o *Options) headerChecks() string {
	return "# Written by \"postseal postfix setup\" and \"postseal trigger\": the triggers, as far as a table knows them.\n" +
		strings.Join(append(o.triggerLines(), ""), "\n")
}

func isHeaderChecks(table string) bool { return strings.HasSuffix(table, "/"+headerChecksFile) }

// lacking returns the lines that a table does not have.
func lacking(table string, lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains("\n"+table+"\n", "\n"+l+"\n") })
}

// withNUL adds NUL to what message_strip_characters has.
func withNUL(chars string) string {
	if stripsNUL(chars) {
		return chars
	}
	return `\000` + chars
}

// stripsNUL reports whether a value of message_strip_characters, with the escapes of C,
// has NUL in it.
func stripsNUL(chars string) bool {
	for i := 0; i < len(chars); i++ {
		if chars[i] != '\\' {
			continue
		}
		n := 0
		for n < 3 && i+1+n < len(chars) && chars[i+1+n] >= '0' && chars[i+1+n] <= '7' {
			n++
		}
		if n > 0 && strings.Trim(chars[i+1:i+1+n], "0") == "" {
			return true
		}
		i += max(n, 1)
	}
	return false
}

// headerChecksTable returns the file that header_checks of main.cf names.
func (p *Instance) headerChecksTable(ctx context.Context) (string, error) {
	list, err := p.Param(ctx, "header_checks")
	if err != nil {
		return "", err
	}
	for _, t := range splitList(list) {
		if isHeaderChecks(t) {
			_, file, _ := strings.Cut(t, ":")
			return file, nil
		}
	}
	return "", ErrNoHeaderChecks
}

// Lacking returns the lines for o's triggers that header_checks does not have, such as
// "/^X-Secure[[:space:]]*:/ FILTER …": what they stand for is not in force. Whether a
// running Postfix has read the table is not known here. The error is ErrNoHeaderChecks
// where main.cf does not name it.
func (p *Instance) Lacking(ctx context.Context, o Options) ([]string, error) {
	lines := o.triggerLines()
	if len(lines) == 0 {
		return nil, nil
	}
	file, err := p.headerChecksTable(ctx)
	if err != nil {
		return lines, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return lines, err
	}
	return lacking(string(b), lines), nil
}

// WriteTriggers writes the table for o's triggers, and makes Postfix read it: a regexp
// table is read when a process starts. The error is ErrNoHeaderChecks where main.cf does
// not name the table; no other than triggers' lines are changed here.
func (p *Instance) WriteTriggers(ctx context.Context, o Options) error {
	file, err := p.headerChecksTable(ctx)
	if err != nil {
		if o.Triggers.Empty() && errors.Is(err, ErrNoHeaderChecks) {
			return nil
		}
		return err
	}
	if err := replaceFile(file, o.headerChecks(), 0o644); err != nil {
		return err
	}
	// Also where the table is as it was: nobody knows whether it was read.
	if err := p.Reload(ctx); err != nil && !strings.Contains(err.Error(), "not running") {
		return err
	}
	return nil
}
