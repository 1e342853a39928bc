package brand

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	maxLogo  = 16 << 10 // bytes: a page stays below 50 kB with it
	maxWidth = 1024     // pixels of either side of a PNG
)

// readLogo reads a logo and returns it as a data: URL.
func readLogo(path string) (template.URL, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a file")
	}
	if info.Size() > maxLogo {
		return "", fmt.Errorf("the logo has %d bytes, want at most %d", info.Size(), maxLogo)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	mediaType := ""
	switch filepath.Base(path) {
	case "logo.svg":
		mediaType, err = "image/svg+xml", checkSVG(data)
	case "logo.png":
		mediaType, err = "image/png", checkPNG(data)
	default:
		err = errors.New("a logo is logo.svg or logo.png")
	}
	if err != nil {
		return "", err
	}
	return template.URL("data:" + mediaType + ";base64," + base64.StdEncoding.EncodeToString(data)), nil
}

// checkPNG wants an image that decodes, of a size that does no harm.
func checkPNG(data []byte) error {
	c, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not a PNG image: %w", err)
	}
	if c.Width > maxWidth || c.Height > maxWidth {
		return fmt.Errorf("the image is %d x %d pixels, want at most %d each", c.Width, c.Height, maxWidth)
	}
	if _, err := png.Decode(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("not a PNG image: %w", err)
	}
	return nil
}

// svgElements and svgAttributes are what a still picture needs (SVG 1.1 and 2).
// Browsers neither run scripts of an image nor load what it refers to; this keeps
// the file harmless wherever else it is opened.
var (
	svgElements = set(`svg g defs title desc symbol use path rect circle ellipse line polyline polygon text tspan
		linearGradient radialGradient stop clipPath mask pattern marker style metadata`)
	svgAttributes = set(`id class style transform version viewBox preserveAspectRatio width height x y x1 y1 x2 y2 cx cy r rx ry fx fy d points
		offset fill fill-rule fill-opacity stroke stroke-width stroke-linecap stroke-linejoin stroke-miterlimit stroke-dasharray
		stroke-dashoffset stroke-opacity opacity color clip-path clip-rule clipPathUnits mask maskUnits maskContentUnits
		gradientUnits gradientTransform spreadMethod patternUnits patternTransform patternContentUnits stop-color stop-opacity
		font-family font-size font-weight font-style text-anchor letter-spacing dominant-baseline dx dy textLength lengthAdjust
		markerWidth markerHeight markerUnits refX refY orient marker-start marker-mid marker-end overflow visibility display
		enable-background shape-rendering vector-effect paint-order role aria-label aria-hidden lang space baseProfile data-name`)
)

const (
	svgSpace   = "http://www.w3.org/2000/svg"
	xlinkSpace = "http://www.w3.org/1999/xlink"
	xmlSpace   = "http://www.w3.org/XML/1998/namespace"
	maxDepth   = 64
)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

// checkSVG wants a picture and nothing else: no script, no foreign content, nothing
// that refers to another file, no entities.
func checkSVG(data []byte) error {
	d := xml.NewDecoder(bytes.NewReader(data))
	d.CharsetReader = func(string, io.Reader) (io.Reader, error) {
		return nil, errors.New("want UTF-8")
	}
	var open []string
	sized, seen := false, false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("not an SVG image: %w", err)
		}
		switch t := token.(type) {
		case xml.ProcInst:
			if t.Target != "xml" {
				return fmt.Errorf("the instruction <?%s?> is not taken: save it as plain SVG", t.Target)
			}
		case xml.Directive:
			return errors.New("a document type or entities are not taken: save it as plain SVG, without DOCTYPE")
		case xml.StartElement:
			name := t.Name.Local
			if t.Name.Space != svgSpace || !svgElements[name] {
				return fmt.Errorf("the element %s is not taken: save it as plain SVG", name)
			}
			if len(open) == 0 && (seen || name != "svg") {
				return errors.New("not an SVG image: its root is not svg")
			}
			if len(open) >= maxDepth {
				return errors.New("elements within elements, too deep")
			}
			seen, open = true, append(open, name)
			has := map[string]bool{}
			for _, a := range t.Attr {
				if err := checkAttribute(a); err != nil {
					return err
				}
				has[a.Name.Local] = true
			}
			if len(open) == 1 {
				sized = has["viewBox"] || has["width"] && has["height"]
			}
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 && open[len(open)-1] == "style" {
				if err := checkStyle(string(t)); err != nil {
					return err
				}
			}
		}
	}
	if !seen {
		return errors.New("not an SVG image: there is nothing in it")
	}
	if !sized {
		return errors.New("the image has no size: its root wants a viewBox")
	}
	return nil
}

func checkAttribute(a xml.Attr) error {
	name := a.Name.Local
	switch {
	case a.Name.Space == "xmlns" || a.Name.Space == "" && name == "xmlns":
		return nil
	case name == "href" && (a.Name.Space == "" || a.Name.Space == xlinkSpace):
		if !strings.HasPrefix(a.Value, "#") {
			return fmt.Errorf("the reference %.40q is not taken: a logo holds all that it shows", a.Value)
		}
		return nil
	case a.Name.Space != "" && a.Name.Space != xmlSpace || !svgAttributes[name]:
		return fmt.Errorf("the attribute %s is not taken: save it as plain SVG", name)
	}
	return checkStyle(a.Value)
}

// checkStyle refuses CSS that could load something. Escapes and comments could hide
// it, and no picture needs them.
func checkStyle(s string) error {
	lower := strings.ToLower(s)
	if strings.Contains(s, `\`) || strings.Contains(s, "/*") || strings.Contains(s, "@") {
		return fmt.Errorf("the style %.40q is not taken: no escapes, comments or @rules", s)
	}
	for _, bad := range []string{"javascript:", "data:", "http:", "https:", "expression(", "image-set(", "image(", "src("} {
		if strings.Contains(lower, bad) {
			return fmt.Errorf("%q is not taken: a logo holds all that it shows", bad)
		}
	}
	for rest := lower; ; {
		_, after, ok := strings.Cut(rest, "url(")
		if !ok {
			return nil
		}
		if !strings.HasPrefix(strings.TrimLeft(after, `"' `), "#") {
			return fmt.Errorf("the reference %.40q is not taken: a logo holds all that it shows", after)
		}
		rest = after
	}
}
