package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
	"github.com/tink-crypto/tink-go/v2/testkeyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

var update = flag.Bool("update", false, "write a new vector; released ones are never rewritten")

// vector is a sealed message with all that opens it. []byte is base64.
type vector struct {
	Server     json.RawMessage `json:"server_keyset"`
	Item       string          `json:"item"`
	Pickup     string          `json:"pickup"`
	Secret     string          `json:"secret"`
	SecretHash string          `json:"secret_sha256"`
	Passphrase string          `json:"passphrase"`
	Hashing    []byte          `json:"hashing"`
	Hashed     string          `json:"hashed"`
	Wrap       []byte          `json:"wrap"`            // link alone
	WrapPass   []byte          `json:"wrap_passphrase"` // link and passphrase
	Recover    []byte          `json:"recover"`
	Part       string          `json:"part"`
	Ciphertext []byte          `json:"ciphertext"`
	Plaintext  string          `json:"plaintext"`
}

func server(t *testing.T) (*keyset.Handle, tink.AEAD) {
	t.Helper()
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	a, err := aead.New(h)
	if err != nil {
		t.Fatal(err)
	}
	return h, a
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVector(t, filepath.Join("testdata", "v1-64kib.json")) // segments of 64 KiB; v1.json has 1 MiB
	}
	files, _ := filepath.Glob("testdata/v*.json")
	if len(files) == 0 {
		t.Fatal("no vectors")
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			var v vector
			if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(name)), &v); err != nil {
				t.Fatal(err)
			}
			h := must[*keyset.Handle](t)(testkeyset.Read(keyset.NewJSONReader(bytes.NewReader(v.Server))))
			a := must[tink.AEAD](t)(aead.New(h))
			secret, ok := DecodeSecret(v.Secret)
			if !ok || hex.EncodeToString(HashSecret(secret)) != v.SecretHash {
				t.Fatal("secret")
			}
			hashed := must[[]byte](t)(HashPassphrase([]byte(v.Passphrase), v.Hashing))
			if hex.EncodeToString(hashed) != v.Hashed {
				t.Fatal("hash of the passphrase")
			}
			o := Opener{Item: v.Item, Pickup: v.Pickup, Secret: secret}
			withPass := o
			withPass.Hashed = hashed
			for i, k := range []*Key{
				must[*Key](t)(Unwrap(a, v.Wrap, o)),
				must[*Key](t)(Unwrap(a, v.WrapPass, withPass)),
				must[*Key](t)(UnwrapRecover(a, v.Recover, v.Item)),
			} {
				r := must[io.Reader](t)(k.Decrypt(bytes.NewReader(v.Ciphertext), v.Item, v.Part))
				if got := must[[]byte](t)(io.ReadAll(r)); string(got) != v.Plaintext {
					t.Errorf("key %d opens %q", i, got)
				}
			}
		})
	}
}

