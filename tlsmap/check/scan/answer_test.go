package scan

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

func record(kind uint8, body []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint8(kind)
	b.AddUint16(0x0303)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(body) })
	return b.BytesOrPanic()
}

func message(kind uint8, body []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint8(kind)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(body) })
	return b.BytesOrPanic()
}

// serverHello writes one; random is that of a retry where retry is set.
func serverHello(version, suite uint16, retry bool, extensions func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddUint16(version)
	if retry {
		b.AddBytes(retryRandom[:])
	} else {
		b.AddBytes(make([]byte, 32))
	}
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) {})
	b.AddUint16(suite)
	b.AddUint8(0)
	if extensions != nil {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { extensions(b) })
	}
	return message(messageServerHello, b.BytesOrPanic())
}

func extensions13(group uint16) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		extension(b, extSupportedVersions, func(b *cryptobyte.Builder) { b.AddUint16(TLS13) })
		extension(b, extKeyShare, func(b *cryptobyte.Builder) { b.AddUint16(group) })
	}
}

func cat(all ...[]byte) []byte { return bytes.Join(all, nil) }

// keyExchange writes a ServerKeyExchange with a prime of so many bytes.
func keyExchange(n int) []byte {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(bytes.Repeat([]byte{0xff}, n)) })
	return message(messageServerKeyExchange, b.BytesOrPanic())
}

func TestReadAnswer(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want answer
		err  error
	}{
		{name: "nothing", err: io.EOF},
		{name: "half a record", in: []byte{22, 3}, err: io.ErrUnexpectedEOF},
		{name: "SMTP", in: []byte("500 what?\r\n"), err: errNotTLS},
		{name: "SSL 2", in: []byte{0x80, 0x2e, 1, 0, 2}, err: errNotTLS},
		{name: "an alert", in: record(21, []byte{2, 40}), want: answer{alert: "handshake_failure"}},
		{name: "an alert nobody knows", in: record(21, []byte{2, 200}), want: answer{alert: "alert 200"}},
		{name: "a warning before the answer", in: cat(record(21, []byte{1, 112}), record(22, serverHello(TLS12, 0xc02f, false, nil))), want: answer{version: TLS12, suite: 0xc02f}},
		{name: "close_notify is a refusal", in: record(21, []byte{1, 0}), want: answer{alert: "close_notify"}},
		{name: "a short alert", in: record(21, []byte{2}), err: errNotTLS},
		{name: "TLS 1.3 by a retry", in: record(22, serverHello(TLS12, 0x1301, true, extensions13(0x11ec))), want: answer{version: TLS13, suite: 0x1301, retry: true, group: 0x11ec}},
		{name: "TLS 1.3", in: record(22, serverHello(TLS12, 0x1302, false, extensions13(0x1d))), want: answer{version: TLS13, suite: 0x1302, group: 0x1d}},
		{name: "SSL 3, without extensions", in: record(22, serverHello(SSL30, 5, false, nil)), want: answer{version: SSL30, suite: 5}},
		{
			name: "DHE, in one message a record",
			in:   cat(record(22, serverHello(TLS12, 0x9e, false, nil)), record(22, keyExchange(96)), record(22, message(14, nil))),
			want: answer{version: TLS12, suite: 0x9e, dhBits: 768},
		},
		{
			name: "a curve, all in one record",
			in:   record(22, cat(serverHello(TLS12, 0xc02f, false, nil), message(12, []byte{3, 0, 0x17, 1, 4}), message(14, nil))),
			want: answer{version: TLS12, suite: 0xc02f, group: 0x17},
		},
		{
			name: "a certificate",
			in:   record(22, cat(serverHello(TLS10, 0x2f, false, nil), message(11, []byte{0, 0, 5, 0, 0, 2, 'a', 'b'}))),
			want: answer{version: TLS10, suite: 0x2f, certs: [][]byte{[]byte("ab")}},
		},
		{
			name: "a message in two records",
			in: func() []byte {
				m := serverHello(TLS12, 0x9c, false, nil)
				return cat(record(22, m[:10]), record(22, m[10:]))
			}(),
			want: answer{version: TLS12, suite: 0x9c},
		},
		{name: "another message first", in: record(22, message(11, []byte{0, 0, 0})), err: errNotTLS},
		{name: "a ServerHello cut off", in: record(22, message(2, []byte{3, 3, 0})), err: errNotTLS},
		{name: "extensions cut off", in: record(22, message(2, append(serverHello(TLS12, 5, false, nil)[4:], 0, 9, 1))), err: errNotTLS},
		{name: "a record too long", in: []byte{22, 3, 3, 0xff, 0xff}, err: errNotTLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readAnswer(bytes.NewReader(tt.in))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			w := tt.want
			if got.alert != w.alert || got.version != w.version || got.suite != w.suite || got.retry != w.retry || got.group != w.group || got.dhBits != w.dhBits ||
				len(got.certs) != len(w.certs) || len(w.certs) > 0 && !bytes.Equal(got.certs[0], w.certs[0]) {
				t.Errorf("%+v, want %+v", *got, w)
			}
		})
	}
}

