package network_test

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
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/agent/network"
)

func open(t testing.TB, path string) *network.Allocator {
	t.Helper()
	a, err := network.Open(network.Config{Path: path, Node: 3}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func give(t testing.TB, a *network.Allocator, uid string) string {
	t.Helper()
	ip, err := a.Allocate(uid)
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

func TestLowestFreeAddressIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, filepath.Join(t.TempDir(), "addresses"))
		if one, two, again := give(t, a, "a"), give(t, a, "b"), give(t, a, "a"); one != "127.77.3.1" || two != "127.77.3.2" || again != one {
			t.Errorf("addresses %s, %s, %s", one, two, again)
		}
		a.Release("a")
		if ip := give(t, a, "c"); ip != "127.77.3.3" {
			t.Errorf("address %s, want 127.77.3.3: .1 rests", ip)
		}
		if ip := give(t, a, "a"); ip != "127.77.3.1" {
			t.Errorf("address %s, want the pod's own again", ip)
		}
		a.Release("a")
		time.Sleep(network.Rest)
		if ip := give(t, a, "d"); ip != "127.77.3.1" {
			t.Errorf("address %s, want 127.77.3.1 after its rest", ip)
		}
	})
}

func TestAddressesOutliveTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "addresses")
	a := open(t, path)
	give(t, a, "a")
	two := give(t, a, "b")
	a.Release("a")
	a = open(t, path)
	if ip := give(t, a, "b"); ip != two {
		t.Errorf("address %s, want %s", ip, two)
	}
	other, err := network.Open(network.Config{Path: path, Node: 4}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if ip := give(t, other, "b"); ip != "127.77.4.1" {
		t.Errorf("address %s under another node number", ip)
	}
}

func TestAllAddressesTaken(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "addresses"))
	pods := map[string]string{}
	for i := range network.MaxLoopbackPods {
		pods[give(t, a, fmt.Sprint(i))] = fmt.Sprint(i)
	}
	for _, want := range []string{"127.77.3.1", "127.77.3.250", "127.76.3.1", "127.74.3.250"} {
		if pods[want] == "" {
			t.Errorf("nobody has %s", want)
		}
	}
	if len(pods) != 1000 || a.Claim("another", "127.74.3.250") || !a.Claim(pods["127.74.3.250"], "127.74.3.250") {
		t.Errorf("%d addresses, want 1000, each its pod's", len(pods))
	}
	if _, err := a.Allocate("one more"); !errors.Is(err, network.ErrExhausted) {
		t.Errorf("err %v, want ErrExhausted", err)
	}
}

func TestDamagedFileIsLoggedAndAddressesAreClaimedBack(t *testing.T) {
	for name, text := range map[string]string{"cut": `{"node":3,"po`, "out of range": `{"node":3,"pods":{"a":1001}}`, "out of range of a CIDR": `{"cidr":"10.77.3.0/24","pods":{"a":251}}`, "twice": `{"node":3,"pods":{"a":1,"b":1}}`} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "addresses")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var logged bytes.Buffer
			a, err := network.Open(network.Config{Path: path, Node: 3}, slog.New(slog.NewTextHandler(&logged, nil)))
			if err != nil || strings.Count(logged.String(), "\n") != 1 || !strings.Contains(logged.String(), "damaged") {
				t.Fatalf("err %v, log %q; want one line", err, logged.String())
			}
			first, again := a.Claim("x", "127.77.3.1"), a.Claim("x", "127.77.3.1")
			if !first || !again || a.Claim("y", "127.77.3.1") || !a.Claim("z", "10.0.0.1") {
				t.Error("claims: want x's taken, y's refused, z's no matter")
			}
			if ip := give(t, a, "new"); ip != "127.77.3.2" {
				t.Errorf("address %s, want 127.77.3.2", ip)
			}
		})
	}
}

