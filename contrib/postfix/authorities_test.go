package postfix

import (
	"strings"
	"testing"
)

func TestSTSOff(t *testing.T) {
	const maps = "inet:127.0.0.1:8642"
	for _, tt := range []struct{ name, main, master, why string }{
		{"none, as Postfix by itself", "smtp_tls_CAfile =\nsmtp_tls_CApath =\n", "", "no certificate authority"},
		{"a file", "smtp_tls_CAfile = /etc/ca.pem\nsmtp_tls_CApath =\n", "", ""},
		{"a directory", "smtp_tls_CAfile =\nsmtp_tls_CApath = /etc/ssl/certs\n", "", ""},
		{"those of OpenSSL", "smtp_tls_CAfile =\nsmtp_tls_CApath =\ntls_append_default_CA = yes\n", "", ""},
		{"a client of its own", "smtp_tls_CAfile = /etc/ca.pem\nsmtp_tls_CApath =\n", "other unix - - n - - smtp -o smtp_tls_CAfile=\n", "other/unix"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := config(t, tt.main, tt.master)
			setup(t, p, options(t))
			why, err := p.STSOff(t.Context(), maps)
			if err != nil || (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
				t.Errorf("got %q, %v, want %q", why, err, tt.why)
			}
		})
	}
	p := config(t, "smtp_tls_CAfile =\nsmtp_tls_CApath =\n", "") // not set up: nobody asks
	if why, err := p.STSOff(t.Context(), maps); err != nil || why != "" {
		t.Errorf("%q, %v", why, err)
	}
}
