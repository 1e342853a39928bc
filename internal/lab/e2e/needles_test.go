package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"mime/quotedprintable"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// needles are secrets, each in every form in which a program may write it down.
type needles struct {
	names map[string]string // by value
	forms []form
	index map[uint32][]int // forms by their first bytes
}

type form struct {
	text  []byte
	value string // the secret
	how   string
	digit bool // counts only where it is not part of a longer number
}

// keyLen is how many bytes of a form the index looks at; shorter forms are none.
const keyLen = 6

func newNeedles() *needles {
	return &needles{names: make(map[string]string), index: make(map[uint32][]int)}
}

// add adds a secret. What is shorter than six bytes can't be searched for.
func (n *needles) add(name, value string) {
	if len(value) < keyLen || n.names[value] != "" {
		return
	}
	n.names[value] = name
	n.addForms(value, value, "")
	// Tokens stand for bytes, which may be written otherwise.
	for _, e := range []*base64.Encoding{base64.RawURLEncoding, base64.RawStdEncoding} {
		if raw, err := e.DecodeString(strings.TrimRight(value, "=")); err == nil && len(raw) >= 16 {
			n.addForms(value, string(raw), "its bytes, ")
			break
		}
	}
}

func (n *needles) addForms(value, text, of string) {
	digits := of == "" && strings.Trim(text, "0123456789") == ""
	put := func(how, t string, digit bool) {
		if len(t) < keyLen || slices.ContainsFunc(n.forms, func(f form) bool { return f.value == value && string(f.text) == t }) {
			return
		}
		k := indexKey([]byte(t))
		n.index[k] = append(n.index[k], len(n.forms))
		n.forms = append(n.forms, form{[]byte(t), value, of + how, digit})
	}
	put("as it is", text, digits)
	put("hex", hex.EncodeToString([]byte(text)), digits)
	put("HEX", strings.ToUpper(hex.EncodeToString([]byte(text))), digits)
	for _, q := range []string{url.QueryEscape(text), url.PathEscape(text), percent(text)} {
		put("URL", q, digits)
		put("url", lowerEscapes(q), digits)
	}
	put("HTML", html.EscapeString(text), digits)
	if j, err := json.Marshal(text); err == nil && strings.ToValidUTF8(text, "") == text {
		put("JSON", string(j[1:len(j)-1]), digits)
	}
	put("quoted", strings.Trim(fmt.Sprintf("%q", text), `"`), digits)
	put("bytes", strings.Trim(fmt.Sprint([]byte(text)), "[]"), false)
	var qp bytes.Buffer
	w := quotedprintable.NewWriter(&qp)
	w.Write([]byte(text))
	w.Close()
	put("quoted-printable", strings.ReplaceAll(qp.String(), "=\r\n", ""), digits)
	// In base64 a text looks like one of three, by what stands before it.
	for shift := range 3 {
		for name, e := range map[string]*base64.Encoding{"base64": base64.StdEncoding, "base64url": base64.URLEncoding} {
			all := e.EncodeToString(append(make([]byte, shift), text...))
			put(fmt.Sprint(name, " at ", shift), all[(shift*8+5)/6:(shift+len(text))*8/6], false)
		}
	}
}

func percent(text string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, "%%%02X", text[i])
	}
	return b.String()
}

func lowerEscapes(q string) string {
	b := []byte(q)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

func indexKey(b []byte) uint32 {
	return uint32((uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint16(b[4:]))<<32) * 0x9E3779B97F4A7C15 >> 44)
}

// found is a secret, and how it was written.
type found struct{ name, value, how string }

// in returns which secrets stand in data, each once; also where they are cut by the
// line breaks of base64 and quoted-printable.
func (n *needles) in(data []byte) []found {
	var all []found
	seen := make(map[string]bool)
	present := make([]bool, 1<<20)
	for k := range n.index {
		present[k] = true
	}
	unfolded := without(data, "=\r\n", "=\n")
	unbroken := without(data, "\r\n", "\n")
	for _, text := range [][]byte{data, unfolded, unbroken} {
		for i := 0; i+keyLen <= len(text); i++ {
			k := indexKey(text[i:])
			if !present[k] {
				continue
			}
			for _, j := range n.index[k] {
				f := n.forms[j]
				if seen[f.value] || !bytes.HasPrefix(text[i:], f.text) || f.digit && !alone(text, i, len(f.text)) {
					continue
				}
				seen[f.value] = true
				all = append(all, found{n.names[f.value], f.value, f.how})
			}
		}
	}
	return all
}

func without(data []byte, breaks ...string) []byte {
	for _, b := range breaks {
		data = bytes.ReplaceAll(data, []byte(b), nil)
	}
	return data
}

// alone reports whether a number is not part of a longer one.
func alone(text []byte, at, length int) bool {
	part := func(i int) bool { return i >= 0 && i < len(text) && strings.IndexByte("0123456789.", text[i]) >= 0 }
	return !part(at-1) && !part(at+length)
}

// needlesAreFound is that a secret is found in whatever form it is written.
func needlesAreFound(t *testing.T) {
	raw := []byte("\x00\xff\x17 32 bytes of a token's secret\x80")
	secrets := map[string]string{
		"text": "der Schlüssel & das <Schloß>", "token": base64.RawURLEncoding.EncodeToString(raw), "code": "48151623",
	}
	n := newNeedles()
	for name, s := range secrets {
		n.add(name, s)
	}
	var qp bytes.Buffer
	w := quotedprintable.NewWriter(&qp)
	w.Write([]byte(strings.Repeat("x", 60) + secrets["text"]))
	w.Close()
	folded := base64.StdEncoding.EncodeToString([]byte("yz" + secrets["text"]))
	for how, c := range map[string]struct{ name, text string }{
		"as it is": {"text", "msg=" + secrets["text"]}, "a query": {"text", "/x?q=" + url.QueryEscape(secrets["text"])},
		"a path": {"text", "/" + url.PathEscape(secrets["text"])}, "a path, all escaped": {"token", percent(secrets["token"])},
		"hex": {"text", hex.EncodeToString([]byte("--" + secrets["text"]))}, "HTML": {"text", html.EscapeString(secrets["text"])},
		"quoted-printable": {"text", qp.String()}, "a line of Go": {"text", fmt.Sprintf("%q", secrets["text"])},
		"base64": {"text", folded}, "base64 in lines": {"text", folded[:9] + "\r\n" + folded[9:21] + "\r\n" + folded[21:]},
		"bytes of a token": {"token", string(raw)}, "bytes of a token in hex": {"token", hex.EncodeToString(raw)},
		"bytes of a token in base64": {"token", base64.StdEncoding.EncodeToString(raw)}, "bytes as numbers": {"token", fmt.Sprint(raw)},
		"a code": {"code", "code=48151623"}, "a code in base64": {"code", base64.StdEncoding.EncodeToString([]byte("code 48151623\r\n"))},
	} {
		if got := n.in([]byte("before " + c.text + " after")); len(got) != 1 || got[0].name != c.name {
			t.Errorf("%s: found %+v in %q", how, got, c.text)
		}
	}
	if got := n.in([]byte("nothing of it, 148151623, 48151623.5, and " + strings.Repeat("more ", 1000))); len(got) != 0 {
		t.Errorf("found %+v", got)
	}
}
