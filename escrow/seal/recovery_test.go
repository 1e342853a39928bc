package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/hybrid"
	"github.com/tink-crypto/tink-go/v2/hybrid/hpke"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"
)

func TestARecoveryWrapOpensOnlyWithItsKeyAndItem(t *testing.T) {
	k := must[*Key](t)(NewKey())
	p, other := must[*RecoveryPrivate](t)(NewRecovery()), must[*RecoveryPrivate](t)(NewRecovery())
	wrap := must[[]byte](t)(WrapRecovery(p.Public(), k, "item"))
	got := must[*Key](t)(UnwrapRecovery(p, wrap, "item"))
	if !sameKey(t, got, k) {
		t.Error("another key came out")
	}
	if _, err := UnwrapRecovery(other, wrap, "item"); !errors.Is(err, ErrOpen) {
		t.Errorf("another key: %v", err)
	}
	if _, err := UnwrapRecovery(p, wrap, "other"); !errors.Is(err, ErrOpen) {
		t.Errorf("another item: %v", err)
	}
	for i := range wrap { // every byte counts, but for the unencrypted list of key ids
		bad := bytes.Clone(wrap)
		bad[i] ^= 0x40
		if k2, err := UnwrapRecovery(p, bad, "item"); err == nil && !sameKey(t, k2, k) {
			t.Fatalf("byte %d changed opens another key", i)
		} else if err == nil && i < 1+recoveryEncap {
			t.Fatalf("byte %d changed still opens", i)
		}
	}
	for n := range wrap {
		if _, err := UnwrapRecovery(p, wrap[:n], "item"); err == nil && n < 1+recoveryEncap+100 {
			t.Fatalf("%d bytes of it open", n)
		}
	}
	if bytes.Equal(wrap, must[[]byte](t)(WrapRecovery(p.Public(), k, "item"))) {
		t.Error("two wraps are the same")
	}
}

// sameKey reports whether b opens what a encrypts.
func sameKey(t *testing.T, a, b *Key) bool {
	t.Helper()
	var c bytes.Buffer
	w := must[io.WriteCloser](t)(a.Encrypt(&c, "i", "p"))
	io.WriteString(w, "text")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := must[io.Reader](t)(b.Decrypt(&c, "i", "p"))
	got, err := io.ReadAll(r)
	return err == nil && string(got) == "text"
}

// The construction is HPKE as others have it: Tink opens what we encapsulate.
func TestRecoveryIsHPKE(t *testing.T) {
	p := must[*RecoveryPrivate](t)(NewRecovery())
	raw := must[[]byte](t)(p.key.Bytes())
	params := must[*hpke.Parameters](t)(hpke.NewParameters(hpke.ParametersOpts{
		KEMID: hpke.DHKEM_X25519_HKDF_SHA256, KDFID: hpke.HKDFSHA256, AEADID: hpke.AES256GCM, Variant: hpke.VariantNoPrefix,
	}))
	private := must[*hpke.PrivateKey](t)(hpke.NewPrivateKey(secretdata.NewBytesFromData(raw, insecuresecretdataaccess.Token{}), 0, params))
	m := keyset.NewManager()
	id := must[uint32](t)(m.AddKey(private))
	if err := m.SetPrimary(id); err != nil {
		t.Fatal(err)
	}
	d := must[tink.HybridDecrypt](t)(hybrid.NewHybridDecrypt(must[*keyset.Handle](t)(m.Handle())))
	wrap := must[[]byte](t)(WrapRecovery(p.Public(), must[*Key](t)(NewKey()), "item"))
	if fresh, err := d.Decrypt(wrap[1:1+recoveryEncap], AD("recovery/1", "item", p.Public().ID())); err != nil || len(fresh) != 32 {
		t.Errorf("Tink opens %d bytes: %v", len(fresh), err)
	}
}

