package notify

import (
	"bytes"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"
)

func TestOriginalRecipient(t *testing.T) {
	for in, want := range map[string]string{
		"rfc822;a+2Bb@x.example":       "rfc822; a+b@x.example",
		"rfc822;a+0D+0Ab@x.example":    "rfc822; a+0D+0Ab@x.example", // decoded it would be a line of its own
		"rfc822;a+2":                   "rfc822; a+2",
		"utf-8;m\\x{FC}ller@x.example": "utf-8; m\\x{FC}ller@x.example",
		"utf-8;m\u00fcller@x.example":  "utf-8; m\\x{FC}ller@x.example",
		"x400;/c=us/":                  "x400; /c=us/",
		"nothing":                      "unknown; nothing",
	} {
		if got := original(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Whatever a stranger has put into addresses, ids and codes, a report is a header
// and three parts, in lines of ASCII that SMTP carries, and says what it is.
func FuzzReport(f *testing.F) {
	f.Add("pat@old.example", "rfc822;a+2Bb@x.example", "id 1", "one@clinic.example", "x-postseal; no")
	f.Add("p\u00e4t@old.example", "utf-8;m\u00fcller@x.example", "a\r\nAction: delivered", "x>\r\nBcc: <a@b", "smtp; 550\r\n\r\n--report_id--")
	f.Add("\"a b\"@x", ";", "\x00\xff", strings.Repeat("x", 2000), strings.Repeat("y", 2000))
	w := testWriter(f)
	f.Fuzz(func(t *testing.T, recipient, orcpt, envelope, message, diagnostic string) {
		if strings.ContainsAny(recipient, "\r\n") {
			return // an address is parsed before it comes here
		}
		for _, receipt := range []bool{false, true} {
			told := Told{ID: "id", To: "doc@clinic.example", What: "expired", Recipients: []string{recipient}, ItemID: "i", MessageID: message, Sealed: testAt, Created: testAt, Expires: testAt}
			if receipt {
				told.What, told.Receipt = "read", &Receipt{UA: "x; Postseal", Final: recipient, Original: orcpt}
			} else {
				told.Delivery = &Delivery{MTA: "mail.clinic.example", EnvelopeID: envelope, Arrival: testAt, Recipients: []Status{
					{Final: recipient, Original: orcpt, Action: "failed", Code: "5.4.7", Diagnostic: diagnostic},
				}}
			}
			text := w.Tell(told).Text
			for line := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte("\r\n")), []byte("\r\n")) {
				if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") || !ascii(string(line)) {
					t.Fatalf("a line that SMTP does not carry: %.80q", line)
				}
			}
			m, err := mail.ReadMessage(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Header["Bcc"]) > 0 || len(m.Header["To"]) != 1 {
				t.Fatalf("header %v", m.Header)
			}
			parts, n := multipart.NewReader(m.Body, "report_id"), 0
			for {
				p, err := parts.NextPart()
				if err != nil {
					break
				}
				var b bytes.Buffer
				b.ReadFrom(p)
				if n++; n == 2 && (strings.Count("\n"+b.String(), "\nAction: ") != map[bool]int{false: 1}[receipt]) {
					t.Fatalf("the machine reads\n%s", b.String())
				}
			}
			if n < 2 || n > 3 {
				t.Fatalf("%d parts:\n%s", n, text)
			}
		}
	})
}
