package hostgw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/network"
)

// space is a network namespace that a test made. It goes with its last descriptor.
type space struct {
	t      *testing.T
	ns     netns.NsHandle
	handle *netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		was, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer was.Close()
		if s.ns, err = netns.New(); err == nil {
			err = netns.Set(was)
		}
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("no network namespace can be made here: %v", err)
	}
	var err error
	if s.handle, err = netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.handle.Close(); s.ns.Close() })
	s.up("lo")
	return s
}

func (s *space) path() string { return fmt.Sprintf("/proc/self/fd/%d", int(s.ns)) }

func (s *space) link(name string) netlink.Link {
	s.t.Helper()
	l, err := s.handle.LinkByName(name)
	if err != nil {
		s.t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func (s *space) up(name string) {
	s.t.Helper()
	if err := s.handle.LinkSetUp(s.link(name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) down(name string) {
	s.t.Helper()
	if err := s.handle.LinkSetDown(s.link(name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) address(link, cidr string) {
	s.t.Helper()
	if err := s.handle.AddrAdd(s.link(link), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(cidr))}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) route(cidr, via string) {
	s.t.Helper()
	r := &netlink.Route{Dst: ipNet(netip.MustParsePrefix(cidr)), Gw: net.ParseIP(via)}
	if err := s.handle.RouteAdd(r); err != nil {
		s.t.Fatal(err)
	}
}

// do runs f in the namespace.
func (s *space) do(f func() error) error { return inside(s.ns, f) }

// answer serves "who" on an address until the test ends: every connection is told who it comes from.
func (s *space) answer(at string) {
	s.t.Helper()
	var l net.Listener
	if err := s.do(func() (err error) { l, err = net.Listen("tcp4", at); return err }); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, host)
			c.Close()
		}
	}()
}

// echo is answer for UDP: every packet is told who it comes from.
func (s *space) echo(at string) {
	s.t.Helper()
	var c net.PacketConn
	if err := s.do(func() (err error) { c, err = net.ListenPacket("udp4", at); return err }); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	go func() {
		for b := make([]byte, 1); ; {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = c.WriteTo([]byte(host), from)
		}
	}()
}

// askUDP is ask for UDP.
func (s *space) askUDP(to string) (from string, err error) {
	err = s.do(func() error {
		c, err := net.Dial("udp4", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
		b := make([]byte, 64)
		n, err := c.Read(b)
		from = string(b[:n])
		return err
	})
	return from, err
}

// ask dials an address and returns whom the other end took the caller for.
func (s *space) ask(to string) (from string, err error) {
	err = s.do(func() error {
		c, err := net.DialTimeout("tcp4", to, 300*time.Millisecond)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		data, err := io.ReadAll(c)
		from = string(data)
		return err
	})
	return from, err
}

// host is a machine with an agent's part of the network.
type host struct {
	*space
	name    string
	address string // the machine's own
	net     *Network
	given   *network.Allocator
	log     *bytes.Buffer
	dir     string
	stop    func()

	mu       sync.Mutex
	problems []string
}

// Write makes a host the sink of its log.
func (h *host) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

// segment is a switch with hosts at it: 192.0.2.1, .2, … and a machine that is no node at 192.0.2.99.
func segment(t *testing.T, n int) (hosts []*host, outsider *space) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces with links between them need root")
	}
	lan := newSpace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan"
	if err := lan.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	lan.up("lan")
	join := func(s *space, name, cidr string) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.MTU = name, lan.link("lan").Attrs().Index, 1400
		if err := lan.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.ns)}); err != nil {
			t.Fatal(err)
		}
		lan.up(name)
		s.address("eth0", cidr)
		s.up("eth0")
	}
	for i := range n {
		h := &host{space: newSpace(t), name: fmt.Sprint("n", i+1), address: fmt.Sprint("192.0.2.", i+1), log: &bytes.Buffer{}, dir: t.TempDir()}
		join(h.space, h.name, h.address+"/24")
		hosts = append(hosts, h)
		h.start()
	}
	outsider = newSpace(t)
	join(outsider, "out", "192.0.2.99/24")
	return hosts, outsider
}

