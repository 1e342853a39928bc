package submit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/mail"
	"strings"

	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/escrow/intake/spool"
	"github.com/postseal/postseal/policyd/policy"
)

// maxJSON is how much JSON a request may have, in bytes. Files that do not fit go
// as parts of a form.
const maxJSON = 12 << 20

// body is the JSON of a request.
type body struct {
	From       string   `json:"from"`
	To         []string `json:"to"`
	Cc         []string `json:"cc"`
	Bcc        []string `json:"bcc"`
	ReplyTo    []string `json:"reply_to"`
	Subject    string   `json:"subject"`
	Text       string   `json:"text"`
	HTML       string   `json:"html"`
	InReplyTo  string   `json:"in_reply_to"`
	References []string `json:"references"`
	Require    string   `json:"require"`
	Files      []struct {
		Name      string `json:"name"`
		Type      string `json:"type"`
		ContentID string `json:"content_id"`
		Content   string `json:"content"` // base64
	} `json:"attachments"`
}

// Request is a letter with what must be given back after it was sent.
type Request struct {
	Letter
	Digest [32]byte // of all that was given: equal requests have equal digests
	spools []*spool.Spool
}

// Close frees the files.
func (r *Request) Close() {
	for _, s := range r.spools {
		s.Close()
	}
}

// ReadRequest reads application/json, or multipart/form-data whose first part,
// "message", is that JSON and whose others, "file", are attachments. Files lie in
// encrypted spools in dir; all of it may have limit bytes. The errors are
// [*FieldError], [ErrTooLarge], or of the connection.
func ReadRequest(r *http.Request, dir string, limit int64) (req *Request, err error) {
	req = &Request{}
	defer func() {
		if err != nil {
			req.Close()
			req = nil
		}
	}()
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return req, &FieldError{"Content-Type", "want application/json or multipart/form-data"}
	}
	in := &limited{r: r.Body, left: limit}
	sum := sha256.New()
	switch kind {
	case "application/json":
		err = req.json(in, sum)
	case "multipart/form-data":
		err = req.form(multipart.NewReader(in, params["boundary"]), sum, dir)
	default:
		return req, &FieldError{"Content-Type", "want application/json or multipart/form-data"}
	}
	if in.over {
		err = ErrTooLarge
	}
	sum.Sum(req.Digest[:0])
	return req, err
}

// limited ends with ErrTooLarge after left bytes.
type limited struct {
	r    io.Reader
	left int64
	over bool
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		l.over = true
		return 0, ErrTooLarge
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

// mark adds a field to a digest so that no two lists of fields have the same.
func mark(h hash.Hash, fields ...string) {
	for _, f := range fields {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(f))))
		io.WriteString(h, f)
	}
}

func (r *Request) json(in io.Reader, sum hash.Hash) error {
	text, err := io.ReadAll(io.LimitReader(in, maxJSON+1))
	if err != nil {
		return err
	}
	if len(text) > maxJSON {
		return &FieldError{"message", fmt.Sprintf("its JSON is longer than %d bytes: send the files as parts of multipart/form-data", maxJSON)}
	}
	var b body
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return &FieldError{"message", "is not the JSON that the API document describes: " + jsonProblem(err)}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &FieldError{"message", "there is more after the JSON"}
	}
	mark(sum, string(text))
	return r.fill(&b)
}

// jsonProblem says what is wrong without quoting what was sent.
func jsonProblem(err error) string {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		return fmt.Sprintf("%s can't be a %s", kind.Field, kind.Value)
	case errors.As(err, &syntax):
		return fmt.Sprintf("syntax at byte %d", syntax.Offset)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return fmt.Sprintf("unknown field %.80s", strings.TrimPrefix(err.Error(), "json: unknown field "))
	}
	return "it ends too early"
}

