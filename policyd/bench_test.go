package policyd

import (
	"bufio"
	"io"
	"net"
	"testing"
)

// BenchmarkPolicy compares the server with a bare echo of the same protocol (bufio, one
// goroutine for each connection), in one run: only the ratio counts.
func BenchmarkPolicy(b *testing.B) {
	request := requestText("protocol_state=RCPT", "protocol_name=ESMTP", "client_address=192.0.2.1", "client_name=mail.plain.example",
		"client_port=54321", "reverse_client_name=mail.plain.example", "server_address=192.0.2.2", "server_port=25", "helo_name=mail.plain.example",
		"sender=a@plain.example", "recipient=b@plain.example", "recipient_count=0", "queue_id=", "instance=4d2.65f1a2b3.c4d5e.0", "size=12345",
		"etrn_domain=", "stress=", "sasl_method=", "sasl_username=", "sasl_sender=", "ccert_subject=", "ccert_issuer=", "ccert_fingerprint=",
		"ccert_pubkey_fingerprint=", "encryption_protocol=TLSv1.3", "encryption_cipher=TLS_AES_256_GCM_SHA384", "encryption_keysize=256", "policy_context=")
	run := func(name string, conns int, dial func() net.Conn) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(conns)
			b.RunParallel(func(pb *testing.PB) {
				c := dial()
				defer c.Close()
				in := bufio.NewReader(c)
				for pb.Next() {
					io.WriteString(c, request)
					if got, err := readAnswerFrom(in); err != nil || got != "DUNNO" {
						b.Errorf("%q, %v", got, err)
						return
					}
				}
			})
		})
	}
	s, _ := newServer(b, standardWorld(), nil)
	dial, _ := start(b, s, "tcp")
	echo := echoServer(b)
	for range 3 {
		run("echo", 8, echo)
		run("postseal", 8, dial)
	}
}

func echoServer(b *testing.B) func() net.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in, out := bufio.NewReader(c), bufio.NewWriter(c)
				for {
					line, err := in.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) == 1 {
						out.WriteString("action=DUNNO\n\n")
						out.Flush()
					}
				}
			}()
		}
	}()
	return func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
}
