package main

import (
	"log/slog"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/brand"
)

// loadBrands reads the brands of the setting brand-dir; nil where it is not set.
func loadBrands(cfg *config) (*brand.Set, error) {
	dir := cfg.str("brand-dir")
	if dir == "" {
		return nil, nil
	}
	return brand.Load(dir)
}

// branded makes notices carry brands, where a command may write one. A folder that
// can't be used does not keep it from its work: a notice without a brand is one.
func branded(cfg *config, log *slog.Logger) func(*escrow.Options) {
	return func(o *escrow.Options) {
		brands, err := loadBrands(cfg)
		if err != nil {
			log.Warn("brand-dir can't be used; notices go without", "error", err)
		}
		o.Brand = brands.Notice
	}
}
