package relaymail

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// backend takes mails, and refuses those to "no@…".
type backend struct{ got chan string }

func (b backend) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{b: b}, nil }

type session struct {
	b    backend
	said []string
}

func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.said = append(s.said, "from="+from+" ret="+string(o.Return))
	return nil
}

func (s *session) Rcpt(to string, o *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "no@") {
		return &smtp.SMTPError{Code: 550, Message: "no"}
	}
	s.said = append(s.said, "to="+to+" notify="+string(o.Notify[0]))
	return nil
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.b.got <- strings.Join(append(s.said, string(text)), "\n")
	return err
}
func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func TestSend(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := backend{make(chan string, 1)}
	server := smtp.NewServer(b)
	server.EnableDSN = true
	go server.Serve(ln)
	defer server.Close()
	relay := Relay{Addr: ln.Addr().String(), Timeout: 10 * time.Second}

	if err := relay.Send(t.Context(), "a@own.example", "b@else.example", []byte("Subject: x\r\n\r\n.dot\r\n")); err != nil {
		t.Fatal(err)
	}
	if got, want := <-b.got, "from=a@own.example ret=HDRS\nto=b@else.example notify=FAILURE\nSubject: x\r\n\r\n.dot\r\n"; got != want {
		t.Errorf("got %q", got)
	}
	if err := relay.Send(t.Context(), "", "b@else.example", []byte("x\r\n")); err != nil {
		t.Fatal(err)
	}
	if got, want := <-b.got, "from= ret=HDRS\nto=b@else.example notify=NEVER\nx\r\n"; got != want {
		t.Errorf("got %q", got)
	}
	var reply *smtp.SMTPError
	if err := relay.Send(t.Context(), "a@own.example", "no@else.example", []byte("x\r\n")); !errors.As(err, &reply) || reply.Code != 550 {
		t.Errorf("refused: %v", err)
	}
	if err := relay.Send(t.Context(), "a@own.example", "b@else.example>\r\nRSET", []byte("x\r\n")); err == nil {
		t.Error("an address that breaks out of the command was sent")
	}
	ln.Close()
	if err := relay.Send(t.Context(), "a@own.example", "b@else.example", []byte("x\r\n")); err == nil {
		t.Error("nobody listens, and the mail is said to be sent")
	}
}