func writeVector(t *testing.T, name string) {
	h, a := server(t)
	var ks bytes.Buffer
	if err := testkeyset.Write(h, keyset.NewJSONWriter(&ks)); err != nil {
		t.Fatal(err)
	}
	secret := NewSecret()
	v := vector{
		Server: ks.Bytes(), Item: NewID(), Pickup: NewID(), Secret: EncodeSecret(secret), Passphrase: "Straße nach Lübeck",
		Hashing: NewHashing(), Part: "raw", Plaintext: "Subject: vector\r\n\r\nbyte for byte\r\n",
	}
	sum := sha256.Sum256(secret)
	v.SecretHash = hex.EncodeToString(sum[:])
	hashed := must[[]byte](t)(HashPassphrase([]byte(v.Passphrase), v.Hashing))
	v.Hashed = hex.EncodeToString(hashed)
	k := must[*Key](t)(NewKey())
	o := Opener{Item: v.Item, Pickup: v.Pickup, Secret: secret}
	v.Wrap = must[[]byte](t)(Wrap(a, k, o))
	o.Hashed = hashed
	v.WrapPass = must[[]byte](t)(Wrap(a, k, o))
	v.Recover = must[[]byte](t)(WrapRecover(a, k, v.Item))
	v.Ciphertext = encrypt(t, k, v.Item, v.Part, []byte(v.Plaintext))
	data := must[[]byte](t)(json.MarshalIndent(v, "", "  "))
	os.MkdirAll("testdata", 0o755)
	if err := os.WriteFile(name, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func encrypt(t *testing.T, k *Key, item, part string, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := must[io.WriteCloser](t)(k.Encrypt(&b, item, part))
	must[int](t)(w.Write(plain))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Each thing that a wrap needs is needed, and bound.
func TestAWrapOpensOnlyWithEverything(t *testing.T) {
	_, a := server(t)
	_, other := server(t)
	k := must[*Key](t)(NewKey())
	right := Opener{Item: NewID(), Pickup: NewID(), Secret: NewSecret(), Hashed: bytes.Repeat([]byte{7}, HashedSize)}
	wrap := must[[]byte](t)(Wrap(a, k, right))
	if _, err := Unwrap(a, wrap, right); err != nil {
		t.Fatal(err)
	}
	wrong := map[string]func(*Opener){
		"secret":        func(o *Opener) { o.Secret = NewSecret() },
		"short secret":  func(o *Opener) { o.Secret = o.Secret[:31] },
		"no secret":     func(o *Opener) { o.Secret = nil },
		"no passphrase": func(o *Opener) { o.Hashed = nil },
		"passphrase":    func(o *Opener) { o.Hashed = make([]byte, HashedSize) },
		"item":          func(o *Opener) { o.Item = NewID() },
		"pickup":        func(o *Opener) { o.Pickup = NewID() },
	}
	for name, change := range wrong {
		o := right
		change(&o)
		if _, err := Unwrap(a, wrap, o); !errors.Is(err, ErrOpen) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
	if _, err := Unwrap(other, wrap, right); !errors.Is(err, ErrOpen) {
		t.Errorf("another server's keys: %v", err)
	}
	// The server's keys alone get no further than the outer layer.
	if inner, err := a.Decrypt(wrap[1:], right.ad()); err != nil {
		t.Error(err)
	} else if _, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(inner)), a, right.ad()); err == nil {
		t.Error("the server's keys open the inner layer")
	}
	if _, err := UnwrapRecover(a, wrap, right.Item); !errors.Is(err, ErrOpen) {
		t.Errorf("as a wrap to recover: %v", err)
	}
	rec := must[[]byte](t)(WrapRecover(a, k, right.Item))
	if _, err := UnwrapRecover(a, rec, NewID()); !errors.Is(err, ErrOpen) {
		t.Errorf("another item's: %v", err)
	}
	for _, damaged := range [][]byte{nil, {1}, wrap[:len(wrap)-1], append([]byte{1}, make([]byte, 100)...)} {
		if _, err := Unwrap(a, damaged, right); !errors.Is(err, ErrOpen) {
			t.Errorf("damaged: %v", err)
		}
	}
	if _, err := Unwrap(a, append([]byte{2}, wrap[1:]...), right); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer format: %v", err)
	}
}

func TestCiphertextIsBoundAndWhole(t *testing.T) {
	// As keys were made before, with segments of 1 MiB.
	long := &Key{must[*keyset.Handle](t)(keyset.NewHandle(streamingaead.AES256GCMHKDF1MBKeyTemplate()))}
	for segment, k := range map[int]*Key{segmentSize: must[*Key](t)(NewKey()), 1 << 20: long} {
		plain := bytes.Repeat([]byte("0123456789"), 400_000)
		c := encrypt(t, k, "item", "raw", plain)
		open := func(c []byte, item, part string) error {
			r, err := k.Decrypt(bytes.NewReader(c), item, part)
			if err != nil {
				return err
			}
			got, err := io.ReadAll(r)
			if err == nil && !bytes.Equal(got, plain) {
				t.Errorf("segments of %d bytes: %d bytes came back as %d others", segment, len(plain), len(got))
			}
			return err
		}
		if err := open(c, "item", "raw"); err != nil {
			t.Fatal(err)
		}
		flipped, swapped := bytes.Clone(c), bytes.Clone(c)
		flipped[len(c)/2] ^= 1
		copy(swapped[segment:], c[2*segment:3*segment])
		for name, err := range map[string]error{
			"another item": open(c, "itex", "raw"), "another part": open(c, "item", "rax"), "flipped": open(flipped, "item", "raw"),
			"cut": open(c[:len(c)-1], "item", "raw"), "cut at a segment": open(c[:2*segment], "item", "raw"), "empty": open(nil, "item", "raw"),
			"longer": open(append(bytes.Clone(c), 0), "item", "raw"), "a segment in another's place": open(swapped, "item", "raw"),
		} {
			if err == nil {
				t.Errorf("segments of %d bytes, %s: opens", segment, name)
			}
		}
	}
}

func TestADIsUnambiguous(t *testing.T) {
	if bytes.Equal(AD("x", "ab", "c"), AD("x", "a", "bc")) || bytes.Equal(AD("x", "a\x00b"), AD("x", "a", "b")) {
		t.Error("two places share associated data")
	}
}

func TestIDs(t *testing.T) {
	id := NewID()
	if !IsID(id) || id == NewID() {
		t.Error(id)
	}
	for _, bad := range []string{"", id[1:], id + "a", strings.ToUpper(id), id[:25] + "1", id[:25] + "z", id[:25] + "\n"} {
		if IsID(bad) {
			t.Errorf("%q", bad)
		}
	}
}

func TestPassphrases(t *testing.T) {
	for p, ok := range map[string]bool{
		"": false, "1234567": false, "12345678": true, "\u00fc\u00fc\u00fc\u00fc": false, "        ": false, "a\nbcdefgh": false,
		"\xff23456789": false, strings.Repeat("a", 1024): true, strings.Repeat("a", 1025): false,
	} {
		if err := CheckPassphrase([]byte(p)); (err == nil) != ok {
			t.Errorf("%.20q: %v", p, err)
		}
	}
	for _, bad := range [][]byte{nil, {1}, make([]byte, 23), append([]byte{1, 255, 1, 255, 255, 255, 255}, make([]byte, 16)...)} {
		if _, err := HashPassphrase([]byte("12345678"), bad); err == nil {
			t.Errorf("hashing %x is taken", bad)
		}
	}
}
