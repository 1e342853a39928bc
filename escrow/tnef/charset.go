package tnef

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
)

// codepages names the code pages of Windows as the Encoding Standard does; those
// that count in windows-125x and iso-8859-x are made by their number.
var codepages = map[int]string{
	866: "ibm866", 874: "windows-874", 932: "shift_jis", 936: "gb18030", 949: "euc-kr", 950: "big5", 10000: "macintosh",
	20866: "koi8-r", 21866: "koi8-u", 20932: "euc-jp", 28603: "iso-8859-13", 28605: "iso-8859-15", 38598: "iso-8859-8-i",
	50220: "iso-2022-jp", 50221: "iso-2022-jp", 50222: "iso-2022-jp", 51932: "euc-jp", 51949: "euc-kr", 51936: "gb18030", 54936: "gb18030",
}

// codepage returns the encoding of a code page; nil for UTF-8.
func codepage(cp int) encoding.Encoding {
	name := codepages[cp]
	switch {
	case cp == 65001:
		return nil
	case cp >= 1250 && cp <= 1258:
		name = fmt.Sprintf("windows-%d", cp)
	case cp == 28591:
		return charmap.Windows1252
	case cp > 28591 && cp <= 28599:
		name = fmt.Sprintf("iso-8859-%d", cp-28590)
	}
	if e, err := htmlindex.Get(name); err == nil {
		return e
	}
	return charmap.Windows1252
}

// decode reads a text of a code page, without what ends it.
func decode(b []byte, cp int) string {
	b = bytes.TrimRight(b, "\x00")
	e := codepage(cp)
	if e == nil || cp == 20127 && utf8.Valid(b) {
		return strings.ToValidUTF8(string(b), "\uFFFD")
	}
	out, err := e.NewDecoder().Bytes(b)
	if err != nil {
		return strings.ToValidUTF8(string(b), "\uFFFD")
	}
	return string(out)
}

func utf16LE(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
	}
	return string(utf16.Decode(u))
}
