// Package podnet says which network each node's pods have: a /24 of the cluster's pool, as long as the node is known, and
// never one that overlaps another's. It is pure: who has what in, who gets what out, the same for the same input. Writing
// it down is the leader's work, and setting it up the agents'.
package podnet

import (
	"fmt"
	"net/netip"
	"slices"
)

const (
	// Bits is the length of the prefix that a node gets.
	Bits = 24
	// Default is the pool where nobody says otherwise: room for 256 nodes.
	Default = "10.77.0.0/16"
	// minBits bounds the pool: 65,536 nodes.
	minBits = 8
)

// reserved is what no pool may overlap.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

// Check says what is wrong with a pool.
func Check(pool netip.Prefix) error {
	switch {
	case !pool.IsValid() || !pool.Addr().Is4():
		return fmt.Errorf("pod cidr %s: must be an IPv4 network such as %s", pool, Default)
	case pool.Bits() < minBits || pool.Bits() > Bits:
		return fmt.Errorf("pod cidr %s: must be a /%d to /%d, of which each node gets a /%d", pool, minBits, Bits, Bits)
	case pool != pool.Masked():
		return fmt.Errorf("pod cidr %s: has bits behind its prefix: %s is meant?", pool, pool.Masked())
	}
	for _, r := range reserved {
		if r.Overlaps(pool) {
			return fmt.Errorf("pod cidr %s: overlaps %s, which pods can't have addresses of", pool, r)
		}
	}
	return nil
}

// Node is a node that is known.
type Node struct {
	Name string
	// Address is the node's own; no network with such an address is given. It may be the zero Addr.
	Address netip.Addr
	// Has is what it has been given, in this pool or another; not valid: nothing.
	Has netip.Prefix
	// Wants is whether it needs one.
	Wants bool
}

// Given is what a node gets.
type Given struct {
	Node string
	CIDR netip.Prefix
}

// Decide gives each node that wants a network and has none the lowest that is free, in the order of their names. refused
// says, for people, what those get that are not in given; it is empty when none is.
func Decide(pool netip.Prefix, nodes []Node) (given []Given, refused string) {
	var wanting []string
	var large []netip.Prefix         // larger than what is given now
	taken := map[netip.Prefix]bool{} // the rest, as what it is in
	take := func(p netip.Prefix) {
		if p.Bits() < Bits {
			large = append(large, p)
		} else if p.Addr().Is4() {
			taken[netip.PrefixFrom(p.Addr(), Bits).Masked()] = true
		}
	}
	for _, n := range nodes {
		if n.Has.IsValid() {
			take(n.Has)
		} else if n.Wants {
			wanting = append(wanting, n.Name)
		}
		if n.Address.IsValid() {
			take(netip.PrefixFrom(n.Address, n.Address.BitLen()))
		}
	}
	if len(wanting) == 0 {
		return nil, ""
	}
	slices.Sort(wanting)
	for at := netip.PrefixFrom(pool.Addr(), Bits); len(wanting) > 0 && pool.Contains(at.Addr()); at = next(at) {
		if !taken[at] && !slices.ContainsFunc(large, at.Overlaps) {
			given = append(given, Given{wanting[0], at})
			wanting = wanting[1:]
		}
	}
	if len(wanting) > 0 {
		who := "node " + wanting[0]
		if n := len(wanting) - 1; n > 0 {
			who += fmt.Sprintf(" and %d more", n)
		}
		refused = fmt.Sprintf("no pod CIDR is free for %s: every /%d of %s is taken; delete nodes that are gone for good, or give the coordinator a larger --pod-cidr (nodes keep what they have)", who, Bits, pool)
	}
	return given, refused
}

// next is the /24 behind another; no pool reaches to the end of all addresses.
func next(p netip.Prefix) netip.Prefix {
	b := p.Addr().As4()
	for i := 2; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			break
		}
	}
	return netip.PrefixFrom(netip.AddrFrom4(b), Bits)
}
