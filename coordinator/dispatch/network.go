package dispatch

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// nodesChunk is how many nodes go into one message about the network.
const nodesChunk = 2000

// mark notes that a node's part of the network may have changed; "" stands for all nodes.
func (s *session) mark(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marked[node] = true
}

func (s *session) takeMarked() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	marked := s.marked
	s.marked = map[string]bool{}
	return marked
}

// network sends what has changed of the pod network since the last time, or everything, to a node that takes part in it.
// The view alone counts: marks only say where to look.
func (d *Dispatch) network(stream agentv1.AgentService_ConnectServer, s *session, full bool) error {
	names := s.takeMarked()
	if !s.inNetwork || !full && len(names) == 0 {
		return nil
	}
	v := d.deps.Cache.View()
	if full || names[""] {
		for rec := range v.All(store.NodeNetworks) {
			names[rec.Key.Name] = true
		}
		for name := range s.sentNodes {
			names[name] = true
		}
	}
	own := netip.Prefix{}
	if n, _, ok := store.Get[*spec.NodeNetwork](v, store.Key{Family: store.NodeNetworks, Name: s.node}); ok {
		own = n.PodCIDR
	}
	var nodes []*agentv1.NetworkNode
	var removed []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, sent := s.sentNodes[name]
		switch is, ok := networkNode(v, name); {
		case name == s.node || !ok && !sent || ok && sent && was == is:
		case ok:
			s.sentNodes[name] = is
			nodes = append(nodes, wire.NetworkNodeToProto(is))
		default:
			delete(s.sentNodes, name)
			removed = append(removed, name)
		}
	}
	if !full && own == s.sentOwn && len(nodes) == 0 && len(removed) == 0 {
		return nil
	}
	s.sentOwn = own
	for first := true; first || len(nodes)+len(removed) > 0; first = false {
		n, r := min(nodesChunk, len(nodes)), min(nodesChunk, len(removed))
		m := &agentv1.Network{
			ClusterCidr: d.cfg.PodCIDR.String(), Full: full, Nodes: nodes[:n], Removed: removed[:r], More: len(nodes) > n || len(removed) > r,
		}
		if own.IsValid() {
			m.PodCidr = own.String()
		}
		nodes, removed = nodes[n:], removed[r:]
		if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Network{Network: m}}); err != nil {
			return err
		}
	}
	return nil
}

// networkNode is a node as its peers see it; false for one whose pods they do not reach.
func networkNode(v *store.View, name string) (spec.NetworkNode, bool) {
	n, _ := fleet.LookupNode(v, name)
	if n.Network == nil || !n.InNetwork() {
		return spec.NetworkNode{}, false
	}
	address, err := netip.ParseAddr(n.Facts.Address)
	return spec.NetworkNode{Node: name, Address: address, PodCIDR: n.Network.PodCIDR}, err == nil && address.Is4()
}
