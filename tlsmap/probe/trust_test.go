package probe

import "testing"

func TestTrustResolvers(t *testing.T) {
	trusts := TrustResolvers([]string{"192.0.2.53", "2001:db8::53"})
	for server, want := range map[string]bool{
		"127.0.0.1:53": true, "127.0.0.53:53": true, "[::1]:53": true, "[::ffff:127.0.0.1]:53": true,
		"192.0.2.53:53": true, "192.0.2.53:5353": true, "[2001:db8::53]:53": true,
		"192.0.2.54:53": false, "8.8.8.8:53": false, "localhost:53": false, "resolver.example:53": false, "": false,
	} {
		if got := trusts(server); got != want {
			t.Errorf("%q: %t", server, got)
		}
	}
}
