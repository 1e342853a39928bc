package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/descope/virtualwebauthn"
)

var portal = virtualwebauthn.RelyingParty{ID: "portal.example", Name: "Portal", Origin: "https://portal.example:8443"}

// person has a browser with an authenticator in it.
type person struct {
	t    testing.TB
	rp   virtualwebauthn.RelyingParty
	auth virtualwebauthn.Authenticator
	key  virtualwebauthn.Credential
	h    Holder
}

// credential makes a key. virtualwebauthn leaves out the leading zero bytes of a
// coordinate, which no real authenticator does (RFC 9053, section 7.1.1): such a key is
// made anew.
func credential(kind virtualwebauthn.KeyType) virtualwebauthn.Credential {
	const whole = 77 // bytes of a COSE key with both coordinates of P-256 in full
	for {
		c := virtualwebauthn.NewCredential(kind)
		if kind != virtualwebauthn.KeyTypeEC2 || len(c.Key.AttestationData()) == whole {
			return c
		}
	}
}

func newPerson(t testing.TB, handle string) *person {
	return &person{
		t: t, rp: portal, key: credential(virtualwebauthn.KeyTypeEC2),
		auth: virtualwebauthn.NewAuthenticatorWithOptions(virtualwebauthn.AuthenticatorOptions{UserHandle: []byte(handle)}),
		h:    Holder{Handle: []byte(handle), Address: handle + "@old.example"},
	}
}

func (p *person) creates(options []byte) []byte {
	p.t.Helper()
	o, err := virtualwebauthn.ParseAttestationOptions(string(options))
	if err != nil {
		p.t.Fatal(err)
	}
	return []byte(virtualwebauthn.CreateAttestationResponse(p.rp, p.auth, p.key, *o))
}

func (p *person) asserts(options []byte) []byte {
	p.t.Helper()
	o, err := virtualwebauthn.ParseAssertionOptions(string(options))
	if err != nil {
		p.t.Fatal(err)
	}
	p.key.Counter++
	return []byte(virtualwebauthn.CreateAssertionResponse(p.rp, p.auth, p.key, *o))
}

func passkeys(t testing.TB) *Passkeys {
	t.Helper()
	u, _ := url.Parse("https://Portal.example:8443/mail")
	p, err := NewPasskeys(u, "Portal")
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	return p
}

// enrolled makes a passkey.
func (p *person) enrolled(k *Passkeys) *person {
	p.t.Helper()
	options, session, err := k.BeginCreate(p.h)
	if err != nil {
		p.t.Fatal(err)
	}
	_, c, err := k.Create(p.h, session, p.creates(options))
	if err != nil {
		p.t.Fatal(err)
	}
	p.h.Credentials = append(p.h.Credentials, c)
	return p
}

func TestAPasskeyIsMadeAndUsed(t *testing.T) {
	for _, kind := range []virtualwebauthn.KeyType{virtualwebauthn.KeyTypeEC2, virtualwebauthn.KeyTypeRSA} {
		t.Run(string(kind), func(t *testing.T) {
			k, p := passkeys(t), newPerson(t, "jane")
			p.key = credential(kind)
			p.enrolled(k)
			for range 3 {
				options, session, err := k.BeginAssert(p.h)
				if err != nil {
					t.Fatal(err)
				}
				id, c, err := k.Assert(p.h, session, p.asserts(options))
				if err != nil || string(id) != string(p.key.ID) {
					t.Fatalf("%x, %v", id, err)
				}
				p.h.Credentials[0] = c
			}
		})
	}
}

func TestWhatTheBrowserIsAskedFor(t *testing.T) {
	k, p := passkeys(t), newPerson(t, "jane").enrolled(passkeys(t))
	options, _, err := k.BeginCreate(p.h)
	if err != nil {
		t.Fatal(err)
	}
	var o struct {
		PublicKey struct {
			RP                     struct{ ID string }
			Attestation            string
			Timeout                int
			ExcludeCredentials     []struct{ ID string }
			AuthenticatorSelection struct{ ResidentKey, UserVerification string }
		}
	}
	if err := json.Unmarshal(options, &o); err != nil {
		t.Fatal(err)
	}
	got := o.PublicKey
	if got.RP.ID != "portal.example" || got.Attestation != "none" || got.Timeout != 600000 || len(got.ExcludeCredentials) != 1 ||
		got.AuthenticatorSelection.ResidentKey != "preferred" || got.AuthenticatorSelection.UserVerification != "preferred" {
		t.Errorf("%s", options)
	}
	again, _, err := k.BeginCreate(p.h)
	if err != nil || string(again) == string(options) {
		t.Errorf("the same challenge twice, %v", err)
	}
}

