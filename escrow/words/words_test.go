package words

import "testing"

func TestText(t *testing.T) {
	if got := For("de-CH").T("layout.brand"); got == "" || got == "layout.brand" {
		t.Errorf("no text: %q", got)
	}
}
