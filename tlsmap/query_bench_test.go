package tlsmap

import "testing"

// BenchmarkQuery is an answer without its network.
func BenchmarkQuery(b *testing.B) {
	s, _ := newServer(b, standardWorld(), nil)
	for _, q := range [][2]string{{MapTransport, "x@plain.example"}, {MapTransport, "x@clinic.example"}, {MapTLSPolicy, "plain.example"}, {MapSecureTLSPolicy, "plain.example"}} {
		b.Run(q[0]+" "+q[1], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Query(b.Context(), q[0], q[1])
			}
		})
	}
}