// A host that never ends its answer is left.
func TestAnswerIsBounded(t *testing.T) {
	var in bytes.Buffer
	for in.Len() < 4*maxAnswer {
		in.Write(record(22, message(11, make([]byte, 1000))[:500]))
	}
	in2 := bytes.NewReader(cat(record(22, cat([]byte{2, 0xff, 0xff, 0xff}, make([]byte, 5000))), in.Bytes()))
	if _, err := readAnswer(in2); !errors.Is(err, errLong) {
		t.Errorf("error %v", err)
	}
	if left := in2.Len(); left < maxAnswer {
		t.Errorf("only %d bytes left unread", left)
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(record(21, []byte{2, 40}))
	f.Add(record(22, serverHello(TLS12, 0x1301, true, extensions13(0x11ec))))
	f.Add(record(22, cat(serverHello(TLS12, 0xc02f, false, nil), message(11, []byte{0, 0, 5, 0, 0, 2, 'a', 'b'}), message(12, []byte{3, 0, 0x17, 1, 4}), message(14, nil))))
	f.Add(cat(record(22, serverHello(SSL30, 5, false, nil)), record(22, keyExchange(64))))
	f.Add([]byte("220 ready\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := readAnswer(bytes.NewReader(in))
		if (a == nil) == (err == nil) {
			t.Fatalf("answer %v and error %v", a, err)
		}
		if a == nil {
			return
		}
		if a.alert == "" && len(in) < 40 {
			t.Errorf("a ServerHello of %d bytes", len(in))
		}
		if len(a.certs) > maxCerts || a.dhBits > 8*maxRecord {
			t.Errorf("%d certificates, %d bits", len(a.certs), a.dhBits)
		}
		s := scanner{r: &Result{}, seen: map[string]bool{}}
		s.keep(a.certs)
		NewSuite(a.suite, groupName(a.group), a.dhBits)
	})
}

// What we write is a ClientHello: crypto/tls reads it, and sees in it what was meant.
func TestHello(t *testing.T) {
	for _, v := range []uint16{TLS10, TLS11, TLS12, TLS13} {
		for _, share := range []bool{false, true} {
			us, them := net.Pipe()
			deadline := time.Now().Add(10 * time.Second)
			us.SetDeadline(deadline)
			them.SetDeadline(deadline)
			seen := make(chan *tls.ClientHelloInfo, 1)
			go func() {
				tls.Server(them, &tls.Config{MinVersion: tls.VersionTLS10, GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
					seen <- i
					return nil, errors.New("enough")
				}}).Handshake()
				close(seen)
				them.Close()
			}()
			h := hello{version: v, suites: offered(v), groups: all(v), sni: "mx.a.example", share: share}
			go us.Write(h.marshal())
			go io.Copy(io.Discard, us)
			i := <-seen
			us.Close()
			if i == nil {
				t.Fatalf("%s: not understood", VersionName(v))
			}
			if i.ServerName != "mx.a.example" || len(i.CipherSuites) != len(h.suites) || len(i.SupportedCurves) != len(h.groups) || i.SupportedVersions[0] != v {
				t.Errorf("%s: name %q, %d suites, %d groups, versions %x", VersionName(v), i.ServerName, len(i.CipherSuites), len(i.SupportedCurves), i.SupportedVersions)
			}
		}
	}
}

// No hello has a length that hosts are known to hang on (RFC 7685).
func TestHelloIsPadded(t *testing.T) {
	for n := range 200 {
		for _, v := range []uint16{TLS10, TLS12, TLS13} {
			h := hello{version: v, suites: offered(TLS12)[:n+1], groups: groups[:n%len(groups)], sni: "mx.a.example"}
			if size := len(h.marshal()) - 5; size > 255 && size < 512 {
				t.Fatalf("%s with %d suites: %d bytes", VersionName(v), n+1, size)
			}
		}
	}
}
