package fakesmtp

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, b Behaviour) *Server {
	t.Helper()
	s, err := Start("127.0.0.1:0", b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// dialogue sends each line and wants the reply to start as told.
func dialogue(t *testing.T, c *textproto.Conn, steps ...[2]string) {
	t.Helper()
	for _, st := range steps {
		if st[0] != "" {
			if err := c.PrintfLine("%s", st[0]); err != nil {
				t.Fatal(err)
			}
		}
		for {
			line, err := c.ReadLine()
			if err != nil {
				t.Fatalf("%s: %v", st[0], err)
			}
			if len(line) > 3 && line[3] == '-' {
				continue
			}
			if !strings.HasPrefix(line, st[1]) {
				t.Fatalf("%s was answered %q, want %s", st[0], line, st[1])
			}
			break
		}
	}
}

func dial(t *testing.T, s *Server) (*textproto.Conn, net.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { conn.Close() })
	return textproto.NewConn(conn), conn
}

func TestKeepsExactBytes(t *testing.T) {
	var log bytes.Buffer
	s := start(t, Behaviour{Name: "mx.test"})
	s.LogTo(&log)
	c, conn := dial(t, s)
	dialogue(t, c, [2]string{"", "220 mx.test"}, [2]string{"EHLO me", "250"},
		[2]string{"MAIL FROM:<a@b> SIZE=3 RET=HDRS", "250"}, [2]string{`RCPT TO:<"x> y"@d> NOTIFY=NEVER`, "250"}, [2]string{"DATA", "354"})
	conn.Write([]byte("..dot\r\nbare\n.\nlf\x00\rcr\r\n.\r\n"))
	dialogue(t, c, [2]string{"", "250"}, [2]string{"MAIL FROM:<>", "250"}, [2]string{"RCPT TO:<z@d>", "250"})
	conn.Write([]byte("BDAT 3\r\n.\r\n"))
	dialogue(t, c, [2]string{"", "250"})
	conn.Write([]byte("BDAT 2 LAST\r\nhi"))
	dialogue(t, c, [2]string{"", "250"})

	got := s.Received()
	if len(got) != 2 {
		t.Fatalf("received %d mails, want 2", len(got))
	}
	if want := ".dot\r\nbare\n.\nlf\x00\rcr\r\n"; string(got[0].Data) != want {
		t.Errorf("data %q, want %q", got[0].Data, want)
	}
	if got[0].To[0].Address != `"x> y"@d` || got[0].To[0].Params[0] != "NOTIFY=NEVER" || got[0].FromParams[1] != "RET=HDRS" || got[0].TLS || !got[0].Accepted {
		t.Errorf("envelope %+v", got[0])
	}
	if string(got[1].Data) != ".\r\nhi" {
		t.Errorf("chunks %q", got[1].Data)
	}
	var m Mail
	if err := json.NewDecoder(&log).Decode(&m); err != nil || !bytes.Equal(m.Data, got[0].Data) {
		t.Errorf("log: %v, %+v", err, m)
	}
}

func TestTLS(t *testing.T) {
	ca, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		o      CertOptions
		max    uint16
		verify bool // a client that checks the certificate is content
	}{
		{"valid, ECDSA", CertOptions{Names: []string{"mx.test"}}, 0, true},
		{"valid, RSA, TLS 1.2", CertOptions{Names: []string{"mx.test"}, RSA: true}, tls.VersionTLS12, true},
		{"expired", CertOptions{Names: []string{"mx.test"}, Expired: true}, 0, false},
		{"wrong name", CertOptions{Names: []string{"other.test"}}, 0, false},
		{"self-signed", CertOptions{Names: []string{"mx.test"}, SelfSigned: true}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert, err := ca.Issue(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			s := start(t, Behaviour{Name: "mx.test", STARTTLS: true, Certificate: cert, MaxTLS: tt.max, RequireTLS: true})
			for _, verify := range []bool{false, true} {
				c, conn := dial(t, s)
				dialogue(t, c, [2]string{"", "220"}, [2]string{"EHLO me", "250 STARTTLS"}, [2]string{"MAIL FROM:<a@b>", "530"}, [2]string{"STARTTLS", "220"})
				tc := tls.Client(conn, &tls.Config{ServerName: "mx.test", RootCAs: ca.Pool(), InsecureSkipVerify: !verify})
				err := tc.Handshake()
				if want := !verify || tt.verify; (err == nil) != want {
					t.Fatalf("verify %v: handshake %v", verify, err)
				}
				if err != nil {
					continue
				}
				dialogue(t, textproto.NewConn(tc), [2]string{"EHLO me", "250 CHUNKING"}, [2]string{"MAIL FROM:<a@b>", "250"},
					[2]string{"RCPT TO:<c@d>", "250"}, [2]string{"DATA", "354"}, [2]string{"hi\r\n.", "250"})
				if m := s.Received(); !m[len(m)-1].TLS || m[len(m)-1].SNI != "mx.test" {
					t.Errorf("not noted as TLS: %+v", m)
				}
			}
		})
	}
}