// start runs the host's agent's part.
func (h *host) start() {
	h.t.Helper()
	log := slog.New(slog.NewTextHandler(h, nil))
	var err error
	if h.given, err = network.Open(network.Config{Path: filepath.Join(h.dir, "addresses"), Flat: true}, log); err != nil {
		h.t.Fatal(err)
	}
	h.net, err = New(Config{
		ID: h.name, Path: filepath.Join(h.dir, "network"), Address: netip.MustParseAddr(h.address), NetNS: h.path(),
		Problem: func(text string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.problems = append(h.problems, text)
		},
	}, h.given, log)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.net.Run(ctx) }()
	h.stop = sync.OnceFunc(func() { cancel(); <-done; h.net.Close() })
	h.t.Cleanup(h.stop)
}

// cluster is what the coordinator would tell each of the hosts.
func cluster(hosts []*host, i int) Cluster {
	c := Cluster{All: netip.MustParsePrefix("10.77.0.0/16")}
	for j, h := range hosts {
		cidr := netip.MustParsePrefix(fmt.Sprintf("10.77.%d.0/24", j+1))
		if i == j {
			c.Own = cidr
		} else {
			c.Nodes = append(c.Nodes, Node{Name: h.name, Address: netip.MustParseAddr(h.address), Pods: cidr})
		}
	}
	return c
}

func tell(t *testing.T, hosts []*host) {
	t.Helper()
	for i, h := range hosts {
		if err := h.net.Set(cluster(hosts, i)); err != nil {
			t.Fatal(err)
		}
	}
}

// pod is a network namespace with an address of the host's network.
type pod struct {
	*space
	ref container.PodRef
	ip  string
}

func (h *host) pod(uid string) *pod {
	h.t.Helper()
	p := &pod{space: newSpace(h.t), ref: container.PodRef{UID: uid, Epoch: 1}}
	var err error
	if p.ip, err = h.given.Allocate(uid); err != nil {
		h.t.Fatal(err)
	}
	h.attach(p)
	return p
}

func (h *host) attach(p *pod) {
	h.t.Helper()
	if err := h.net.Attach(h.t.Context(), p.ref, p.path(), p.ip); err != nil {
		h.t.Fatal(err)
	}
}

// eventually polls until f has no error, and returns how long that took.
func eventually(t *testing.T, within time.Duration, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > within {
			t.Fatalf("not within %v: %v", within, err)
		}
		<-tick.C
	}
}

// reaches returns what is wrong with asking an address and being taken for from.
func reaches(s *space, to, from string) func() error {
	return func() error {
		got, err := s.ask(to)
		if err == nil && got != from {
			err = fmt.Errorf("%s takes the caller for %s, want %s", to, got, from)
		}
		return err
	}
}

func must(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Error(err)
	}
}

func TestPodsReachPodsOnOtherHostsAndAreSeenWithTheirOwnAddress(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 3)
	tell(t, hosts)
	var pods []*pod
	for i, h := range hosts {
		for j := range 2 {
			p := h.pod(fmt.Sprintf("pod-%d-%d", i, j))
			p.answer(p.ip + ":8080")
			pods = append(pods, p)
		}
		h.answer(h.address + ":9090")
	}
	if got := pods[0].link("eth0").Attrs().MTU; got != 1400 {
		t.Errorf("mtu %d, want that of the host's own link, 1400", got)
	}
	must(t, func() error {
		return pods[0].do(func() error {
			for path, want := range settings {
				if data, err := os.ReadFile(path); err != nil || strings.Join(strings.Fields(string(data)), " ") != want {
					return fmt.Errorf("%s is %q, %w; want %q", path, data, err, want)
				}
			}
			return nil
		})
	})
	for _, from := range pods {
		for _, to := range pods {
			eventually(t, 5*time.Second, reaches(from.space, to.ip+":8080", from.ip))
		}
		for _, h := range hosts {
			eventually(t, 5*time.Second, reaches(from.space, h.address+":9090", from.ip))
		}
	}
	for _, h := range hosts {
		for _, to := range pods {
			if _, err := h.ask(to.ip + ":8080"); err != nil {
				t.Errorf("node %s to pod %s: %v", h.name, to.ip, err)
			}
		}
	}
}

