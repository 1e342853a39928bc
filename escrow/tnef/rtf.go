package tnef

import (
	"bytes"
	"encoding/binary"
	"html"
	"strconv"
	"strings"
	"unicode/utf16"
)

// maxRTF is how much of an RTF text is decompressed, in bytes.
const maxRTF = 4 << 20

// dictionary is what the window of a compressed text holds at its start
// ([MS-OXRTFCP], section 2.1.2.1).
const dictionary = `{\rtf1\ansi\mac\deff0\deftab720{\fonttbl;}{\f0\fnil \froman \fswiss \fmodern \fscript \fdecor MS Sans SerifSymbolArialTimes New RomanCourier` +
	`{\colortbl\red0\green0\blue0` + "\r\n" + `\par \pard\plain\f0\fs20\b\i\u\tab\tx`

// decompress undoes the compression of RTF ([MS-OXRTFCP], section 2.2), up to
// most bytes. whole reports that the text has come to its end.
func decompress(in []byte, most int) (out []byte, whole bool) {
	if len(in) < 16 {
		return nil, false
	}
	size := int(min(binary.LittleEndian.Uint32(in[4:]), uint32(most)))
	whole = size < most
	switch binary.LittleEndian.Uint32(in[8:]) {
	case 0x414C454D: // MELA: not compressed
		in = in[16:]
		return in[:min(size, len(in))], whole && size <= len(in)
	case 0x75465A4C: // LZFu
	default:
		return nil, false
	}
	in = in[16:]
	var window [4096]byte
	pos := copy(window[:], dictionary)
	put := func(c byte) {
		window[pos] = c
		pos = (pos + 1) % len(window)
		out = append(out, c)
	}
	for len(in) > 0 {
		control := in[0]
		in = in[1:]
		for bit := range 8 {
			if control&(1<<bit) == 0 {
				if len(in) == 0 {
					return out, whole && len(out) >= size
				}
				put(in[0])
				in = in[1:]
			} else {
				if len(in) < 2 {
					return out, false
				}
				ref := int(in[0])<<8 | int(in[1])
				in = in[2:]
				offset, length := ref>>4, ref&15+2
				if offset == pos {
					return out, whole
				}
				for range length {
					put(window[offset])
					offset = (offset + 1) % len(window)
				}
			}
			if len(out) >= most {
				return out[:most], false
			}
		}
	}
	return out, whole && len(out) >= size
}

// group is the state that a group of RTF has, and gives to those within.
type group struct {
	skip     bool // a destination that is not text
	tag      bool // an \*\htmltag: HTML as it is
	rtfOnly  bool // between \htmlrtf and \htmlrtf0
	fonts    bool // the font table
	font     int
	uc       int // characters to skip after a \u
	codepage int // by its font, 0 for the document's
}

// maxGroups is how deep groups go; a text with more is not shown beyond.
const maxGroups = 200

// skipped are destinations without text, that do not start with \*.
var skipped = map[string]bool{
	"colortbl": true, "stylesheet": true, "info": true, "pict": true, "object": true, "header": true, "headerl": true, "headerr": true,
	"headerf": true, "footer": true, "footerl": true, "footerr": true, "footerf": true, "footnote": true, "themedata": true, "datastore": true,
	"listtable": true, "listoverridetable": true, "revtbl": true, "rsidtbl": true, "generator": true, "xmlnstbl": true, "fldinst": true,
	"bkmkstart": true, "bkmkend": true, "filetbl": true, "nonshppict": true,
}

// symbols are control words that stand for characters.
var symbols = map[string]string{
	"par": "\n", "line": "\n", "sect": "\n", "page": "\n", "row": "\n", "tab": "\t", "cell": "\t",
	"lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”", "bullet": "•", "endash": "–", "emdash": "—",
	"emspace": "\u2003", "enspace": "\u2002", "zwj": "\u200d", "zwnj": "\u200c", "ltrmark": "\u200e", "rtlmark": "\u200f",
}

// charsets are the code pages of the character sets of fonts.
var charsets = map[int]int{
	77: 10000, 128: 932, 129: 949, 134: 936, 136: 950, 161: 1253, 162: 1254, 163: 1258, 177: 1255, 178: 1256, 186: 1257, 204: 1251, 222: 874, 238: 1250,
}

