package classes

import (
	"crypto/tls"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// handshakes are classes of STARTTLS and of what follows it.
func handshakes() []Class {
	broken := func(name, what, says string, b fakesmtp.Behaviour) Class {
		return without(name, what, "broken", says, acts(b))
	}
	// Opportunistic TLS takes what there is, as Postfix's own default does
	// (smtp_tls_protocols); for required mail there is the floor.
	old := func(name, what string, version uint16) Class {
		c := broken(name, what, "TLS", fakesmtp.Behaviour{MinTLS: version, MaxTLS: version})
		c.Mail = ByTLS
		return c
	}
	c454 := without("starttls-454", "STARTTLS is answered 454", "unreachable", "454", acts(fakesmtp.Behaviour{StartReply: "454 4.7.0 TLS not available"}))
	c454.Encryption = Waits
	inject := good("injection", "plaintext lies behind the reply to STARTTLS (CVE-2011-0411)", acts(fakesmtp.Behaviour{Inject: "250 ok\r\n"}))
	inject.State = "broken"
	inject.Unforeseen = "Postfix drops what lies behind the reply; Postseal's probe takes it for an attack"
	return []Class{
		c454,
		broken("starttls-502", "STARTTLS is answered 502: for Postfix a reason to give up, so securesmtp takes it for 452", "refused to start TLS: 452", fakesmtp.Behaviour{StartReply: "502 5.5.1 not now"}),
		broken("starttls-554", "STARTTLS is answered 554 TLS currently unavailable", "refused to start TLS: 454", fakesmtp.Behaviour{StartReply: "554 5.7.3 TLS currently unavailable"}),
		broken("tls-alert", "the handshake ends in an alert", "TLS", fakesmtp.Behaviour{Handshake: fakesmtp.HandshakeAlert}),
		broken("tls-close", "the handshake ends in a closed connection", "TLS", fakesmtp.Behaviour{Handshake: fakesmtp.HandshakeClose}),
		broken("tls-garbage", "the handshake is answered in plaintext", "TLS", fakesmtp.Behaviour{Handshake: fakesmtp.HandshakeGarbage}),
		broken("tls-silent", "the handshake is not answered", "TLS", fakesmtp.Behaviour{Handshake: fakesmtp.HandshakeSilent}),
		old("tls-1.0", "TLS 1.0 alone", tls.VersionTLS10),
		old("tls-1.1", "TLS 1.1 alone", tls.VersionTLS11),
		good("tls-1.2", "TLS 1.2 alone", acts(fakesmtp.Behaviour{MaxTLS: tls.VersionTLS12})),
		good("tls-1.3", "TLS 1.3 alone", acts(fakesmtp.Behaviour{MinTLS: tls.VersionTLS13})),
		good("rsa-kex", "TLS 1.2 without forward secrecy (RSA key exchange)", func(w *World) error {
			cert, err := w.Cert(fakesmtp.CertOptions{RSA: true})
			if err != nil {
				return err
			}
			return w.host(fakesmtp.Behaviour{Certificate: cert, MaxTLS: tls.VersionTLS12, Suites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}})
		}),
		broken("client-cert", "a client without a certificate is turned away", "TLS", fakesmtp.Behaviour{ClientCert: true, MaxTLS: tls.VersionTLS12}),
		good("refuses-sni", "a client that names a host is turned away (unrecognized_name)", acts(fakesmtp.Behaviour{RefuseSNI: true})),
		inject,
	}
}