func (r *Request) fill(b *body) (err error) {
	one := func(field, s string) compose.Address {
		if err != nil || s == "" {
			return compose.Address{}
		}
		var a compose.Address
		if a, err = ParseMailbox(s); err != nil {
			err = &FieldError{field, err.Error()}
		}
		return a
	}
	many := func(field string, list []string) (all []compose.Address) {
		for _, s := range list {
			all = append(all, one(field, s))
		}
		return all
	}
	r.From = one("from", b.From)
	r.To, r.Cc, r.Bcc, r.ReplyTo = many("to", b.To), many("cc", b.Cc), many("bcc", b.Bcc), many("reply_to", b.ReplyTo)
	if err != nil {
		return err
	}
	r.Subject, r.Text, r.HTML = b.Subject, b.Text, b.HTML
	id := func(s string) string { return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "<"), ">") }
	if b.InReplyTo != "" {
		r.InReplyTo = []string{id(b.InReplyTo)}
	}
	for _, ref := range b.References {
		r.References = append(r.References, id(ref))
	}
	if r.Require, err = ParseRequire(b.Require); err != nil {
		return &FieldError{"require", err.Error()}
	}
	for i, f := range b.Files {
		content, err := base64.StdEncoding.DecodeString(f.Content)
		if err != nil {
			return &FieldError{fmt.Sprintf("attachments[%d].content", i), "is not base64"}
		}
		r.add(compose.File{Name: f.Name, MediaType: f.Type, ContentID: id(f.ContentID), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(content)), nil
		}})
	}
	return nil
}

func (r *Request) add(f compose.File) {
	if f.ContentID != "" {
		r.Inline = append(r.Inline, f)
	} else {
		r.Attachments = append(r.Attachments, f)
	}
}

// ParseRequire reads what a letter requires: encryption (also ""), or escrow.
func ParseRequire(s string) (policy.Requirement, error) {
	switch s {
	case "", "encryption":
		return policy.Encryption, nil
	case "escrow":
		return policy.EscrowOnly, nil
	}
	return policy.None, fmt.Errorf("%.40q: want encryption or escrow", s)
}

// ParseMailbox reads ADDRESS or NAME <ADDRESS> (RFC 5322, section 3.4). The
// address comes back in RFC 5321 form.
func ParseMailbox(s string) (compose.Address, error) {
	a, err := mail.ParseAddress(s)
	if err != nil {
		return compose.Address{}, fmt.Errorf("%.200q is not an address: want local@domain or Name <local@domain>", s)
	}
	p, err := policy.ParseAddress(a.Address)
	if err != nil || p.Domain == "" || p.Local == "" {
		return compose.Address{}, fmt.Errorf("%.200q is not an address: want local@domain or Name <local@domain>", s)
	}
	return compose.Address{Name: a.Name, Address: p.String()}, nil
}

// form reads the parts of a form as they come.
func (r *Request) form(parts *multipart.Reader, sum hash.Hash, dir string) error {
	for n := 0; ; n++ {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return &FieldError{"message", "is missing: the first part, JSON"}
			}
			return nil
		} else if err != nil {
			return fmt.Errorf("form: %w", err)
		}
		switch name := p.FormName(); {
		case n == 0 && name == "message":
			err = r.json(p, sum)
		case n == 0:
			return &FieldError{"message", "has to be the first part of the form"}
		case name == "file" && n <= MaxFiles:
			err = r.file(p, sum, dir)
		case name == "file":
			return &FieldError{"file", fmt.Sprintf("at most %d files are taken", MaxFiles)}
		default:
			return &FieldError{fmt.Sprintf("%.80s", name), "unknown part: want file"}
		}
		if err != nil {
			return err
		}
	}
}

func (r *Request) file(p *multipart.Part, sum hash.Hash, dir string) error {
	s := spool.New(dir)
	r.spools = append(r.spools, s)
	id := strings.Trim(p.Header.Get("Content-ID"), "<> ")
	content := sha256.New()
	if _, err := io.Copy(io.MultiWriter(s, content), p); err != nil {
		return fmt.Errorf("file: %w", err)
	}
	mark(sum, p.FileName(), p.Header.Get("Content-Type"), id, string(content.Sum(nil)))
	r.add(compose.File{Name: p.FileName(), MediaType: p.Header.Get("Content-Type"), ContentID: id, Open: s.Open})
	return nil
}
