package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/election"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

func factsKey(node string) store.Key   { return store.Key{Family: store.NodeFacts, Name: node} }
func networkKey(node string) store.Key { return store.Key{Family: store.NodeNetworks, Name: node} }

// join makes a node of the flat network known.
func (w *world) join(name string) {
	w.put(factsKey(name), &spec.NodeFacts{GuardAddress: name, MaxPods: 10, Images: "ignore", Network: spec.NetworkHostGW})
}

// cidrs are the networks by node.
func cidrs(v *store.View) map[string]string {
	out := map[string]string{}
	for rec := range v.All(store.NodeNetworks) {
		out[rec.Key.Name] = rec.Value.(*spec.NodeNetwork).PodCIDR.String()
	}
	return out
}

func TestANodeOfTheNetworkGetsACIDRBeforeAnyPodAndKeepsIt(t *testing.T) {
	lead(t, 0, func(w *world) {
		w.pod("early", spec.Fast)
		w.put(factsKey("plain"), &spec.NodeFacts{GuardAddress: "plain", Network: spec.NetworkNone})
		w.join("b")
		time.Sleep(time.Second)
		w.join("a")
		time.Sleep(time.Second)
		want := map[string]string{"b": "10.77.0.0/24", "a": "10.77.1.0/24"}
		if got := cidrs(w.cache.View()); !maps.Equal(got, want) {
			t.Fatalf("networks %v, want %v", got, want)
		}
		if p := w.look("early"); p.Node() == "" || p.Epoch < w.cache.View().Lookup(networkKey(p.Node())).Revision {
			t.Errorf("pod on %q at %d: want it bound after its node had a network", p.Node(), p.Epoch)
		}
		w.put(factsKey("b"), &spec.NodeFacts{GuardAddress: "b", MaxPods: 10, Network: spec.NetworkNone})
		time.Sleep(time.Minute)
		if got := cidrs(w.cache.View()); !maps.Equal(got, want) {
			t.Errorf("networks %v, want %v: a node keeps what it has", got, want)
		}
	})
}

func TestAFullPoolIsToldOnceAndADeletedNodesCIDRIsGivenAgain(t *testing.T) {
	lead(t, 0, func(w *world) {
		for i := range 4 {
			w.join(fmt.Sprint("n", i))
		}
		time.Sleep(time.Second)
		w.join("n4")
		time.Sleep(time.Minute)
		told := slices.DeleteFunc(slices.Clone(w.told()), func(s string) bool { return !strings.HasPrefix(s, "PodCIDRsExhausted") })
		if len(told) != 1 || !strings.Contains(told[0], "node n4: every /24 of 10.77.0.0/22 is taken") {
			t.Errorf("told %q, want one that names n4", told)
		}
		w.pod("late", spec.Fast)
		if why := w.leader.Explain(w.look("late").Pod); why != "" {
			t.Errorf("does not fit: %s", why)
		}
		for _, f := range []store.Family{store.NodeFacts, store.NodeStatus, store.NodeNetworks} {
			w.put(store.Key{Family: f, Name: "n1"}, nil)
		}
		time.Sleep(2 * time.Second)
		if got := cidrs(w.cache.View())["n4"]; got != "10.77.1.0/24" {
			t.Errorf("n4 has %q, want what n1 had", got)
		}
	})
}

// flaky is a store whose answers to the leader are not what they seem.
type flaky struct {
	store.Store
	// fate says what becomes of the next write: whether it is written now, kept to be written later, and what is answered
	// for a write that went well.
	fate func() (now, later bool, answer error)
	late []store.Txn
}

func (f *flaky) Commit(ctx context.Context, txn store.Txn) (int64, error) {
	now, later, answer := f.fate()
	if later {
		f.late = append(f.late, txn)
	}
	if !now {
		return 0, answer
	}
	rev, err := f.Store.Commit(ctx, txn)
	if err == nil && answer != nil {
		return 0, answer
	}
	return rev, err
}

