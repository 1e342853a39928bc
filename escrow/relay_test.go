package escrow_test

import (
	dbsql "database/sql"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
)

// relay is a Postfix that takes notices.
type relay struct {
	addr string
	mu   sync.Mutex
	got  []string
}

func newRelay(t *testing.T) *relay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String()}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{r}, nil }))
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return r
}

func (r *relay) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.got...)
}

type session struct{ r *relay }

func (s *session) Mail(string, *smtp.MailOptions) error { return nil }
func (s *session) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (s *session) Reset()                               {}
func (s *session) Logout() error                        { return nil }
func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.got = append(s.r.got, string(b))
	return nil
}

// count counts the mails in the outbox, due or not.
func count(t *testing.T, path string, n *int) error {
	return queryInt(t, path, `SELECT count(*) FROM outbox`, n)
}

func queryInt(t *testing.T, path, query string, n *int) error {
	db, err := dbsql.Open("sqlite3", "file:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.QueryRowContext(t.Context(), query).Scan(n)
}
