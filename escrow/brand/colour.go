package brand

import (
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Stylesheet is the palette of the pages as they come, in CSS: custom properties
// of two colour schemes. It goes before the rules that use them.
//
//go:embed palette.css
var Stylesheet string

// Colour is an sRGB colour.
type Colour [3]uint8

// ParseColour reads #rrggbb, or #rgb.
func ParseColour(s string) (Colour, error) {
	var c Colour
	hex, ok := strings.CutPrefix(s, "#")
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	n, err := strconv.ParseUint(hex, 16, 32)
	if !ok || len(hex) != 6 || err != nil {
		return c, fmt.Errorf("%q is not a colour: want #rrggbb", s)
	}
	return Colour{uint8(n >> 16), uint8(n >> 8), uint8(n)}, nil
}

func (c Colour) String() string { return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2]) }

// luminance is the relative luminance (WCAG 2.2, definitions), from 0 to 1.
func (c Colour) luminance() float64 {
	var l [3]float64
	for i, v := range c {
		if s := float64(v) / 255; s <= 0.04045 {
			l[i] = s / 12.92
		} else {
			l[i] = math.Pow((s+0.055)/1.055, 2.4)
		}
	}
	return 0.2126*l[0] + 0.7152*l[1] + 0.0722*l[2]
}

// mix moves c towards other by a share of 0 to 1.
func (c Colour) mix(other Colour, share float64) Colour {
	for i := range c {
		c[i] = uint8(math.Round(float64(c[i])*(1-share) + float64(other[i])*share))
	}
	return c
}

// Contrast returns the contrast ratio of two colours (WCAG 2.2, definitions), from
// 1 to 21.
func Contrast(a, b Colour) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// Contrasts that WCAG 2.2 AA wants.
const (
	forText = 4.5 // criterion 1.4.3
	forPart = 3.0 // criterion 1.4.11: borders of fields, focus, what a control is known by
)

// Palette are the colours of one scheme, by custom property without its dashes.
type Palette map[string]Colour

// pairs are all colours that stand on another one, and the contrast they need.
var pairs = []struct {
	over, under string
	least       float64
}{
	{"text", "card", forText}, {"text", "page", forText}, {"text", "good", forText}, {"text", "bad", forText},
	{"soft", "card", forText}, {"soft", "page", forText}, {"soft", "good", forText}, {"soft", "bad", forText},
	{"link", "card", forText}, {"link", "page", forText}, {"link", "good", forText}, {"link", "bad", forText},
	{"onmain", "main", forText}, {"onmain", "hover", forText},
	{"badtext", "card", forText}, {"badtext", "page", forText}, {"badtext", "bad", forText},
	{"main", "card", forPart}, {"main", "page", forPart}, {"hover", "card", forPart},
	{"focus", "card", forPart}, {"focus", "page", forPart}, {"focus", "main", 1},
	{"badline", "card", forPart}, {"badline", "bad", forPart}, {"goodline", "good", forPart},
}

// Faint lists the pairs of a palette whose contrast is too low, as messages that
// begin with the names of both.
func (p Palette) Faint() (list []Fault) {
	for _, pair := range pairs {
		a, okA := p[pair.over]
		b, okB := p[pair.under]
		if !okA || !okB {
			list = append(list, Fault{pair.over, pair.under, "there is no such colour"})
			continue
		}
		if c := Contrast(a, b); c < pair.least {
			list = append(list, Fault{pair.over, pair.under, fmt.Sprintf("%s on %s %s has a contrast of %.2f, want at least %g (WCAG 2.2 AA)", a, pair.under, b, c, pair.least)})
		}
	}
	return list
}

// Fault is a pair of colours that can't be told apart well.
type Fault struct{ Over, Under, What string }

var (
	scheme   = regexp.MustCompile(`:root\{([^}]*)\}`)
	property = regexp.MustCompile(`--([a-z]+):(#[0-9a-f]{3,6})(?:;|$)`)
)

// Palettes reads the palettes of a stylesheet such as [Stylesheet]: the first is
// the light one, the second the dark one.
func Palettes(css string) (light, dark Palette, err error) {
	blocks := scheme.FindAllStringSubmatch(css, 2)
	if len(blocks) != 2 {
		return nil, nil, fmt.Errorf("%d colour schemes, want 2", len(blocks))
	}
	var both [2]Palette
	for i, b := range blocks {
		both[i] = Palette{}
		for _, m := range property.FindAllStringSubmatch(b[1], -1) {
			if both[i][m[1]], err = ParseColour(m[2]); err != nil {
				return nil, nil, err
			}
		}
	}
	return both[0], both[1], nil
}

// colours are those that a brand may set.
var colours = []string{"main", "onmain", "hover", "link", "page", "card", "text", "soft", "line", "focus"}

// with returns the palette with a brand's colours, and those alone. What follows
// from main is found where the brand does not say: the text on it, its shade under
// the pointer, links.
func (p Palette) with(set Palette) (all, changed Palette) {
	all, changed = Palette{}, Palette{}
	for k, c := range p {
		all[k] = c
	}
	put := func(k string, c Colour) { all[k], changed[k] = c, c }
	for k, c := range set {
		put(k, c)
	}
	if main, ok := set["main"]; ok {
		derive := func(k string, c Colour) {
			if _, told := set[k]; !told {
				put(k, c)
			}
		}
		white, black := Colour{255, 255, 255}, Colour{17, 17, 17}
		on := white
		if Contrast(black, main) > Contrast(white, main) {
			on = black
		}
		derive("onmain", on)
		// Away from the text on it, so that this stays readable.
		away := black
		if all["onmain"].luminance() < main.luminance() {
			away = white
		}
		derive("hover", main.mix(away, 0.25))
		derive("link", main)
	}
	return all, changed
}

// css writes what differs in two palettes as custom properties. Each in its own
// scheme: a rule for both would, coming later, overrule the dark palette of the pages.
func css(light, dark Palette) template.CSS {
	var b strings.Builder
	for _, scheme := range []struct {
		name string
		p    Palette
	}{{"light", light}, {"dark", dark}} {
		if len(scheme.p) == 0 {
			continue
		}
		b.WriteString("@media (prefers-color-scheme:" + scheme.name + "){:root{")
		for i, k := range slices.Sorted(maps.Keys(scheme.p)) {
			if i > 0 {
				b.WriteByte(';')
			}
			b.WriteString("--" + k + ":" + scheme.p[k].String())
		}
		b.WriteString("}}")
	}
	return template.CSS(b.String())
}