func TestResponsesThatDoNotCount(t *testing.T) {
	k := passkeys(t)
	tests := []struct {
		name   string
		change func(p *person)
	}{
		{"another origin", func(p *person) { p.rp.Origin = "https://portal.example" }},
		{"an origin beside it", func(p *person) { p.rp.Origin = "https://evil.portal.example:8443" }},
		{"plain http", func(p *person) { p.rp.Origin = "http://portal.example:8443" }},
		{"another relying party", func(p *person) { p.rp.ID = "evil.example" }},
		{"the parent domain", func(p *person) { p.rp.ID = "example" }},
		{"nobody there", func(p *person) { p.auth.Options.UserNotPresent = true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPerson(t, "jane")
			options, session, err := k.BeginCreate(p.h)
			if err != nil {
				t.Fatal(err)
			}
			bad := *p
			tt.change(&bad)
			if _, _, err := k.Create(p.h, session, bad.creates(options)); !errors.Is(err, ErrResponse) {
				t.Errorf("create: %v", err)
			}
			p.enrolled(k)
			if options, session, err = k.BeginAssert(p.h); err != nil {
				t.Fatal(err)
			}
			bad = *p
			tt.change(&bad)
			if _, _, err := k.Assert(p.h, session, bad.asserts(options)); !errors.Is(err, ErrResponse) {
				t.Errorf("assert: %v", err)
			}
		})
	}
	t.Run("of a ceremony before", func(t *testing.T) {
		p := newPerson(t, "jane").enrolled(k)
		first, _, _ := k.BeginAssert(p.h)
		_, session, _ := k.BeginAssert(p.h)
		if _, _, err := k.Assert(p.h, session, p.asserts(first)); !errors.Is(err, ErrResponse) {
			t.Error(err)
		}
	})
	t.Run("another's passkey", func(t *testing.T) {
		p, q := newPerson(t, "jane").enrolled(k), newPerson(t, "mo").enrolled(k)
		options, session, _ := k.BeginAssert(p.h)
		if _, _, err := k.Assert(p.h, session, q.asserts(options)); !errors.Is(err, ErrResponse) {
			t.Error(err)
		}
	})
	t.Run("another's session", func(t *testing.T) {
		p, q := newPerson(t, "jane").enrolled(k), newPerson(t, "mo").enrolled(k)
		options, session, _ := k.BeginAssert(q.h)
		if _, _, err := k.Assert(p.h, session, p.asserts(options)); !errors.Is(err, ErrResponse) {
			t.Error(err)
		}
	})
	t.Run("made where one was to be used", func(t *testing.T) {
		p := newPerson(t, "jane").enrolled(k)
		options, session, _ := k.BeginCreate(p.h)
		if _, _, err := k.Assert(p.h, session, p.creates(options)); !errors.Is(err, ErrResponse) {
			t.Error(err)
		}
	})
	t.Run("another signature", func(t *testing.T) {
		p := newPerson(t, "jane").enrolled(k)
		options, session, _ := k.BeginAssert(p.h)
		p.key.Key = credential(virtualwebauthn.KeyTypeEC2).Key
		if _, _, err := k.Assert(p.h, session, p.asserts(options)); !errors.Is(err, ErrResponse) {
			t.Error(err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		p := newPerson(t, "jane")
		_, session, _ := k.BeginCreate(p.h)
		if _, _, err := k.Create(p.h, session, []byte(strings.Repeat(" ", MaxResponse+1))); !errors.Is(err, ErrResponse) {
			t.Error(err)
		}
	})
}

func TestACounterThatWentBack(t *testing.T) {
	k, p := passkeys(t), newPerson(t, "jane")
	p.key.Counter = 7
	p.enrolled(k)
	for _, counter := range []uint32{0, 3, 6} { // asserts adds one
		p.key.Counter = counter
		options, session, _ := k.BeginAssert(p.h)
		if _, _, err := k.Assert(p.h, session, p.asserts(options)); !errors.Is(err, ErrClone) {
			t.Errorf("counter %d after 7: %v", counter+1, err)
		}
	}
}

func TestAPasskeyWithoutVerificationOfTheUserCounts(t *testing.T) {
	k, p := passkeys(t), newPerson(t, "jane")
	p.auth.Options.UserNotVerified = true
	p.enrolled(k)
	options, session, _ := k.BeginAssert(p.h)
	if _, _, err := k.Assert(p.h, session, p.asserts(options)); err != nil {
		t.Error(err)
	}
}

func TestWhereThereAreNoPasskeys(t *testing.T) {
	for in, want := range map[string]bool{
		"https://portal.example": true, "https://portal.example:444/x": true, "http://localhost:8645": true, "http://a.localhost": true,
		"http://portal.example": false, "http://127.0.0.1:8645": false, "https://127.0.0.1": false, "https://[::1]:1": false, "https://192.0.2.1": false,
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if k, err := NewPasskeys(u, "x"); err != nil || (k != nil) != want {
			t.Errorf("%s: %v, %v", in, k != nil, err)
		}
	}
}

// FuzzResponses feeds what browsers of strangers send.
func FuzzResponses(f *testing.F) {
	k, p := passkeys(f), newPerson(f, "jane").enrolled(passkeys(f))
	co, cs, _ := k.BeginCreate(p.h)
	ao, as, _ := k.BeginAssert(p.h)
	f.Add([]byte(`{}`))
	f.Add([]byte(fmt.Sprintf(`{"id":"AA","rawId":"AA","type":"public-key","response":{"clientDataJSON":%q}}`, "e30")))
	for _, origin := range []string{"https://evil.example", portal.Origin} {
		q := *p
		q.rp.Origin = origin
		q.auth.Options.UserNotPresent = true // so that no seed counts
		f.Add(q.creates(co))
		f.Add(q.asserts(ao))
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		if _, _, err := k.Create(p.h, cs, response); !errors.Is(err, ErrResponse) {
			t.Errorf("create: %v", err)
		}
		if _, _, err := k.Assert(p.h, as, response); !errors.Is(err, ErrResponse) {
			t.Errorf("assert: %v", err)
		}
	})
}
