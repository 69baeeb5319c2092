package placement

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

func ready(name string) Node {
	return Node{Name: name, Ready: true, MaxPods: 10, Allocatable: spec.ResourceList{MilliCPU: 1000, MemoryBytes: 1000}}
}

func with(n Node, change func(*Node)) Node {
	change(&n)
	return n
}

func pod(name string) Pod { return Pod{Name: spec.ObjectName{Namespace: "default", Name: name}} }

func TestPodsOfOneCallDoNotShareAHostPort(t *testing.T) {
	p, q, r := pod("p"), pod("q"), pod("r")
	p.HostPorts = []spec.HostPort{{Protocol: "TCP", Number: 80}}
	q.HostPorts, r.HostPorts = p.HostPorts, p.HostPorts
	got := Place([]Node{ready("a"), ready("b")}, []Pod{p, q, r})
	if got[0].Node != "a" || got[1].Node != "b" || got[2].Node != "" || got[2].Why != "0/2 nodes fit: 2 host port taken" {
		t.Errorf("placed %+v", got)
	}
}

func TestAPodGoesWhereItFitsBestOrIsToldWhyNowhere(t *testing.T) {
	small := spec.ResourceList{MilliCPU: 600, MemoryBytes: 600}
	for name, tc := range map[string]struct {
		nodes []Node
		pod   func(*Pod)
		node  string
		why   string
	}{
		"no nodes":           {why: "0/0 nodes fit: there are no nodes"},
		"equal nodes: first": {nodes: []Node{ready("b"), ready("a")}, node: "a"},
		"not ready": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Ready = false }), ready("b")}, node: "b",
		},
		"all reasons are counted": {
			nodes: []Node{
				with(ready("a"), func(n *Node) { n.Ready = false }), with(ready("b"), func(n *Node) { n.Cordoned = true }),
				with(ready("c"), func(n *Node) { n.Cordoned = true }), with(ready("d"), func(n *Node) { n.MaxPods = 0 }),
			},
			why: "0/4 nodes fit: 2 cordoned, 1 not ready, 1 full of pods",
		},
		"an image where images are refused": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Lacks = Images })}, pod: func(p *Pod) { p.Needs = Images },
			why: "0/1 nodes fit: 1 runs no images (--images=refuse)",
		},
		"a node that has not been given its pods' network": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.LacksNetwork = true })}, why: "0/1 nodes fit: 1 without a pod CIDR yet",
		},
		"a pod that has the node's network": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.LacksNetwork = true })}, pod: func(p *Pod) { p.HostNetwork = true }, node: "a",
		},
		"mounts of its own where the kernel gives none": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Lacks = Mounts })}, pod: func(p *Pod) { p.Needs = Mounts },
			why: "0/1 nodes fit: 1 without mount namespaces",
		},
		"what only root gives": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Lacks = Root | Privilege })}, pod: func(p *Pod) { p.Needs = Root | Privilege },
			why: "0/1 nodes fit: 1 whose agent is not root",
		},
		"privileges": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Lacks = Privilege }), ready("b")}, pod: func(p *Pod) { p.Needs = Privilege }, node: "b",
		},
		"privileges that no node gives": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Lacks = Privilege })}, pod: func(p *Pod) { p.Needs = Privilege | Mounts },
			why: "0/1 nodes fit: 1 without --allow-privileged-pods",
		},
		"a path of the node at and below what may be mounted": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.HostPaths = []string{"/srv", "/data"} })},
			pod:   func(p *Pod) { p.HostPaths = []string{"/data", "/srv/a"} }, node: "a",
		},
		"a path of the node beside what may be mounted": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.HostPaths = []string{"/srv"} })}, pod: func(p *Pod) { p.HostPaths = []string{"/srv/a", "/srv2"} },
			why: "0/1 nodes fit: 1 without --host-path-allow for what is mounted",
		},
		"any path of the node": {
			nodes: []Node{ready("a"), with(ready("b"), func(n *Node) { n.AnyHostPath = true }), with(ready("c"), func(n *Node) { n.HostPaths = []string{"/"} })},
			pod:   func(p *Pod) { p.HostPaths = []string{"/etc"} }, node: "b",
		},
		"a host port that is held": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{HostPorts: []spec.HostPort{{Protocol: "TCP", Number: 80}}}} }), ready("b")},
			pod: func(p *Pod) {
				p.HostPorts = []spec.HostPort{{Protocol: "UDP", Number: 53}, {Protocol: "TCP", Number: 80}}
			}, node: "b",
		},
		"a host port that is held by the other protocol": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{HostPorts: []spec.HostPort{{Protocol: "TCP", Number: 80}}}} })},
			pod:   func(p *Pod) { p.HostPorts = []spec.HostPort{{Protocol: "UDP", Number: 80}} }, node: "a",
		},
		"a host port where pods have no network": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.SharesNetwork = true })},
			pod:   func(p *Pod) { p.HostPorts = []spec.HostPort{{Protocol: "TCP", Number: 80}} }, why: "0/1 nodes fit: 1 without a pod network, so without host ports",
		},
		"an image where images are ignored": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Lacks = Images }), ready("b")},
			pod:   func(p *Pod) { p.Needs = Images }, node: "b",
		},
		"node selector": {
			nodes: []Node{ready("a"), with(ready("b"), func(n *Node) { n.Labels = map[string]string{"disk": "ssd"} })},
			pod:   func(p *Pod) { p.Selector = map[string]string{"disk": "ssd"} }, node: "b",
		},
		"a label of the right name with another value, and none for an empty one": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Labels = map[string]string{"disk": "hdd"} }), ready("b")},
			pod:   func(p *Pod) { p.Selector = map[string]string{"disk": "", "x": ""} },
			why:   "0/2 nodes fit: 2 without the labels of nodeSelector",
		},
		"what lasts is told before what may pass": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.MaxPods, n.Lacks = 0, Images })}, pod: func(p *Pod) { p.Needs = Images },
			why: "0/1 nodes fit: 1 runs no images (--images=refuse)",
		},
		"only the node it leaves": {
			nodes: []Node{ready("a"), with(ready("b"), func(n *Node) { n.Cordoned = true })}, pod: func(p *Pod) { p.Not = "a" },
			why: "0/2 nodes fit: 1 cordoned, 1 left by this pod",
		},
		"too much cpu": {
			nodes: []Node{ready("a")}, pod: func(p *Pod) { p.Requests = spec.ResourceList{MilliCPU: 1001, MemoryBytes: 1001} },
			why: "0/1 nodes fit: 1 insufficient cpu",
		},
		"too much memory for what is left": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{Requests: small}} })},
			pod:   func(p *Pod) { p.Requests = spec.ResourceList{MemoryBytes: 401} },
			why:   "0/1 nodes fit: 1 insufficient memory",
		},
		"exactly what is left": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{Requests: small}} })},
			pod:   func(p *Pod) { p.Requests = spec.ResourceList{MilliCPU: 400, MemoryBytes: 400} }, node: "a",
		},
		"a pod without requests fits an overcommitted node": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{Requests: small}, {Requests: small}} })}, node: "a",
		},
		"spread of one owner before load": {
			nodes: []Node{
				with(ready("a"), func(n *Node) { n.Bound = []Bound{{Owner: "o"}} }),
				with(ready("b"), func(n *Node) { n.Bound = []Bound{{Owner: "x", Requests: small}} }),
			},
			pod: func(p *Pod) { p.Owner = "o" }, node: "b",
		},
		"the least loaded": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{Requests: small}} }), ready("b")}, node: "b",
		},
		"the fewest pods where nothing is requested": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.Bound = []Bound{{}} }), ready("b")}, node: "b",
		},
		"the last choice only when nothing else fits": {
			nodes: []Node{
				with(ready("a"), func(n *Node) { n.LastChoice = true }),
				with(ready("b"), func(n *Node) { n.Bound = []Bound{{Owner: "o"}, {Owner: "o"}} }),
			},
			pod: func(p *Pod) { p.Owner = "o" }, node: "b",
		},
		"the last choice when nothing else fits": {
			nodes: []Node{with(ready("a"), func(n *Node) { n.LastChoice = true }), with(ready("b"), func(n *Node) { n.Ready = false })},
			node:  "a",
		},
		"not the node it leaves": {
			nodes: []Node{ready("a"), ready("b")}, pod: func(p *Pod) { p.Not = "a" }, node: "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod("p")
			if tc.pod != nil {
				tc.pod(&p)
			}
			want := Result{Pod: p.Name, Node: tc.node, Why: tc.why}
			if got := Place(tc.nodes, []Pod{p})[0]; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestPodsOfOneOwnerSpreadOverTheNodes(t *testing.T) {
	var pods []Pod
	for i := range 6 {
		p := pod(fmt.Sprint(i))
		p.Owner = "o"
		pods = append(pods, p)
	}
	counts := map[string]int{}
	for _, r := range Place([]Node{ready("a"), ready("b"), ready("c")}, pods) {
		counts[r.Node]++
	}
	if diff := cmp.Diff(map[string]int{"a": 2, "b": 2, "c": 2}, counts); diff != "" {
		t.Error(diff)
	}
}

func TestWhatWasJustPlacedCountsAsLoad(t *testing.T) {
	var pods []Pod
	for i := range 11 {
		p := pod(fmt.Sprint(i))
		p.Requests.MilliCPU = 10
		pods = append(pods, p)
	}
	large := with(ready("b"), func(n *Node) { n.MaxPods = 100 })
	small := with(ready("a"), func(n *Node) { n.MaxPods, n.Allocatable.MilliCPU = 100, 100 })
	counts := map[string]int{}
	for _, r := range Place([]Node{small, large}, pods) {
		counts[r.Node]++
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 10}, counts); diff != "" {
		t.Errorf("want the same share of each asked for:\n%s", diff)
	}
}

