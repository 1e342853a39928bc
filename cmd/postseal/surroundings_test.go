package main

import (
	"strings"
	"testing"

	"github.com/postseal/postseal/contrib/postfix"
)

// An answer with attributes that Postfix does not know would make mail wait for ever.
func TestReportAttributesNeedPostfix310(t *testing.T) {
	for _, tt := range []struct {
		v  postfix.Version
		ok bool
	}{
		{postfix.Version{Major: 2, Minor: 11}, false}, {postfix.Version{Major: 3, Minor: 7, Patch: 11}, false},
		{postfix.Version{Major: 3, Minor: 9}, false}, {postfix.Version{Major: 3, Minor: 10}, true},
		{postfix.Version{Major: 3, Minor: 11, Patch: 1}, true}, {postfix.Version{Major: 4}, true},
	} {
		err := reportsAt(tt.v)
		if (err == nil) != tt.ok {
			t.Errorf("%v: %v", tt.v, err)
		}
		if err != nil && !strings.Contains(err.Error(), "set it off") {
			t.Errorf("%v does not say what to do", err)
		}
	}
}
