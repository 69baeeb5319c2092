package dispatch

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// member makes a node of the network known, with a CIDR.
func (w *world) member(name, address, cidr string) {
	w.put(store.Key{Family: store.NodeFacts, Name: name}, &spec.NodeFacts{Address: address, Network: spec.NetworkHostGW})
	w.put(store.Key{Family: store.NodeNetworks, Name: name}, &spec.NodeNetwork{PodCIDR: netip.MustParsePrefix(cidr)})
}

// take opens a session as a node of the network.
func (w *world) take(number int64) *agent {
	w.t.Helper()
	stream, err := w.client.Connect(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	a := &agent{w, number, stream}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{
		Node: "node-1", Instance: "i", BootId: "b", Session: number, Version: "0.1.0",
		Facts: &musterv1.NodeFacts{Address: "192.0.2.1", Network: spec.NetworkHostGW},
	}}})
	if a.recv().GetWelcome() == nil {
		w.t.Fatal("the first message is not welcome")
	}
	return a
}

// network reads one message about the network, in short.
func (a *agent) network() string {
	a.w.t.Helper()
	m := a.recv().GetNetwork()
	if m == nil {
		a.w.t.Fatal("the message is not about the network")
	}
	var nodes []string
	for _, n := range m.GetNodes() {
		nodes = append(nodes, n.GetNode()+" "+n.GetPodCidr()+" via "+n.GetAddress())
	}
	return fmt.Sprintf("full %v own %q of %s nodes [%s] removed %v", m.GetFull(), m.GetPodCidr(), m.GetClusterCidr(), strings.Join(nodes, ", "), m.GetRemoved())
}

func (a *agent) hears(want string) {
	a.w.t.Helper()
	if got := a.network(); got != want {
		a.w.t.Errorf("heard %s\nwant  %s", got, want)
	}
}

func TestANodeOfTheNetworkHearsItWholeAndThenItsChanges(t *testing.T) {
	w := serve(t)
	w.d.cfg.PodCIDR = netip.MustParsePrefix("10.77.0.0/16")
	w.member("node-2", "192.0.2.2", "10.77.2.0/24")
	w.put(store.Key{Family: store.NodeFacts, Name: "plain"}, &spec.NodeFacts{Address: "192.0.2.9"})
	a := w.take(1)
	a.hears(`full true own "" of 10.77.0.0/16 nodes [node-2 10.77.2.0/24 via 192.0.2.2] removed []`)
	a.full()
	w.put(store.Key{Family: store.NodeNetworks, Name: "node-1"}, &spec.NodeNetwork{PodCIDR: netip.MustParsePrefix("10.77.1.0/24")})
	a.hears(`full false own "10.77.1.0/24" of 10.77.0.0/16 nodes [] removed []`)
	w.put(store.Key{Family: store.NodeNetworks, Name: "node-3"}, &spec.NodeNetwork{PodCIDR: netip.MustParsePrefix("10.77.3.0/24")})
	w.put(store.Key{Family: store.NodeFacts, Name: "node-3"}, &spec.NodeFacts{Address: "192.0.2.3", Network: spec.NetworkHostGW})
	a.hears(`full false own "10.77.1.0/24" of 10.77.0.0/16 nodes [node-3 10.77.3.0/24 via 192.0.2.3] removed []`)
	// Another address is a change, other facts are none.
	w.put(store.Key{Family: store.NodeFacts, Name: "node-3"}, &spec.NodeFacts{Address: "192.0.2.3", Network: spec.NetworkHostGW, Kernel: "x"})
	w.put(store.Key{Family: store.NodeFacts, Name: "node-2"}, &spec.NodeFacts{Address: "192.0.2.22", Network: spec.NetworkHostGW})
	a.hears(`full false own "10.77.1.0/24" of 10.77.0.0/16 nodes [node-2 10.77.2.0/24 via 192.0.2.22] removed []`)
	w.put(store.Key{Family: store.NodeFacts, Name: "node-2"}, &spec.NodeFacts{Address: "192.0.2.22", Network: spec.NetworkNone})
	a.hears(`full false own "10.77.1.0/24" of 10.77.0.0/16 nodes [] removed [node-2]`)
	w.put(store.Key{Family: store.NodeNetworks, Name: "node-3"}, nil)
	a.hears(`full false own "10.77.1.0/24" of 10.77.0.0/16 nodes [] removed [node-3]`)

	// A new session hears all of it again; one that takes no part hears nothing.
	w.take(2).hears(`full true own "10.77.1.0/24" of 10.77.0.0/16 nodes [] removed []`)
	w.connect(3).open()
}

func TestALargeNetworkComesInParts(t *testing.T) {
	w := serve(t)
	w.d.cfg.PodCIDR = netip.MustParsePrefix("10.0.0.0/8")
	const nodes = 2*nodesChunk + 5
	for i := 0; i < nodes; i += 50 {
		var txn store.Txn
		for j := i; j < min(i+50, nodes); j++ {
			name := fmt.Sprintf("n%05d", j)
			txn.Then = append(txn.Then,
				store.Write{Key: store.Key{Family: store.NodeFacts, Name: name}, Value: &spec.NodeFacts{Address: "192.0.2.2", Network: spec.NetworkHostGW}},
				store.Write{Key: store.Key{Family: store.NodeNetworks, Name: name}, Value: &spec.NodeNetwork{PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(j >> 8), byte(j), 0}), 24)}})
		}
		rev, err := w.store.Commit(t.Context(), txn)
		if err == nil {
			err = w.cache.Wait(t.Context(), rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a := w.take(1)
	seen := map[string]bool{}
	for i, want := range []int{nodesChunk, nodesChunk, 5} {
		m := a.recv().GetNetwork()
		for _, n := range m.GetNodes() {
			seen[n.GetNode()] = true
		}
		if len(m.GetNodes()) != want || !m.GetFull() || m.GetMore() != (i < 2) {
			t.Errorf("part %d has %d nodes, full %v, more %v", i, len(m.GetNodes()), m.GetFull(), m.GetMore())
		}
	}
	if len(seen) != nodes {
		t.Errorf("%d nodes, want %d", len(seen), nodes)
	}
}
