package account

import (
	"bytes"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"image/png"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"
)

// Time-based one-time passwords (RFC 6238) as every app knows them: SHA-1, six
// digits, steps of 30 seconds. One step of skew to either side is allowed (section
// 5.2).
const (
	totpStep   = 30 // seconds
	totpDigits = otp.DigitsSix
	totpSkew   = 1  // steps
	totpSecret = 20 // bytes (RFC 4226, section 4, R6)
	qrSize     = 240
)

// TOTPKey is a new second factor.
type TOTPKey struct {
	Secret string // base32
	URL    string // otpauth:
	QR     []byte // of URL, PNG
}

// NewTOTP makes a secret. issuer and address are what the app shows.
func NewTOTP(issuer, address string) (TOTPKey, error) {
	return totpKey(issuer, address, nil)
}

// TOTPOf returns the key of a secret once more.
func TOTPOf(issuer, address, secret string) (TOTPKey, error) {
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil || len(raw) == 0 {
		return TOTPKey{}, errors.New("TOTP secret: not base32")
	}
	return totpKey(issuer, address, raw)
}

func totpKey(issuer, address string, secret []byte) (TOTPKey, error) {
	// A colon parts the two in the label.
	issuer, address = strings.ReplaceAll(issuer, ":", " "), strings.ReplaceAll(address, ":", " ")
	k, err := totp.Generate(totp.GenerateOpts{
		Issuer: issuer, AccountName: address, Secret: secret, SecretSize: totpSecret, Period: totpStep, Digits: totpDigits,
	})
	if err != nil {
		return TOTPKey{}, fmt.Errorf("TOTP secret: %w", err)
	}
	img, err := k.Image(qrSize, qrSize)
	if err != nil {
		return TOTPKey{}, fmt.Errorf("QR code: %w", err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return TOTPKey{}, fmt.Errorf("QR code: %w", err)
	}
	return TOTPKey{Secret: k.Secret(), URL: k.URL(), QR: b.Bytes()}, nil
}

// MatchTOTP finds the step that a code is of, the latest where it is of several. A
// step is used once: the caller keeps the last one that was, and takes no earlier
// one. ok is false for a wrong code.
func MatchTOTP(secret, code string, now time.Time) (step int64, ok bool) {
	code = strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '\u00a0' || r == '\u202f' {
			return -1
		}
		return r
	}, code)
	if len(code) != totpDigits.Length() {
		return 0, false
	}
	at := now.Unix() / totpStep
	for s := at - totpSkew; s <= at+totpSkew; s++ {
		want, err := hotp.GenerateCodeCustom(secret, uint64(s), hotp.ValidateOpts{Digits: totpDigits, Algorithm: otp.AlgorithmSHA1})
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = s, true
		}
	}
	return step, ok
}
