package placement

import (
	"fmt"
	"math/rand/v2"
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
			why: "0/4 nodes fit: 1 not ready, 2 cordoned, 1 full of pods",
		},
		"an image where images are refused": {
			nodes: []Node{ready("a")}, pod: func(p *Pod) { p.NamesImage = true },
			why: "0/1 nodes fit: 1 runs no images (--images=refuse)",
		},
		"an image where images are ignored": {
			nodes: []Node{ready("a"), with(ready("b"), func(n *Node) { n.RunsImages = true })},
			pod:   func(p *Pod) { p.NamesImage = true }, node: "b",
		},
		"node selector": {
			nodes: []Node{ready("a"), with(ready("b"), func(n *Node) { n.Labels = map[string]string{"disk": "ssd"} })},
			pod:   func(p *Pod) { p.Selector = map[string]string{"disk": "ssd"} }, node: "b",
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

func TestPlacementNeverOvercommitsAndDoesNotDependOnTheOrderOfItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := make([]Node, rapid.IntRange(0, 6).Draw(t, "nodes"))
		for i := range nodes {
			nodes[i] = Node{
				Name: fmt.Sprint("n", i), Ready: rapid.Bool().Draw(t, "ready"), Cordoned: rapid.IntRange(0, 4).Draw(t, "cordoned") == 0,
				MaxPods: rapid.IntRange(0, 5).Draw(t, "max pods"), LastChoice: rapid.Bool().Draw(t, "last"),
				Allocatable: spec.ResourceList{MilliCPU: rapid.Int64Range(0, 1000).Draw(t, "cpu"), MemoryBytes: rapid.Int64Range(0, 1000).Draw(t, "memory")},
			}
		}
		pods := make([]Pod, rapid.IntRange(0, 20).Draw(t, "pods"))
		byName := map[spec.ObjectName]Pod{}
		for i := range pods {
			pods[i] = pod(fmt.Sprint(i))
			pods[i].Owner = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "owner")
			pods[i].Requests = spec.ResourceList{MilliCPU: rapid.Int64Range(0, 300).Draw(t, "cpu"), MemoryBytes: rapid.Int64Range(0, 300).Draw(t, "memory")}
			byName[pods[i].Name] = pods[i]
		}
		results := Place(nodes, pods)
		for _, n := range nodes {
			var used spec.ResourceList
			count := 0
			for _, r := range results {
				if r.Node != n.Name {
					continue
				}
				count++
				used.MilliCPU += byName[r.Pod].Requests.MilliCPU
				used.MemoryBytes += byName[r.Pod].Requests.MemoryBytes
			}
			if count > n.MaxPods || used.MilliCPU > n.Allocatable.MilliCPU || used.MemoryBytes > n.Allocatable.MemoryBytes {
				t.Fatalf("node %+v has %d pods with %+v", n, count, used)
			}
			if count > 0 && (!n.Ready || n.Cordoned) {
				t.Fatalf("node %+v got pods", n)
			}
		}
		for _, r := range results {
			if (r.Node == "") == (r.Why == "") {
				t.Fatalf("result %+v has both or neither of node and why", r)
			}
		}
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
		if diff := cmp.Diff(results, Place(nodes, pods)); diff != "" {
			t.Fatalf("another order gives other results:\n%s", diff)
		}
	})
}

func BenchmarkPlace1000PodsOn5000Nodes(b *testing.B) {
	nodes := make([]Node, 5000)
	for i := range nodes {
		nodes[i] = with(ready(fmt.Sprint("n", i)), func(n *Node) { n.MaxPods = 1000; n.Bound = make([]Bound, 30) })
	}
	pods := make([]Pod, 1000)
	for i := range pods {
		pods[i] = pod(fmt.Sprint(i))
		pods[i].Owner, pods[i].Requests.MilliCPU = "o", 10
	}
	for b.Loop() {
		Place(nodes, pods)
	}
}
