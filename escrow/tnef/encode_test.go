package tnef

import (
	"encoding/binary"
	"unicode/utf16"
)

// What follows writes TNEF, for the tests: from the specification, not from what
// reads it.

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// attr writes an attribute.
func attr(level byte, id uint32, data []byte) []byte {
	var sum uint16
	for _, c := range data {
		sum += uint16(c)
	}
	return join([]byte{level}, le32(id), le32(uint32(len(data))), data, binary.LittleEndian.AppendUint16(nil, sum))
}

func stream(attrs ...[]byte) []byte {
	return join(append([][]byte{{0x78, 0x9F, 0x3E, 0x22, 0x01, 0x00}, attr(1, 0x00089006, le32(0x10000)), attr(1, attOEMCodepage, join(le32(1252), le32(0)))}, attrs...)...)
}

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

func props(list ...[]byte) []byte {
	return join(append([][]byte{le32(uint32(len(list)))}, list...)...)
}

func tag(id, kind int) []byte { return le32(uint32(id)<<16 | uint32(kind)) }

func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func varProp(id, kind int, data []byte) []byte {
	return join(tag(id, kind), le32(1), le32(uint32(len(data))), pad(append([]byte{}, data...)))
}
func unicodeProp(id int, s string) []byte { return varProp(id, 0x1F, wide(s)) }
func stringProp(id int, s string) []byte  { return varProp(id, 0x1E, append([]byte(s), 0)) }
func binaryProp(id int, b []byte) []byte  { return varProp(id, 0x102, b) }
func longProp(id int, v uint32) []byte    { return join(tag(id, 3), le32(v)) }

// namedProp is one that a reader has to step over.
func namedProp() []byte {
	name := wide("Keywords")
	return join(tag(0x8001, 0x101F), make([]byte, 16), le32(1), le32(uint32(len(name))), pad(name), le32(2), le32(6), pad(wide("ab")), le32(4), pad(wide("c")))
}

// file writes the attributes of one.
func file(title string, data []byte, more ...[]byte) []byte {
	return join(attr(2, attRendData, make([]byte, 14)), attr(2, attTitle, append([]byte(title), 0)), attr(2, attData, data), attr(2, attAttachment, props(more...)))
}

// within writes a message that is attached.
func within(name string, inner []byte) []byte {
	return join(attr(2, attRendData, make([]byte, 14)), attr(2, attAttachment, props(unicodeProp(propDisplayName, name), varProp(propData, typeObject, join(iMessage[:], inner)))))
}

// compress writes compressed RTF: references where it finds them.
func compress(s string) []byte {
	var window [4096]byte
	pos := copy(window[:], dictionary)
	var out, run []byte
	var control byte
	n := 0
	token := func(isRef bool, b ...byte) {
		if isRef {
			control |= 1 << n
		}
		run = append(run, b...)
		if n++; n == 8 {
			out = append(append(out, control), run...)
			run, control, n = nil, 0, 0
		}
	}
	for i := 0; i < len(s); {
		best, at := 0, 0
		for o := 0; o < 4096 && best < 17; o++ {
			l := 0
			// Not beyond what is written: an honest writer may, this one doesn't.
			for l < 17 && i+l < len(s) && (o+l)%4096 != pos && window[(o+l)%4096] == s[i+l] {
				l++
			}
			if l > best && o != pos {
				best, at = l, o
			}
		}
		if best < 2 {
			best = 1
			token(false, s[i])
		} else {
			token(true, byte(at>>4), byte(at<<4)|byte(best-2))
		}
		for range best {
			window[pos] = s[i]
			pos = (pos + 1) % 4096
			i++
		}
	}
	token(true, byte(pos>>4), byte(pos<<4))
	if n > 0 {
		out = append(append(out, control), run...)
	}
	return join(le32(uint32(len(out)+12)), le32(uint32(len(s))), []byte("LZFu"), le32(0), out)
}
