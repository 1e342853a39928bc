package intake

import (
	"errors"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// maxAddress is the longest address that is taken, in bytes, quoted: a command with
// it must fit into a line that Postfix reads (line_length_limit, 2048).
const maxAddress = 1800

var errAddress = errors.New("the address can't be written in a command again")

// fromWire reads an address as go-smtp hands it over: the local part without its
// quotes, the last @ before the domain. Its String is quoted again. An address
// that would not come back as it is, is an error: it might break out of the
// command that it is put into, or be decided as one address and delivered to
// another.
func fromWire(s string) (policy.Address, error) {
	if s == "" {
		return policy.Address{}, nil
	}
	i := strings.LastIndexByte(s, '@')
	if i < 1 || i == len(s)-1 {
		return policy.Address{}, errAddress
	}
	a := policy.Address{Local: s[:i], Domain: policy.CanonicalDomain(s[i+1:])}
	back, err := policy.ParseAddress(a.String())
	if err != nil {
		return policy.Address{}, err
	}
	if back != a || a.Domain == "" || len(a.String()) > maxAddress {
		return policy.Address{}, errAddress
	}
	return a, nil
}
