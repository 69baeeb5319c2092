package wire

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func nodeToProto(n *spec.Node) *musterv1.Node {
	return &musterv1.Node{Meta: MetaToProto(n.Meta), Unschedulable: n.Unschedulable, Taints: taintsToProto(n.Taints)}
}

func nodeFromProto(pb *musterv1.Node) (*spec.Node, error) {
	p := &parser{}
	n := &spec.Node{Meta: p.meta(pb.GetMeta()), Unschedulable: pb.GetUnschedulable(), Taints: p.taints("taints", pb.GetTaints())}
	return n, p.err
}

// NodeFactsToProto converts what an agent says of its node.
func NodeFactsToProto(f *spec.NodeFacts) *musterv1.NodeFacts {
	return &musterv1.NodeFacts{
		Address: f.Address, GuardAddress: f.GuardAddress, GossipAddress: f.GossipAddress, HttpAddress: f.HTTPAddress,
		Labels: f.Labels, Allocatable: resourcesToProto(f.Allocatable), MaxPods: f.MaxPods, Runtimes: f.Runtimes,
		Isolation: f.Isolation, Images: f.Images, PodNet: f.PodNet, BootId: f.BootID, Instance: f.Instance,
		Version: f.Version, Os: f.OS, Arch: f.Arch, Kernel: f.Kernel, Network: f.Network,
		PrivilegedPods: f.PrivilegedPods, HostPathAllow: f.HostPathAllow,
	}
}

// NodeFactsFromProto is the inverse of NodeFactsToProto.
func NodeFactsFromProto(pb *musterv1.NodeFacts) (*spec.NodeFacts, error) {
	return &spec.NodeFacts{
		Address: pb.GetAddress(), GuardAddress: pb.GetGuardAddress(), GossipAddress: pb.GetGossipAddress(),
		HTTPAddress: pb.GetHttpAddress(), Labels: pb.GetLabels(), Allocatable: resourcesFromProto(pb.GetAllocatable()),
		MaxPods: pb.GetMaxPods(), Runtimes: pb.GetRuntimes(), Isolation: pb.GetIsolation(), Images: pb.GetImages(),
		PodNet: pb.GetPodNet(), BootID: pb.GetBootId(), Instance: pb.GetInstance(), Version: pb.GetVersion(),
		OS: pb.GetOs(), Arch: pb.GetArch(), Kernel: pb.GetKernel(), Network: pb.GetNetwork(),
		PrivilegedPods: pb.GetPrivilegedPods(), HostPathAllow: pb.GetHostPathAllow(),
	}, nil
}

// NodeStatusToProto converts what the leader believes of a node.
func NodeStatusToProto(s *spec.NodeStatus) *musterv1.NodeStatus {
	return &musterv1.NodeStatus{
		Verdict: verdicts.to[s.Verdict], Since: stamp(s.Since), Cause: s.Cause, PodsNotReady: s.PodsNotReady, Member: s.Member,
	}
}

func nodeStatusFromProto(pb *musterv1.NodeStatus) (*spec.NodeStatus, error) {
	p := &parser{}
	s := &spec.NodeStatus{
		Verdict: in(p, "verdict", verdicts, pb.GetVerdict()), Since: p.time("since", pb.GetSince()), Cause: pb.GetCause(),
		PodsNotReady: pb.GetPodsNotReady(), Member: pb.GetMember(),
	}
	return s, p.err
}

// NodeLeaseToProto converts a node's lease.
func NodeLeaseToProto(l *spec.NodeLease) *musterv1.NodeLease {
	return &musterv1.NodeLease{
		State: leaseStates.to[l.State], Owner: l.Owner, Session: l.Session, Instance: l.Instance, Boot: l.Boot,
		Ttl: durationpb.New(l.TTL), Certainty: durationpb.New(l.Certainty), Remaining: durationpb.New(l.Remaining), Barred: l.Barred,
	}
}

func nodeLeaseFromProto(pb *musterv1.NodeLease) (*spec.NodeLease, error) {
	p := &parser{}
	l := &spec.NodeLease{
		State: in(p, "state", leaseStates, pb.GetState()), Owner: pb.GetOwner(), Session: pb.GetSession(),
		Instance: pb.GetInstance(), Boot: pb.GetBoot(), TTL: p.duration("ttl", pb.GetTtl()),
		Certainty: p.duration("certainty", pb.GetCertainty()), Remaining: p.duration("remaining", pb.GetRemaining()),
		Barred: pb.GetBarred(),
	}
	return l, p.err
}

func nodeNetworkToProto(n *spec.NodeNetwork) *musterv1.NodeNetwork {
	return &musterv1.NodeNetwork{PodCidr: n.PodCIDR.String()}
}

func nodeNetworkFromProto(pb *musterv1.NodeNetwork) (*spec.NodeNetwork, error) {
	cidr, err := netip.ParsePrefix(pb.GetPodCidr())
	if err != nil {
		return nil, fmt.Errorf("pod_cidr: %w", err)
	}
	return &spec.NodeNetwork{PodCIDR: cidr}, nil
}

// NetworkNodeToProto converts a node as its peers see it.
func NetworkNodeToProto(n spec.NetworkNode) *agentv1.NetworkNode {
	return &agentv1.NetworkNode{Node: n.Node, Address: n.Address.String(), PodCidr: n.PodCIDR.String()}
}

// NetworkNodeFromProto is the inverse of NetworkNodeToProto.
func NetworkNodeFromProto(pb *agentv1.NetworkNode) (spec.NetworkNode, error) {
	address, err := netip.ParseAddr(pb.GetAddress())
	if err != nil {
		return spec.NetworkNode{}, fmt.Errorf("address: %w", err)
	}
	cidr, err := netip.ParsePrefix(pb.GetPodCidr())
	if err != nil {
		return spec.NetworkNode{}, fmt.Errorf("pod_cidr: %w", err)
	}
	return spec.NetworkNode{Node: pb.GetNode(), Address: address, PodCIDR: cidr}, nil
}

func bindingToProto(b *spec.Binding) *musterv1.Binding {
	return &musterv1.Binding{Uid: b.UID, Node: b.Node, Class: failoverClasses.to[b.Class], Cause: b.Cause}
}

func bindingFromProto(pb *musterv1.Binding) (*spec.Binding, error) {
	p := &parser{}
	b := &spec.Binding{UID: pb.GetUid(), Node: pb.GetNode(), Class: in(p, "class", failoverClasses, pb.GetClass()), Cause: pb.GetCause()}
	return b, p.err
}
