package policy

import (
	"context"
	"testing"
	"time"
)

type nobody struct{}

func (nobody) Own(context.Context, string) (bool, error)     { return false, nil }
func (nobody) Route(context.Context, Address) (Route, error) { return Route{}, nil }
func (nobody) Posture(dest string, demand TLSParams) Posture { return Posture{State: Works} }

// TestDomainLevel: the rule of an address demands nothing of the TLS, but the one for
// its domain does, and the map answers by that.
func TestDomainLevel(t *testing.T) {
	s, err := NewSnapshot(1, []*Rule{
		{Scope: ByRecipient, Pattern: "a.example", Requirement: Encryption, TLS: TLSParams{Level: LevelVerify}},
		{Scope: ByRecipient, Pattern: "forced@a.example", Requirement: ForcedTLS},
		{Scope: ByRecipient, Pattern: "b.example", Requirement: None, TLS: TLSParams{Level: LevelMay}, Note: "x"},
		{Scope: ByRecipient, Pattern: "forced@b.example", Requirement: ForcedTLS},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{Rules: func() *Snapshot { return s }, Own: nobody{}, Routes: nobody{}, Postures: nobody{}, Now: time.Now}
	for rcpt, want := range map[string]Level{
		"x@a.example": LevelVerify, "forced@a.example": LevelVerify, "forced@b.example": LevelEncrypt,
	} {
		a, err := ParseAddress(rcpt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Decide(t.Context(), Question{SenderUnknown: true, Recipient: a})
		if err != nil || got.TLS.Level != want {
			t.Errorf("%s: level %s, %v, want %s", rcpt, got.TLS.Level, err, want)
		}
	}
}
