// Package dns answers the pods of a node for the cluster's names: NAME.NAMESPACE.svc.cluster.local leads to the ready pods of a
// Service, POD.NAME.NAMESPACE.svc.cluster.local to one of them, and _PORT._PROTOCOL.NAME.NAMESPACE.svc.cluster.local says, as SRV,
// at which ports. What is not the cluster's is asked of whom the node asks. Names holds what the coordinator has said; what it has
// said last goes on counting while there is no session.
package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/spec"
)

// Domain is the cluster's own.
const Domain = "cluster.local."

const (
	zone     = Domain
	services = "svc." + zone
	// ttl is how long an answer may be kept, in seconds: a pod that is ready no more is not asked for longer.
	ttl = 1
)

// Names are the Services of the cluster and where they lead. Its methods may be called from any goroutine.
type Names struct {
	mu sync.RWMutex
	// known is set once they were told in full.
	known bool
	// all has the ready endpoints of each Service, by namespace and name.
	all map[string]map[string][]spec.Endpoint
	// hosts has the name of each address.
	hosts map[netip.Addr]string
}

// NewNames knows nothing yet, and says so.
func NewNames() *Names {
	return &Names{all: map[string]map[string][]spec.Endpoint{}, hosts: map[netip.Addr]string{}}
}

// Update is what has become of Services.
type Update struct {
	// Full means that these are all.
	Full bool
	// Services are new or changed ones, with their ready endpoints. Nobody writes to them any more.
	Services map[spec.ObjectName][]spec.Endpoint
	Removed  []spec.ObjectName
}

// Update takes in what has become of Services.
func (n *Names) Update(u Update) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if u.Full {
		n.all, n.hosts, n.known = map[string]map[string][]spec.Endpoint{}, map[netip.Addr]string{}, true
	}
	for _, name := range u.Removed {
		n.setLocked(name, nil, false)
	}
	for name, endpoints := range u.Services {
		n.setLocked(name, endpoints, true)
	}
}

func (n *Names) setLocked(name spec.ObjectName, endpoints []spec.Endpoint, there bool) {
	namespace, service := strings.ToLower(name.Namespace), strings.ToLower(name.Name)
	suffix := "." + service + "." + namespace + "." + services
	for _, e := range n.all[namespace][service] {
		if ip, err := netip.ParseAddr(e.IP); err == nil && strings.HasSuffix(n.hosts[ip], suffix) {
			delete(n.hosts, ip)
		}
	}
	if !there {
		if delete(n.all[namespace], service); len(n.all[namespace]) == 0 {
			delete(n.all, namespace)
		}
		return
	}
	if n.all[namespace] == nil {
		n.all[namespace] = map[string][]spec.Endpoint{}
	}
	n.all[namespace][service] = endpoints
	for _, e := range endpoints {
		if ip, err := netip.ParseAddr(e.IP); err == nil {
			n.hosts[ip] = strings.ToLower(hostLabel(e.Hostname)) + suffix
		}
	}
}

// hostLabel is a pod's hostname as one label: a pod's name may have dots.
func hostLabel(hostname string) string { return strings.ReplaceAll(hostname, ".", "-") }

// mine tells whether a name, in small letters, is the cluster's to answer for.
func mine(name string) bool { return name == zone || strings.HasSuffix(name, "."+zone) }

// answer fills in the reply to a question of the cluster's domain. shuffle orders addresses, so that clients which take the first
// take different ones.
func (n *Names) answer(q dns.Question, reply *dns.Msg, shuffle func(n int, swap func(i, j int))) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.known {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	reply.Authoritative = true
	found, exists := n.lookupLocked(strings.ToLower(q.Name))
	switch {
	case !exists:
		reply.Rcode = dns.RcodeNameError
	default:
		reply.Answer, reply.Extra = found.records(q, shuffle)
	}
	if len(reply.Answer) == 0 {
		reply.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
			Ns:  "ns.dns." + zone, Mbox: "hostmaster." + zone, Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
		}}
	}
}

// found is what a name leads to; nothing for one that only others are below.
type found struct {
	// service is the Service's full name.
	service string
	// addresses are the endpoints for A and AAAA, ports those for SRV.
	addresses []spec.Endpoint
	ports     []port
}

