package e2e

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab"
)

// TestGermanAndBranded is a rule's language and a folder of the sender's brand, from
// the notice as it arrived to the pages in Chromium, whose own language is English.
func TestGermanAndBranded(t *testing.T) {
	const logo = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 44 44"><circle cx="22" cy="22" r="20" fill="#00695c"/></svg>`
	dir := t.TempDir()
	home := filepath.Join(dir, "own.example")
	for name, text := range map[string]string{
		"logo.svg": logo,
		"brand.toml": `name = "Clinic Example"
[colours.light]
main = "#00695c"
[colours.dark]
main = "#80cbc4"
[texts.de]
name = "Klinik Beispiel"
intro = "Sie haben eine Nachricht der Klinik Beispiel."
footer = "Klinik Beispiel, Musterweg 1"
`,
	} {
		if err := os.MkdirAll(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := newScene(t, lab.Options{Verify: "account", Env: []string{"POSTSEAL_BRAND_DIR=" + dir}, Rules: []string{"domain add plain.example --require encryption --language de"}})
	m := s.letter(doctor, "the result", patient)
	got, link := s.notice(patient, 0)
	subject, text := plainly(t, got.Data)
	if subject != "Geschützte Nachricht von "+doctor || !strings.Contains(text, "Sie haben eine Nachricht") || !strings.Contains(string(got.Data), "\r\nFrom: \"Klinik Beispiel\"") {
		t.Errorf("the notice is %q:\n%s", subject, got.Data)
	}

	p := newPerson(t)
	p.open(link)
	p.sees("Eine geschützte Nachricht für Sie", "Sie haben eine Nachricht der Klinik Beispiel.", "Musterweg 1", "Code zusenden")
	p.seesNot("protected message", "Protected message", m.mark)
	s.looksBranded(p, logo)
	seen := len(s.Received())
	p.press(askForCode)
	p.fill("#answer", s.codeAfter(patient, seen))
	if _, text := plainly(t, s.Received()[seen].Data); !strings.Contains(text, "Code") || strings.Contains(text, "The code") {
		t.Errorf("the mail with the code is not German:\n%s", text)
	}
	p.fill("#password", lab.Password)
	p.press(enrolButton)
	p.sees("the result", m.mark, "Antworten", "Klinik Beispiel")
	s.looksBranded(p, logo)
}

// looksBranded checks that the page is German and shows the logo, from within itself.
func (s *scene) looksBranded(p *person, logo string) {
	s.t.Helper()
	look, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](`(i => [document.documentElement.lang, i ? i.src : "", i ? i.alt : "", String(!!i && i.complete && i.naturalWidth > 0)])(document.querySelector("img.logo"))`))
	s.check(err)
	src, _ := strings.CutPrefix(look[1], "data:image/svg+xml;base64,")
	picture, err := base64.StdEncoding.DecodeString(src)
	if look[0] != "de" || look[2] != "Klinik Beispiel" || look[3] != "true" || err != nil || string(picture) != logo {
		s.t.Errorf("the page is in %q, its logo %q with the text %q (shown: %s)", look[0], look[1], look[2], look[3])
	}
}
