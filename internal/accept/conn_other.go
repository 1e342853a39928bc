//go:build !linux

package accept

func (c *Conn) exchange() error { return c.exchangeByNet() }
