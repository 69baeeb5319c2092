package hostgw

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func cidr(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr     { return netip.MustParseAddr(s) }

// node1 is what node 1 of three wants.
func node1() *wanted {
	return &wanted{names: namesOf("n1"), self: ip("192.0.2.1"), cluster: Cluster{
		Own: cidr("10.77.1.0/24"), All: cidr("10.77.0.0/16"), Nodes: []Node{
			{"n2", ip("192.0.2.2"), cidr("10.77.2.0/24")}, {"n3", ip("192.0.2.3"), cidr("10.77.3.0/24")},
		},
	}}
}

// bare is a machine of which nobody has asked anything, settled one on which nothing is left to do.
func bare(*wanted) *seen {
	return &seen{
		links:     []link{{name: "lo", kind: "device", up: true}, {name: "eth0", kind: "device", up: true, mtu: 9000}},
		addresses: []address{{"lo", cidr("127.0.0.1/8")}, {"eth0", cidr("192.0.2.1/24")}},
		routes:    []route{{net: cidr("0.0.0.0/0"), via: ip("192.0.2.254"), link: "eth0"}, {net: cidr("192.0.2.0/24"), link: "eth0"}},
	}
}

func settled(w *wanted) *seen {
	s := bare(w)
	s.forwarding = true
	s.links = append(s.links, link{name: w.bridge, kind: "bridge", up: true, mtu: 9000}, podLinkOf(w, "a"))
	s.addresses = append(s.addresses, address{w.bridge, cidr("10.77.1.1/24")})
	s.routes = append(s.routes, route{net: cidr("10.77.1.0/24"), link: w.bridge},
		route{cidr("10.77.2.0/24"), ip("192.0.2.2"), "eth0", true}, route{cidr("10.77.3.0/24"), ip("192.0.2.3"), "eth0", true})
	r := w.rules()
	s.table = &table{tags: r.tags(), inside: r.inside, ports: r.ports}
	return s
}

func podLinkOf(w *wanted, uid string) link {
	return link{name: w.link(uid + " 1"), kind: "veth", alias: alias{uid, 1, ip("10.77.1.2")}.String(), master: w.bridge, up: true}
}

func TestWhatIsNotAsItShouldBeIsMended(t *testing.T) {
	w := node1()
	pod := podLinkOf(w, "a").name
	for name, tc := range map[string]struct {
		want func(*wanted)
		see  func(*seen)
		from func(*wanted) *seen
		// steps have BRIDGE and POD for the names; problems have what each contains.
		steps, problems []string
	}{
		"nothing is left to do": {},
		"all is to do": {from: bare, steps: []string{
			"add bridge BRIDGE", "add address 10.77.1.1/24 BRIDGE", "set mtu 9000 BRIDGE", "set up BRIDGE", "forward",
			"set route 10.77.2.0/24 192.0.2.2 eth0", "set route 10.77.3.0/24 192.0.2.3 eth0", "set rules",
		}},
		"no network yet": {from: bare, want: func(w *wanted) { w.cluster.Own = netip.Prefix{} }},
		"an interface that went down and up": {see: func(s *seen) { s.routes = slices.DeleteFunc(s.routes, func(r route) bool { return r.ours }) }, steps: []string{
			"set route 10.77.2.0/24 192.0.2.2 eth0", "set route 10.77.3.0/24 192.0.2.3 eth0",
		}},
		"an interface that is down": {see: func(s *seen) { s.routes = slices.DeleteFunc(s.routes, func(r route) bool { return r.link == "eth0" }) }},
		"a node that is gone": {want: func(w *wanted) { w.cluster.Nodes = w.cluster.Nodes[1:] }, steps: []string{
			"delete route 10.77.2.0/24 192.0.2.2 eth0", "set rules",
		}},
		"a node that has moved": {want: func(w *wanted) { w.cluster.Nodes[0].Address = ip("192.0.2.22") }, steps: []string{
			"set route 10.77.2.0/24 192.0.2.22 eth0", "set rules",
		}},
		"a route through another link": {see: func(s *seen) { s.routes[3].link = "eth1" }, steps: []string{"set route 10.77.2.0/24 192.0.2.2 eth0"}},
		"another's route to the same pods": {see: func(s *seen) { s.routes[3].ours = false }, steps: []string{
			"set route 10.77.2.0/24 192.0.2.2 eth0",
		}},
		"another agent of this machine": {see: func(s *seen) { s.addresses = append(s.addresses, address{"eth0", cidr("192.0.2.3/24")}) }, steps: []string{
			"delete route 10.77.3.0/24 192.0.2.3 eth0",
		}},
		"a node behind a router": {
			want:     func(w *wanted) { w.cluster.Nodes[1].Address = ip("198.51.100.7") },
			steps:    []string{"delete route 10.77.3.0/24 192.0.2.3 eth0", "set rules"},
			problems: []string{"node n3 (198.51.100.7) is behind 192.0.2.254, not on a network segment of this node (192.0.2.1): their pods are out of reach"},
		},
		"many nodes behind a router": {
			want: func(w *wanted) {
				for i := range 5 {
					w.cluster.Nodes = append(w.cluster.Nodes, Node{fmt.Sprint("f", i), netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(10 + i), 0}), 24)})
				}
			},
			steps: []string{"set rules"}, problems: []string{"f2 (198.51.100.2) is behind 192.0.2.254, and 2 more nodes, not on"},
		},
		"our own pods' network is somebody else's too": {from: bare, see: func(s *seen) { s.addresses = append(s.addresses, address{"docker0", cidr("10.77.0.1/16")}) },
			problems: []string{"pod cidr 10.77.1.0/24 overlaps 10.77.0.0/16 of docker0"}},
		"another node's pods' network is somebody else's here": {see: func(s *seen) { s.addresses = append(s.addresses, address{"docker0", cidr("10.77.3.1/24")}) },
			steps: []string{"delete route 10.77.3.0/24 192.0.2.3 eth0"}, problems: []string{"pods of node n3 are out of reach: their network 10.77.3.0/24 overlaps 10.77.3.0/24 of docker0"}},
		"a link with the bridge's name":              {see: func(s *seen) { s.links[2].kind = "veth" }, problems: []string{"is no bridge but a veth"}},
		"a bridge that is down":                      {see: func(s *seen) { s.links[2].up = false }, steps: []string{"set up BRIDGE"}},
		"a bridge with another address":              {see: func(s *seen) { s.addresses[2].net = cidr("10.77.9.1/24") }, steps: []string{"remove address 10.77.9.1/24 BRIDGE", "add address 10.77.1.1/24 BRIDGE"}},
		"an interface that takes larger packets now": {see: func(s *seen) { s.links[1].mtu = 9001 }, steps: []string{"set mtu 9001 BRIDGE"}},
		"no forwarding":                              {see: func(s *seen) { s.forwarding = false }, steps: []string{"forward"}},
		"a pod's link off the bridge":                {see: func(s *seen) { s.links[3].master = "" }, steps: []string{"add to the bridge POD"}},
		"a pod's link that is down":                  {see: func(s *seen) { s.links[3].up = false }, steps: []string{"set up POD"}},
		"a pod's link for some time no pod's":        {see: func(s *seen) { s.links[3].unclaimed = staleAfter - 1 }},
		"a pod's link for long no pod's":             {see: func(s *seen) { s.links[3].unclaimed = staleAfter }, steps: []string{"delete link POD"}},
		"a link like a pod's without our alias": {see: func(s *seen) {
			s.links[3].alias, s.links[3].up, s.links[3].unclaimed = "mine", false, staleAfter
		}},
		"another's link with an alias like ours": {see: func(s *seen) {
			s.links[3].name, s.links[3].up, s.links[3].unclaimed = "veth0", false, staleAfter
		}},
		"another agent's link": {see: func(s *seen) {
			s.links[3].name, s.links[3].up, s.links[3].unclaimed = namesOf("n2").link("a 1"), false, staleAfter
		}},
		"no table":               {see: func(s *seen) { s.table = nil }, steps: []string{"set rules"}},
		"a rule too many":        {see: func(s *seen) { s.table.tags = append(s.table.tags, "") }, steps: []string{"set rules"}},
		"a rule of another make": {see: func(s *seen) { s.table.tags = slices.Clone(s.table.tags); s.table.tags[0] = "muster 0" }, steps: []string{"set rules"}},
		"a range taken out":      {see: func(s *seen) { s.table.inside = s.table.inside[1:] }, steps: []string{"set rules"}},
		"a port": {want: func(w *wanted) { w.ports = []published{{"tcp", 80, netip.MustParseAddrPort("10.77.1.2:8080")}} },
			steps: []string{"set rules"}},
		"a port that nobody wants": {see: func(s *seen) { s.table.ports = []published{{"tcp", 80, netip.MustParseAddrPort("10.77.1.2:8080")}} },
			steps: []string{"set rules"}},
	} {
		t.Run(name, func(t *testing.T) {
			from := settled
			if tc.from != nil {
				from = tc.from
			}
			w := node1()
			s := from(w)
			if tc.want != nil {
				tc.want(w)
			}
			if tc.see != nil {
				tc.see(s)
			}
			steps, problems := plan(w, s)
			var got []string
			for _, st := range steps {
				got = append(got, strings.NewReplacer(w.bridge, "BRIDGE", pod, "POD").Replace(st.String()))
			}
			if !slices.Equal(got, tc.steps) {
				t.Errorf("steps %q\nwant  %q", got, tc.steps)
			}
			if len(problems) != len(tc.problems) {
				t.Fatalf("problems %q, want %q", problems, tc.problems)
			}
			for i, p := range problems {
				if !strings.Contains(p, tc.problems[i]) {
					t.Errorf("problem %q, want %q", p, tc.problems[i])
				}
			}
		})
	}
}

