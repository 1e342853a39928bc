package audit

// Kinds of entries. docs/audit.md has a line on each.
const (
	// Mail.
	Submitted  = "submitted"  // given to the API, by which key
	Decision   = "decision"   // what the rules say of a recipient, and what was answered
	Reinjected = "reinjected" // given back to Postfix, for TLS or for a recipient of this server
	Sealed     = "sealed"     // sealed for a recipient

	// Notices.
	NoticeQueued  = "notice-queued"
	NoticeSent    = "notice-sent" // Postfix has it
	NoticeBounced = "notice-bounced"

	// The pickup.
	CodeQueued  = "code-queued"
	TryRight    = "verified"
	TryWrong    = "verify-failed"
	Locked      = "locked" // after too many tries
	Read        = "read"   // the first time
	Opened      = "opened" // again
	Downloaded  = "downloaded"
	Searched    = "searched" // the texts of an inbox
	ReplyQueued = "reply-queued"
	ReplySent   = "reply-sent" // the splitter has it
	ReplyFailed = "reply-failed"

	// The life of a sealed message.
	Retracted = "retracted"
	Extended  = "extended"
	Recovered = "recovered" // opened with a recovery key
	Expired   = "expired"
	Held      = "held"     // on legal hold: it is not purged
	Released  = "released" // from it
	Purged    = "purged"   // its ciphertext and keys are gone from the database
	Relinked  = "relinked" // a new link; the old one is dead

	// Accounts and settings of recipients.
	AccountEnrolled = "account-enrolled"
	AccountChanged  = "account-changed" // password, TOTP, passkeys, signed out
	AccountReset    = "account-reset"
	DeviceDropped   = "device-dropped"
	RecipientSet    = "recipient-set"
	RecipientReset  = "recipient-reset"
	Unlocked        = "unlocked" // wrong tries were forgotten

	// Administration.
	RuleAdded      = "rule-added"
	RuleChanged    = "rule-changed"
	RuleRemoved    = "rule-removed"
	RulesImported  = "rules-imported" // too many to have an entry each
	TriggerAdded   = "trigger-added"
	TriggerChanged = "trigger-changed"
	TriggerRemoved = "trigger-removed"
	APIKeyAdded    = "api-key-added"
	APIKeyRemoved  = "api-key-removed"
	AdminAdded     = "admin-added" // an account for the admin pages
	AdminReset     = "admin-reset" // another password, TOTP secret and role; signed out
	AdminRemoved   = "admin-removed"
	AdminSignedIn  = "admin-signed-in"
	AdminSignedOut = "admin-signed-out"
	AdminRefused   = "admin-refused" // a wrong try to sign in
	LookedAt       = "looked-at"     // a destination, anew
	KeyChanged     = "key-changed"   // the server's keys
	BackedUp       = "backed-up"     // the database
	Restored       = "restored"      // a backup; what the log held since is in the database put aside
	Started        = "started"       // postseal serve
	Pruned         = "pruned"        // the log itself: entries older than audit-keep
)

// Kinds are all kinds of entries.
var Kinds = []string{
	Decision, Reinjected, Sealed, Submitted,
	NoticeQueued, NoticeSent, NoticeBounced,
	CodeQueued, TryRight, TryWrong, Locked, Read, Opened, Downloaded, Searched, ReplyQueued, ReplySent, ReplyFailed,
	Retracted, Extended, Recovered, Expired, Held, Released, Purged, Relinked,
	AccountEnrolled, AccountChanged, AccountReset, DeviceDropped, RecipientSet, RecipientReset, Unlocked,
	RuleAdded, RuleChanged, RuleRemoved, RulesImported, TriggerAdded, TriggerChanged, TriggerRemoved,
	APIKeyAdded, APIKeyRemoved, AdminAdded, AdminReset, AdminRemoved, AdminSignedIn, AdminSignedOut, AdminRefused, LookedAt, KeyChanged, BackedUp, Restored, Started, Pruned,
}
