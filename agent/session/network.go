package session

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// Network is the flat pod network as the coordinator says it is.
type Network struct {
	// PodCIDR is the network of this node's pods; not valid while it has none.
	PodCIDR netip.Prefix
	// ClusterCIDR is what the networks of pods are cut from.
	ClusterCIDR netip.Prefix
	// Nodes are the other nodes whose pods have one, by name.
	Nodes []spec.NetworkNode
}

// maxNetworkNodes bounds the nodes of the network: a /8 has no more networks.
const maxNetworkNodes = 1 << 16

// networkParts puts together what comes in parts and changes.
type networkParts struct {
	own, pool netip.Prefix
	nodes     map[string]spec.NetworkNode
	began     bool // a full set has begun to come
	open      bool // a set has begun, and not ended
}

// gather adds one message; whole is whether it ends a set.
func (p *networkParts) gather(pb *agentv1.Network) (whole bool, err error) {
	switch {
	case pb.GetFull() && !p.open:
		p.nodes, p.began = map[string]spec.NetworkNode{}, true
	case !p.began:
		return false, errors.New("network: a change before the full set")
	}
	p.open = pb.GetMore()
	if p.own, err = prefix("pod_cidr", pb.GetPodCidr()); err != nil {
		return false, err
	}
	if p.pool, err = prefix("cluster_cidr", pb.GetClusterCidr()); err != nil {
		return false, err
	}
	for _, name := range pb.GetRemoved() {
		delete(p.nodes, name)
	}
	for _, node := range pb.GetNodes() {
		n, err := wire.NetworkNodeFromProto(node)
		if err != nil {
			return false, fmt.Errorf("network: node %s: %w", node.GetNode(), err)
		}
		p.nodes[n.Node] = n
	}
	if len(p.nodes) > maxNetworkNodes {
		return false, fmt.Errorf("network: more than %d nodes", maxNetworkNodes)
	}
	return !p.open, nil
}

// prefix parses a network; empty is none.
func prefix(field, text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("network: %s: %w", field, err)
	}
	return p, nil
}

func (p *networkParts) network() Network {
	n := Network{PodCIDR: p.own, ClusterCIDR: p.pool}
	for _, name := range slices.Sorted(maps.Keys(p.nodes)) {
		n.Nodes = append(n.Nodes, p.nodes[name])
	}
	return n
}
