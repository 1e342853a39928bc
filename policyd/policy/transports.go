package policy

// The names of the delivery transports that Postseal adds to Postfix's
// master.cf.
const (
	SecureTransport = "securesmtp" // mandatory TLS, hands over to the fallback when it fails
	ForcedTransport = "forcedsmtp" // mandatory TLS, no fallback
	EscrowTransport = "escrow"     // LMTP to the splitter
	NoticeTransport = "noticesmtp" // opportunistic TLS, past every rule; our own notices only
)

// Splitter holds the next-hops of the escrow transport, as Postfix writes
// them (inet:127.0.0.1:8643, unix:path), one for each requirement that the
// listener behind it adds.
type Splitter struct {
	Decide     string // adds nothing: decides anew by rules and subject
	Encryption string
	Forced     string // tls
	Escrow     string
}

// Transport returns transport:next-hop of the listener for r.
func (s Splitter) Transport(r Requirement) string {
	hop := s.Decide
	switch r {
	case ForcedTLS:
		hop = s.Forced
	case Encryption:
		hop = s.Encryption
	case EscrowOnly:
		hop = s.Escrow
	}
	return EscrowTransport + ":" + hop
}

// Transport returns the transport:next-hop by which a verdict is carried out,
// where nexthop is the destination's ("" for the MX of the recipient's domain).
// It is empty for plain delivery and for conflicts.
func (v Verdict) Transport(nexthop string, s Splitter) string {
	switch v.Channel {
	case TLS:
		if v.Allowed.Has(Escrow) {
			return SecureTransport + ":" + nexthop
		}
		return ForcedTransport + ":" + nexthop
	case Escrow:
		if v.Allowed.Has(TLS) {
			return s.Transport(Encryption)
		}
		return s.Transport(EscrowOnly)
	}
	return ""
}