func TestRecoveryText(t *testing.T) {
	p := must[*RecoveryPrivate](t)(NewRecovery())
	text := must[string](t)(p.Text())
	if !strings.HasPrefix(text, "POSTSEAL-RECOVERY-") || len(text) != len("POSTSEAL-RECOVERY")+14*5 {
		t.Fatalf("text of %d characters", len(text))
	}
	for name, typed := range map[string]string{
		"as it is": text, "small": strings.ToLower(text), "without hyphens": strings.ReplaceAll(text, "-", ""),
		"spaces and an end of line": " " + strings.ReplaceAll(text, "-", "  ") + "\r\n", "O for zero": "POSTSEAL-REC0VERY" + text[17:],
		"in two lines": text[:40] + "\n" + text[40:],
	} {
		got, err := ParseRecoveryText(typed)
		if err != nil || got.Public().ID() != p.Public().ID() {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range text { // each single mistake is found, as good as always
		if i < len(recoveryPrefix) || text[i] == '-' {
			continue
		}
		for _, c := range "AZ27" {
			bad := text[:i] + string(c) + text[i+1:]
			if bad == text {
				continue
			}
			if got, err := ParseRecoveryText(bad); err == nil && got.Public().ID() == p.Public().ID() {
				t.Errorf("a mistake at %d is the same key", i)
			} else if err != nil && strings.Contains(err.Error(), bad[18:]) {
				t.Error("the error quotes what was typed")
			}
		}
	}
	bad := []byte(text)
	if bad[20] == 'A' {
		bad[20] = 'B'
	} else {
		bad[20] = 'A'
	}
	for _, typed := range []string{"", "x", "POSTSEAL-RECOVERY", text[:len(text)-1], text + "A", text[1:], "POSTSEAL-RECOVERY" + strings.Repeat("A", 56), string(bad)} {
		if _, err := ParseRecoveryText(typed); !errors.Is(err, ErrRecoveryText) {
			t.Errorf("%d characters: %v", len(typed), err)
		}
	}
}

func FuzzRecoveryText(f *testing.F) {
	f.Add("POSTSEAL-RECOVERY-AAAA")
	f.Add("postsealrecovery0181")
	v := recoveryVectorOf(f)
	f.Add(v.Private)
	f.Fuzz(func(t *testing.T, typed string) {
		p, err := ParseRecoveryText(typed)
		if err != nil {
			return
		}
		text, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseRecoveryText(text); err != nil || again.Public().ID() != p.Public().ID() {
			t.Errorf("does not come back: %v", err)
		}
	})
}

func TestRecoveryPublic(t *testing.T) {
	p := must[*RecoveryPrivate](t)(NewRecovery()).Public()
	got := must[*RecoveryPublic](t)(ParseRecoveryPublic(p.Bytes()))
	if got.ID() != p.ID() || !bytes.Equal(got.Bytes(), p.Bytes()) {
		t.Error("does not come back")
	}
	for _, b := range [][]byte{nil, {}, {1}, p.Bytes()[:32], append(p.Bytes(), 0), append([]byte{2}, p.Bytes()[1:]...)} {
		if _, err := ParseRecoveryPublic(b); err == nil {
			t.Errorf("%x is a public half", b)
		}
	}
}

type recoveryVector struct {
	Private, Public string // public: its ID
	Item, Part      string
	Wrap            []byte
	Ciphertext      []byte
	Plaintext       string
}

func recoveryVectorOf(t testing.TB) (v recoveryVector) {
	b, err := os.ReadFile(filepath.Join("testdata", "recovery-v1.json"))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What a released version has wrapped opens for ever.
func TestRecoveryVectors(t *testing.T) {
	if *update {
		p, k := must[*RecoveryPrivate](t)(NewRecovery()), must[*Key](t)(NewKey())
		v := recoveryVector{Private: must[string](t)(p.Text()), Public: p.Public().ID(), Item: NewID(), Part: "raw", Plaintext: "Subject: vector\r\n\r\nbyte for byte\r\n"}
		v.Wrap = must[[]byte](t)(WrapRecovery(p.Public(), k, v.Item))
		var c bytes.Buffer
		w := must[io.WriteCloser](t)(k.Encrypt(&c, v.Item, v.Part))
		io.WriteString(w, v.Plaintext)
		w.Close()
		v.Ciphertext = c.Bytes()
		b := must[[]byte](t)(json.MarshalIndent(v, "", "  "))
		if err := os.WriteFile(filepath.Join("testdata", "recovery-v1.json"), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := recoveryVectorOf(t)
	p := must[*RecoveryPrivate](t)(ParseRecoveryText(v.Private))
	if p.Public().ID() != v.Public {
		t.Errorf("ID %s", p.Public().ID())
	}
	k := must[*Key](t)(UnwrapRecovery(p, v.Wrap, v.Item))
	r := must[io.Reader](t)(k.Decrypt(bytes.NewReader(v.Ciphertext), v.Item, v.Part))
	if got := must[[]byte](t)(io.ReadAll(r)); string(got) != v.Plaintext {
		t.Errorf("opens %q", got)
	}
}

func TestRewrap(t *testing.T) {

	_, a := server(t)
	k := must[*Key](t)(NewKey())
	o := Opener{Item: NewID(), Pickup: NewID(), Secret: NewSecret()}
	wrap := must[[]byte](t)(Wrap(a, k, o))
	again := must[[]byte](t)(Rewrap(a, wrap, o.Item, o.Pickup))
	if bytes.Equal(again, wrap) || !sameKey(t, must[*Key](t)(Unwrap(a, again, o)), k) {
		t.Error("not wrapped anew")
	}
	if _, err := Rewrap(a, wrap, o.Item, NewID()); !errors.Is(err, ErrOpen) {
		t.Errorf("another pickup: %v", err)
	}
	if _, ok := KeyID(wrap); !ok {
		t.Error("a wrap does not tell its key")
	}
	rec := must[[]byte](t)(WrapRecover(a, k, o.Item))
	id, ok := KeyID(wrap)
	if rid, rok := RecoverKeyID(rec); !ok || !rok || rid != id {
		t.Error("the two wraps tell different keys")
	}
	if !sameKey(t, must[*Key](t)(UnwrapRecover(a, must[[]byte](t)(RewrapRecover(a, rec, o.Item)), o.Item)), k) {
		t.Error("another key came out")
	}
	for _, b := range [][]byte{nil, {1}, {1, 1, 2, 3}, {2, 1, 0, 0, 0, 1}} {
		if _, ok := KeyID(b); ok {
			t.Errorf("%x tells a key", b)
		}
		if _, ok := RecoverKeyID(b); ok {
			t.Errorf("%x tells a key", b)
		}
	}
}
