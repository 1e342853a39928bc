package escrow

import (
	"strings"

	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/policyd/policy"
)

const markTag = 20 // bytes

// Mark returns the value of a header that carries a requirement through the
// queue, where nothing else does (postsuper -r drops a FILTER): the requirement's
// word and a tag that only this server can make. It is bound to the envelope
// sender, not to the message: who replays it can only demand more.
func (v *Vault) Mark(r policy.Requirement, sender string) string {
	return r.String() + " " + seal.EncodeTag(v.keys.tag(markTag, "mark/1", r.String(), markSender(sender)))
}

// VerifyMark reads such a value. ok is false if it is not genuine.
func (v *Vault) VerifyMark(value, sender string) (r policy.Requirement, ok bool) {
	word, tag, found := strings.Cut(strings.TrimSpace(value), " ")
	if !found {
		return policy.None, false
	}
	r, err := policy.ParseRequirement(word)
	if err != nil {
		return policy.None, false
	}
	b, err := seal.DecodeTag(strings.TrimSpace(tag))
	if err != nil || len(b) != markTag || !v.keys.checkTag(b, "mark/1", r.String(), markSender(sender)) {
		return policy.None, false
	}
	return r, true
}

func markSender(sender string) string {
	if f, err := fold(sender); err == nil {
		return f
	}
	return sender
}
