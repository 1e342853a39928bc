package check

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// ClassError is the class of a line that is no destination, or of which nothing could
// be said because something went wrong here.
const ClassError = "error"

// Row is what a check in bulk says of one line: the essence of a [Report]. As JSON it
// is one line of output; fields are only ever added.
type Row struct {
	Asked       string    `json:"asked"`
	Class       string    `json:"class"` // of [Class], or "error"
	State       string    `json:"state"`
	Destination string    `json:"destination"`
	MX          []string  `json:"mx"`          // by preference
	TLS         string    `json:"tls"`         // the least version that a host spoke
	Certificate string    `json:"certificate"` // "trusted", or what is wrong with the worst; "" without TLS
	Expires     time.Time `json:"expires,omitzero"`
	DANE        string    `json:"dane"`
	STS         string    `json:"mta_sts"`
	TLSRPT      []string  `json:"tlsrpt"` // where reports go
	Channel     string    `json:"channel"`
	Transport   string    `json:"transport"`
	TLSPolicy   string    `json:"tls_policy"`
	Decision    string    `json:"decision"` // one sentence
	Reason      string    `json:"reason"`   // of the class, or the error
	Checked     time.Time `json:"checked,omitzero"`
	DurationMS  int64     `json:"duration_ms"`
	// Report is all that was found; nil unless asked for.
	Report *Report `json:"report,omitempty"`
}

// RowOf makes the row of a report; full keeps all of it.
func RowOf(asked string, r *Report, full bool) *Row {
	row := &Row{
		Asked: asked, Class: r.Class.String(), State: r.State.String(), Destination: r.Dest,
		MX: []string{}, DANE: r.DANE.String(), STS: policy.STSOff.String(), TLSRPT: []string{},
		Reason: r.Reason, Checked: r.Checked, DurationMS: r.DurationMS,
	}
	if r.STS != nil {
		row.STS = r.STS.State.String()
	}
	if r.TLSRPT != nil {
		row.TLSRPT = append(row.TLSRPT, r.TLSRPT.RUA...)
	}
	if d := r.Decision; d != nil {
		row.Channel, row.Transport, row.TLSPolicy, row.Decision = d.Channel, d.Transport, d.TLSPolicy, d.Line
	}
	for i := range r.MX {
		row.MX = append(row.MX, r.MX[i].Host)
		for j := range r.MX[i].Addresses {
			row.address(&r.MX[i].Addresses[j])
		}
	}
	if full {
		row.Report = r
	}
	return row
}

// address notes the worst of what an address showed.
func (row *Row) address(a *Address) {
	if a.Version != "" && (row.TLS == "" || a.Version < row.TLS) { // TLSv1 < TLSv1.1 < … as text too
		row.TLS = a.Version
	}
	c := a.Cert
	if c == nil {
		return
	}
	if row.Expires.IsZero() || c.NotAfter.Before(row.Expires) {
		row.Expires = c.NotAfter
	}
	trust := "trusted"
	switch {
	case !c.Verified:
		trust = "not trusted: " + c.VerifyError
	case !a.NameMatch:
		trust = "for another name"
	}
	if row.Certificate == "" || row.Certificate == "trusted" {
		row.Certificate = trust
	}
}

// ErrorRow is the row of a line of which nothing can be said.
func ErrorRow(asked string, err error) *Row {
	return &Row{Asked: asked, Class: ClassError, State: policy.Unknown.String(), MX: []string{}, TLSRPT: []string{}, Reason: text(err.Error())}
}

// Format is how rows are written: one row is one line, always.
type Format string

// The formats.
const (
	JSONLines Format = "jsonl"
	CSV       Format = "csv" // RFC 4180, with a header, and safe for spreadsheets
)

// columns of [CSV].
var columns = []string{
	"asked", "class", "state", "destination", "mx", "tls", "certificate", "expires", "dane", "mta_sts", "tlsrpt",
	"channel", "transport", "tls_policy", "decision", "reason", "checked", "duration_ms",
}

// Header returns what stands before the first row, its line end included.
func (f Format) Header() string {
	if f == CSV {
		return strings.Join(columns, ",") + "\n"
	}
	return ""
}

// Append appends a row as a line, its line end included.
func (f Format) Append(b []byte, r *Row) ([]byte, error) {
	if f != CSV {
		line := bytes.NewBuffer(b)
		enc := json.NewEncoder(line)
		enc.SetEscapeHTML(false)
		err := enc.Encode(r)
		return line.Bytes(), err
	}
	fields := []string{
		r.Asked, r.Class, r.State, r.Destination, strings.Join(r.MX, " "), r.TLS, r.Certificate, day(r.Expires), r.DANE, r.STS, strings.Join(r.TLSRPT, " "),
		r.Channel, r.Transport, r.TLSPolicy, r.Decision, r.Reason, stamp(r.Checked), strconv.FormatInt(r.DurationMS, 10),
	}
	for i, s := range fields {
		fields[i] = harmless(oneLine(s))
	}
	line := bytes.NewBuffer(b)
	w := csv.NewWriter(line)
	w.Write(fields)
	w.Flush()
	return line.Bytes(), w.Error()
}

// Parse reads a line of Append, as far as a summary needs it.
func (f Format) Parse(line []byte) (*Row, error) {
	if f != CSV {
		r := new(Row)
		if err := json.Unmarshal(line, r); err != nil {
			return nil, err
		}
		if r.Asked == "" || r.Class == "" {
			return nil, errors.New("not a row of postseal check")
		}
		r.Report = nil
		return r, nil
	}
	c := csv.NewReader(bytes.NewReader(line))
	c.FieldsPerRecord = len(columns)
	fields, err := c.Read()
	if err != nil {
		return nil, err
	}
	get := func(name string) string {
		s := fields[slices.Index(columns, name)]
		if len(s) > 1 && s[0] == '\'' && formula(s[1:]) {
			s = s[1:]
		}
		return s
	}
	return &Row{
		Asked: get("asked"), Class: get("class"), State: get("state"), DANE: get("dane"), STS: get("mta_sts"),
		TLSRPT: strings.Fields(get("tlsrpt")), Channel: get("channel"),
	}, nil
}

// formula reports what a spreadsheet would take for a formula.
func formula(s string) bool { return s != "" && strings.ContainsRune("=+-@\t\r'", rune(s[0])) }

// harmless puts an apostrophe before what a spreadsheet would take for a formula: the
// texts are those of strangers.
func harmless(s string) string {
	if formula(s) {
		return "'" + s
	}
	return s
}

// oneLine keeps a record on one line, on which resuming depends.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\r\n\x00") {
		return s
	}
	return strings.NewReplacer("\r", " ", "\n", " ", "\x00", "?").Replace(s)
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ParseFormat reads the word of a format.
func ParseFormat(w string) (Format, error) {
	switch f := Format(w); f {
	case JSONLines, CSV:
		return f, nil
	}
	return "", fmt.Errorf("format %q: want %s or %s", w, JSONLines, CSV)
}
