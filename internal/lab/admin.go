package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/pquerna/otp/totp"
)

// AddAdmin makes an account for the admin pages, as postseal admin add is used: it types
// the password and, once the secret of the app is shown, a code of it. It returns the
// secret, in base32.
func (p *Postseal) AddAdmin(name, password string, flags ...string) (secret string, err error) {
	cmd := exec.Command(p.Binary, append([]string{"admin", "add", name}, flags...)...)
	cmd.Env = append(os.Environ(), p.Env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	if _, err := io.WriteString(in, password+"\n"); err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		u, err := url.Parse(lines.Text())
		if err != nil || u.Scheme != "otpauth" {
			continue
		}
		secret = u.Query().Get("secret")
		code, err := totp.GenerateCode(secret, time.Now())
		if err != nil {
			return "", err
		}
		if _, err := io.WriteString(in, code+"\n"); err != nil {
			return "", err
		}
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("postseal admin add: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if secret == "" {
		return "", errors.New("postseal admin add showed no secret")
	}
	return secret, nil
}

// SignIn signs in at the admin port, whose login page is open, and follows to where that
// leads.
func (b *Browser) SignIn(name, password, code string) error {
	for _, f := range b.Forms() {
		if f.Action == "/login" {
			f.Fields.Set("name", name)
			f.Fields.Set("password", password)
			f.Fields.Set("code", code)
			return b.Submit(f)
		}
	}
	return errors.New("this is not the login page")
}
