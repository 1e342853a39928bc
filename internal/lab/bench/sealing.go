package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
)

// letterSizes are those of the messages that are sealed, in bytes, and how many of each
// are sealed in one turn.
var letterSizes = []struct {
	name  string
	size  int
	times int
}{{"10 kB", 10_000, 20}, {"1 MB", 1_000_000, 8}, {"50 MB", 50_000_000, 1}}

const largest = 50_000_000 // bytes

// letter is a message of so many bytes in all: a text, and a file in base64. The file
// is random, so that no two messages are alike.
func letter(size int) []byte {
	const tail = "\r\n--b--\r\n"
	b := []byte("From: joe@own.example\r\nTo: someone@else.example\r\nSubject: Scans\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nThe scans are in the file.\r\n" +
		"--b\r\nContent-Type: application/dicom\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=scan.dcm\r\n\r\n")
	const line = 57 // bytes that give 76 characters
	raw := make([]byte, line)
	for len(b)+line/3*4+2+len(tail) <= size {
		rand.Read(raw)
		b = append(base64.StdEncoding.AppendEncode(b, raw), "\r\n"...)
	}
	b = append(b, strings.Repeat("\r\n", (size-len(b)-len(tail))/2)...)
	return append(b, tail...)
}

// sealing measures the vault on its database against what it can't be faster than.
func sealing(ctx context.Context, s *settings, dir string) error {
	v, err := newVault(ctx, dir)
	if err != nil {
		return err
	}
	defer v.close()
	m, err := startMailbox(ctx, s, dir)
	if err != nil {
		return err
	}
	defer m.close()
	heading("Sealing and opening, one message after the other: the vault on its SQLite database, and postseal serve")
	fmt.Printf("  %-7s %-44s %12s %9s %11s %10s\n", "", "", "messages/s", "MB/s", "of AES-GCM", "of fsync")
	for _, l := range letterSizes {
		text := letter(l.size)
		p, session, err := v.first(ctx, text)
		if err != nil {
			return err
		}
		taken := 0
		take := func() error { taken++; return m.take(ctx, fmt.Sprintf("size%d-", l.size), taken, text) }
		if err := take(); err != nil {
			return err
		}
		browser, err := m.open(fmt.Sprintf("size%d-", l.size), taken)
		if err != nil {
			return err
		}
		plain, err := newPlain(dir, text)
		if err != nil {
			return err
		}
		turns := []struct {
			name string
			do   func() error
		}{
			{"AES-256-GCM, in memory", plain.encrypt},
			{"write and fsync", plain.sync},
			{"seal", func() error { _, err := v.seal(ctx, text); return err }},
			{"open", func() error {
				r, err := v.Open(ctx, p, session)
				if err != nil {
					return err
				}
				defer r.Close()
				if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(text)) {
					return fmt.Errorf("opened %d bytes: %w", n, err)
				}
				return nil
			}},
			{"seal, by LMTP to serve", take},
			{"open, by HTTP from serve", func() error { return download(browser, "/raw", len(text)) }},
		}
		rates := make([][]float64, len(turns))
		ofPlain, ofSync := make([][]float64, len(turns)), make([][]float64, len(turns))
		for round := range s.rounds + 1 {
			now := make([]float64, len(turns))
			for i, t := range turns {
				start := time.Now()
				for range l.times {
					if err := t.do(); err != nil {
						plain.close()
						return fmt.Errorf("%s of %s: %w", t.name, l.name, err)
					}
				}
				now[i] = float64(l.times) / time.Since(start).Seconds()
			}
			if round == 0 {
				continue // warmed up
			}
			for i := range turns {
				rates[i] = append(rates[i], now[i])
				ofPlain[i], ofSync[i] = append(ofPlain[i], now[i]/now[0]), append(ofSync[i], now[i]/now[1])
			}
		}
		plain.close()
		for i, t := range turns {
			rate := median(rates[i])
			fmt.Printf("  %-7s %-44s %12.1f %9.1f %11.3f %10.3f\n", l.name, t.name, rate, rate*float64(len(text))/1e6, median(ofPlain[i]), median(ofSync[i]))
		}
	}
	return nil
}

