package scan

import (
	"fmt"
	"slices"
	"strings"
)

// Suite is a cipher suite that the host chose when it was asked.
type Suite struct {
	ID   string `json:"id"`   // such as 0xc02f
	Name string `json:"name"` // of the IANA registry
	// KeyExchange is what the host used: a named group, or DHE with its size; "" for
	// a key transport, and in TLS 1.3, where it is chosen apart from the suite.
	KeyExchange string   `json:"key_exchange,omitempty"`
	Strength    Strength `json:"strength"`
	Why         string   `json:"why,omitempty"` // where it is not strong

	Number uint16 `json:"-"`
	// DHBits is the size of the prime of a finite field, 0 where there is none.
	DHBits int `json:"-"`
}

// Strength sorts cipher suites.
type Strength string

// The strengths, worst first.
const (
	Insecure Strength = "insecure" // can be broken, or hides nothing
	Weak     Strength = "weak"     // should not be offered any more
	Fair     Strength = "fair"     // no known attack, but better is there
	Strong   Strength = "strong"   // forward secret, with authenticated encryption
)

// NewSuite describes a suite. group is the group or prime of its key exchange as the
// host sent it, dhBits the size of the prime, 0 where there was none.
func NewSuite(id uint16, group string, dhBits int) Suite {
	s := Suite{ID: fmt.Sprintf("0x%04x", id), Name: SuiteName(id), Number: id, KeyExchange: group, DHBits: dhBits}
	s.Strength, s.Why = judge(s.Name, dhBits)
	return s
}

// SuiteName returns the name of the IANA registry, or the number where there is none
// here.
func SuiteName(id uint16) string {
	if n, ok := suiteNames[id]; ok {
		return n
	}
	return fmt.Sprintf("0x%04x", id)
}

func judge(name string, dhBits int) (Strength, string) {
	if dhBits > 0 && dhBits < 1024 {
		return Insecure, fmt.Sprintf("key exchange with a prime of %d bits", dhBits)
	}
	for _, bad := range []struct{ part, why string }{
		{"_NULL_", "no encryption"},
		{"_EXPORT", "export cipher"},
		{"_RC4_", "RC4 (RFC 7465)"},
		{"_RC2_", "RC2"},
		{"_DES_", "DES"},
		{"_DES40_", "DES"},
	} {
		if strings.Contains(name, bad.part) {
			return Insecure, bad.why
		}
	}
	switch {
	case strings.Contains(name, "_anon_"):
		return Weak, "no certificate: nobody is authenticated"
	case strings.Contains(name, "_3DES_"):
		return Weak, "3DES, a block of 64 bits"
	case strings.Contains(name, "_IDEA_"):
		return Weak, "IDEA, a block of 64 bits"
	case dhBits > 0 && dhBits < 2048:
		return Weak, fmt.Sprintf("key exchange with a prime of %d bits", dhBits)
	case !forwardSecret(name):
		return Weak, "no forward secrecy"
	case strings.Contains(name, "_CBC_"):
		return Fair, "CBC"
	case strings.HasSuffix(name, "_CCM_8") || strings.HasSuffix(name, "_CCM_8_SHA256"):
		return Fair, "a tag of 64 bits"
	}
	return Strong, ""
}

// forwardSecret reports whether keys of one session do not follow from the host's own
// key. All suites of TLS 1.3 are.
func forwardSecret(name string) bool {
	return strings.HasPrefix(name, "TLS_ECDHE_") || strings.HasPrefix(name, "TLS_DHE_") || !strings.Contains(name, "_WITH_")
}

// suites13 reports whether a suite is of TLS 1.3 (RFC 8446, appendix B.4).
func suites13(id uint16) bool { return id>>8 == 0x13 }

// offered returns the suites to ask for by a version, strongest first, so that a host
// that goes by the client's order is seen by what is best in it.
func offered(version uint16) []uint16 {
	var ids []uint16
	for id, name := range suiteNames {
		switch {
		case suites13(id) != (version == TLS13):
			continue
		case version < TLS12 && !strings.HasSuffix(name, "_SHA") && !strings.HasSuffix(name, "_MD5"):
			continue // of TLS 1.2 alone
		}
		ids = append(ids, id)
	}
	rank := map[Strength]int{Strong: 0, Fair: 1, Weak: 2, Insecure: 3}
	slices.SortFunc(ids, func(a, b uint16) int {
		sa, _ := judge(suiteNames[a], 0)
		sb, _ := judge(suiteNames[b], 0)
		if d := rank[sa] - rank[sb]; d != 0 {
			return d
		}
		return int(b) - int(a) // the newer are the higher
	})
	return ids
}

// group is a group of key exchange (the registry of supported groups).
type group struct {
	id   uint16
	name string
}

// groups are those that can be asked for, the hybrids with ML-KEM first.
var groups = []group{
	{0x11ec, "X25519MLKEM768"},
	{0x11eb, "SecP256r1MLKEM768"},
	{0x11ed, "SecP384r1MLKEM1024"},
	{0x6399, "X25519Kyber768Draft00"},
	{0x0201, "MLKEM768"},
	{0x0202, "MLKEM1024"},
	{0x0200, "MLKEM512"},
	{0x001d, "X25519"},
	{0x0017, "P-256"},
	{0x0018, "P-384"},
	{0x0019, "P-521"},
	{0x001e, "X448"},
	{0x001f, "brainpoolP256r1tls13"},
	{0x0020, "brainpoolP384r1tls13"},
	{0x0021, "brainpoolP512r1tls13"},
	{0x0100, "ffdhe2048"},
	{0x0101, "ffdhe3072"},
	{0x0102, "ffdhe4096"},
	{0x0103, "ffdhe6144"},
	{0x0104, "ffdhe8192"},
}

// older are the curves of TLS 1.2 and below that TLS 1.3 has not (RFC 8422).
var older = []group{
	{0x0016, "secp256k1"},
	{0x001a, "brainpoolP256r1"},
	{0x001b, "brainpoolP384r1"},
	{0x001c, "brainpoolP512r1"},
	{0x0015, "P-224"},
	{0x0013, "P-192"},
	{0x000e, "sect571r1"},
	{0x000c, "sect409r1"},
	{0x000a, "sect283r1"},
}

func groupName(id uint16) string {
	for _, list := range [][]group{groups, older} {
		for _, g := range list {
			if g.id == id {
				return g.name
			}
		}
	}
	return fmt.Sprintf("0x%04x", id)
}

// PostQuantum reports whether a group resists a quantum computer.
func PostQuantum(name string) bool {
	return strings.Contains(name, "MLKEM") || strings.Contains(name, "Kyber")
}