// fromRTF gives the words of an RTF text, or the HTML that it encapsulates
// ([MS-OXRTFEX]): then text is "".
func fromRTF(in []byte, ansi int) (text, htm string) {
	var out strings.Builder
	isHTML := bytes.Contains(in[:min(len(in), 4096)], []byte(`\fromhtml1`))
	fonts := map[int]int{}
	stack := make([]group, 0, 32)
	g := group{uc: 1}
	deep := 0 // groups beyond maxGroups
	var bytesOf []byte
	var units []uint16
	toSkip := 0 // characters that stand for a \u before them
	write := func(s string) {
		if isHTML && !g.tag {
			s = html.EscapeString(s)
		}
		out.WriteString(s)
	}
	shown := func() bool {
		return !g.skip && !g.fonts && deep == 0 && (!isHTML || !g.rtfOnly)
	}
	flush := func() {
		if len(bytesOf) > 0 {
			cp := g.codepage
			if cp == 0 {
				cp = ansi
			}
			write(decode(bytesOf, cp))
			bytesOf = bytesOf[:0]
		}
		if len(units) > 0 {
			write(string(utf16.Decode(units)))
			units = units[:0]
		}
	}
	char := func(c byte) {
		if toSkip > 0 {
			toSkip--
			return
		}
		if shown() {
			if len(units) > 0 {
				flush()
			}
			bytesOf = append(bytesOf, c)
		}
	}
	star := false
	for i := 0; i < len(in); {
		c := in[i]
		i++
		switch c {
		case '{':
			flush()
			toSkip = 0
			if len(stack) >= maxGroups {
				deep++
				continue
			}
			stack = append(stack, g)
			star = false
			continue
		case '}':
			flush()
			toSkip = 0
			if deep > 0 {
				deep--
				continue
			}
			if len(stack) == 0 {
				continue
			}
			g = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			star = false
			continue
		case '\r', '\n':
			continue
		case '\\':
		default:
			char(c)
			continue
		}
		if i >= len(in) {
			break
		}
		c = in[i]
		if !letter(c) { // a control symbol
			i++
			switch c {
			case '\'':
				if i+2 <= len(in) {
					if v, err := strconv.ParseUint(string(in[i:i+2]), 16, 8); err == nil {
						char(byte(v))
						i += 2
					}
				}
			case '\\', '{', '}':
				char(c)
			case '~', '_', '\r', '\n':
				flush()
				if shown() {
					switch {
					case c == '_':
						write("-")
					case c != '~':
						write("\n")
					case isHTML && !g.tag:
						out.WriteString("&nbsp;")
					default:
						write("\u00a0")
					}
				}
			case '*':
				star = true
			}
			continue
		}
		from := i
		for i < len(in) && letter(in[i]) && i-from < 32 {
			i++
		}
		w := string(in[from:i])
		from = i
		if i < len(in) && in[i] == '-' {
			i++
		}
		for i < len(in) && in[i] >= '0' && in[i] <= '9' && i-from < 11 {
			i++
		}
		n, err := strconv.Atoi(string(in[from:i]))
		has := err == nil
		if i < len(in) && in[i] == ' ' {
			i++
		}
		wasStar := star
		star = false
		if w != "u" {
			flush()
		}
		switch {
		case deep > 0:
		case w == "bin" && has && n > 0:
			i = min(len(in), i+n)
		case w == "htmltag" && isHTML:
			g.tag = true
		case w == "htmlrtf":
			g.rtfOnly = !has || n != 0
		case w == "fonttbl":
			g.fonts = true
		case w == "mhtmltag", wasStar && w != "fldrslt", skipped[w]:
			g.skip = true
		case w == "ansicpg" && has:
			ansi = n
		case w == "uc" && has:
			g.uc = max(0, min(n, 16))
		case w == "f" && has:
			g.font = n
			g.codepage = fonts[n]
		case w == "plain":
			g.codepage = 0
		case w == "fcharset" && has && g.fonts:
			if cp := charsets[n]; cp != 0 && len(fonts) < 1000 {
				fonts[g.font] = cp
			}
		case w == "u" && has:
			if len(bytesOf) > 0 {
				flush()
			}
			if shown() {
				units = append(units, uint16(n))
			}
			toSkip = g.uc
		case symbols[w] != "":
			if toSkip > 0 {
				toSkip--
			} else if shown() {
				write(symbols[w])
			}
		}
	}
	flush()
	if isHTML {
		return "", out.String()
	}
	return strings.Trim(out.String(), "\n\x00"), ""
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
