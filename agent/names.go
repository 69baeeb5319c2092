package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/musterhq/muster/agent/dns"
	"github.com/musterhq/muster/agent/network/hostgw"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/internal/spec"
)

// namesAt is where the cluster's names are answered on a node whose pods have no network of their own: on its own loopback, at a
// port of any number where the usual one is not to be had. number is the node's, 0 where it has none.
func namesAt(number int) dns.Address {
	if number == 0 {
		number = 255
	}
	return dns.Address{IP: netip.AddrFrom4([4]byte{127, 77, byte(number), 53}), AnyPort: true}
}

// mayAsk tells who may ask for names: this machine, and the pods of the cluster.
func mayAsk(flat *hostgw.Network, own netip.Addr) func(netip.Addr) bool {
	return func(from netip.Addr) bool {
		return from.IsLoopback() || from == own || flat != nil && flat.Has(from)
	}
}

// tellNames hands what the coordinator says of Services to whoever answers for them.
func tellNames(names *dns.Names) func(session.Services) {
	return func(s session.Services) {
		names.Update(dns.Update{Full: s.Full, Services: s.Services, Removed: s.Removed})
	}
}

// resolvConf says what a pod's /etc/resolv.conf has to say.
func resolvConf(server *dns.Server, flat *hostgw.Network) func(*spec.Pod) string {
	return func(p *spec.Pod) string {
		at := ""
		switch bound := server.Bound(); {
		case flat != nil:
			at = flat.Gateway().String() // a pod has an address: the node has a network
		case bound.Port() == dns.Port:
			at = bound.Addr().String()
		}
		return dns.ResolvConf(p, at, "/etc/resolv.conf")
	}
}

// namesText is where programs may ask for names, for their environment.
func namesText(server *dns.Server) func() string {
	return func() string {
		if at := server.Bound(); at.IsValid() {
			return at.String()
		}
		return ""
	}
}

// startNames waits a moment until names are answered: the first pods are told where.
func startNames(ctx context.Context, server *dns.Server) {
	select {
	case <-server.Tried():
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}
