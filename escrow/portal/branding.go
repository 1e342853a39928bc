package portal

import (
	"html/template"
	"strings"

	"github.com/postseal/postseal/escrow/brand"
)

// brandView is a brand on a page.
type brandView struct {
	brand.Texts
	Logo  template.URL
	Style template.HTML // element, "" for none
	Mail  string
	Phone string
	Tel   template.URL // to call
}

func viewBrand(b *brand.Brand, language string) *brandView {
	if b == nil {
		return nil
	}
	v := &brandView{Texts: b.Texts(language), Logo: b.Logo, Mail: b.Mail, Phone: b.Phone}
	if b.Style != "" {
		v.Style = template.HTML("<style>" + string(b.Style) + "</style>")
	}
	if b.Phone != "" {
		v.Tel = template.URL("tel:" + strings.Map(func(r rune) rune {
			if '0' <= r && r <= '9' || r == '+' {
				return r
			}
			return -1
		}, b.Phone))
	}
	return v
}
