package hostgw

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/network"
)

// books are addresses that a test gives.
type books map[string]netip.Addr

func (b books) Use(netip.Prefix) error      { return nil }
func (b books) Pods() map[string]netip.Addr { return maps.Clone(b) }

// open opens a network that never runs, and knows no kernel.
func open(t *testing.T, dir string, b books, log *slog.Logger) *Network {
	t.Helper()
	n, err := build(Config{ID: "test", Path: filepath.Join(dir, "network"), Address: ip("192.0.2.1")}, b, log)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatTheCoordinatorSaysIsKeptAndNonsenseIsRefused(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	n := open(t, dir, books{"a": ip("10.77.1.2")}, log)
	if err := n.Err(); !errors.Is(err, network.ErrNoNetwork) {
		t.Errorf("err %v, want ErrNoNetwork", err)
	}
	if err := n.Attach(t.Context(), container.PodRef{UID: "a"}, "/proc/self/ns/net", "10.77.1.2"); !errors.Is(err, network.ErrNoNetwork) {
		t.Errorf("attached without a network: %v", err)
	}
	want := node1().cluster
	if err := n.Set(want); err != nil {
		t.Fatal(err)
	}
	if err := n.Publish("a", []Port{{"udp", 53, 53}}); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func(*Cluster){
		"own too small":             func(c *Cluster) { c.Own = cidr("10.77.1.0/25") },
		"own with bits":             func(c *Cluster) { c.Own = cidr("10.77.1.1/24") },
		"own IPv6":                  func(c *Cluster) { c.Own = cidr("fd00::/24") },
		"all too large":             func(c *Cluster) { c.All = cidr("0.0.0.0/0") },
		"a node's that is ours":     func(c *Cluster) { c.Nodes = []Node{{"x", ip("192.0.2.2"), cidr("10.77.1.0/24")}} },
		"a node's that is all":      func(c *Cluster) { c.Nodes = []Node{{"x", ip("192.0.2.2"), cidr("0.0.0.0/0")}} },
		"a node without an address": func(c *Cluster) { c.Nodes = []Node{{"x", netip.Addr{}, cidr("10.77.9.0/24")}} },
	} {
		c := want
		bad(&c)
		if err := n.Set(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	again := open(t, dir, books{"a": ip("10.77.1.2")}, log).wanted()
	if got := fmt.Sprint(again.cluster, again.ports); got != fmt.Sprint(want, []published{{"udp", 53, netip.MustParseAddrPort("10.77.1.2:53")}}) {
		t.Errorf("kept %s", got)
	}
	if err := n.Attach(t.Context(), container.PodRef{UID: "a"}, "/proc/self/ns/net", "10.77.2.2"); err == nil || !strings.Contains(err.Error(), "not of the node's pod cidr 10.77.1.0/24") {
		t.Errorf("attached with an address of another node: %v", err)
	}
}

func TestADamagedFileIsLoggedAndCountsAsNone(t *testing.T) {
	for name, text := range map[string]string{"cut": `{"cluster`, "nonsense": `{"cluster":{"own":"10.77.1.0/30"}}`, "too large": strings.Repeat(" ", maxFile) + "{}"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "network"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var logged bytes.Buffer
			n := open(t, dir, nil, slog.New(slog.NewTextHandler(&logged, nil)))
			if w := n.wanted(); w.cluster.Own.IsValid() || !strings.Contains(logged.String(), "damaged") {
				t.Errorf("cluster %v, log %q", w.cluster, logged.String())
			}
		})
	}
}

func TestPortsAreBoundedAndGoWithTheirPod(t *testing.T) {
	b := books{"a": ip("10.77.1.2"), "b": ip("10.77.1.3")}
	n := open(t, t.TempDir(), b, slog.New(slog.DiscardHandler))
	for name, ports := range map[string][]Port{
		"no host port": {{"tcp", 0, 1}}, "no pod port": {{"tcp", 1, 0}}, "another protocol": {{"sctp", 1, 1}}, "too many": make([]Port, maxPorts+1),
	} {
		if err := n.Publish("a", ports); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(n.Publish("a", []Port{{"tcp", 80, 1}, {"udp", 80, 1}}))
	if err := n.Publish("b", []Port{{"tcp", 81, 1}, {"udp", 80, 2}}); !errors.Is(err, ErrPortTaken) || !strings.Contains(err.Error(), "80/udp") {
		t.Errorf("err %v, want ErrPortTaken naming 80/udp", err)
	}
	must(n.Publish("a", []Port{{"tcp", 80, 1}}))
	must(n.Publish("b", []Port{{"tcp", 81, 1}, {"udp", 80, 2}}))
	if ports := n.wanted().ports; len(ports) != 3 {
		t.Errorf("ports %v, want 3", ports)
	}
	delete(b, "a")
	if ports := n.wanted().ports; len(ports) != 2 {
		t.Errorf("ports %v, want b's 2", ports)
	}
	must(n.Publish("b", []Port{{"tcp", 80, 1}})) // a is gone
	must(n.Publish("b", nil))
	if ports := n.wanted().ports; len(ports) != 0 {
		t.Errorf("ports %v, want none", ports)
	}
}

func cpu() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func TestManyPodsComeAndGoAndLeaveNothing(t *testing.T) {
	hosts, _ := segment(t, 1)
	tell(t, hosts)
	h := hosts[0]
	eventually(t, 5*time.Second, h.settled)
	before := h.listing()
	pods := make([]*pod, 110)
	for i := range pods {
		uid := fmt.Sprint("pod-", i)
		address, err := h.given.Allocate(uid)
		if err != nil {
			t.Fatal(err)
		}
		pods[i] = &pod{space: newSpace(t), ref: container.PodRef{UID: uid, Epoch: 1}, ip: address}
	}
	spent, start := cpu(), time.Now()
	var attaching sync.WaitGroup
	for at := range 4 {
		attaching.Go(func() {
			for i := at; i < len(pods); i += 4 {
				if err := h.net.Attach(t.Context(), pods[i].ref, pods[i].path(), pods[i].ip); err != nil {
					t.Error(err)
				}
			}
		})
	}
	attaching.Wait()
	t.Logf("attached %d pods, each in %v, %v CPU", len(pods), (time.Since(start) / time.Duration(len(pods))).Round(10*time.Microsecond), ((cpu() - spent) / time.Duration(len(pods))).Round(10*time.Microsecond))
	pods[100].answer(pods[100].ip + ":8080")
	eventually(t, 5*time.Second, reaches(pods[3].space, pods[100].ip+":8080", pods[3].ip))
	const looks = 10
	spent = cpu()
	for range looks {
		if err := h.net.pass(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a look at %d pods costs %v CPU", len(pods), ((cpu() - spent) / looks).Round(10*time.Microsecond))
	// Where nothing has changed nothing is looked at.
	eventually(t, 5*time.Second, h.settled)
	eventually(t, 5*time.Second, func() error {
		if h.net.due(time.Now()) {
			return errors.New("another look is due")
		}
		return nil
	})
	spent = cpu()
	for range looks {
		if h.net.due(time.Now()) {
			t.Error("another look is due without a change")
		}
	}
	t.Logf("finding that none is due costs %v CPU", ((cpu() - spent) / looks).Round(time.Microsecond))
	if !h.net.due(time.Now().Add(-anyway)) {
		t.Errorf("no look is due %v after the last", anyway)
	}
	for i, p := range pods {
		if i%2 == 0 { // the rest goes with its network namespace
			if err := h.net.Detach(p.ref); err != nil {
				t.Error(err)
			}
		}
		p.handle.Close()
		p.ns.Close()
		h.given.Release(p.ref.UID)
	}
	took := eventually(t, 20*time.Second, func() error {
		if after := h.listing(); after != before {
			return fmt.Errorf("network after:\n%s\nbefore:\n%s", after, before)
		}
		return nil
	})
	t.Logf("nothing is left %v after the pods", took.Round(time.Millisecond))
}
