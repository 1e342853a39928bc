package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// cold measures answers for domains of which nothing is known: DNS is asked first.
func cold(s *settings, p *server) error {
	const conns = 16
	var wg sync.WaitGroup
	took := make([][]time.Duration, conns)
	errs := make([]error, conns)
	cpu, start := p.cpu(), time.Now()
	for i := range conns {
		wg.Go(func() {
			c, err := net.Dial("tcp", p.maps)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			reply := make([]byte, 1000)
			for d := i; d < coldDomains; d += conns {
				at := time.Now()
				if _, err := c.Write(netstring("tls-policy " + coldDomain(d))); err != nil {
					errs[i] = err
					return
				}
				if _, err := c.Read(reply); err != nil {
					errs[i] = err
					return
				}
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	wg.Wait()
	passed, used := time.Since(start), p.cpu()-cpu
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	heading("Cold answers of tls-policy, 16 connections, a DNS server on loopback in this process")
	fmt.Printf("  %d answers, %.0f/s, p50 %v, p99 %v, %v of CPU each (DNS for MX, addresses and MTA-STS)\n", len(all), float64(len(all))/passed.Seconds(),
		all[len(all)/2].Round(10*time.Microsecond), all[len(all)*99/100].Round(10*time.Microsecond), (used / time.Duration(len(all))).Round(time.Microsecond))
	fmt.Println("  postfix-tlspol 1.13, as measured elsewhere: 345 to 580 µs of CPU")
	return nil
}

// silent measures answers where the resolver takes questions and never replies.
func silent(ctx context.Context, s *settings, dir string) error {
	hole, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer hole.Close()
	p, err := startPostseal(ctx, s, dir, hole.LocalAddr().String())
	if err != nil {
		return err
	}
	defer p.stop()
	heading("A resolver that never replies")
	for _, q := range []string{"tls-policy " + coldDomain(1), "secure-tls-policy " + coldDomain(2), "transport joe@" + domain(s.rules-1), "secure-tls-policy " + domain(1)} {
		text, took, err := one(p.maps, q)
		if err != nil {
			return err
		}
		fmt.Printf("  %-40s %6.2f s  %s\n", q, took.Seconds(), text)
	}
	fmt.Println("  postfix-tlspol 1.13, as measured elsewhere: 7.8 s")
	return nil
}
