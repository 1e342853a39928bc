package account

import (
	"bytes"
	"encoding/base32"
	"image/png"
	"net/url"
	"testing"
	"time"
)

// The secret and times of RFC 6238, appendix B; its codes of eight digits end in
// ours of six.
var rfcSecret = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte("12345678901234567890"))

func TestMatchTOTPByTheVectorsOfTheRFC(t *testing.T) {
	for _, tt := range []struct {
		at   int64
		code string
	}{
		{59, "287082"}, {1111111109, "081804"}, {1111111111, "050471"}, {1234567890, "005924"}, {2000000000, "279037"}, {20000000000, "353130"},
	} {
		for _, skew := range []int64{-30, 0, 30} {
			step, ok := MatchTOTP(rfcSecret, tt.code, time.Unix(tt.at+skew, 0))
			if !ok || step != tt.at/30 {
				t.Errorf("%s at %d%+d: step %d, %v", tt.code, tt.at, skew, step, ok)
			}
		}
		for _, skew := range []int64{-61, 60} {
			if _, ok := MatchTOTP(rfcSecret, tt.code, time.Unix(tt.at-tt.at%30+skew, 0)); ok && tt.at > 100 {
				t.Errorf("%s at %d%+d counts", tt.code, tt.at, skew)
			}
		}
	}
}

func TestMatchTOTPTakesWhatPeopleType(t *testing.T) {
	at := time.Unix(1111111109, 0)
	for code, want := range map[string]bool{
		"081804": true, "081 804": true, " 081804 ": true, "081-804": true, "081\u00a0804": true,
		"": false, "81804": false, "0818041": false, "07081804": false, "081805": false, "०८१८०४": false, "08180a": false,
	} {
		if _, ok := MatchTOTP(rfcSecret, code, at); ok != want {
			t.Errorf("%q: %v", code, ok)
		}
	}
	if _, ok := MatchTOTP("not base32!", "081804", at); ok {
		t.Error("a damaged secret matches")
	}
}

func TestNewTOTP(t *testing.T) {
	k, err := NewTOTP("portal:8443", "jane:roe@old.example")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(k.URL)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Query().Get("secret") != k.Secret || u.Query().Get("issuer") != "portal 8443" {
		t.Errorf("URL %s", k.URL)
	}
	if b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(k.Secret); err != nil || len(b) != totpSecret {
		t.Errorf("secret of %d bytes, %v", len(b), err)
	}
	if _, err := png.Decode(bytes.NewReader(k.QR)); err != nil {
		t.Errorf("QR: %v", err)
	}
	other, err := NewTOTP("portal", "a@b")
	if err != nil || other.Secret == k.Secret {
		t.Error("not random")
	}
}

func FuzzMatchTOTP(f *testing.F) {
	f.Add("081804", int64(1111111109))
	f.Fuzz(func(t *testing.T, code string, at int64) {
		at &= 1<<40 - 1
		if step, ok := MatchTOTP(rfcSecret, code, time.Unix(at, 0)); ok && (step < at/30-1 || step > at/30+1) {
			t.Errorf("%q at %d: step %d", code, at, step)
		}
	})
}
