package policyd

import (
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// audited returns act, the answer for a recipient, after it was logged where something
// is required of the message. What can't be logged is not decided: the mail waits at the
// client. Postfix asks once for a recipient; the lookups in the tables that carry the
// decision out repeat with every try, and are not logged.
func (m *mail) audited(a *policy.Answer, act action) action {
	auditor := m.server.cfg.Audit
	if auditor == nil || !m.required.Required() && !a.Allowed.Required() {
		return act
	}
	details := a.Words()
	details["queue_id"], details["login"] = m.request.queueID, m.request.login
	details["outcome"] = act.verb
	if act.text != "" {
		details["outcome"] += " " + act.text
	}
	err := auditor.Add(audit.Entry{
		Kind: audit.Decision, Actor: audit.Actor{Kind: audit.ActorPostfix, Name: "policy", Client: m.request.client},
		Sender: m.sender.Folded().String(), Recipient: m.recipient.Folded().String(), Details: details,
	})
	if err != nil {
		m.server.log.Error("decision put off", "error", err)
		return deferral("4.3.0", textUnlogged)
	}
	return act
}
