package hostgw

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// protocol marks our routes, with the metric of the agent.
	protocol = 77
	// staleAfter is how long a pod's link stays whose pod has no address: at an agent's start pods are found again.
	staleAfter = time.Minute
)

// Cluster is the flat network as the coordinator told it: whole.
type Cluster struct {
	// Own is the network of this node's pods; the zero Prefix while it has none.
	Own netip.Prefix `json:"own,omitzero"`
	// All is what the networks are cut from.
	All netip.Prefix `json:"all,omitzero"`
	// Nodes are the other nodes of the network.
	Nodes []Node `json:"nodes"`
}

// Node is another node, and where its pods are.
type Node struct {
	Name    string       `json:"name"`
	Address netip.Addr   `json:"address"`
	Pods    netip.Prefix `json:"pods"`
}

// Port is a port of the node that leads to one of a pod.
type Port struct {
	// Protocol is tcp or udp.
	Protocol string `json:"protocol"`
	// Host is the node's port, Pod the pod's; 1 to 65535.
	Host uint16 `json:"host"`
	Pod  uint16 `json:"pod"`
}

// names are what the things of one agent are called in the kernel, so that those of two never meet in one network
// namespace.
type names struct {
	// bridge is the bridge's name, pods what the names of pods' links begin with, table the table's.
	bridge, pods, table string
	// metric is that of the routes.
	metric int
	// mac is the bridge's hardware address: fixed, or it would change as pods come and go.
	mac [6]byte
}

// namesOf derives the names from the id of an agent.
func namesOf(id string) names {
	sum := sha256.Sum256([]byte(id))
	text := hex.EncodeToString(sum[:4])
	return names{
		bridge: "muster-" + text, pods: "mu" + text[:5], table: "muster_" + text,
		metric: 1000 + int(binary.BigEndian.Uint16(sum[4:]))%30000,
		mac:    [6]byte{0x0a, 0x77, sum[0], sum[1], sum[2], sum[3]},
	}
}

// link is the name of a pod's link: at most 15 bytes.
func (n names) link(pod string) string {
	sum := sha256.Sum256([]byte(pod))
	return n.pods + hex.EncodeToString(sum[:4])
}

// alias says whose a pod's link is: the pod's uid, epoch and address stand in it.
type alias struct {
	uid   string
	epoch int64
	ip    netip.Addr
}

func (a alias) String() string { return fmt.Sprintf("muster %s %d %s", a.uid, a.epoch, a.ip) }

func parseAlias(s string) (alias, bool) {
	var a alias
	var ip string
	if n, err := fmt.Sscanf(s, "muster %s %d %s", &a.uid, &a.epoch, &ip); n != 3 || err != nil {
		return alias{}, false
	}
	var err error
	a.ip, err = netip.ParseAddr(ip)
	return a, err == nil && a.String() == s
}

// link, address and route are what is seen in the kernel.
type link struct {
	name, kind, alias string
	// master is the name of the bridge it is a port of; empty for none.
	master string
	up     bool
	mtu    int
	// unclaimed is how long its pod has had no address.
	unclaimed time.Duration
}

type address struct {
	link string
	net  netip.Prefix // with the address's own bits
}

type route struct {
	net  netip.Prefix
	via  netip.Addr // not valid: on-link
	link string
	// ours is whether it has our protocol and our metric.
	ours bool
}

// span is a range of addresses, both ends in it.
type span struct{ from, to netip.Addr }

// published is a port of the node with the pod's address it leads to.
type published struct {
	protocol string
	host     uint16
	to       netip.AddrPort
}

// rules are what our table is made from.
type rules struct {
	own netip.Prefix
	// inside are the addresses to which the source of pods' traffic is never translated, merged and in order.
	inside []span
	// ports are in order.
	ports []published
}

// tags stand in the comments of the rules, in their order: a table whose rules have others, or more, is not as we made it.
func (r *rules) tags() []string {
	var out []string
	for _, rule := range []string{"prerouting ports", "output ports", "postrouting hairpin", "postrouting masquerade"} {
		out = append(out, fmt.Sprintf("muster 1: %s of %s", rule, r.own))
	}
	return out
}

// table is our table as it is seen.
type table struct {
	tags   []string
	inside []span
	ports  []published
}

// wanted is how things should be.
type wanted struct {
	names
	cluster Cluster
	// self is the node's own address.
	self netip.Addr
	// ports are those of the pods, with their addresses.
	ports []published
}

