package escrow

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func FuzzInspect(f *testing.F) {
	f.Add("doc@clinic.example", []byte("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nFrom: Doc <doc@clinic.example>\r\nMessage-ID: <a@b>\r\nDisposition-Notification-To: Doc <DOC@clinic.example>\r\n\r\n"))
	f.Add("", []byte("Disposition-Notification-To: <>\r\nDate: x\r\n\r\n"))
	f.Add("a@b.example", []byte("Disposition-Notification-To: g:a@b.example,(c)a@b.example;\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sender string, raw []byte) {
		a := inspect(Message{Sender: sender, Body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }})
		plain, err := json.Marshal(a.summary)
		if err != nil || len(plain) > 16<<10 {
			t.Fatalf("%d bytes, %v", len(plain), err)
		}
		if strings.ContainsAny(a.messageID, " \r\n<>") || a.receipt && sender == "" {
			t.Fatalf("%+v", a)
		}
	})
}