func TestEachOwnersPodsAreSpreadForThemselves(t *testing.T) {
	var pods []Pod
	for i, owner := range []string{"o", "x", "o", "x"} {
		p := pod(fmt.Sprint(i))
		p.Owner, p.Requests.MilliCPU = owner, 1
		pods = append(pods, p)
	}
	got := map[string]string{}
	for i, r := range Place([]Node{ready("a"), ready("b")}, pods) {
		got[pods[i].Owner] += r.Node
	}
	if diff := cmp.Diff(map[string]string{"o": "ab", "x": "ba"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhoComesFirstIsPlacedFirst(t *testing.T) {
	nodes := []Node{with(ready("a"), func(n *Node) { n.MaxPods = 2 })}
	var got []string
	for _, r := range Place(nodes, []Pod{pod("z"), pod("m"), pod("a")}) {
		got = append(got, r.Pod.Name+":"+r.Node+":"+r.Why)
	}
	if diff := cmp.Diff([]string{"z:a:", "m:a:", "a::0/1 nodes fit: 1 full of pods"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestANodeThatOnePodMustLeaveIsOpenToTheNext(t *testing.T) {
	leaves := pod("leaves")
	leaves.Not = "a"
	results := Place([]Node{ready("a"), with(ready("b"), func(n *Node) { n.Cordoned = true })}, []Pod{leaves, pod("comes")})
	if results[0].Node != "" || results[1].Node != "a" {
		t.Errorf("got %+v, want nowhere and a", results)
	}
}

func TestPodOfTakesWhatPlacementNeeds(t *testing.T) {
	got := PodOf(&spec.Pod{
		Meta: spec.Meta{Namespace: "n", Name: "p", Owner: &spec.OwnerRef{UID: "o"}},
		Spec: spec.PodSpec{HostNetwork: true, ShareProcessNamespace: true, Volumes: []spec.Volume{{Name: "v", HostPath: "/srv/"}}, NodeSelector: map[string]string{"a": "b"}, Containers: []spec.Container{
			{Resources: spec.Resources{Requests: spec.ResourceList{MilliCPU: 1, MemoryBytes: 2}}},
			{Resources: spec.Resources{Requests: spec.ResourceList{MilliCPU: 3, MemoryBytes: 4}}, Image: "x"},
		}},
	})
	want := Pod{
		Name: spec.ObjectName{Namespace: "n", Name: "p"}, Requests: spec.ResourceList{MilliCPU: 4, MemoryBytes: 6},
		Owner: "o", Selector: map[string]string{"a": "b"}, HostNetwork: true,
		Needs: Images | Root | Privilege, HostPaths: []string{"/srv"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// plainly is placement without an index: it looks at every node for every pod.
func plainly(nodes []Node, pods []Pod) []Result {
	f := newFleet(nodes, pods)
	results := []Result{}
	for i := range pods {
		p := &pods[i]
		s := f.search(p)
		s.look()
		var best *node
		var least rank
		var t tally
		for _, n := range f.nodes {
			why := f.refuses(s, p, n)
			t.add(why, n, p)
			r := f.rank(s, n)
			r.wanted = s.desires(n.index, n.last)
			if why == fits && (best == nil || compare(&r, &least) < 0) {
				best, least = n, r
			}
		}
		if best == nil {
			results = append(results, Result{Pod: p.Name, Why: t.explain(len(f.nodes))})
			continue
		}
		best.take(p.Requests, s.owner, p.HostPorts)
		best.weigh()
		f.enter(s, p, best)
		f.placed++
		results = append(results, Result{Pod: p.Name, Node: best.Name})
	}
	return results
}

// draw draws a small fleet and pods, alike ones among them.
func draw(t *rapid.T) ([]Node, []Pod) {
	amounts := func(most int64) spec.ResourceList {
		return spec.ResourceList{MilliCPU: rapid.Int64Range(0, most).Draw(t, "cpu"), MemoryBytes: rapid.Int64Range(0, most).Draw(t, "memory")}
	}
	labels := rapid.SampledFrom([]map[string]string{nil, nil, {"disk": "ssd"}, {"disk": "ssd", "zone": "a"}})
	owners := rapid.SampledFrom([]string{"", "a", "b"})
	needs := rapid.SampledFrom([]Need{0, 0, Images, Mounts, Root | Privilege})
	paths := rapid.SampledFrom([][]string{nil, nil, nil, {"/srv"}})
	few := rapid.SampledFrom([]spec.ResourceList{{}, {MilliCPU: 20, MemoryBytes: 20}, {MilliCPU: 45, MemoryBytes: 5}})
	nodes := make([]Node, rapid.IntRange(0, 8).Draw(t, "nodes"))
	for i := range nodes {
		nodes[i] = Node{
			Name: fmt.Sprint("n", i), Ready: rapid.IntRange(0, 5).Draw(t, "ready") > 0, Cordoned: rapid.IntRange(0, 5).Draw(t, "cordoned") == 0,
			MaxPods: rapid.IntRange(0, 30).Draw(t, "max pods"), LastChoice: rapid.IntRange(0, 3).Draw(t, "last") == 0,
			LacksNetwork: rapid.IntRange(0, 4).Draw(t, "lacks network") == 0, Lacks: Need(rapid.Uint8Max(15).Draw(t, "lacks")) & Need(rapid.Uint8Max(15).Draw(t, "and")), HostPaths: paths.Draw(t, "host paths"), Labels: labels.Draw(t, "labels"), Allocatable: amounts(1000),
		}
		for range rapid.IntRange(0, 3).Draw(t, "bound") {
			nodes[i].Bound = append(nodes[i].Bound, Bound{Owner: owners.Draw(t, "owner"), Requests: amounts(300)})
		}
	}
	kinds := make([]Pod, rapid.IntRange(1, 6).Draw(t, "kinds"))
	for i := range kinds {
		kinds[i] = Pod{Owner: owners.Draw(t, "owner"), Selector: labels.Draw(t, "selector"), Needs: needs.Draw(t, "needs"), HostPaths: paths.Draw(t, "mounted"), Requests: few.Draw(t, "requests"), HostNetwork: rapid.IntRange(0, 3).Draw(t, "host network") == 0}
	}
	pods := make([]Pod, rapid.IntRange(0, 150).Draw(t, "pods"))
	for i := range pods {
		pods[i] = rapid.SampledFrom(kinds[:1+i*len(kinds)/len(pods)]).Draw(t, "kind") // some come late
		pods[i].Name = pod(fmt.Sprint(i)).Name
		pods[i].Not = rapid.SampledFrom([]string{"", "", "n0", "n1"}).Draw(t, "not")
	}
	return nodes, pods
}

func TestTheIndexFindsWhatLookingAtEveryNodeFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := draw(t)
		if diff := cmp.Diff(plainly(nodes, pods), Place(nodes, pods)); diff != "" {
			t.Fatalf("with the index:\n%s", diff)
		}
	})
}

func TestPlacementNeverOvercommitsAndDoesNotDependOnTheOrderOfNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, pods := draw(t)
		order := rapid.Permutation(nodes).Draw(t, "order")
		before := fmt.Sprint(nodes, pods)
		results := Place(nodes, pods)
		if fmt.Sprint(nodes, pods) != before {
			t.Fatal("the input was changed")
		}
		if diff := cmp.Diff(results, Place(order, pods)); diff != "" {
			t.Fatalf("another order gives other results:\n%s", diff)
		}
		if len(results) != len(pods) {
			t.Fatalf("%d results for %d pods", len(results), len(pods))
		}
		byName := map[string]Node{}
		for _, n := range nodes {
			byName[n.Name] = n
		}
		for i, r := range results {
			p := pods[i]
			if r.Pod != p.Name || (r.Node == "") == (r.Why == "") {
				t.Fatalf("result %+v of pod %s: both or neither of node and why", r, p.Name)
			}
			if r.Node == "" {
				continue
			}
			n := byName[r.Node]
			if !n.Ready || n.Cordoned || r.Node == p.Not || p.Needs&n.Lacks != 0 || len(p.HostPaths) > len(n.HostPaths) || !selected(n.Labels, p.Selector) {
				t.Fatalf("pod %+v on node %+v", p, n)
			}
			n.Bound = append(n.Bound, Bound{Requests: p.Requests, Owner: p.Owner})
			byName[r.Node] = n
			var used spec.ResourceList
			for _, b := range n.Bound {
				used.MilliCPU += b.Requests.MilliCPU
				used.MemoryBytes += b.Requests.MemoryBytes
			}
			// What was there before may be too much already; what asks for none of it does not make it worse.
			if len(n.Bound) > n.MaxPods || p.Requests.MilliCPU > 0 && used.MilliCPU > n.Allocatable.MilliCPU ||
				p.Requests.MemoryBytes > 0 && used.MemoryBytes > n.Allocatable.MemoryBytes {
				t.Fatalf("node %+v has %d pods with %+v", n, len(n.Bound), used)
			}
		}
	})
}

func BenchmarkPlace1000PodsOn5000Nodes(b *testing.B) {
	nodes := make([]Node, 5000)
	for i := range nodes {
		nodes[i] = with(ready(fmt.Sprint("n", i)), func(n *Node) { n.MaxPods = 1000; n.Bound = make([]Bound, 30) })
	}
	for name, change := range map[string]func(i int, p *Pod){
		"of one owner":     func(_ int, p *Pod) { p.Owner = "o" },
		"of 200 owners":    func(i int, p *Pod) { p.Owner = fmt.Sprint(i % 200) },
		"all different":    func(i int, p *Pod) { p.Owner, p.Requests.MilliCPU = fmt.Sprint(i), int64(i%50+1) },
		"that fit nowhere": func(_ int, p *Pod) { p.Requests.MilliCPU = 2000 },
	} {
		pods := make([]Pod, 1000)
		for i := range pods {
			pods[i] = pod(fmt.Sprint(i))
			pods[i].Requests.MilliCPU = 10
			change(i, &pods[i])
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Place(nodes, pods)
			}
		})
	}
}