// seen is how things are.
type seen struct {
	forwarding bool
	links      []link
	addresses  []address
	// routes are those of the main table, IPv4.
	routes []route
	// table is nil where there is none of ours.
	table *table
}

// verb is what a step does.
type verb string

const (
	addBridge     verb = "add bridge"
	setMTU        verb = "set mtu"
	setUp         verb = "set up"
	addAddress    verb = "add address"
	removeAddress verb = "remove address"
	forward       verb = "forward"
	enslave       verb = "add to the bridge"
	deleteLink    verb = "delete link"
	setRoute      verb = "set route"
	deleteRoute   verb = "delete route"
	setRules      verb = "set rules"
)

// step is one thing to do. Doing it again does no harm.
type step struct {
	do   verb
	link string
	net  netip.Prefix
	via  netip.Addr
	mtu  int
}

func (s step) String() string {
	var b strings.Builder
	b.WriteString(string(s.do))
	for _, part := range []fmt.Stringer{s.net, s.via} {
		if text := part.String(); !strings.HasPrefix(text, "invalid") {
			b.WriteString(" " + text)
		}
	}
	if s.mtu != 0 {
		fmt.Fprintf(&b, " %d", s.mtu)
	}
	if s.link != "" {
		b.WriteString(" " + s.link)
	}
	return b.String()
}

// plan says what to do, in this order, and what no step can mend, in sentences for people. Without a network of its own
// a node does nothing.
func plan(w *wanted, s *seen) (steps []step, problems []string) {
	own := w.cluster.Own
	if !own.IsValid() {
		return nil, nil
	}
	if at, ok := s.overlap(own, w.bridge); ok {
		return nil, []string{fmt.Sprintf("pod cidr %s overlaps %s of %s: give the coordinator another --pod-cidr", own, at.net, at.link)}
	}
	bridge, ok := s.link(w.bridge)
	switch {
	case !ok:
		steps = append(steps, step{do: addBridge, link: w.bridge})
	case bridge.kind != "bridge":
		return nil, []string{fmt.Sprintf("link %s is no bridge but a %s: take it away, its name is this agent's", w.bridge, bridge.kind)}
	}
	gateway := netip.PrefixFrom(gatewayOf(own), own.Bits())
	has := false
	for _, a := range s.addresses {
		if a.link != w.bridge {
			continue
		}
		if a.net == gateway {
			has = true
		} else {
			steps = append(steps, step{do: removeAddress, link: w.bridge, net: a.net})
		}
	}
	if !has {
		steps = append(steps, step{do: addAddress, link: w.bridge, net: gateway})
	}
	if mtu := s.mtu(w.self); mtu != 0 && bridge.mtu != mtu {
		steps = append(steps, step{do: setMTU, link: w.bridge, mtu: mtu}) // and pods' links take theirs from it
	}
	if !bridge.up {
		steps = append(steps, step{do: setUp, link: w.bridge})
	}
	if !s.forwarding {
		steps = append(steps, step{do: forward})
	}
	steps = append(steps, planLinks(w, s)...)
	more, problems := planRoutes(w, s)
	steps = append(steps, more...)
	if r := w.rules(); s.table == nil || !slices.Equal(s.table.tags, r.tags()) || !slices.Equal(s.table.inside, r.inside) || !slices.Equal(s.table.ports, r.ports) {
		steps = append(steps, step{do: setRules})
	}
	return steps, problems
}

// planLinks keeps the pods' links on the bridge, and takes those away that no pod stands behind.
func planLinks(w *wanted, s *seen) (steps []step) {
	for _, l := range s.links {
		if _, ok := parseAlias(l.alias); !ok || !strings.HasPrefix(l.name, w.pods) || l.kind != "veth" {
			continue
		}
		if l.unclaimed >= staleAfter {
			steps = append(steps, step{do: deleteLink, link: l.name})
			continue
		}
		if l.master != w.bridge {
			steps = append(steps, step{do: enslave, link: l.name})
		}
		if !l.up {
			steps = append(steps, step{do: setUp, link: l.name})
		}
	}
	return steps
}

