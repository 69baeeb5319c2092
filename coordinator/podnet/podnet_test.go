package podnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func cidr(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func TestNodesGetTheLowestFreeNetworks(t *testing.T) {
	for name, c := range map[string]struct {
		pool    string
		nodes   []Node
		given   string
		refused string
	}{
		"nobody":                        {pool: Default, given: "[]"},
		"nobody who wants one":          {pool: Default, nodes: []Node{{Name: "a"}}, given: "[]"},
		"by name":                       {pool: Default, nodes: []Node{{Name: "b", Wants: true}, {Name: "a", Wants: true}}, given: "[{a 10.77.0.0/24} {b 10.77.1.0/24}]"},
		"who has one keeps it":          {pool: Default, nodes: []Node{{Name: "a", Wants: true, Has: cidr("10.77.0.0/24")}, {Name: "b", Wants: true}}, given: "[{b 10.77.1.0/24}]"},
		"a gap is filled":               {pool: Default, nodes: []Node{{Name: "a", Has: cidr("10.77.0.0/24")}, {Name: "b", Has: cidr("10.77.2.0/24")}, {Name: "c", Wants: true}, {Name: "d", Wants: true}}, given: "[{c 10.77.1.0/24} {d 10.77.3.0/24}]"},
		"one not wanted is still taken": {pool: Default, nodes: []Node{{Name: "a", Has: cidr("10.77.0.0/24")}, {Name: "b", Wants: true}}, given: "[{b 10.77.1.0/24}]"},
		"of another pool":               {pool: "10.0.0.0/8", nodes: []Node{{Name: "a", Has: cidr("10.0.0.0/23")}, {Name: "b", Has: cidr("10.0.2.128/25")}, {Name: "c", Wants: true}}, given: "[{c 10.0.3.0/24}]"},
		"larger than the pool":          {pool: "10.77.4.0/24", nodes: []Node{{Name: "a", Has: cidr("10.0.0.0/8")}, {Name: "b", Wants: true}}, given: "[]", refused: "node b:"},
		"a node's own address":          {pool: Default, nodes: []Node{{Name: "a", Wants: true, Address: netip.MustParseAddr("10.77.0.9")}}, given: "[{a 10.77.1.0/24}]"},
		"an address that is not IPv4":   {pool: Default, nodes: []Node{{Name: "a", Wants: true, Address: netip.MustParseAddr("::1")}}, given: "[{a 10.77.0.0/24}]"},
		"a full pool":                   {pool: "10.77.4.0/23", nodes: []Node{{Name: "a", Wants: true}, {Name: "b", Wants: true}, {Name: "c", Wants: true}}, given: "[{a 10.77.4.0/24} {b 10.77.5.0/24}]", refused: "no pod CIDR is free for node c: every /24 of 10.77.4.0/23 is taken; delete nodes"},
		"a pool that was full before":   {pool: "10.77.4.0/24", nodes: []Node{{Name: "a", Has: cidr("10.77.4.0/24")}, {Name: "b", Wants: true}, {Name: "c", Wants: true}}, given: "[]", refused: "node b and 1 more:"},
		"over a byte's end":             {pool: "10.0.255.0/24", nodes: []Node{{Name: "a", Wants: true}, {Name: "b", Wants: true}}, given: "[{a 10.0.255.0/24}]", refused: "node b:"},
	} {
		t.Run(name, func(t *testing.T) {
			given, refused := Decide(cidr(c.pool), c.nodes)
			if got := fmt.Sprint(given); got != c.given {
				t.Errorf("given %s, want %s", got, c.given)
			}
			if (refused == "") != (c.refused == "") || !strings.Contains(refused, c.refused) {
				t.Errorf("refused %q, want %q", refused, c.refused)
			}
		})
	}
}

func TestPoolsThatCannotBeAreRefused(t *testing.T) {
	for _, good := range []string{Default, "10.0.0.0/8", "192.168.7.0/24", "100.64.0.0/10"} {
		if err := Check(cidr(good)); err != nil {
			t.Error(err)
		}
	}
	for bad, says := range map[string]string{
		"": "must be an IPv4 network", "fd00::/64": "must be an IPv4 network", "10.0.0.0/7": "/8 to /24", "10.77.0.0/25": "/8 to /24",
		"10.77.1.0/16": "10.77.0.0/16 is meant", "127.77.0.0/16": "overlaps 127.0.0.0/8", "224.0.0.0/8": "overlaps", "169.254.7.0/24": "overlaps", "0.0.0.0/8": "overlaps",
	} {
		if err := Check(cidr(bad)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", bad, err, says)
		}
	}
}

// TestNoTwoNodesEverOverlap lets nodes come, go and change their minds, under pools that change.
func TestNoTwoNodesEverOverlap(t *testing.T) {
	pools := []netip.Prefix{cidr("10.77.0.0/21"), cidr("10.77.4.0/22"), cidr("10.77.0.0/24"), cidr("10.0.0.0/8")}
	rapid.Check(t, func(t *rapid.T) {
		nodes := map[string]Node{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := fmt.Sprintf("n%02d", rapid.IntRange(0, 14).Draw(t, "node"))
			switch n, known := nodes[name]; {
			case rapid.IntRange(0, 4).Draw(t, "what") == 0:
				delete(nodes, name)
			case known:
				n.Wants = rapid.Bool().Draw(t, "wants")
				nodes[name] = n
			default:
				nodes[name] = Node{Name: name, Wants: rapid.Bool().Draw(t, "wants"), Address: netip.AddrFrom4([4]byte{10, 77, byte(rapid.IntRange(0, 9).Draw(t, "net")), 1})}
			}
			pool := rapid.SampledFrom(pools).Draw(t, "pool")
			var in []Node
			for _, n := range nodes {
				in = append(in, n)
			}
			given, refused := Decide(pool, in)
			slices.Reverse(in)
			if again, also := Decide(pool, in); fmt.Sprint(again) != fmt.Sprint(given) || also != refused {
				t.Fatalf("in another order: %v, %q; was %v, %q", again, also, given, refused)
			}
			for _, g := range given {
				n := nodes[g.Node]
				if !n.Wants || n.Has.IsValid() || g.CIDR.Bits() != Bits || !pool.Overlaps(g.CIDR) || pool.Bits() > g.CIDR.Bits() {
					t.Fatalf("%+v gets %s of %s", n, g.CIDR, pool)
				}
				n.Has = g.CIDR
				nodes[g.Node] = n
			}
			lacking := 0
			for _, a := range nodes {
				if a.Wants && !a.Has.IsValid() {
					lacking++
				}
				for _, b := range nodes {
					if a.Name != b.Name && a.Has.IsValid() && b.Has.IsValid() && a.Has.Overlaps(b.Has) {
						t.Fatalf("%+v and %+v overlap", a, b)
					}
				}
			}
			if (lacking > 0) != (refused != "") {
				t.Fatalf("%d nodes lack a network, refused %q", lacking, refused)
			}
			if given, _ := Decide(pool, values(nodes)); len(given) != 0 {
				t.Fatalf("deciding again gives %v", given)
			}
		}
	})
}

func values(m map[string]Node) (out []Node) {
	for _, n := range m {
		out = append(out, n)
	}
	return out
}

func BenchmarkDecideOneOf5000(b *testing.B) {
	var nodes []Node
	at := cidr("10.0.0.0/24")
	for i := range 5000 {
		nodes = append(nodes, Node{Name: fmt.Sprint("n", i), Has: at, Wants: true, Address: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})})
		at = next(at)
	}
	nodes = append(nodes, Node{Name: "new", Wants: true})
	for b.Loop() {
		if given, _ := Decide(cidr("10.0.0.0/8"), nodes); len(given) != 1 {
			b.Fatal(given)
		}
	}
}
