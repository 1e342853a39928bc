package check

// Advice is one thing that the destination should do.
type Advice struct {
	Severity Severity `json:"severity"`
	About    string   `json:"about"` // a host, an address or the domain
	Text     string   `json:"text"`
}

// Severity is how much an advice matters.
type Severity string

// The severities, worst first.
const (
	Critical Severity = "critical" // mail is refused, or goes in plaintext
	Warning  Severity = "warning"  // weaker than it seems, or soon broken
	Notice   Severity = "notice"   // could be better
)

// Advise says what the destination should do, worst first.
func Advise(r *Report) []Advice { return []Advice{} }