func TestOnlyTrafficThatLeavesTheClusterIsMasqueraded(t *testing.T) {
	t.Parallel()
	hosts, outsider := segment(t, 2)
	tell(t, hosts)
	a, b := hosts[0].pod("a"), hosts[1].pod("b")
	b.answer(b.ip + ":8080")
	outsider.answer("192.0.2.99:80")
	eventually(t, 5*time.Second, reaches(a.space, "192.0.2.99:80", "192.0.2.1"))
	eventually(t, 5*time.Second, reaches(b.space, "192.0.2.99:80", "192.0.2.2"))
	eventually(t, 5*time.Second, reaches(a.space, b.ip+":8080", a.ip))
}

func TestALinkThatGoesDownAndUpLeavesTheRoutesRight(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 3)
	tell(t, hosts)
	a, b, c := hosts[0].pod("a"), hosts[1].pod("b"), hosts[2].pod("c")
	b.answer(b.ip + ":8080")
	c.answer(c.ip + ":8080")
	for _, to := range []*pod{b, c} {
		eventually(t, 5*time.Second, reaches(a.space, to.ip+":8080", a.ip))
	}
	hosts[0].down("eth0")
	eventually(t, 5*time.Second, func() error {
		k, err := openKernel(hosts[0].path())
		if err != nil {
			return err
		}
		defer k.close()
		s, err := k.look(hosts[0].net.names)
		if err == nil && len(ours(s)) > 0 {
			err = fmt.Errorf("%d routes are left", len(ours(s)))
		}
		return err
	})
	hosts[0].up("eth0")
	took := time.Duration(0)
	for _, to := range []*pod{b, c} {
		took += eventually(t, 5*time.Second, reaches(a.space, to.ip+":8080", a.ip))
	}
	t.Logf("pods of two other hosts reached %v after the interface came back", took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("healed after %v, want 5 s at most", took)
	}
}

func ours(s *seen) (out []route) {
	for _, r := range s.routes {
		if r.ours {
			out = append(out, r)
		}
	}
	return out
}

func TestWhatIsTakenAwayComesBack(t *testing.T) {
	t.Parallel()
	hosts, outsider := segment(t, 2)
	tell(t, hosts)
	h := hosts[0]
	a, b := h.pod("a"), hosts[1].pod("b")
	if err := h.net.Publish("a", []Port{{"tcp", 80, 8080}}); err != nil {
		t.Fatal(err)
	}
	a.answer("0.0.0.0:8080")
	b.answer(b.ip + ":8080")
	all := func() error {
		return errors.Join(
			reaches(a.space, b.ip+":8080", a.ip)(),
			reaches(outsider, h.address+":80", "192.0.2.99")(),
		)
	}
	eventually(t, 5*time.Second, all)
	heal := func(t *testing.T, harms ...func() error) {
		for _, harm := range harms {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("healed after %v", eventually(t, 10*time.Second, all).Round(time.Millisecond))
	}
	routes := func() error {
		return h.handle.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.77.2.0/24")), Table: unix.RT_TABLE_MAIN})
	}
	for name, harm := range map[string]func() error{
		"the bridge's address": func() error {
			return h.handle.AddrDel(h.link(h.net.names.bridge), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.77.1.1/24"))})
		},
		"the bridge":            func() error { return h.handle.LinkDel(h.link(h.net.names.bridge)) },
		"the pod's place on it": func() error { return h.handle.LinkSetNoMaster(h.link(h.net.names.link("a 1"))) },
		"the pod's link set up": func() error { return h.handle.LinkSetDown(h.link(h.net.names.link("a 1"))) },
		"the routes":            routes,
	} {
		t.Run(name, func(t *testing.T) { heal(t, harm) })
	}
	// With these there is no hurry, or nobody is told: they wait for the next look.
	table := &ruler{ns: h.ns}
	defer table.close()
	forwards := func() error { return h.do(func() error { return os.WriteFile(forwardingFile, []byte("0"), 0) }) }
	t.Run("the ports in the table, and the forwarding", func(t *testing.T) {
		heal(t, func() error { return table.set(h.net.names.table, &rules{own: netip.MustParsePrefix("10.77.1.0/24")}) }, forwards)
	})
	t.Run("the table, with the routes", func(t *testing.T) {
		heal(t, func() error { return table.remove(h.net.names.table) }, routes)
	})
}

func TestPortsOfTheNodeLeadToPods(t *testing.T) {
	t.Parallel()
	for name, filtered := range map[string]string{"bridged frames filtered": "1", "bridged frames not filtered": "0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hosts, outsider := segment(t, 2)
			err := hosts[0].do(func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(filtered), 0) })
			if err != nil && filtered == "1" {
				t.Skipf("the kernel does not filter bridged frames: %v", err)
			}
			portsLeadToPods(t, hosts, outsider)
		})
	}
}

