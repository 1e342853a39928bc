package postfix

import (
	"slices"
	"strings"
	"testing"
)

func TestDANEOff(t *testing.T) {
	const maps = "inet:127.0.0.1:8642"
	tests := []struct {
		name, before string // main.cf before setup
		dane         bool
		after        string // behind setup's work
		why          string
	}{
		{"as setup leaves it", "", true, "", ""},
		{"setup without DANE", "", false, "", "smtp_dns_support_level is"},
		{"the administrator's value is replaced", "smtp_dns_support_level = enabled\n", true, "", ""},
		{"DNS first, then the system's names", "smtp_host_lookup = dns, native\n", true, "", ""},
		{"the system's names alone", "smtp_host_lookup = native\n", true, "", "smtp_dns_support_level is"},
		{"no DNS", "smtp_dns_support_level = disabled\n", true, "", "smtp_dns_support_level is \"disabled\""},
		{"no DNS, the old way", "disable_dns_lookups = yes\n", true, "", "smtp_dns_support_level is"},
		{"changed by hand", "", true, "smtp_dns_support_level =\n", "smtp_dns_support_level is"},
		{"errors passed by", "", true, "ignore_mx_lookup_error = yes\n", "ignore_mx_lookup_error"},
		{"names completed", "", true, "smtp_dns_resolver_options = res_dnsrch\n", "res_dnsrch"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := config(t, tt.before, "")
			before := read(t, p, "main.cf")
			o := options(t)
			o.DANE = tt.dane
			setup(t, p, o)
			override(t, p, "main.cf", tt.after)
			age(t, p)
			why, err := p.DANEOff(t.Context(), maps)
			if err != nil || (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
				t.Errorf("got %q, %v, want %q", why, err, tt.why)
			}
			if tt.after != "" {
				return
			}
			if err := p.Undo(t.Context(), UndoOptions{}); err != nil {
				t.Fatal(err)
			}
			if after := read(t, p, "main.cf"); after != before {
				t.Errorf("main.cf after undo:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	t.Run("not set up", func(t *testing.T) {
		p := config(t, "", "")
		if why, err := p.DANEOff(t.Context(), maps); err != nil || why != "" {
			t.Errorf("%q, %v", why, err)
		}
	})
	t.Run("a client of the administrator's that asks us", func(t *testing.T) {
		p := config(t, "", "other unix - - n - - smtp -o smtp_dns_support_level=enabled\n")
		setup(t, p, options(t))
		if why, err := p.DANEOff(t.Context(), maps); err != nil || !strings.Contains(why, "other/unix") {
			t.Errorf("%q, %v", why, err)
		}
	})
}

func TestResolverFiles(t *testing.T) {
	p := config(t, "", "")
	files, err := p.ResolverFiles(t.Context())
	if err != nil || !slices.Contains(files, "/etc/resolv.conf") {
		t.Error(files, err)
	}
	p = config(t, "", "jailed unix - - y - - smtp\n")
	if files, err = p.ResolverFiles(t.Context()); err != nil || len(files) != 2 || !strings.HasSuffix(files[1], "/queue/etc/resolv.conf") {
		t.Error(files, err)
	}
}
