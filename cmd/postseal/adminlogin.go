package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/adminlogin/idp"
	"github.com/postseal/postseal/sql"
)

// newLogin makes the login of the admin pages.
func newLogin(cfg *config, db *sql.DB, keys *escrow.Keys, log *slog.Logger, reg prometheus.Registerer) (*adminlogin.Login, error) {
	c := adminlogin.Config{Store: db, Keys: keys.Admin(), Listen: cfg.str("admin-listen"), Log: log, Registerer: reg, Now: time.Now}
	var err error
	if s := cfg.str("admin-url"); s != "" {
		if c.URL, err = url.Parse(s); err != nil {
			return nil, err // checked before
		}
	}
	for _, s := range cfg.strs("oidc-admins") {
		n, err := adminlogin.ParseNamed(s)
		if err != nil {
			return nil, err
		}
		c.Named = append(c.Named, n)
	}
	if issuer := cfg.str("oidc-issuer"); issuer != "" {
		if c.Provider, err = newProvider(cfg, issuer); err != nil {
			return nil, err
		}
		if len(c.Named) == 0 {
			return nil, errors.New("oidc-issuer is set, but oidc-admins names nobody who may sign in")
		}
	}
	return adminlogin.New(c)
}

// adminTLS returns what the admin port speaks TLS with; nil: it speaks plain HTTP.
func adminTLS(cfg *config) (*tls.Config, error) {
	cert, key := cfg.str("admin-cert"), cfg.str("admin-key")
	switch {
	case cert == "" && key == "":
		return nil, nil
	case cert == "" || key == "":
		return nil, errors.New("admin-cert and admin-key go together")
	}
	return keepTLS("admin", cert, key)
}

// adminNames are the hosts that admin pages are asked for by, beside that of
// admin-listen.
func adminNames(cfg *config) []string {
	if u, err := url.Parse(cfg.str("admin-url")); err == nil && u.Host != "" {
		return []string{u.Hostname()}
	}
	return nil
}

func newProvider(cfg *config, issuer string) (*idp.Provider, error) {
	if cfg.str("oidc-client-id") == "" {
		return nil, errors.New("oidc-issuer wants oidc-client-id: what the identity provider calls this server")
	}
	if cfg.str("admin-url") == "" {
		return nil, errors.New("oidc-issuer wants admin-url: how browsers reach the admin port, and come back from the identity provider")
	}
	secret := ""
	if path := cfg.str("oidc-client-secret-file"); path != "" {
		var err error
		if secret, err = readSecret(path); err != nil {
			return nil, fmt.Errorf("oidc-client-secret-file: %w", err)
		}
	}
	return idp.New(idp.Options{
		Issuer: issuer, ClientID: cfg.str("oidc-client-id"), Secret: secret, Redirect: cfg.str("admin-url") + "/login/oidc/callback",
	})
}

// readSecret reads a file that only its owner, or its group, may read.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if m := fi.Mode(); !m.IsRegular() || m.Perm()&0o007 != 0 {
		return "", fmt.Errorf("%s has mode %04o, so everybody can use it: chmod 600 it, and have the identity provider make another secret if somebody may have read it", path, m.Perm()&fs.ModePerm)
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || bytes.ContainsAny(b, "\r\n") {
		return "", fmt.Errorf("%s: want the secret, in one line", path)
	}
	return string(b), nil
}

// checkAdminURL wants the address of the admin port alone: its pages stand at the top.
func checkAdminURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Path != "" || idp.CheckURL(s) != nil {
		return fmt.Errorf("%q: want https://HOST[:PORT], without a path (http only to this machine itself)", s)
	}
	return nil
}

func checkIssuer(s string) error {
	if s == "" {
		return nil
	}
	return idp.CheckURL(s)
}

func checkNamed(s string) error {
	_, err := adminlogin.ParseNamed(s)
	return err
}
