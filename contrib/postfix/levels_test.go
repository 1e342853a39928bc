package postfix

import "testing"

func TestOwnTLSLevel(t *testing.T) {
	const maps = "inet:127.0.0.1:8642"
	for _, tt := range []struct{ name, main, master, want string }{
		{"as setup leaves it", "", "", ""},
		{"main.cf's", "smtp_tls_security_level = encrypt\n", "", ""},
		{"one", "", "tlsonly unix - - n - - smtp -o smtp_tls_security_level=encrypt\n", "encrypt"},
		{"the strongest", "", "a unix - - n - - smtp -o smtp_tls_security_level=secure\nb unix - - n - - smtp -o smtp_tls_security_level=encrypt\n", "secure"},
		{"above main.cf's", "smtp_tls_security_level = encrypt\n", "a unix - - n - - smtp -o smtp_tls_security_level=verify\n", "verify"},
		{"not mandatory", "smtp_tls_security_level =\n", "a unix - - n - - smtp -o smtp_tls_security_level=dane\n", ""},
		{"another map", "", "a unix - - n - - smtp -o smtp_tls_security_level=encrypt -o smtp_tls_policy_maps=\n", ""},
		{"the map that never answers below", "", "a unix - - n - - smtp -o smtp_tls_security_level=encrypt -o smtp_tls_policy_maps=socketmap:" + maps + ":secure-tls-policy\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := config(t, tt.main, tt.master)
			setup(t, p, options(t))
			if got, err := p.OwnTLSLevel(t.Context(), maps); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