// TestNoCIDRIsEverGivenTwice lets writes fail, happen without an answer, or happen late, views be old, nodes come, go
// and change, and leaders follow one another.
func TestNoCIDRIsEverGivenTwice(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	rapid.Check(t, func(rt *rapid.T) {
		db := memory.New()
		cache := store.NewCache(db, log)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = cache.Run(ctx) })
		defer func() { cancel(); _ = db.Close(); wg.Wait() }()

		views := []*store.View{cache.View()}
		at := 0 // the view that the leader has come to
		has := map[string]string{}
		commit := func(txn store.Txn) error {
			rev, err := db.Commit(ctx, txn)
			if err != nil {
				return err
			}
			if err := cache.Wait(ctx, rev); err != nil {
				rt.Fatal(err)
			}
			return nil
		}
		// see holds the store to what must be true at all times.
		see := func() {
			if err := cache.Wait(ctx, views[len(views)-1].Revision()); err != nil {
				rt.Fatal(err)
			}
			_, newest, err := db.List(ctx, store.NodeNetworks)
			if err == nil {
				err = cache.Wait(ctx, newest)
			}
			if err != nil {
				rt.Fatal(err)
			}
			v := cache.View()
			views = append(views, v)
			is := cidrs(v)
			taken := map[string]string{}
			for node, cidr := range is {
				if other := taken[cidr]; other != "" {
					rt.Fatalf("%s was given to %s and %s", cidr, node, other)
				}
				taken[cidr] = node
				if v.Lookup(factsKey(node)) == nil {
					rt.Fatalf("%s was given to %s, which is not known", cidr, node)
				}
				if was := has[node]; was != "" && was != cidr {
					rt.Fatalf("%s had %s and has %s", node, was, cidr)
				}
			}
			for node := range has {
				if _, ok := is[node]; !ok {
					rt.Fatalf("%s has lost %s", node, has[node])
				}
			}
			has = is
		}
		faults := true
		answers := &flaky{Store: db, fate: func() (bool, bool, error) {
			if !faults {
				return true, false, nil
			}
			switch rapid.IntRange(0, 5).Draw(rt, "fate") {
			case 0:
				return false, false, errors.New("no")
			case 1:
				return true, false, store.ErrUnknown
			case 2:
				return false, true, store.ErrUnknown
			}
			return true, false, nil
		}}
		var term *terms
		lead := func() {
			rec, err := db.Get(ctx, election.Key)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				rt.Fatal(err)
			}
			rev, err := db.Commit(ctx, store.Txn{If: []store.Cond{{Key: election.Key, Revision: rec.Revision}}, Then: []store.Write{{Key: election.Key, Value: &spec.Leadership{Owner: "me"}}}})
			if err != nil {
				rt.Fatal(err)
			}
			if err := cache.Wait(ctx, rev); err != nil {
				rt.Fatal(err)
			}
			views = append(views, cache.View())
			at = len(views) - 1
			l := New(Config{PodCIDR: netip.MustParsePrefix("10.77.0.0/20")}, Deps{Store: answers, Cache: cache, Fleet: fleet.Share(cache), Events: &world{}, Log: log})
			l.term, l.leading = election.Term{Owner: "me", Revision: rev}, true
			term = l.newTerm(ctx)
		}
		lead()
		for range rapid.IntRange(20, 120).Draw(rt, "steps") {
			node := fmt.Sprint("n", rapid.IntRange(0, 5).Draw(rt, "node"))
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				lead()
			case 1: // as the API deletes a node
				delete(has, node)
				if err := commit(store.Txn{Then: []store.Write{{Key: factsKey(node)}, {Key: networkKey(node)}}}); err != nil {
					rt.Fatal(err)
				}
			case 2, 3:
				f := &spec.NodeFacts{Network: spec.NetworkHostGW, Instance: fmt.Sprint(rapid.IntRange(0, 3).Draw(rt, "instance"))}
				if err := commit(store.Txn{Then: []store.Write{{Key: factsKey(node), Value: f}}}); err != nil {
					rt.Fatal(err)
				}
			case 4:
				if len(answers.late) > 0 {
					_ = commit(answers.late[0]) // its conditions may not hold any more
					answers.late = answers.late[1:]
				}
			default:
				at = rapid.IntRange(at, len(views)-1).Draw(rt, "view")
				term.networks(views[at], seen(views[at]).Nodes)
			}
			see()
		}
		// When all is well again every node has one.
		faults = false
		for range 3 {
			term.networks(cache.View(), seen(cache.View()).Nodes)
			see()
		}
		for rec := range cache.View().All(store.NodeFacts) {
			if has[rec.Key.Name] == "" {
				rt.Fatalf("%s has no network in the end", rec.Key.Name)
			}
		}
		before := cache.View().Revision()
		term.networks(cache.View(), seen(cache.View()).Nodes)
		if see(); cache.View().Revision() != before {
			rt.Fatal("a steady fleet writes")
		}
	})
}

// seen is what is seen of a view without an earlier one.
func seen(v *store.View) *fleet.Sight {
	var s fleet.Sight
	s.See(v)
	return &s
}
