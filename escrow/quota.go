package escrow

import (
	"context"
	"errors"
	"fmt"
)

// Quota is how many bytes of sealed messages may be held: of those that have not ended,
// or are on hold. Zero is: any number.
type Quota struct {
	Total  int64
	Domain int64 // for each domain of senders; the null sender counts as one
}

// QuotaError reports that a message was not sealed, since a quota would be exceeded.
type QuotaError struct {
	Total  bool   // else it is the quota of Domain
	Domain string // of the sender; "": the null sender
	Used   int64  // bytes held now
	Needs  int64  // bytes of the message
	Quota  int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("quota: %s holds %d bytes of %d, and the message has %d", e.Of(), e.Used, e.Quota, e.Needs)
}

// Of names whose quota it is.
func (e *QuotaError) Of() string {
	switch {
	case e.Total:
		return "the escrow"
	case e.Domain == "":
		return "the escrow of the null sender"
	}
	return "the escrow of " + e.Domain
}

// Shares of a quota from which on the administrator is warned.
const (
	quotaNear = 0.8
	quotaFull = 1.0
)

// countRefusal counts what a quota has refused, and reports whether it was one. Of a message
// the intake logs it.
func (v *Vault) countRefusal(err error) bool {
	var q *QuotaError
	if !errors.As(err, &q) {
		return false
	}
	of := "domain"
	if q.Total {
		of = "total"
	}
	v.metrics.refusals.WithLabelValues(of).Inc()
	return true
}

// watchQuotas tells of how much is held, and warns once when a quota is used by 80 %, and
// once more when it is used up.
func (v *Vault) watchQuotas(ctx context.Context) error {
	usage, err := v.store.Usage(ctx)
	if err != nil {
		return fmt.Errorf("quotas: %w", err)
	}
	var total int64
	for _, n := range usage {
		total += n
	}
	v.metrics.held.Set(float64(total))
	seen := make(map[string]bool)
	look := func(of string, used, quota int64) {
		share := float64(used) / float64(quota)
		if share < quotaNear {
			return
		}
		seen[of] = true
		v.metrics.quotas.WithLabelValues(of).Set(share)
		level := quotaNear
		if share >= quotaFull {
			level = quotaFull
		}
		if v.warned[of] < level {
			v.log.Warn(fmt.Sprintf("a quota of sealed messages is used by %.0f %%", 100*share), "of", of, "used", used, "quota", quota)
		}
		v.warned[of] = level
	}
	if q := v.quota.Total; q > 0 {
		look("total", total, q)
	}
	if q := v.quota.Domain; q > 0 {
		for domain, used := range usage {
			look("@"+domain, used, q)
		}
	}
	for of := range v.warned {
		if !seen[of] {
			delete(v.warned, of)
			v.metrics.quotas.DeleteLabelValues(of)
		}
	}
	return nil
}
