package portal

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
)

// Limits of a form that brings files. A body of any other form has [readTimeout].
const (
	uploadIdle = time.Minute   // it may stand still
	uploadTime = 2 * time.Hour // it may take in all: 60 MB at 70 kbit/s
	// maxUpload is how much of a form is read, in bytes. What is too large for a
	// reply is read all the same, and dropped: a browser that is not listened to
	// shows an error of its own, not our answer.
	maxUpload     = 1 << 30
	maxPartHeader = 8 << 10 // of one field, bytes
	maxShort      = 1 << 10 // of a field that is not the text, bytes
	maxTyped      = 2 << 20 // of the text: more than a reply takes, to give it back; bytes
)

// errCut reports a form that came in part.
var errCut = errors.New("the form was cut off")

// upload reads the body of a form that may be large and slow, with a deadline that
// moves on as long as something comes.
type upload struct {
	body    io.Reader
	control *http.ResponseController
	ends    time.Time // real time, as deadlines are
	moved   time.Time
	left    int64 // bytes
	header  int64 // bytes until the next part must have begun; <0: within a part
	err     error // of the body, nil while there is none; io.EOF at its end
}

func newUpload(w http.ResponseWriter, r *http.Request) *upload {
	u := &upload{body: r.Body, control: http.NewResponseController(w), ends: time.Now().Add(uploadTime), left: maxUpload, header: -1}
	// There may be a wait at the gate before the first byte is read.
	u.move(gateWait + uploadIdle)
	return u
}

// move sets the deadlines; that of writing too, since the answer comes after.
func (u *upload) move(idle time.Duration) {
	now := time.Now()
	deadline := now.Add(idle)
	if deadline.After(u.ends) {
		deadline = u.ends
	}
	u.moved = now
	u.control.SetReadDeadline(deadline)
	u.control.SetWriteDeadline(deadline.Add(writeTimeout))
}

func (u *upload) Read(b []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	if u.left <= 0 || u.header == 0 || time.Now().After(u.ends) {
		u.err = errCut
		return 0, u.err
	}
	if time.Since(u.moved) > time.Second {
		u.move(uploadIdle)
	}
	most := u.left
	if u.header > 0 {
		most = min(most, u.header)
	}
	if int64(len(b)) > most {
		b = b[:most]
	}
	n, err := u.body.Read(b)
	u.left -= int64(n)
	if u.header > 0 {
		u.header -= int64(n)
	}
	if err != nil {
		u.err = err
	}
	if err == io.EOF {
		// Else the reader that waits for the next request would end this one's context.
		u.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// drain reads what is left, so that the browser listens to the answer.
func (u *upload) drain() { io.Copy(io.Discard, u) }

// replyForm is the form of a reply, as much of it as was read. Its fields come
// before the text, and the files after.
type replyForm struct {
	up     *upload
	parts  *multipart.Reader // nil: no such form
	part   *multipart.Part   // the one that is read; nil: none yet
	taken  bool              // by who may write
	script bool              // sent by the page's script, which wants no page back

	draft string    // ID, "" where there was none
	was   string    // version of the text when the page was made
	since time.Time // when the page was made
	all   bool
	do    string // the button
	file  int    // that the button removes

	text    string
	hasText bool
	tooLong bool
}

func newReplyForm(w http.ResponseWriter, r *http.Request) *replyForm {
	f := &replyForm{up: newUpload(w, r), script: r.Header.Get("X-Requested-With") == "postseal"}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && kind == "multipart/form-data" && params["boundary"] != "" {
		f.parts = multipart.NewReader(f.up, params["boundary"])
	}
	return f
}

// next reads on until the text or a file has come. It returns the file; nil with
// hasText newly set is the text. io.EOF is the end of the form; any other error
// means that it was cut off or is no form.
func (f *replyForm) next() (*filePart, error) {
	if f.parts == nil {
		return nil, errCut
	}
	for {
		if f.part != nil {
			io.Copy(io.Discard, f.part) // of a file that was not wanted there is more than a header has
		}
		f.up.header = maxPartHeader
		part, err := f.parts.NextPart()
		f.up.header = -1
		if err == io.EOF { // itself: a wrapped one is an end that comes too early
			return nil, io.EOF
		}
		if err != nil {
			return nil, errCut // its text quotes the form
		}
		f.part = part
		switch name := part.FormName(); name {
		case "files":
			if _, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition")); err == nil && params["filename"] == "" {
				break // no file was chosen
			}
			return &filePart{part: part, name: part.FileName(), mediaType: fileType(part.Header.Get("Content-Type"))}, nil
		case "text":
			if f.hasText {
				break
			}
			if f.text, f.tooLong, err = field(part, maxTyped); err != nil {
				return nil, err
			}
			f.text = normal(f.text)
			f.tooLong = f.tooLong || len(f.text) > escrow.MaxReplyText
			f.hasText = true
			return nil, nil
		case "draft", "was", "since", "all", "do", "remove":
			value, long, err := field(part, maxShort)
			if err != nil {
				return nil, err
			}
			if long {
				break
			}
			f.set(name, value)
		}
	}
}

func (f *replyForm) set(name, value string) {
	switch name {
	case "draft":
		f.draft = value
	case "was":
		f.was = value
	case "since":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			f.since = time.UnixMicro(n)
		}
	case "all":
		f.all = value == "1"
	case "do":
		f.do = value
	case "remove":
		if n, err := strconv.Atoi(value); err == nil {
			f.do, f.file = name, n
		}
	}
}

// field reads the value of a field, at most so many bytes of it.
func field(r io.Reader, most int64) (value string, long bool, err error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return "", false, errCut
	}
	if long = int64(len(b)) > most; long {
		b = b[:most]
	}
	return string(b), long, nil
}

// normal is a typed text as it is kept: lines end in LF, and all of it is text.
func normal(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "").Replace(s)
}

// filePart is a file in a form.
type filePart struct {
	part      io.Reader
	name      string
	mediaType string
	cut       bool // it came in part
}

func (p *filePart) Read(b []byte) (int, error) {
	n, err := p.part.Read(b)
	if err != nil && err != io.EOF {
		p.cut = true
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, fmt.Errorf("%w: %w", errCut, os.ErrDeadlineExceeded)
		}
		return n, errCut
	}
	return n, err
}

// fileType is the type that the browser gave a file, or just bytes: what is made
// of parts may not stand in a mail as a file does (RFC 2046, section 5.2.1), and
// parameters of a browser's making tell nothing.
func fileType(field string) string {
	kind, _, err := mime.ParseMediaType(field)
	if err != nil || len(field) > 200 {
		return "application/octet-stream"
	}
	main, sub, ok := strings.Cut(kind, "/")
	if !ok || sub == "" || main == "multipart" || main == "message" {
		return "application/octet-stream"
	}
	return kind
}

// another makes a name that no file has yet, as file managers do: "scan (2).pdf".
func another(name string, taken func(string) bool) string {
	if !taken(name) {
		return name
	}
	stem, ext := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 && len(name)-dot <= 16 {
		stem, ext = name[:dot], name[dot:]
	}
	for n := 2; ; n++ {
		if s := fmt.Sprintf("%s (%d)%s", stem, n, ext); !taken(s) {
			return s
		}
	}
}