func portsLeadToPods(t *testing.T, hosts []*host, outsider *space) {
	tell(t, hosts)
	h := hosts[0]
	a, b, far := h.pod("a"), h.pod("b"), hosts[1].pod("far")
	for _, p := range []*pod{a, b, far} {
		p.answer(p.ip + ":8080")
	}
	if err := h.net.Publish("a", []Port{{"tcp", 80, 8080}, {"tcp", 81, 8080}}); err != nil {
		t.Fatal(err)
	}
	if err := h.net.Publish("b", []Port{{"tcp", 81, 8080}}); !errors.Is(err, ErrPortTaken) {
		t.Errorf("port 81 was given twice: %v", err)
	}
	if err := h.net.Publish("b", []Port{{"tcp", 82, 8080}}); err != nil {
		t.Fatal(err)
	}
	at := h.address + ":80"
	eventually(t, 5*time.Second, reaches(outsider, at, "192.0.2.99"))
	eventually(t, 5*time.Second, reaches(far.space, at, far.ip))
	must(t, reaches(h.space, at, h.address))                  // the node itself
	must(t, reaches(a.space, at, "10.77.1.1"))                // the pod itself, through the node
	must(t, reaches(b.space, at, "10.77.1.1"))                // a neighbour, through the node
	must(t, reaches(b.space, a.ip+":8080", b.ip))             // and straight
	must(t, reaches(outsider, h.address+":82", "192.0.2.99")) // b's
	h.answer("127.0.0.1:80")
	must(t, reaches(h.space, "127.0.0.1:80", "127.0.0.1")) // loopback stays the node's own
	outsider.answer("192.0.2.99:80")
	must(t, reaches(a.space, "192.0.2.99:80", h.address)) // and others' ports theirs
	b.echo(b.ip + ":53")
	if err := h.net.Publish("b", []Port{{"tcp", 82, 8080}, {"udp", 80, 53}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		got, err := outsider.askUDP(at)
		if err == nil && got != "192.0.2.99" {
			err = fmt.Errorf("UDP: taken for %s", got)
		}
		return err
	})
	if _, err := outsider.ask(h.address + ":8080"); err == nil { // the pod's port is not the node's
		t.Error("the node answers on the pod's port")
	}
	h.given.Release("a")
	eventually(t, 5*time.Second, func() error {
		if _, err := outsider.ask(at); err == nil {
			return errors.New("port 80 still leads to a pod that is gone")
		}
		return nil
	})
	must(t, reaches(outsider, h.address+":82", "192.0.2.99"))
}

func TestAttachingAgainChangesNothingAndTheAgentsRestartIsNotSeen(t *testing.T) {
	t.Parallel()
	hosts, outsider := segment(t, 2)
	tell(t, hosts)
	h := hosts[0]
	a, b := h.pod("a"), hosts[1].pod("b")
	if err := h.net.Publish("a", []Port{{"tcp", 80, 8080}}); err != nil {
		t.Fatal(err)
	}
	a.answer(a.ip + ":8080")
	b.answer(b.ip + ":8080")
	eventually(t, 5*time.Second, reaches(a.space, b.ip+":8080", a.ip))
	eventually(t, 5*time.Second, reaches(outsider, h.address+":80", "192.0.2.99"))
	before := h.link(h.net.names.link("a 1")).Attrs().Index
	h.attach(a)
	h.stop()
	must(t, reaches(a.space, b.ip+":8080", a.ip)) // nobody minds the network now
	h.start()                                     // and nobody tells the agent of it
	if ip, err := h.given.Allocate("a"); err != nil || ip != a.ip {
		t.Errorf("address %s, %v after the restart; want %s", ip, err, a.ip)
	}
	h.attach(a)
	if after := h.link(h.net.names.link("a 1")).Attrs().Index; after != before {
		t.Error("the pod's link was made anew")
	}
	h.down("eth0")
	h.up("eth0")
	eventually(t, 5*time.Second, reaches(a.space, b.ip+":8080", a.ip))
	must(t, reaches(outsider, h.address+":80", "192.0.2.99"))
}

