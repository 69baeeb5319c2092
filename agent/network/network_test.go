package network_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
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
	for i := range network.MaxPods {
		give(t, a, fmt.Sprint(i))
	}
	if _, err := a.Allocate("one more"); !errors.Is(err, network.ErrExhausted) {
		t.Errorf("err %v, want ErrExhausted", err)
	}
}

func TestDamagedFileIsLoggedAndAddressesAreClaimedBack(t *testing.T) {
	for name, text := range map[string]string{"cut": `{"node":3,"po`, "out of range": `{"node":3,"pods":{"a":251}}`, "twice": `{"node":3,"pods":{"a":1,"b":1}}`} {
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
