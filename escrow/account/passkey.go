package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
)

var (
	// ErrResponse reports a response of a browser that is not what was asked for,
	// or not genuine.
	ErrResponse = errors.New("account: the passkey's response does not count")
	// ErrClone reports a response whose counter went back: the passkey may exist
	// twice (WebAuthn, section 7.2, step 25).
	ErrClone = errors.New("account: the passkey may have been copied")
)

// CeremonyLifetime is how long a person may take, as the browser is told.
const CeremonyLifetime = 10 * time.Minute

// MaxResponse bounds what is read of a browser's response, in bytes.
const MaxResponse = 32 << 10

// Passkeys makes and checks passkeys (WebAuthn level 3) for one portal. The
// relying party is the portal's host; responses count from its origin alone.
//
// A discoverable passkey and the verification of the user are preferred, not
// demanded: a plain security key serves too. What is always demanded is that the
// user was present. No attestation is asked for.
type Passkeys struct{ rp *webauthn.WebAuthn }

// NewPasskeys returns nil where browsers make no passkeys for the portal: its host
// is an address, or it speaks plain HTTP other than on localhost.
func NewPasskeys(portal *url.URL, name string) (*Passkeys, error) {
	host := strings.ToLower(portal.Hostname())
	local := host == "localhost" || strings.HasSuffix(host, ".localhost")
	if net.ParseIP(host) != nil || portal.Scheme != "https" && !local {
		return nil, nil
	}
	origin := portal.Scheme + "://" + host
	if p := portal.Port(); p != "" && !(portal.Scheme == "https" && p == "443") && !(portal.Scheme == "http" && p == "80") {
		origin += ":" + p
	}
	limit := webauthn.TimeoutConfig{Timeout: CeremonyLifetime, TimeoutUVD: CeremonyLifetime}
	rp, err := webauthn.New(&webauthn.Config{
		RPID: host, RPDisplayName: name, RPOrigins: []string{origin},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey:      protocol.ResidentKeyRequirementPreferred,
			UserVerification: protocol.VerificationPreferred,
		},
		Timeouts: webauthn.TimeoutsConfig{Login: limit, Registration: limit},
		// Password managers report what nobody asked for (section 9.5 wants that borne).
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
	if err != nil {
		return nil, fmt.Errorf("passkeys for %s: %w", origin, err)
	}
	return &Passkeys{rp: rp}, nil
}

// Holder is whose passkeys they are.
type Holder struct {
	Handle      []byte   // random, at most 64 bytes
	Address     string   // shown by the browser
	Credentials [][]byte // as Create and Assert returned them
}

// user is what the library wants of a holder.
type user struct {
	h           Holder
	credentials []webauthn.Credential
}

func (u *user) WebAuthnID() []byte                         { return u.h.Handle }
func (u *user) WebAuthnName() string                       { return u.h.Address }
func (u *user) WebAuthnDisplayName() string                { return u.h.Address }
func (u *user) WebAuthnCredentials() []webauthn.Credential { return u.credentials }

func newUser(h Holder) (*user, error) {
	u := &user{h: h, credentials: make([]webauthn.Credential, len(h.Credentials))}
	for i, c := range h.Credentials {
		if err := json.Unmarshal(c, &u.credentials[i]); err != nil {
			return nil, fmt.Errorf("stored passkey: %w", err)
		}
	}
	return u, nil
}

// BeginCreate begins a ceremony that makes a passkey: options is JSON whose
// publicKey is for PublicKeyCredential.parseCreationOptionsFromJSON, session is for
// Create, and must not be in the hands of the browser in clear.
func (p *Passkeys) BeginCreate(h Holder) (options, session []byte, err error) {
	u, err := newUser(h)
	if err != nil {
		return nil, nil, err
	}
	o, s, err := p.rp.BeginRegistration(u, webauthn.WithExclusions(webauthn.Credentials(u.credentials).CredentialDescriptors()))
	if err != nil {
		return nil, nil, fmt.Errorf("begin a passkey: %w", err)
	}
	return marshal(o, s)
}

// Create checks the browser's response, JSON of PublicKeyCredential.toJSON, and
// returns the new passkey. The error wraps ErrResponse where it does not count.
func (p *Passkeys) Create(h Holder, session, response []byte) (id, credential []byte, err error) {
	u, s, err := resume(h, session, response)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(response)
	if err != nil {
		return nil, nil, refused(err)
	}
	c, err := p.rp.CreateCredential(u, *s, parsed)
	if err != nil {
		return nil, nil, refused(err)
	}
	c.Attestation = webauthn.CredentialAttestation{} // of no use: none was asked for
	return keep(c)
}

// BeginAssert begins a ceremony that uses one of the holder's passkeys, as
// BeginCreate. A holder without any is an error.
func (p *Passkeys) BeginAssert(h Holder) (options, session []byte, err error) {
	u, err := newUser(h)
	if err != nil {
		return nil, nil, err
	}
	o, s, err := p.rp.BeginLogin(u)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a sign-in by passkey: %w", err)
	}
	return marshal(o, s)
}

// Assert checks the browser's response, and returns the passkey as it is to be
// kept from now on: its counter has changed. The error wraps ErrResponse where the
// response does not count, ErrClone where the counter went back.
func (p *Passkeys) Assert(h Holder, session, response []byte) (id, credential []byte, err error) {
	u, s, err := resume(h, session, response)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(response)
	if err != nil {
		return nil, nil, refused(err)
	}
	c, err := p.rp.ValidateLogin(u, *s, parsed)
	if err != nil {
		return nil, nil, refused(err)
	}
	if c.Authenticator.CloneWarning {
		return c.ID, nil, ErrClone
	}
	return keep(c)
}

func marshal(options, session any) (o, s []byte, err error) {
	if o, err = json.Marshal(options); err != nil {
		return nil, nil, fmt.Errorf("passkey options: %w", err)
	}
	if s, err = json.Marshal(session); err != nil {
		return nil, nil, fmt.Errorf("passkey session: %w", err)
	}
	return o, s, nil
}

func resume(h Holder, session, response []byte) (*user, *webauthn.SessionData, error) {
	if len(response) > MaxResponse {
		return nil, nil, fmt.Errorf("%w: too long", ErrResponse)
	}
	u, err := newUser(h)
	if err != nil {
		return nil, nil, err
	}
	var s webauthn.SessionData
	if err := json.Unmarshal(session, &s); err != nil {
		return nil, nil, fmt.Errorf("passkey session: %w", err)
	}
	return u, &s, nil
}

func keep(c *webauthn.Credential) (id, credential []byte, err error) {
	if credential, err = json.Marshal(c); err != nil {
		return nil, nil, fmt.Errorf("keep a passkey: %w", err)
	}
	return c.ID, credential, nil
}

// refused says why a response does not count, for the log alone. The library's
// details quote nothing that is secret; the rest of the error may.
func refused(err error) error {
	var e *protocol.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%w: %s", ErrResponse, e.Details)
	}
	return ErrResponse
}
