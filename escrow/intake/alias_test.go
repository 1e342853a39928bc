package intake

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

// What Postseal composed has not been through cleanup(8): whom an alias stands for is
// found before anything is decided. Mail from Postfix is left alone.
func TestAliasesOfComposedMail(t *testing.T) {
	b := newBed(t, false)
	b.cfg.Aliases = func(_ context.Context, a policy.Address) ([]policy.Address, error) {
		var list []policy.Address
		for _, to := range strings.Fields(map[string]string{
			"info@own.example": "own@own.example sealed@far.example", "half@own.example": "own@own.example error@x.example",
			"self@own.example": "self@own.example secure@x.example", "same@own.example": "own@own.example",
			"gone@own.example": "own@own.example conflict@x.example",
		}[a.Folded().String()]) {
			n, err := policy.ParseAddress(to)
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
		if a.Local == "broken" {
			return nil, errors.New("no table")
		}
		if list == nil {
			list = []policy.Address{a}
		}
		return list, nil
	}
	b.splitter(policy.None)
	composed := "Subject: hello\r\n\r\ntext\r\n"
	got := b.deliver(composed, "info@own.example", "plain@x.example", "half@own.example", "self@own.example", "same@own.example", "broken@own.example", "gone@own.example")
	wantCodes(t, got, "250 2.0.0", "250 2.0.0", "451 4.3.0", "250 2.0.0", "250 2.0.0", "451 4.3.0", "554 5.7.1")
	rcpts := func(p *fakePostfix) string {
		var all []string
		for _, m := range p.messages() {
			all = append(all, m.rcpts...)
		}
		return fmt.Sprint(all)
	}
	if p := rcpts(b.plain); !strings.Contains(p, "TO:<own@own.example> ORCPT=rfc822;info@own.example") || strings.Count(p, "<own@own.example>") != 1 || strings.Contains(p, "<info@") {
		t.Errorf("plain: %s", p)
	}
	if s := rcpts(b.secure); !strings.Contains(s, "<secure@x.example>") {
		t.Errorf("secure: %s", s)
	}
	if len(b.vault.sealed) != 1 || b.vault.sealed[0].Recipients[0].Address != "sealed@far.example" {
		t.Errorf("sealed: %+v", b.vault.sealed)
	}
	wantCodes(t, b.deliver(plainText, "info@own.example"), "250 2.0.0")
	if p := rcpts(b.plain); !strings.Contains(p, "TO:<info@own.example>") {
		t.Errorf("mail from Postfix was expanded: %s", p)
	}
}