func TestAHalfMadeLinkIsMadeAnewAndAnAddressGoesToWhoHasItNow(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 1)
	tell(t, hosts)
	h := hosts[0]
	a := h.pod("a")
	// As if the agent had been killed before it was done.
	name := h.net.names.link("a 1")
	if err := h.handle.LinkSetAlias(h.link(name), "x"); err != nil {
		t.Fatal(err)
	}
	eth, err := a.handle.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.handle.AddrDel(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(a.ip + "/24"))}); err != nil {
		t.Fatal(err)
	}
	h.attach(a)
	b := h.pod("b")
	b.answer(b.ip + ":8080")
	eventually(t, 5*time.Second, reaches(a.space, b.ip+":8080", a.ip))
	// The same pod again, while the network namespace of the old one is still there.
	again := &pod{space: newSpace(t), ref: container.PodRef{UID: "a", Epoch: 2}, ip: a.ip}
	h.attach(again)
	eventually(t, 5*time.Second, reaches(again.space, b.ip+":8080", a.ip))
	if _, err := h.handle.LinkByName(name); err == nil {
		t.Error("the old link is still there")
	}
}

func TestTwoAgentsOfOneMachineKeepOutOfEachOthersWay(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 2)
	one, other := hosts[0], &host{name: "n1b", address: "192.0.2.3", log: &bytes.Buffer{}, dir: t.TempDir()}
	other.space = one.space // a second agent in the same network namespace, with an address of its own
	one.address = "192.0.2.1"
	one.space.address("eth0", "192.0.2.3/24")
	other.start()
	all := []*host{one, hosts[1], other}
	tell(t, all)
	a, b, far := one.pod("a"), other.pod("b"), hosts[1].pod("far")
	for _, p := range []*pod{a, b, far} {
		p.answer(p.ip + ":8080")
	}
	for _, from := range []*pod{a, b, far} {
		for _, to := range []*pod{a, b, far} {
			eventually(t, 5*time.Second, reaches(from.space, to.ip+":8080", from.ip))
		}
	}
	other.stop()
	if err := other.clean(); err != nil {
		t.Fatal(err)
	}
	must(t, reaches(a.space, far.ip+":8080", a.ip))
	must(t, reaches(far.space, a.ip+":8080", far.ip))
}

// clean is Clean for the host's agent.
func (h *host) clean() error {
	return Clean(Config{ID: h.name, Path: filepath.Join(h.dir, "network"), NetNS: h.path()})
}

// settled tells what is left to do.
func (h *host) settled() error {
	k, err := openKernel(h.path())
	if err != nil {
		return err
	}
	defer k.close()
	s, err := k.look(h.net.names)
	if err != nil {
		return err
	}
	if steps, problems := plan(h.net.wanted(), s); len(steps)+len(problems) > 0 {
		return fmt.Errorf("left to do: %v, %q", steps, problems)
	}
	return nil
}

// listing is all that can be seen of the host's network, ours and others'.
func (h *host) listing() string {
	h.t.Helper()
	k, err := openKernel(h.path())
	if err != nil {
		h.t.Fatal(err)
	}
	defer k.close()
	s, err := k.look(namesOf(h.name))
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprint(s.links, s.addresses, s.routes, s.table)
}

