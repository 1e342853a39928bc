package portal

import (
	"encoding/base64"
	"strings"
)

// crlf writes a message as it comes by SMTP.
func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// dot is a red PNG of one pixel.
const dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

const plainLetter = `From: Dr. Ann Doe <doc@clinic.example>
To: Jane Roe <jane.roe@old.example>
Subject: Your results
Date: Tue, 24 Nov 2026 14:05:00 +0100
Message-ID: <1@clinic.example>

Dear Jane,

all values are as they should be. See https://clinic.example/info.
`

// fullLetter has what real mail has: alternatives, an inline image, attachments.
var fullLetter = `From: =?utf-8?q?Dr=2E_Ann_Do=C3=A9?= <doc@clinic.example>
To: Jane Roe <jane.roe@old.example>
Cc: =?utf-8?b?UHJheGlz?= <office@clinic.example>
Subject: =?utf-8?q?Befund_f=C3=BCr_Jane?=
Date: Tue, 24 Nov 2026 14:05:00 +0100
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="outer"

This is a multi-part message in MIME format.
--outer
Content-Type: multipart/alternative; boundary="alt"

--alt
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Liebe Jane,

die Werte sind gut. Gr=FC=DFe!

Termine: https://clinic.example/termine
--alt
Content-Type: multipart/related; boundary="rel"

--rel
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<html><head><style>p{color:red}</style><title>x</title></head><body style="color:#222">
<h1>Liebe Jane,</h1><p style="color:#0a5">die Werte sind <b>gut</b>. Grüße!</p>
<p><img src="cid:logo@clinic" alt="Logo" width="48" height="48"><img src="http://127.0.0.1:1/spy.png" alt="spy"></p>
<table border="1" cellpadding="6"><tr><th>Wert</th><th>Ergebnis</th></tr><tr><td>CRP</td><td>0,4 mg/l</td></tr><tr><td>Hb</td><td>14,1 g/dl</td></tr></table>
<p><a href="https://clinic.example/termine">Termine</a></p><script>fetch("http://127.0.0.1:1/")</script></body></html>
--rel
Content-Type: image/png; name=logo.png
Content-ID: <logo@clinic>
Content-Disposition: inline; filename=logo.png
Content-Transfer-Encoding: base64

` + dot + `
--rel--
--alt--
--outer
Content-Type: application/pdf; name="Befund 2026.pdf"
Content-Disposition: attachment; filename*=utf-8''Befund%20f%C3%BCr%20Jane.pdf
Content-Transfer-Encoding: base64

` + b64("%PDF-1.4 not really"+strings.Repeat(".", 400)) + `
--outer
Content-Type: text/html; name=evil.html
Content-Disposition: attachment; filename="../../evil.html"

<script>alert(1)</script>
--outer
Content-Type: message/rfc822
Content-Disposition: attachment

From: a@b.example
Subject: inner

inner text
--outer--
epilogue
`