func TestFaults(t *testing.T) {
	ca, err := NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(CertOptions{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]Handshake{"close": HandshakeClose, "garbage": HandshakeGarbage, "alert": HandshakeAlert, "silent": HandshakeSilent} {
		t.Run("handshake "+name, func(t *testing.T) {
			s := start(t, Behaviour{STARTTLS: true, Certificate: cert, Handshake: h})
			c, conn := dial(t, s)
			dialogue(t, c, [2]string{"", "220"}, [2]string{"EHLO me", "250"}, [2]string{"STARTTLS", "220"})
			conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
			if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
				t.Error("the handshake succeeded")
			}
		})
	}
	for _, banner := range []string{"421 busy", "554 go away"} {
		t.Run(banner, func(t *testing.T) {
			c, _ := dial(t, start(t, Behaviour{Banner: banner}))
			dialogue(t, c, [2]string{"", banner})
		})
	}
	t.Run("replies", func(t *testing.T) {
		s := start(t, Behaviour{STARTTLS: true, StartReply: "454 not now", RefuseEHLO: true, Keywords: []string{"SIZE 5"},
			Recipients: map[string]string{"no@d": "550 no", "later@d": "450 later"}, DataReply: "452 full"})
		c, _ := dial(t, s)
		dialogue(t, c, [2]string{"", "220"}, [2]string{"EHLO me", "502"}, [2]string{"HELO me", "250"}, [2]string{"STARTTLS", "454"},
			[2]string{"MAIL FROM:<a@b>", "250"}, [2]string{"RCPT TO:<no@d>", "550"}, [2]string{"RCPT TO:<LATER@d>", "450"},
			[2]string{"DATA", "554"}, [2]string{"RCPT TO:<yes@d>", "250"}, [2]string{"DATA", "354"}, [2]string{"hi\r\n.", "452"})
		if m := s.Received(); len(m) != 1 || m[0].Accepted {
			t.Errorf("received %+v, want one, refused", m)
		}
	})
	t.Run("greylisting", func(t *testing.T) {
		s := start(t, Behaviour{Greylist: 300 * time.Millisecond})
		c, _ := dial(t, s)
		dialogue(t, c, [2]string{"", "220"}, [2]string{"EHLO me", "250"}, [2]string{"MAIL FROM:<a@b>", "250"}, [2]string{"RCPT TO:<c@d>", "451"}, [2]string{"RCPT TO:<c@d>", "451"})
		time.Sleep(350 * time.Millisecond)
		dialogue(t, c, [2]string{"RCPT TO:<c@d>", "250"}, [2]string{"RCPT TO:<other@d>", "451"})
	})
	t.Run("dropped after the data", func(t *testing.T) {
		s := start(t, Behaviour{DropAtData: true})
		c, _ := dial(t, s)
		dialogue(t, c, [2]string{"", "220"}, [2]string{"EHLO me", "250"}, [2]string{"MAIL FROM:<a@b>", "250"}, [2]string{"RCPT TO:<c@d>", "250"}, [2]string{"DATA", "354"})
		c.PrintfLine("hi\r\n.")
		if line, err := c.ReadLine(); err == nil {
			t.Errorf("answered %q", line)
		}
		if m, ok := s.WaitFor(func(m Mail) bool { return m.HasTo("C@d") }, 5*time.Second); !ok || m.Accepted {
			t.Errorf("received %v, %+v", ok, m)
		}
	})
	t.Run("bytes behind the reply to STARTTLS", func(t *testing.T) {
		s := start(t, Behaviour{STARTTLS: true, Certificate: cert, Inject: "250 injected\r\n"})
		c, _ := dial(t, s)
		dialogue(t, c, [2]string{"", "220"}, [2]string{"EHLO me", "250"}, [2]string{"STARTTLS", "220"}, [2]string{"", "250 injected"})
	})
}
