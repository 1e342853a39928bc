package probe

import (
	"context"
	"slices"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

func TestMatchSTS(t *testing.T) {
	for _, tt := range []struct {
		pattern, host string
		want          bool
	}{
		// RFC 8461, section 4.1.
		{"*.example.com", "mail.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "foo.bar.example.com", false},
		{"mail.example.com", "mail.example.com", true},
		{"mail.example.com", "mail2.example.com", false},
		{"mail.example.com", "a.mail.example.com", false},
		{"*.example.com", "mail.example.com.evil.example", false},
		{"*.example.com", "mailexample.com", false},
		{"*.example.com", ".example.com", false},
		{"*.com", "example.com", true},
		{"example.com", "", false},
		{"*.", "a.", false},
		{"*.", "a", false},
		{"", "", false},
	} {
		if got := MatchSTS(tt.pattern, tt.host); got != tt.want {
			t.Errorf("MatchSTS(%q, %q) = %v", tt.pattern, tt.host, got)
		}
	}
}

// stsSource answers with what is kept until it is told to refresh.
type stsSource struct {
	kept, fresh *STSResult
	refreshed   int
}

func (s *stsSource) Policy(context.Context, string) *STSResult { return s.kept }

func (s *stsSource) Refresh(context.Context, string) *STSResult {
	s.refreshed++
	return s.fresh
}

func TestMXHostsAndTheirPolicy(t *testing.T) {
	enforce := func(mx ...string) *STSResult { return &STSResult{State: policy.STSEnforce, MX: mx} }
	for _, tt := range []struct {
		name        string
		kept, fresh *STSResult
		match       []*bool // of mx1.a.example and old.b.example
		refreshed   int
		patterns    []string
	}{
		{"all match", enforce("*.a.example", "old.b.example"), nil, []*bool{new(true), new(true)}, 0, []string{".a.example", "old.b.example"}},
		{"one does not", enforce("*.a.example"), enforce("*.a.example"), []*bool{new(true), new(false)}, 1, []string{".a.example"}},
		{"moved with its policy", enforce("mx.old.example"), enforce("mx1.a.example", "*.b.example"), []*bool{new(true), new(true)}, 1, []string{"mx1.a.example", ".b.example"}},
		{"policy withdrawn", enforce("mx.old.example"), &STSResult{State: policy.STSNone}, []*bool{nil, nil}, 1, nil},
		{"nothing new in time", enforce("mx.old.example"), &STSResult{State: policy.STSUnknown}, []*bool{new(false), new(false)}, 1, []string{"mx.old.example"}},
		{"none", &STSResult{State: policy.STSNone}, nil, []*bool{nil, nil}, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "d.example. 60 IN MX 10 mx1.a.example.", "d.example. 60 IN MX 20 old.b.example.",
				"mx1.a.example. 60 IN A 192.0.2.1", "old.b.example. 60 IN A 192.0.2.2")
			source := &stsSource{kept: tt.kept, fresh: tt.fresh}
			r := w.prober(func(o *Options) { o.STS = source }).Discover(t.Context(), "d.example")
			for i, want := range tt.match {
				got := r.MX[i].STSMatch
				if (got == nil) != (want == nil) || got != nil && *got != *want {
					t.Errorf("%s: wrong STSMatch", r.MX[i].Host)
				}
			}
			if source.refreshed != tt.refreshed {
				t.Errorf("refreshed %d times, want %d", source.refreshed, tt.refreshed)
			}
			if got := r.published().STSMatch; !slices.Equal(got, tt.patterns) {
				t.Errorf("match=%v, want %v", got, tt.patterns)
			}
		})
	}
}
