package tlsrpt

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/postseal/postseal/tlsmap/probe/mtasts"
)

// Watch returns a source of MTA-STS policies that counts what src fails to fetch.
// A record that cannot be looked up is not counted: nobody knows then whether
// there is a policy.
func (c *Counter) Watch(src mtasts.Source) mtasts.Source { return watched{src, c} }

type watched struct {
	mtasts.Source
	counter *Counter
}

// Policy implements [mtasts.Source].
func (w watched) Policy(ctx context.Context, domain string) (*mtasts.Policy, []byte, error) {
	p, text, err := w.Source.Policy(ctx, domain)
	if err != nil && !errors.Is(err, context.Canceled) { // that is a shutdown
		w.counter.STSFailed(domain, fetchResult(err), err.Error())
	}
	return p, text, err
}

// fetchResult tells the result types of a fetch apart (RFC 8460, section
// 4.3.2.2).
func fetchResult(err error) ResultType {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, mtasts.ErrPolicy):
		return STSPolicyInvalid
	case errors.As(err, &untrusted):
		return STSWebPKIInvalid
	}
	return STSPolicyFetchError
}
