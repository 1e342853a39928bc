package submit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// Store keeps keys, and what was answered to which request. Each method that
// changes something is one transaction.
type Store interface {
	AddAPIKey(ctx context.Context, k Key) error
	APIKeys(ctx context.Context) ([]Key, error)
	// RemoveAPIKey returns whether there was one.
	RemoveAPIKey(ctx context.Context, id string) (bool, error)
	// APIKey finds a key by the hash, and notes that it was used; ErrNoKey.
	APIKey(ctx context.Context, hash []byte, now time.Time) (*Key, error)
	// BeginRequest notes a request under its key and idempotency key, or returns
	// what is known of the one that came first. Requests older than keep are
	// forgotten.
	BeginRequest(ctx context.Context, r Answered, keep time.Duration) (first Answered, err error)
	// EndRequest keeps the answer.
	EndRequest(ctx context.Context, r Answered) error
	// Audit appends entries to the audit log.
	Audit(ctx context.Context, entries ...audit.Entry) error
}

// Answered is a request that was taken, and its answer.
type Answered struct {
	Key, Idempotency string
	Digest           []byte
	Answer           []byte // nil while there is none
	Created          time.Time
}

// Limits of the API.
const (
	readTime       = 30 * time.Second // within which some of a request has to arrive
	readChunk      = 64 << 10
	requestTime    = time.Hour
	keepAnswers    = 7 * 24 * time.Hour
	maxIdempotency = 200 // bytes
	parallel       = 8   // requests at a time
)

// Config of [NewAPI]. Store, Submitter and Domain are needed.
type Config struct {
	Store      Store
	Submitter  *Submitter
	Domain     string // of message ids
	SpoolDir   string
	MaxSize    int64 // of a request, bytes
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Crash      func(point string) // crash points of test builds; nil: none
}

type api struct {
	Config
	places   chan struct{}
	requests *prometheus.CounterVec
}

// NewAPI returns the handler of /api/v1/. docs/api.yaml describes it.
func NewAPI(c Config) (http.Handler, error) {
	if c.Store == nil || c.Submitter == nil || c.Domain == "" {
		return nil, errors.New("API: needs a store, a submitter and a domain")
	}
	a := &api{Config: c, places: make(chan struct{}, parallel)}
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	if a.Crash == nil {
		a.Crash = func(string) {}
	}
	if a.MaxSize <= 0 {
		a.MaxSize = 100 << 20
	}
	a.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postseal_api_requests_total", Help: "Requests to the API, by status.",
	}, []string{"status"})
	if c.Registerer != nil {
		if err := c.Registerer.Register(a.requests); err != nil {
			return nil, fmt.Errorf("API metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/messages", a.messages)
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		a.problem(w, http.StatusNotFound, "", "There is POST /api/v1/messages, and nothing else.")
	})
	return mux, nil
}

// answer is what a request comes back with.
type answer struct {
	MessageID  string   `json:"message_id"`
	Recipients []Result `json:"recipients"`
}

// problem answers with an error (RFC 9457).
func (a *api) problem(w http.ResponseWriter, status int, field, detail string) {
	a.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Field  string `json:"field,omitempty"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, field, detail})
}

func (a *api) messages(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	secret, ok := bearer(r.Header.Get("Authorization"))
	var key *Key
	err := ErrNoKey
	if ok {
		key, err = a.Store.APIKey(r.Context(), HashKey(secret), a.Now())
	}
	if errors.Is(err, ErrNoKey) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="postseal"`)
		a.problem(w, http.StatusUnauthorized, "", "Send a key in Authorization: Bearer; postseal api-key new makes one.")
		return
	} else if err != nil {
		a.trouble(w, err)
		return
	}
	select {
	case a.places <- struct{}{}:
		defer func() { <-a.places }()
	case <-time.After(readTime):
		a.trouble(w, errors.New("too many requests at a time"))
		return
	case <-r.Context().Done():
		return
	}
	a.serve(w, r, key)
}

// trouble answers where something on our side does not work: the request may be
// sent again.
func (a *api) trouble(w http.ResponseWriter, err error) {
	a.Log.Error("API trouble", "error", err)
	w.Header().Set("Retry-After", "60")
	a.problem(w, http.StatusServiceUnavailable, "", "Something does not work on our side. Send the request again later, with the same Idempotency-Key.")
}