// planRoutes leads to every other node that is on a network of this one; the kernel drops routes with the interface they
// go through.
func planRoutes(w *wanted, s *seen) (steps []step, problems []string) {
	want := map[netip.Prefix]route{}
	var behind []string
	for _, n := range w.cluster.Nodes {
		if n.Address == w.self || s.local(n.Address) {
			continue // another agent of this very machine: its bridge is here
		}
		if at, ok := s.overlap(n.Pods, ""); ok {
			problems = append(problems, fmt.Sprintf("pods of node %s are out of reach: their network %s overlaps %s of %s", n.Name, n.Pods, at.net, at.link))
			continue
		}
		through, ok := s.way(n.Address, w.bridge)
		switch {
		case !ok: // the interface is down: nothing leads there until it is back
		case through.via.IsValid():
			behind = append(behind, fmt.Sprintf("node %s (%s) is behind %s", n.Name, n.Address, through.via))
		default:
			want[n.Pods] = route{net: n.Pods, via: n.Address, link: through.link, ours: true}
		}
	}
	if len(behind) > 0 {
		const told = 3
		text := strings.Join(behind[:min(told, len(behind))], ", ")
		if more := len(behind) - told; more > 0 {
			text += fmt.Sprintf(", and %d more nodes", more)
		}
		problems = append(problems, fmt.Sprintf("%s, not on a network segment of this node (%s): their pods are out of reach, for --network host-gw needs one segment", text, w.self))
	}
	for _, r := range s.routes {
		if !r.ours {
			continue
		}
		switch need, ok := want[r.net]; {
		case ok && need == r:
			delete(want, r.net)
		case !ok:
			steps = append(steps, step{do: deleteRoute, net: r.net, via: r.via, link: r.link})
		}
	}
	for _, n := range w.cluster.Nodes { // in the order they were told in
		if r, ok := want[n.Pods]; ok {
			steps = append(steps, step{do: setRoute, net: r.net, via: r.via, link: r.link})
		}
	}
	return steps, problems
}

// gatewayOf is the node's own address in its pods' network: the first.
func gatewayOf(own netip.Prefix) netip.Addr { return own.Addr().Next() }

func (s *seen) link(name string) (link, bool) {
	for _, l := range s.links {
		if l.name == name {
			return l, true
		}
	}
	return link{}, false
}

// local tells whether the address is one of this machine's.
func (s *seen) local(a netip.Addr) bool {
	return slices.ContainsFunc(s.addresses, func(at address) bool { return at.net.Addr() == a })
}

// overlap finds an address of this machine, but for those of one link, whose network overlaps.
func (s *seen) overlap(net netip.Prefix, but string) (address, bool) {
	for _, a := range s.addresses {
		if a.link != but && a.net.Overlaps(net) {
			return address{a.link, a.net.Masked()}, true
		}
	}
	return address{}, false
}

// way is the route that leads to an address without our doing: the most specific one.
func (s *seen) way(to netip.Addr, bridge string) (best route, ok bool) {
	for _, r := range s.routes {
		if !r.ours && r.link != bridge && r.net.Contains(to) && (!ok || r.net.Bits() > best.net.Bits()) {
			best, ok = r, true
		}
	}
	return best, ok
}

// mtu is that of the link which the node's own address is on; 0 while that is not seen.
func (s *seen) mtu(self netip.Addr) int {
	for _, a := range s.addresses {
		if a.net.Addr() == self {
			l, _ := s.link(a.link)
			return l.mtu
		}
	}
	return 0
}

// rules says what the table holds: pods reach pods, and the nodes that have routes back to them, untranslated.
func (w *wanted) rules() *rules {
	spans := []span{spanOf(w.cluster.All), spanOf(w.cluster.Own), {w.self, w.self}}
	for _, n := range w.cluster.Nodes {
		spans = append(spans, spanOf(n.Pods), span{n.Address, n.Address})
	}
	r := &rules{own: w.cluster.Own, inside: merge(spans), ports: slices.Clone(w.ports)}
	slices.SortFunc(r.ports, comparePorts)
	return r
}

func comparePorts(a, b published) int {
	return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.host, b.host), a.to.Compare(b.to))
}

// spanOf is the range of a network.
func spanOf(p netip.Prefix) span {
	if !p.IsValid() {
		return span{}
	}
	last := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return span{p.Masked().Addr(), netip.AddrFrom4(last)}
}

// merge puts ranges in order and joins those that touch.
func merge(spans []span) []span {
	spans = slices.DeleteFunc(spans, func(s span) bool { return !s.from.Is4() })
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && (s.from.Compare(out[n-1].to) <= 0 || s.from == out[n-1].to.Next()) {
			if s.to.Compare(out[n-1].to) > 0 {
				out[n-1].to = s.to
			}
			continue
		}
		out = append(out, s)
	}
	return out
}
