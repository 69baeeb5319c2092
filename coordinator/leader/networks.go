package leader

import (
	"net/netip"
	"slices"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/podnet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// network is what a node has been given in this term. It is the node's from the first attempt to write it, for an attempt
// whose outcome is unknown may yet be written, and the view may be behind.
type network struct {
	cidr netip.Prefix
	// revision is that of the record; 0 while it is not certain to be stored.
	revision int64
}

// networks gives every node of the flat network its part, once for as long as the node is known. The view and what this
// term gave are all there is: the term began with a view of everything before it, and earlier terms can write no more.
func (t *terms) networks(v *store.View, nodes []*fleet.Node) {
	lacks := func(n *fleet.Node) bool { return n.InNetwork() && n.Network == nil }
	if len(t.given) == 0 && t.refused == "" && !slices.ContainsFunc(nodes, lacks) {
		return
	}
	known := map[string]*fleet.Node{}
	for _, n := range nodes {
		known[n.Name] = n
	}
	for name, g := range t.given {
		// What a node that is gone was given can't be written any more, for its facts are not the same; and what was
		// written and is not there has gone with its node, which is another one now.
		if known[name] == nil || known[name].Network != nil || g.revision != 0 && g.revision <= v.Revision() {
			delete(t.given, name)
		}
	}
	var in []podnet.Node
	for _, n := range nodes {
		node := podnet.Node{Name: n.Name, Has: t.given[n.Name].cidr, Wants: n.InNetwork()}
		if n.Facts != nil {
			node.Address, _ = netip.ParseAddr(n.Facts.Address)
		}
		if n.Network != nil {
			node.Has = n.Network.PodCIDR
		}
		in = append(in, node)
	}
	given, refused := podnet.Decide(t.cfg.PodCIDR, in)
	for _, g := range given {
		t.given[g.Node] = network{cidr: g.CIDR}
	}
	for name, g := range t.given {
		if g.revision == 0 {
			t.give(known[name], g.cidr)
		}
	}
	if refused != t.refused {
		if t.refused = refused; refused != "" {
			t.deps.Log.Error("nodes without a pod cidr", "reason", refused)
			t.deps.Events.Record(spec.ObjectRef{Kind: "Node", Name: "cluster"}, spec.EventWarning, "PodCIDRsExhausted", refused)
		}
	}
}

// give writes what a node gets, if it is still the node that was decided on and has nothing.
func (t *terms) give(n *fleet.Node, cidr netip.Prefix) {
	key := store.Key{Family: store.NodeNetworks, Name: n.Name}
	revision, err := t.commit(t.ctx, store.Txn{
		If:   []store.Cond{{Key: store.Key{Family: store.NodeFacts, Name: n.Name}, Revision: n.FactsRevision}, {Key: key}},
		Then: []store.Write{{Key: key, Value: &spec.NodeNetwork{PodCIDR: cidr}}},
	})
	if t.lost(err, "give node "+n.Name+" its pod network") {
		return
	}
	t.given[n.Name] = network{cidr: cidr, revision: revision}
	t.deps.Log.Info("pod network given", "node", n.Name, "pod_cidr", cidr.String())
}