func TestAddressThatCannotBeStoredIsNotGiven(t *testing.T) {
	dir := t.TempDir()
	a := open(t, filepath.Join(dir, "file", "addresses"))
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if ip, err := a.Allocate("a"); err == nil {
		t.Errorf("gave %s", ip)
	}
	if err := os.Remove(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	if ip := give(t, a, "b"); ip != "127.77.3.1" {
		t.Errorf("address %s, want 127.77.3.1", ip)
	}
}

func TestNodeAddressServesAllWithoutANodeNumber(t *testing.T) {
	a, err := network.Open(network.Config{NodeAddress: "192.0.2.7"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if one, two := give(t, a, "a"), give(t, a, "b"); one != "192.0.2.7" || two != one {
		t.Errorf("addresses %s and %s", one, two)
	}
	for _, cfg := range []network.Config{{Node: 255}, {Node: -1}, {NodeAddress: "x"}} {
		if _, err := network.Open(cfg, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestNoAddressIsGivenTwice(t *testing.T) {
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run))
		a, has := open(t, path), map[string]string{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			uid := fmt.Sprint(rapid.IntRange(0, 9).Draw(rt, "pod"))
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				a.Release(uid)
				delete(has, uid)
			case 1:
				a = open(t, path)
			default:
				ip := give(t, a, uid)
				if old, ok := has[uid]; ok && old != ip {
					rt.Fatalf("pod %s had %s and got %s", uid, old, ip)
				}
				has[uid] = ip
				for other, o := range has {
					if other != uid && o == ip {
						rt.Fatalf("pods %s and %s have %s", uid, other, ip)
					}
				}
			}
		}
	})
}

func openFlat(t testing.TB, path string, log *slog.Logger) *network.Allocator {
	t.Helper()
	a, err := network.Open(network.Config{Path: path, Flat: true, NodeAddress: "192.0.2.1"}, log)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAFlatNetworksAddressesFollowItsCIDRAndOutliveTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addresses")
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	a := openFlat(t, path, log)
	if ip, err := a.Allocate("a"); !errors.Is(err, network.ErrNoNetwork) {
		t.Fatalf("%s, %v; want ErrNoNetwork", ip, err)
	}
	if !a.Claim("x", "10.77.3.2") {
		t.Error("an address of no network we know was refused")
	}
	own := netip.MustParsePrefix("10.77.3.0/24")
	for _, bad := range []string{"10.77.3.0/25", "10.77.3.1/24", "fd00::/24", "0.0.0.0/0"} {
		if err := a.Use(netip.MustParsePrefix(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if err := a.Use(own); err != nil {
		t.Fatal(err)
	}
	if one, two := give(t, a, "a"), give(t, a, "b"); one != "10.77.3.2" || two != "10.77.3.3" {
		t.Errorf("addresses %s and %s, want the third and fourth", one, two)
	}
	if a.Claim("c", "10.77.3.3") || !a.Claim("c", "10.77.3.4") || !a.Claim("d", "10.77.3.1") || !a.Claim("d", "10.77.4.9") {
		t.Error("claims: want b's refused, a free one taken, the node's and another node's no matter")
	}
	a = openFlat(t, path, log) // the CIDR comes from the file
	want := map[string]netip.Addr{"a": netip.MustParseAddr("10.77.3.2"), "b": netip.MustParseAddr("10.77.3.3"), "c": netip.MustParseAddr("10.77.3.4")}
	if got := a.Pods(); !maps.Equal(got, want) {
		t.Errorf("pods %v, want %v", got, want)
	}
	if err := a.Use(own); err != nil || give(t, a, "c") != "10.77.3.4" || logged.Len() != 0 {
		t.Errorf("err %v, log %q; want nothing changed by the same CIDR", err, logged.String())
	}
	if err := a.Use(netip.MustParsePrefix("10.77.4.0/24")); err != nil || give(t, a, "b") != "10.77.4.2" || !strings.Contains(logged.String(), "forgotten") {
		t.Errorf("err %v, log %q; want the addresses of another CIDR forgotten", err, logged.String())
	}
	for i := range network.MaxPods - 1 {
		give(t, a, fmt.Sprint(i))
	}
	if _, err := a.Allocate("one more"); !errors.Is(err, network.ErrExhausted) || !strings.Contains(err.Error(), "10.77.4.2 to 10.77.4.251") {
		t.Errorf("err %v, want ErrExhausted and the range", err)
	}
}

func TestWhichNetworkANodeHas(t *testing.T) {
	for _, tc := range []struct {
		asked     string
		permitted bool
		address   string
		want, err string
	}{
		{"", true, "192.0.2.1", "host-gw", ""},
		{"", true, "127.0.0.1", "none", ""},
		{"", true, "2001:db8::1", "none", ""},
		{"", false, "192.0.2.1", "none", ""},
		{"none", true, "192.0.2.1", "none", ""},
		{"host-gw", true, "192.0.2.1", "host-gw", ""},
		{"host-gw", false, "192.0.2.1", "", "only root"},
		{"host-gw", true, "127.0.0.1", "", "127.0.0.1, which is loopback"},
		{"host-gw", true, "2001:db8::1", "", "not IPv4: not built yet"},
		{"vxlan", true, "192.0.2.1", "", `"vxlan", must be host-gw or none`},
	} {
		got, err := network.Mode(tc.asked, tc.permitted, netip.MustParseAddr(tc.address))
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
}