// vault is an escrow of this process's own.
type vault struct {
	*escrow.Vault
	db *sql.DB
}

func newVault(ctx context.Context, dir string) (*vault, error) {
	db, err := sql.Open(ctx, "sqlite:"+filepath.Join(dir, "vault.db"), sql.Options{})
	if err != nil {
		return nil, err
	}
	v := &vault{db: db}
	file := filepath.Join(dir, "vault.key")
	if err := escrow.NewKeyFile(file); err != nil {
		return nil, errors.Join(err, v.close())
	}
	keys, err := escrow.LoadKeys(file)
	if err == nil {
		v.Vault, err = escrow.NewVault(escrow.Options{Store: db, Keys: keys, PortalURL: "http://localhost", NoticeFrom: "postseal@own.example"})
	}
	if err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

func (v *vault) close() error { return v.db.Close() }

// seal seals a text as if it had never come before.
func (v *vault) seal(ctx context.Context, text []byte) (item string, err error) {
	var d escrow.Digest
	rand.Read(d[:])
	ids, err := v.Seal(ctx, escrow.Message{
		Sender: "joe@own.example", Recipients: []escrow.Recipient{{Address: "someone@else.example", Verify: escrow.VerifyCode}},
		QueueID: "4bench", Digest: d, Size: int64(len(text)),
		Body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
	})
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// Lines of mails that recipients go by.
var (
	linkLine = regexp.MustCompile(`(?m)^https?://\S+/m/([a-z2-7]+)/(\S+?)\r?$`)
	codeLine = regexp.MustCompile(`(?m)^ *(\d{4}[ -]?\d{4})\b`)
)

// first seals a text and verifies its recipient.
func (v *vault) first(ctx context.Context, text []byte) (*escrow.Pickup, *escrow.Session, error) {
	item, err := v.seal(ctx, text)
	if err != nil {
		return nil, nil, err
	}
	var secret string
	if err := v.mails(ctx, func(mail string) {
		if m := linkLine.FindStringSubmatch(mail); m != nil && m[1] == item {
			secret = m[2]
		}
	}); err != nil {
		return nil, nil, err
	}
	p, err := v.Pickup(ctx, item, secret)
	if err != nil {
		return nil, nil, err
	}
	if err := v.SendCode(ctx, p, escrow.Client{}); err != nil {
		return nil, nil, err
	}
	var code string
	if err := v.mails(ctx, func(mail string) {
		if m := codeLine.FindStringSubmatch(mail); m != nil {
			code = m[1]
		}
	}); err != nil {
		return nil, nil, err
	}
	g, err := v.Prove(ctx, p, code, escrow.Client{})
	if err != nil {
		return nil, nil, err
	}
	d, err := v.CheckDevice(ctx, p.Tag, g.Token)
	if err != nil {
		return nil, nil, err
	}
	session, err := v.Admit(ctx, p, d)
	return p, session, err
}

// mails empties the outbox.
func (v *vault) mails(ctx context.Context, look func(text string)) error {
	for {
		list, _, err := v.Due(ctx, 50)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			look(string(e.Text))
			if err := v.Sent(ctx, e.ID); err != nil {
				return err
			}
		}
	}
}

// plain does to a text the least that can be done.
type plain struct {
	text, box []byte
	aead      cipher.AEAD
	file      *os.File
}

func newPlain(dir string, text []byte) (*plain, error) {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	p := &plain{text: text}
	if p.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	p.box = make([]byte, 0, len(text)+p.aead.Overhead())
	p.file, err = os.Create(filepath.Join(dir, "plain"))
	return p, err
}

func (p *plain) close() { p.file.Close() }

// encrypt does so in one piece, into memory that is there.
func (p *plain) encrypt() error {
	p.aead.Seal(p.box, make([]byte, p.aead.NonceSize()), p.text, nil)
	return nil
}

// sync writes to the place where it wrote before, in the directory of the database.
func (p *plain) sync() error {
	if _, err := p.file.WriteAt(p.text, 0); err != nil {
		return err
	}
	return p.file.Sync()
}