type port struct {
	spec.EndpointPort
	endpoint spec.Endpoint
}

// lookupLocked finds a name of the cluster's domain; false where there is none.
func (n *Names) lookupLocked(name string) (found, bool) {
	rest, ok := strings.CutSuffix(name, "."+services)
	if !ok {
		return found{}, name == zone || name == services
	}
	labels := strings.Split(rest, ".")
	namespace := labels[len(labels)-1]
	if len(labels) == 1 {
		return found{}, n.all[namespace] != nil
	}
	service := labels[len(labels)-2]
	endpoints, ok := n.all[namespace][service]
	if !ok {
		return found{}, false
	}
	f := found{service: service + "." + namespace + "." + services}
	switch host := labels[:len(labels)-2]; len(host) {
	case 0:
		f.addresses, f.ports = endpoints, portsOf(endpoints, func(p spec.EndpointPort) bool { return p.Name != "" })
		return f, true
	case 1:
		if protocol, ok := strings.CutPrefix(host[0], "_"); ok { // _tcp, which only others are below
			return f, slices.ContainsFunc(endpoints, func(e spec.Endpoint) bool {
				return slices.ContainsFunc(e.Ports, func(p spec.EndpointPort) bool { return p.Name != "" && strings.EqualFold(p.Protocol, protocol) })
			})
		}
		for _, e := range endpoints {
			if strings.EqualFold(hostLabel(e.Hostname), host[0]) {
				f.addresses = append(f.addresses, e)
			}
		}
		return f, len(f.addresses) > 0
	case 2:
		name, named := strings.CutPrefix(host[0], "_")
		protocol, of := strings.CutPrefix(host[1], "_")
		if !named || !of {
			return found{}, false
		}
		f.ports = portsOf(endpoints, func(p spec.EndpointPort) bool {
			return strings.EqualFold(p.Name, name) && strings.EqualFold(p.Protocol, protocol)
		})
		return f, len(f.ports) > 0
	}
	return found{}, false
}

func portsOf(endpoints []spec.Endpoint, which func(spec.EndpointPort) bool) (all []port) {
	for _, e := range endpoints {
		for _, p := range e.Ports {
			if which(p) {
				all = append(all, port{p, e})
			}
		}
	}
	return all
}

func (f *found) records(q dns.Question, shuffle func(n int, swap func(i, j int))) (answer, extra []dns.RR) {
	header := func(name string, t uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
	}
	address := func(name string, e spec.Endpoint) dns.RR {
		ip, err := netip.ParseAddr(e.IP)
		switch {
		case err != nil:
			return nil
		case ip.Is4():
			return &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}
		default:
			return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: ip.AsSlice()}
		}
	}
	seen := map[string]bool{}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeANY:
		for _, e := range f.addresses {
			if rr := address(q.Name, e); rr != nil && (q.Qtype == dns.TypeANY || rr.Header().Rrtype == q.Qtype) && !seen[e.IP] {
				seen[e.IP] = true
				answer = append(answer, rr)
			}
		}
	case dns.TypeSRV:
		for _, p := range f.ports {
			target := strings.ToLower(hostLabel(p.endpoint.Hostname)) + "." + f.service
			answer = append(answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Priority: 0, Weight: 100, Port: uint16(p.Port), Target: target})
			if rr := address(target, p.endpoint); rr != nil && !seen[target] {
				seen[target] = true
				extra = append(extra, rr)
			}
		}
	}
	shuffle(len(answer), func(i, j int) { answer[i], answer[j] = answer[j], answer[i] })
	return answer, extra
}

// host is the name of an address; empty where the cluster knows none.
func (n *Names) host(ip netip.Addr) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.hosts[ip]
}

// reverse is the address that a name below in-addr.arpa or ip6.arpa asks for; not valid for others.
func reverse(name string) netip.Addr {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		ip, err := netip.ParseAddr(strings.Join(labels, "."))
		if err == nil && len(labels) == 4 {
			return ip
		}
	}
	return netip.Addr{}
}