func TestNothingIsLeftAndWhatIsOthersIsNotTouched(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 2)
	h := hosts[0]
	// Others' things: a bridge, a route of our kind but another metric, one to pods that we do not know, a table.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	if err := h.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	h.route("10.77.9.0/24", "192.0.2.2")
	if err := h.handle.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.77.8.0/24")), Gw: net.ParseIP("192.0.2.2"), Protocol: protocol, Priority: 5}); err != nil {
		t.Fatal(err)
	}
	theirs := &ruler{ns: h.ns}
	defer theirs.close()
	if err := theirs.set("theirs", &rules{own: netip.MustParsePrefix("10.9.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	before := h.listing()
	tell(t, hosts)
	p := h.pod("a")
	q := hosts[1].pod("b")
	q.answer(q.ip + ":8080")
	eventually(t, 5*time.Second, reaches(p.space, q.ip+":8080", p.ip))
	if h.listing() == before {
		t.Fatal("nothing has changed: the test tells nothing")
	}
	// A node that is gone takes its route along.
	if err := h.net.Set(cluster(hosts[:1], 0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		k, err := openKernel(h.path())
		if err != nil {
			return err
		}
		defer k.close()
		s, err := k.look(h.net.names)
		if err == nil && len(ours(s)) > 0 {
			err = fmt.Errorf("routes %v are left", ours(s))
		}
		return err
	})
	if err := h.net.Detach(p.ref); err != nil {
		t.Fatal(err)
	}
	if err := h.net.Detach(p.ref); err != nil {
		t.Errorf("detached again: %v", err)
	}
	h.stop()
	if err := h.clean(); err != nil {
		t.Fatal(err)
	}
	if after := h.listing(); after != before {
		t.Errorf("network after:\n%s\nbefore:\n%s", after, before)
	}
	if err := h.clean(); err != nil {
		t.Errorf("cleaned again: %v", err)
	}
	if got, err := theirs.look("theirs"); err != nil || got == nil {
		t.Errorf("the others' table: %v, %v", got, err)
	}
}

func TestANodeBehindARouterIsNamedOnce(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 2)
	h := hosts[0]
	h.route("198.51.100.0/24", "192.0.2.2")
	c := cluster(hosts, 0)
	c.Nodes = append(c.Nodes, Node{Name: "far", Address: netip.MustParseAddr("198.51.100.7"), Pods: netip.MustParsePrefix("10.77.7.0/24")})
	if err := h.net.Set(c); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if err := h.net.Err(); err == nil || !strings.Contains(err.Error(), "node far (198.51.100.7) is behind 192.0.2.2") || !strings.Contains(err.Error(), "(192.0.2.1)") {
			return fmt.Errorf("err %w, want both named", err)
		}
		return nil
	})
	for range 3 {
		if err := h.net.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.net.Set(cluster(hosts, 0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, h.net.Err)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.problems) != 2 || h.problems[1] != "" {
		t.Errorf("told %q, want the problem once and then its end", h.problems)
	}
	if n := strings.Count(h.log.String(), "pods out of reach"); n != 2 {
		t.Errorf("%d lines in the log, want 2:\n%s", n, h.log)
	}
}

func TestAThousandPortsAndNodesFitTheTable(t *testing.T) {
	hosts, _ := segment(t, 1)
	h := hosts[0]
	want := &rules{own: netip.MustParsePrefix("10.77.1.0/24")}
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{172, 16, byte(i >> 7), byte(i << 1)})
		want.inside = append(want.inside, span{a, a})
	}
	for i := range 1000 {
		want.ports = append(want.ports, published{"udp", uint16(i + 1), netip.AddrPortFrom(netip.MustParseAddr("10.77.1.5"), uint16(60000-i))})
	}
	k := h.net.kernel
	h.net.acting.Lock()
	defer h.net.acting.Unlock()
	start := time.Now()
	if err := k.rules.set("big", want); err != nil {
		t.Fatal(err)
	}
	set := time.Since(start)
	got, err := k.rules.look("big")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("5,000 nodes and 1,000 ports: set in %v, read in %v", set.Round(time.Millisecond), (time.Since(start) - set).Round(time.Millisecond))
	if len(got.inside) != 5000 || len(got.ports) != 1000 || fmt.Sprint(got.inside) != fmt.Sprint(want.inside) || fmt.Sprint(got.ports) != fmt.Sprint(want.ports) || fmt.Sprint(got.tags) != fmt.Sprint(want.tags()) {
		t.Errorf("read %d ranges, %d ports, tags %q", len(got.inside), len(got.ports), got.tags)
	}
}
