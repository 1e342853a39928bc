package main

import (
	"strings"
	"testing"

	"github.com/boombuler/barcode/qr"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/sql"
)

// openLogin makes a login that nobody has an account for.
func openLogin(t *testing.T, db *sql.DB) *adminlogin.Login {
	t.Helper()
	l, err := adminlogin.New(adminlogin.Config{Store: db, Listen: "127.0.0.1:8646"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What is printed is the code, module for module, with its margin.
func TestPrintQR(t *testing.T) {
	const text = "otpauth://totp/Postseal:jane@mx.own.example?secret=ABCDEFGHIJKLMNOPQRSTUVWXYZ234567&issuer=Postseal&algorithm=SHA1&digits=6&period=30"
	var b strings.Builder
	if err := printQR(&b, text); err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(text, qr.L, qr.Auto)
	if err != nil {
		t.Fatal(err)
	}
	size := code.Bounds().Dx()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != (size+2*quiet+1)/2 {
		t.Fatalf("%d lines for %d modules", len(lines), size)
	}
	dark := 0
	for i, line := range lines {
		cells := []rune(line)
		if len(cells) != size+2*quiet {
			t.Fatalf("line %d has %d cells", i, len(cells))
		}
		for j, c := range cells {
			for half, light := range [2]bool{c == '█' || c == '▀', c == '█' || c == '▄'} {
				x, y := j-quiet, 2*i+half-quiet
				want := true
				if x >= 0 && y >= 0 && x < size && y < size {
					r, _, _, _ := code.At(x, y).RGBA()
					want = r != 0
				}
				if light != want {
					t.Fatalf("module %d,%d is light: %t", x, y, light)
				}
				if !light {
					dark++
				}
			}
		}
	}
	if dark < 300 {
		t.Errorf("only %d modules are dark", dark)
	}
}