func TestSpansHoldExactlyWhatTheirNetworksHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nets []netip.Prefix
		var spans []span
		for range rapid.IntRange(0, 12).Draw(t, "networks") {
			p, err := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(t, "c")), rapid.Byte().Draw(t, "d")}).Prefix(rapid.IntRange(22, 32).Draw(t, "bits"))
			if err != nil {
				t.Fatal(err)
			}
			nets, spans = append(nets, p), append(spans, spanOf(p))
		}
		merged := merge(spans)
		for i, s := range merged {
			if s.to.Less(s.from) || i > 0 && !merged[i-1].to.Next().Less(s.from) {
				t.Fatalf("%v is not in order, or touches", merged)
			}
		}
		for a := ip("10.0.0.0"); a.Less(ip("10.0.4.0")); a = a.Next() {
			want := slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(a) })
			if got := slices.ContainsFunc(merged, func(s span) bool { return !a.Less(s.from) && !s.to.Less(a) }); got != want {
				t.Fatalf("%s in %v is %v, in %v %v", a, merged, got, nets, want)
			}
		}
		if back := spansOf(intervals(merged)); !slices.Equal(back, merged) {
			t.Fatalf("read back %v, want %v", back, merged)
		}
	})
}

func TestPodsReachPodsAndNodesOfTheNetworkUntranslated(t *testing.T) {
	w := node1()
	w.cluster.Nodes = append(w.cluster.Nodes, Node{"old", ip("198.51.100.4"), cidr("10.9.0.0/24")}) // of an earlier pool
	inside := w.rules().inside
	for address, want := range map[string]bool{
		"10.77.1.9": true, "10.77.200.9": true, "10.9.0.200": true, "192.0.2.1": true, "192.0.2.2": true, "198.51.100.4": true,
		"192.0.2.9": false, "10.9.1.0": false, "10.76.255.255": false, "10.78.0.0": false, "1.1.1.1": false,
	} {
		if got := slices.ContainsFunc(inside, func(s span) bool { return !ip(address).Less(s.from) && !s.to.Less(ip(address)) }); got != want {
			t.Errorf("%s inside: %v, want %v", address, got, want)
		}
	}
}