func (a *api) serve(w http.ResponseWriter, r *http.Request, key *Key) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	r.Body = &patient{ReadCloser: http.MaxBytesReader(w, r.Body, a.MaxSize+1), control: http.NewResponseController(w)}
	idem := r.Header.Get("Idempotency-Key")
	if len(idem) > maxIdempotency {
		a.problem(w, http.StatusBadRequest, "Idempotency-Key", fmt.Sprintf("It is longer than %d bytes.", maxIdempotency))
		return
	}
	req, err := ReadRequest(r, a.SpoolDir, a.MaxSize)
	var field *FieldError
	switch {
	case errors.As(err, &field):
		a.problem(w, http.StatusUnprocessableEntity, field.Field, field.Problem)
		return
	case errors.Is(err, ErrTooLarge):
		a.problem(w, http.StatusRequestEntityTooLarge, "", fmt.Sprintf("The request is larger than %d bytes.", a.MaxSize))
		return
	case err != nil:
		// What is wrong with a connection or a form may quote the form.
		a.problem(w, http.StatusBadRequest, "", "The request can't be read to its end.")
		return
	}
	defer req.Close()
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + time.Minute))
	if !key.MaySend(req.From.Address) {
		a.problem(w, http.StatusForbidden, "from", "This key may not send as that address; postseal api-key list shows whom it may.")
		return
	}

	first := Answered{Key: key.ID, Idempotency: idem, Digest: req.Digest[:], Created: a.Now()}
	seed := compose.NewBoundary()
	req.Date, req.MessageID, req.Boundary = first.Created, seed+"@"+a.Domain, seed
	if err := req.Check(); errors.As(err, &field) {
		a.problem(w, http.StatusUnprocessableEntity, field.Field, field.Problem)
		return
	}
	if idem != "" { // a name is used up only by a request that can be sent
		if first, err = a.Store.BeginRequest(ctx, first, keepAnswers); err != nil {
			a.trouble(w, err)
			return
		}
		if !bytes.Equal(first.Digest, req.Digest[:]) {
			a.problem(w, http.StatusUnprocessableEntity, "Idempotency-Key", "It came before, with another request: take a new one for each message.")
			return
		}
		if first.Answer != nil {
			a.answer(w, http.StatusAccepted, first.Answer)
			return
		}
		// The same bytes each time, so that the splitter knows them again.
		h := sha256.Sum256([]byte("message/1\x00" + key.ID + "\x00" + idem + "\x00" + strconv.FormatInt(first.Created.UnixMicro(), 10)))
		seed = fmt.Sprintf("%x", h[:16])
		req.Date, req.MessageID, req.Boundary = first.Created, seed+"@"+a.Domain, seed
	}
	if err := a.Store.Audit(actor(ctx, r, key), submitted(key, &req.Letter)...); err != nil {
		a.trouble(w, err) // what can't be logged is not sent
		return
	}
	a.Crash("api-before-send")
	results, err := a.Submitter.Send(ctx, &req.Letter)
	a.Crash("api-after-send")
	if err != nil {
		a.Log.Error("API: message not taken", "key", key.ID, "error", err)
	}
	a.settle(context.WithoutCancel(ctx), w, key, first, answer{req.MessageID, results})
}

// submitted are the entries of the audit log that tell who sends what to whom by which
// key; what is decided on it, and done, the splitter logs.
func submitted(key *Key, l *Letter) []audit.Entry {
	var list []audit.Entry
	sender := folded(l.From.Address)
	seen := make(map[string]bool)
	for _, to := range [][]compose.Address{l.To, l.Cc, l.Bcc} {
		for _, a := range to {
			if r := folded(a.Address); !seen[r] {
				seen[r] = true
				list = append(list, audit.Entry{Kind: audit.Submitted, Sender: sender, Recipient: r, Details: audit.Details{"key": key.ID, "requires": l.Require.String()}})
			}
		}
	}
	return list
}

func actor(ctx context.Context, r *http.Request, key *Key) context.Context {
	by := audit.Actor{Kind: audit.ActorAPI, Name: key.ID}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		by.Client = peer.Addr().Unmap().String()
	}
	return audit.With(ctx, by)
}

func folded(address string) string {
	a, err := policy.ParseAddress(address)
	if err != nil {
		return address
	}
	return a.Folded().String()
}

// settle answers. Only what is final is kept: a recipient that was deferred is tried
// again when the request is repeated.
func (a *api) settle(ctx context.Context, w http.ResponseWriter, key *Key, first Answered, out answer) {
	n := map[string]int{}
	for _, r := range out.Recipients {
		n[r.Outcome]++
	}
	taken := n[Sealed] + n[Handed]
	status := http.StatusAccepted
	switch {
	case taken > 0:
	case n[Deferred] > 0:
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "60")
		// Room is made by people, or as messages expire.
		for _, r := range out.Recipients {
			if r.quota {
				status = http.StatusTooManyRequests
			} else if r.full && status != http.StatusTooManyRequests {
				status = http.StatusInsufficientStorage
			}
			if r.quota || r.full {
				w.Header().Set("Retry-After", "3600")
			}
		}
	default:
		status = http.StatusUnprocessableEntity
	}
	text, err := json.Marshal(out)
	if err != nil {
		a.trouble(w, err)
		return
	}
	if first.Idempotency != "" && n[Deferred] == 0 && status == http.StatusAccepted {
		first.Answer = text
		if err := a.Store.EndRequest(ctx, first); err != nil {
			a.Log.Warn("API: an answer is not kept; a repeated request is answered anew", "key", key.ID, "error", err)
		}
	}
	a.Crash("api-before-answer")
	a.Log.Info("API: message", "key", key.ID, "sealed", n[Sealed], "handed_over", n[Handed], "deferred", n[Deferred], "refused", n[Refused])
	a.answer(w, status, text)
}

func (a *api) answer(w http.ResponseWriter, status int, text []byte) {
	a.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text)
}

// patient moves the deadline of reading on with what arrives: a large file on a slow
// line ends well, a line that stands still does not.
type patient struct {
	io.ReadCloser
	control *http.ResponseController
	since   int
}

func (p *patient) Read(b []byte) (int, error) {
	if p.since == 0 {
		p.control.SetReadDeadline(time.Now().Add(readTime))
	}
	n, err := p.ReadCloser.Read(b)
	if p.since += n; p.since >= readChunk {
		p.since = 0
	}
	return n, err
}
