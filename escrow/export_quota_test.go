package escrow

import "context"

// WatchQuotas is what Run calls.
func (v *Vault) WatchQuotas(ctx context.Context) error { return v.watchQuotas(ctx) }
