// Package account has what proves a recipient who has enrolled: the rules of
// passwords, passkeys (WebAuthn) and one-time codes (TOTP).
//
// It keeps nothing and does no I/O: [escrow.Vault] asks it, and keeps the outcome.
// Passwords are hashed by escrow/seal, as passphrases are.
package account

import (
	_ "embed"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// The length that a password may have.
const (
	MinPassword = 10  // characters, composed (NFC)
	MaxPassword = 512 // bytes
)

// Weakness is why a password is not taken, "" where it is.
type Weakness string

// The weaknesses.
const (
	TooShort Weakness = "short"
	TooLong  Weakness = "long"
	Common   Weakness = "common"   // one of those that are tried first
	Personal Weakness = "personal" // made of what everybody knows who guesses
)

//go:embed common.txt
var commonText string

var common = sync.OnceValue(func() map[string]bool {
	m := make(map[string]bool)
	for line := range strings.Lines(commonText) {
		if !strings.HasPrefix(line, "#") {
			m[strings.TrimSpace(line)] = true
		}
	}
	return m
})

// CheckPassword says whether a password may be set, by NIST SP 800-63B, section
// 3.1.1.2: it has a length, and is not one of those that are guessed first. known
// is what everybody knows: the address, the host of the page. No kinds of
// characters are demanded.
func CheckPassword(password string, known ...string) Weakness {
	if len(password) > MaxPassword {
		return TooLong
	}
	p := norm.NFC.String(strings.TrimSpace(password)) // as it is hashed
	switch {
	case utf8.RuneCountInString(p) < MinPassword:
		return TooShort
	case isCommon(p):
		return Common
	case isPersonal(p, known):
		return Personal
	}
	return ""
}

// fold makes spellings equal that guessers try as one.
func fold(s string) string { return strings.ToLower(norm.NFKC.String(s)) }

// isCommon reports whether a password is in the list, is a word of it with digits
// and signs around, or repeats or counts its characters.
func isCommon(p string) bool {
	p = fold(p)
	word := strings.TrimFunc(p, func(r rune) bool { return !unicode.IsLetter(r) })
	return common()[p] || word != "" && common()[word] && letters(p) == letters(word) || repeats(p) || counts(p)
}

func letters(s string) (n int) {
	for _, r := range s {
		if unicode.IsLetter(r) {
			n++
		}
	}
	return n
}

// repeats reports whether s is a shorter text of at most four characters, again
// and again, or such a word of the list.
func repeats(s string) bool {
	r := []rune(s)
	for n := 1; n <= len(r)/2; n++ {
		same := true
		for i := n; i < len(r) && same; i++ {
			same = r[i] == r[i-n]
		}
		if same && (n <= 4 || common()[string(r[:n])]) {
			return true
		}
	}
	return false
}

// counts reports whether each character follows the one before: 1234567890,
// abcdefghij, and backwards.
func counts(s string) bool {
	r := []rune(s)
	step := func(i int) rune {
		if d := r[i] - r[i-1]; d != -9 && d != 9 { // 9 and 0
			return d
		} else if d > 0 {
			return -1
		}
		return 1
	}
	for i := 1; i < len(r); i++ {
		if d := step(i); d != step(1) || d != 1 && d != -1 {
			return false
		}
	}
	return true
}

// enough is how many characters a password must have besides what is known.
const enough = 6

// isPersonal reports whether a password is made of known words and hardly more.
func isPersonal(p string, known []string) bool {
	p = fold(p)
	for _, k := range known {
		words := []string{k}
		if local, domain, ok := strings.Cut(k, "@"); ok {
			words = append(words, local, domain)
		}
		for _, w := range words {
			w = fold(w)
			if utf8.RuneCountInString(w) < 4 {
				continue
			}
			if rest := strings.ReplaceAll(p, w, ""); rest != p && utf8.RuneCountInString(rest) < enough {
				return true
			}
			// The same without what parts its words: jane.roe, janeroe.
			bare := func(r rune) rune {
				if unicode.IsLetter(r) || unicode.IsDigit(r) {
					return r
				}
				return -1
			}
			b, in := strings.Map(bare, w), strings.Map(bare, p)
			if rest := strings.ReplaceAll(in, b, ""); len(b) >= 4 && rest != in && utf8.RuneCountInString(rest) < enough {
				return true
			}
		}
	}
	return false
}
