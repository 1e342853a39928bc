package lab

import (
	"fmt"

	"github.com/postseal/postseal/internal/lab/fakeweb"
)

// PolicyText returns an MTA-STS policy (RFC 8461, section 3.2) that counts for a
// day.
func PolicyText(mode string, mx ...string) string {
	text := "version: STSv1\r\nmode: " + mode + "\r\n"
	for _, m := range mx {
		text += "mx: " + m + "\r\n"
	}
	return text + "max_age: 86400\r\n"
}

// AddPolicy gives domain an MTA-STS policy: the record of a new id, and the text
// at its policy host. Called again it replaces the policy; see [PolicyText] for a
// text.
func (n *Internet) AddPolicy(domain, text string) error {
	return n.AddSite(domain, fakeweb.Site{Text: text})
}

// AddSite is AddPolicy with a policy host that acts as site says.
func (n *Internet) AddSite(domain string, site fakeweb.Site) error {
	if err := n.SetSite(domain, site); err != nil {
		return err
	}
	n.mu.Lock()
	n.policies++
	id := n.policies
	n.mu.Unlock()
	return n.Record("_mta-sts."+domain, "TXT", fmt.Sprintf(`"v=STSv1; id=id%d;"`, id))
}

// SetSite changes how the policy host of domain acts, and leaves the record as it
// is: without a new id nobody needs to look.
func (n *Internet) SetSite(domain string, site fakeweb.Site) error {
	web, err := n.Web()
	if err != nil {
		return err
	}
	host := "mta-sts." + domain
	web.Set(host, site)
	return n.Record(host, "A", n.webIP)
}

// Web returns the web server of all policy hosts, started at first use on port
// 443 of an address of its own.
func (n *Internet) Web() (*fakeweb.Server, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.web != nil {
		return n.web, nil
	}
	ip := n.nextIP()
	web, err := fakeweb.Start(ip+":443", n.CA)
	if err != nil {
		return nil, err
	}
	n.web, n.webIP = web, ip
	return web, nil
}

// WebDown has every policy host refuse connections, for good.
func (n *Internet) WebDown() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.web == nil {
		return nil
	}
	return n.web.Close()
}
