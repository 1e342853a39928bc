package portal

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/header"
)

// maxZipSubject is how much of a subject becomes part of a file's name, in
// characters.
const maxZipSubject = 80

// zipInbox downloads all messages that the inbox opens, each byte for byte, as they
// stream: memory does not grow with their size. One that fails in its middle breaks
// the download off, so that no archive looks whole and is not.
func (p *portal) zipInbox(w http.ResponseWriter, r *http.Request, v *inboxVisit) error {
	if r.Method == http.MethodHead {
		return headOnly(w, "application/zip")
	}
	leave, err := p.downloading.enter(r.Context(), "inbox/"+v.Tag)
	if err != nil {
		return err
	}
	defer leave()
	items, err := p.allOpenable(r.Context(), v)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return see(w, v.self)
	}
	var archive *zip.Writer
	names := newNames()
	for _, it := range items {
		body, err := p.openInInbox(r.Context(), v, it.ItemID)
		switch {
		case errors.Is(err, escrow.ErrUnknown), errors.Is(err, escrow.ErrExpired), errors.Is(err, escrow.ErrRetracted), errors.Is(err, escrow.ErrNeedsLink):
			continue // over since the list was made
		case err != nil:
			return err
		}
		if archive == nil {
			p.download(w, "messages-"+p.now().UTC().Format("2006-01-02")+".zip", "application/zip")
			w.WriteHeader(http.StatusOK) // from here on an error breaks off
			archive = zip.NewWriter(w)
		}
		if err := addMessage(archive, names.file(it), it, body); err != nil {
			return err
		}
	}
	if archive == nil {
		return see(w, v.self)
	}
	return archive.Close()
}

func addMessage(archive *zip.Writer, name string, it escrow.InboxItem, body io.ReadCloser) error {
	defer body.Close()
	// Stored, not compressed: most of a message's bytes are compressed already.
	f, err := archive.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store, Modified: it.Created})
	if err == nil {
		_, err = io.Copy(f, body)
	}
	return err
}

// openInInbox opens a message, and marks it read.
func (p *portal) openInInbox(ctx context.Context, v *inboxVisit, item string) (io.ReadCloser, error) {
	pickup, session, err := p.inbox.InboxOpen(ctx, v.Device, item)
	if err != nil {
		return nil, err
	}
	body, err := p.vault.Open(escrow.Downloading(ctx, escrow.DownloadOriginal, ""), pickup, session)
	if err != nil {
		return nil, opening(err)
	}
	return body, nil
}

// allOpenable lists the messages that the inbox opens, each once, whatever comes in
// meanwhile.
func (p *portal) allOpenable(ctx context.Context, v *inboxVisit) ([]escrow.InboxItem, error) {
	const batch = 500
	var all []escrow.InboxItem
	seen := map[string]bool{}
	for offset := 0; ; offset += batch {
		items, total, err := p.inbox.Inbox(ctx, v.Device, escrow.InboxQuery{Offset: offset, Limit: batch})
		if err != nil {
			return nil, err
		}
		for _, it := range items {
			if it.Openable && !seen[it.ItemID] {
				seen[it.ItemID] = true
				all = append(all, it)
			}
		}
		if offset+len(items) >= total || len(items) == 0 {
			return all, nil
		}
	}
}

// names gives the files of an archive names that no file system takes for the same.
type names struct{ seen map[string]bool }

func newNames() *names { return &names{seen: map[string]bool{}} }

// file names the file of a message: by its day and subject.
func (n *names) file(it escrow.InboxItem) string {
	name := emlName(it, "")
	for i := 2; ; i++ {
		key := norm.NFKC.String(cases.Fold().String(norm.NFKC.String(name)))
		if !n.seen[key] {
			n.seen[key] = true
			return name
		}
		name = emlName(it, fmt.Sprintf(" (%d)", i))
	}
}

// emlName is the name of a message's file, without directories.
func emlName(it escrow.InboxItem, suffix string) string {
	day := inboxEntry{InboxItem: it}.When().UTC().Format("2006-01-02")
	subject := strings.NewReplacer("/", "-", `\`, "-").Replace(clean(it.Subject))
	// Cut twice: what fits in characters may be too long in bytes.
	stem := filename(strings.TrimSpace(day+" "+shorten(subject, maxZipSubject)), "", 1)
	for len(stem) > maxFilename-20 {
		stem = stem[:strings.LastIndexFunc(stem, func(rune) bool { return true })]
	}
	return strings.TrimRight(stem, " .") + suffix + ".eml"
}

// nameOf names the file of a message by what its header says, and returns a reader
// of the whole.
func nameOf(v *visit, body io.ReadCloser) (string, io.ReadCloser) {
	const most = 64 << 10 // bytes: more than the subject comes after
	br := bufio.NewReaderSize(body, most)
	head, _ := br.Peek(most) // an error comes again
	h, _ := header.Read(bytes.NewReader(head))
	it := escrow.InboxItem{Subject: h.Text("Subject", maxZipSubject), Date: h.Date(), Created: v.Created}
	return emlName(it, ""), struct {
		io.Reader
		io.Closer
	}{br, body}
}
