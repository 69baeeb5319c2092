package session

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
)

func (l *link) network(n *agentv1.Network) {
	l.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Network{Network: n}})
	synctest.Wait()
}

func member(name, cidr string) *agentv1.NetworkNode {
	return &agentv1.NetworkNode{Node: name, Address: "192.0.2.9", PodCidr: cidr}
}

func TestTheNetworkIsToldWholeAtEachChange(t *testing.T) {
	var told []string
	bubble(t, func(w *world) {
		w.network = func(n Network) {
			var nodes []string
			for _, m := range n.Nodes {
				nodes = append(nodes, fmt.Sprintf("%s=%s@%s", m.Node, m.PodCIDR, m.Address))
			}
			told = append(told, fmt.Sprintf("%s of %s: %s", n.PodCIDR, n.ClusterCIDR, strings.Join(nodes, " ")))
		}
	}, func(w *world) {
		l := w.link(1)
		const all = "10.77.0.0/16"
		l.network(&agentv1.Network{ClusterCidr: all, Full: true, More: true, Nodes: []*agentv1.NetworkNode{member("c", "10.77.3.0/24")}})
		l.network(&agentv1.Network{ClusterCidr: all, Full: true, Nodes: []*agentv1.NetworkNode{member("b", "10.77.2.0/24")}})
		l.network(&agentv1.Network{ClusterCidr: all, PodCidr: "10.77.1.0/24", Nodes: []*agentv1.NetworkNode{member("b", "10.77.4.0/24")}, Removed: []string{"c", "x"}})
		// What a part of a change says is told with its last.
		l.network(&agentv1.Network{ClusterCidr: all, PodCidr: "10.77.1.0/24", Nodes: []*agentv1.NetworkNode{member("d", "10.77.5.0/24")}, More: true})
		l.network(&agentv1.Network{ClusterCidr: all, PodCidr: "10.77.1.0/24", Removed: []string{"b"}})
		// The next session begins anew.
		l.ended <- status.Error(codes.Unavailable, "restart")
		time.Sleep(time.Second)
		w.link(2).network(&agentv1.Network{ClusterCidr: all, PodCidr: "10.77.1.0/24", Full: true})
	})
	want := []string{
		"invalid Prefix of 10.77.0.0/16: b=10.77.2.0/24@192.0.2.9 c=10.77.3.0/24@192.0.2.9",
		"10.77.1.0/24 of 10.77.0.0/16: b=10.77.4.0/24@192.0.2.9",
		"10.77.1.0/24 of 10.77.0.0/16: d=10.77.5.0/24@192.0.2.9",
		"10.77.1.0/24 of 10.77.0.0/16: ",
	}
	if got := strings.Join(told, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("told\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestANetworkThatMakesNoSenseIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		n    *agentv1.Network
		says string
	}{
		"a change first":       {&agentv1.Network{}, "before the full set"},
		"an own that is none":  {&agentv1.Network{Full: true, PodCidr: "x"}, "pod_cidr"},
		"a pool that is none":  {&agentv1.Network{Full: true, ClusterCidr: "10.0.0.0"}, "cluster_cidr"},
		"a node nowhere":       {&agentv1.Network{Full: true, Nodes: []*agentv1.NetworkNode{{Node: "a", Address: "x", PodCidr: "10.77.1.0/24"}}}, "node a: address"},
		"a node with no range": {&agentv1.Network{Full: true, Nodes: []*agentv1.NetworkNode{{Node: "a", Address: "192.0.2.1", PodCidr: "x"}}}, "node a: pod_cidr"},
	} {
		t.Run(name, func(t *testing.T) {
			var p networkParts
			if _, err := p.gather(tc.n); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

func TestNodesOfTheNetworkAreBounded(t *testing.T) {
	var p networkParts
	m := &agentv1.Network{Full: true, More: true}
	for i := range maxNetworkNodes {
		m.Nodes = append(m.Nodes, member(fmt.Sprint(i), "10.0.0.0/24"))
	}
	if _, err := p.gather(m); err != nil {
		t.Fatal(err)
	}
	if _, err := p.gather(&agentv1.Network{Nodes: []*agentv1.NetworkNode{member("one more", "10.0.0.0/24")}}); err == nil {
		t.Error("one node too many was taken")
	}
}
