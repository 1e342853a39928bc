package postfix

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

func TestTriggersAreWrittenAndReloaded(t *testing.T) {
	p := config(t, "message_strip_characters = \\177\n", "")
	o := options(t)
	more := o
	var err error
	if more.Triggers, err = policy.NewTriggers([]string{"[secure]"}, []*policy.Trigger{
		{Kind: policy.OnHeader, Header: "x-secure", Pattern: "yes", Sender: "*", Requirement: policy.Encryption},
	}, ""); err != nil {
		t.Fatal(err)
	}
	missing, err := p.Lacking(t.Context(), o)
	if !errors.Is(err, ErrNoHeaderChecks) || len(missing) != 2 {
		t.Errorf("before setup: %q, %v", missing, err)
	}
	if err := p.WriteTriggers(t.Context(), o); !errors.Is(err, ErrNoHeaderChecks) {
		t.Errorf("written before setup: %v", err)
	}
	if err := p.WriteTriggers(t.Context(), Options{}); err != nil {
		t.Errorf("no triggers before setup: %v", err)
	}
	setup(t, p, o)
	if v, err := p.Param(t.Context(), "message_strip_characters"); err != nil || v != `\000\177` {
		t.Errorf("message_strip_characters is %q, %v", v, err)
	}
	if missing, err := p.Lacking(t.Context(), o); err != nil || len(missing) != 0 {
		t.Errorf("after setup: %q, %v", missing, err)
	}
	if missing, err := p.Lacking(t.Context(), more); err != nil || len(missing) != 1 || !strings.Contains(missing[0], "x-secure") {
		t.Errorf("of more triggers: %q, %v", missing, err)
	}

	reloads := 0
	complaint := ""
	p.Run = func(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, []byte, int, error) {
		if strings.Contains(strings.Join(args, " "), "reload") {
			reloads++
			code := 0
			if complaint != "" {
				code = 1
			}
			return nil, []byte(complaint), code, nil
		}
		return execute(ctx, stdin, name, args...)
	}
	if err := p.WriteTriggers(t.Context(), more); err != nil || reloads != 1 {
		t.Errorf("%d reloads, %v", reloads, err)
	}
	if missing, err := p.Lacking(t.Context(), more); err != nil || len(missing) != 0 {
		t.Errorf("after writing: %q, %v", missing, err)
	}
	complaint = "postfix/postfix-script: fatal: the Postfix mail system is not running"
	if err := p.WriteTriggers(t.Context(), o); err != nil || reloads != 2 {
		t.Errorf("a Postfix that does not run: %d reloads, %v", reloads, err)
	}
	complaint = "postfix: fatal: only root"
	if err := p.WriteTriggers(t.Context(), o); err == nil {
		t.Error("a reload that failed is passed over")
	}
	if err := os.Remove(filepath.Join(p.ConfigDir, headerChecksFile)); err != nil {
		t.Fatal(err)
	}
	if missing, err := p.Lacking(t.Context(), o); err == nil || len(missing) != 2 {
		t.Errorf("without the table: %q, %v", missing, err)
	}
}

func TestStripsNUL(t *testing.T) {
	for chars, want := range map[string]bool{
		"": false, `\0`: true, `\000`: true, `a\00b`: true, `\0001`: true, `\012`: false, `\\0`: false, `\\\0`: true, `0`: false, `\`: false, `\177`: false, `\n\0`: true,
	} {
		if got := stripsNUL(chars); got != want {
			t.Errorf("%q: %v, want %v", chars, got, want)
		}
		if got := withNUL(chars); !stripsNUL(got) || !strings.HasSuffix(got, chars) {
			t.Errorf("%q became %q", chars, got)
		}
	}
}