func TestNamesOfTwoAgentsDifferAndFit(t *testing.T) {
	a, b := namesOf("a"), namesOf("b")
	if a.bridge == b.bridge || a.pods == b.pods || a.table == b.table || a.metric == b.metric || a.mac == b.mac {
		t.Errorf("%+v and %+v", a, b)
	}
	if a.link("u 1") == a.link("u 2") || a.link("u 1") == b.link("u 1") || a != namesOf("a") {
		t.Error("names of links must differ by pod and agent, and be the same each time")
	}
	for _, name := range []string{a.bridge, a.link("u 1")} {
		if len(name) > 15 {
			t.Errorf("%s is longer than the kernel's 15 bytes", name)
		}
	}
	if strings.HasPrefix(a.bridge, a.pods) {
		t.Error("the bridge is named like a pod's link")
	}
}

func TestAnAliasComesBackAsItWasAndOthersAreNone(t *testing.T) {
	want := alias{"0b0c-1", 12, ip("10.77.1.9")}
	if got, ok := parseAlias(want.String()); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, other := range []string{"", "muster", "muster u x 10.0.0.1", "muster u 1 10.0.0", "muster u 1 10.0.0.1 more", "Muster u 1 10.0.0.1"} {
		if got, ok := parseAlias(other); ok {
			t.Errorf("%q is taken for %+v", other, got)
		}
	}
}
