package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/coordinator/store/storetest"
	"github.com/musterhq/muster/internal/spec"
)

var quiet = slog.New(slog.DiscardHandler)

func key(name string) store.Key {
	return store.Key{Family: store.Bindings, Namespace: "default", Name: name}
}

// tester is what testing.T, testing.B and rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// bench is a cache that follows a store in fake time.
type bench struct {
	*store.Cache
	t      tester
	ctx    context.Context
	memory *memory.Store
	faults *storetest.Faults
	log    strings.Builder
}

func bubble(t *testing.T, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) { inBubble(t, t.Context(), f) })
}

func inBubble(t tester, ctx context.Context, f func(b *bench)) {
	onto(t, ctx, memory.New(), f)
}

func onto(t tester, ctx context.Context, m *memory.Store, f func(b *bench)) {
	b := &bench{t: t, memory: m}
	b.faults = storetest.NewFaults(b.memory)
	b.Cache = store.NewCache(b.faults, slog.New(slog.NewTextHandler(&b.log, nil)))
	ctx, cancel := context.WithCancel(ctx)
	b.ctx = ctx
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		b.faults.Close()
	}()
	<-b.Ready()
	f(b)
}

// set writes a binding, or deletes it when node is empty, and returns the revision.
func (b *bench) set(name, node string) int64 {
	b.t.Helper()
	w := store.Write{Key: key(name)}
	if node != "" {
		w.Value = &spec.Binding{Node: node}
	}
	rev, err := b.memory.Commit(b.ctx, store.Txn{Then: []store.Write{w}})
	if err != nil {
		b.t.Fatalf("commit: %v", err)
	}
	return rev
}

// wait waits for a revision, not longer than a minute.
func (b *bench) wait(rev int64) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := b.Wait(ctx, rev); err != nil {
		b.t.Fatalf("wait for revision %d: %v; the view is of %d", rev, err, b.View().Revision())
	}
}

// content is what a view has.
func content(v *store.View) map[string]string {
	out := map[string]string{}
	for r := range v.All(store.Bindings) {
		out[r.Key.Name] = fmt.Sprint(r.Value.(*spec.Binding).Node, "@", r.Revision)
	}
	return out
}

// follow applies what a subscription has buffered to content.
func follow(t tester, ctx context.Context, sub *store.Subscription, have map[string]string) {
	ctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(time.Second, cancel)
	last := int64(0)
	for changes := range sub.C(ctx) {
		for _, c := range changes.Changes {
			if c.Revision < last || c.Revision > changes.Revision {
				t.Errorf("a change of revision %d after one of %d in a batch of %d", c.Revision, last, changes.Revision)
			}
			last = c.Revision
			if c.Record == nil {
				delete(have, c.Key.Name)
			} else {
				have[c.Key.Name] = fmt.Sprint(c.Record.Value.(*spec.Binding).Node, "@", c.Record.Revision)
			}
		}
	}
}

func TestAViewIsOfOneRevisionAndNeverChanges(t *testing.T) {
	bubble(t, func(b *bench) {
		rev := b.set("a", "n1")
		b.wait(rev)
		old := b.View()
		b.set("a", "n2")
		b.wait(b.set("b", "n1"))
		if got, revision, ok := store.Get[*spec.Binding](old, key("a")); !ok || got.Node != "n1" || revision != rev || old.Revision() != rev {
			t.Errorf("the old view has %+v at %d, %v, of revision %d; want n1 at %d", got, revision, ok, old.Revision(), rev)
		}
		if old.Len(store.Bindings) != 1 || b.View().Len(store.Bindings) != 2 {
			t.Errorf("%d records, then %d; want 1 and 2", old.Len(store.Bindings), b.View().Len(store.Bindings))
		}
		b.wait(b.set("a", ""))
		if r := b.View().Lookup(key("a")); r != nil || b.View().Len(store.Bindings) != 1 {
			t.Errorf("deleted record %+v of %d", r, b.View().Len(store.Bindings))
		}
		if _, _, ok := store.Get[*spec.Pod](old, key("a")); ok {
			t.Error("a binding was got as a pod")
		}
	})
}

func TestAViewIsReadByFamilyNamespaceAndType(t *testing.T) {
	bubble(t, func(b *bench) {
		var rev int64
		for _, k := range []store.Key{key("a"), key("b"), {Family: store.Bindings, Namespace: "other", Name: "a"}} {
			var err error
			if rev, err = b.memory.Commit(b.ctx, store.Txn{Then: []store.Write{{Key: k, Value: &spec.Binding{Node: k.String()}}}}); err != nil {
				t.Fatal(err)
			}
		}
		b.wait(rev)
		var of []string
		for r := range b.View().ByNamespace(store.Bindings, "default") {
			of = append(of, r.Key.Name)
		}
		var all []string
		for v := range store.AllOf[*spec.Binding](b.View(), store.Bindings) {
			all = append(all, v.Node)
		}
		slices.Sort(of)
		slices.Sort(all)
		if diff := cmp.Diff([]string{"a", "b"}, of); diff != "" {
			t.Errorf("by namespace:\n%s", diff)
		}
		if diff := cmp.Diff([]string{"bindings/default/a", "bindings/default/b", "bindings/other/a"}, all); diff != "" {
			t.Errorf("all:\n%s", diff)
		}
		for range store.AllOf[*spec.Pod](b.View(), store.Bindings) {
			t.Error("a binding came as a pod")
		}
		n := 0
		for range b.View().ByNamespace(store.Bindings, "default") {
			n++
			break
		}
		if n != 1 {
			t.Errorf("%d records after the first", n)
		}
	})
}

func TestWaitEndsWithTheRevisionOrTheContext(t *testing.T) {
	bubble(t, func(b *bench) {
		begun := time.Now()
		time.AfterFunc(time.Hour, func() { b.set("a", "n1") })
		if err := b.Wait(b.ctx, 1); err != nil || time.Since(begun) != time.Hour {
			t.Errorf("%v after %v, want nil after an hour", err, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		if err := b.Wait(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want DeadlineExceeded", err)
		}
	})
}

func TestChangedIsClosedWhenTheViewMoves(t *testing.T) {
	bubble(t, func(b *bench) {
		changed := b.Changed()
		synctest.Wait()
		select {
		case <-changed:
			t.Fatal("closed before anything moved")
		default:
		}
		b.wait(b.set("a", "n1"))
		<-changed
	})
}

func TestViewAndSubscriptionMissNothingBetweenThem(t *testing.T) {
	bubble(t, func(b *bench) {
		go func() {
			for i := range 500 {
				b.set(fmt.Sprint(i%50), fmt.Sprint(i))
			}
		}()
		for b.View().Revision() < 200 {
			b.wait(b.View().Revision() + 1)
		}
		v, sub := b.Subscribe(1000)
		defer sub.Close()
		have := content(v)
		follow(t, b.ctx, sub, have)
		if diff := cmp.Diff(content(b.View()), have); diff != "" || len(have) != 50 {
			t.Errorf("what the subscription leads to differs:\n%s", diff)
		}
	})
}

func TestASlowSubscriberIsCutAndCanResume(t *testing.T) {
	bubble(t, func(b *bench) {
		v, sub := b.Subscribe(2)
		have := content(v)
		for i := range 5 {
			b.wait(b.set(fmt.Sprint(i), "n1"))
		}
		follow(t, b.ctx, sub, have)
		if err := sub.Err(); !errors.Is(err, store.ErrSlow) || len(have) != 2 {
			t.Fatalf("%v with %d of 5 changes, want ErrSlow with the 2 that were buffered", err, len(have))
		}
		again, err := b.SubscribeAfter(store.Interest{}, sub.Revision(), 2)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		follow(t, b.ctx, again, have)
		if diff := cmp.Diff(content(b.View()), have); diff != "" || again.Err() != nil {
			t.Errorf("%v; after the resumption:\n%s", again.Err(), diff)
		}
	})
}

func TestWhoNeverHadTheViewOfARevisionIsNotGivenTheChangesUpToIt(t *testing.T) {
	bubble(t, func(b *bench) {
		seen := b.set("a", "n1")
		b.wait(seen)
		ahead, err := b.SubscribeAfter(store.Interest{}, seen+2, 10) // another coordinator was ahead of this one
		if err != nil {
			t.Fatal(err)
		}
		defer ahead.Close()
		b.set("b", "n1")
		b.set("c", "n1")
		b.wait(b.set("d", "n1"))
		have := map[string]string{}
		follow(t, b.ctx, ahead, have)
		if diff := cmp.Diff(map[string]string{"d": fmt.Sprint("n1@", seen+3)}, have); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOnlyRecentChangesAreRemembered(t *testing.T) {
	bubble(t, func(b *bench) {
		first := b.set("a", "n1")
		b.wait(first)
		if _, err := b.SubscribeAfter(store.Interest{}, first-1, 1); err != nil {
			t.Fatalf("after the first revision: %v", err)
		}
		var writes []store.Write
		for i := range store.MaxOps {
			writes = append(writes, store.Write{Key: key(fmt.Sprint(i)), Value: &spec.Binding{}})
		}
		var last int64
		for range (1<<15)/store.MaxOps + 1 {
			var err error
			if last, err = b.memory.Commit(b.ctx, store.Txn{Then: writes}); err != nil {
				t.Fatal(err)
			}
		}
		b.wait(last)
		if _, err := b.SubscribeAfter(store.Interest{}, first-1, 1); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("after 32,768 changes: %v, want ErrCompacted", err)
		}
		sub, err := b.SubscribeAfter(store.Interest{}, last-200, 1)
		if err != nil {
			t.Fatalf("after a revision of late: %v", err)
		}
		sub.Close()
	})
}

func TestNothingFromBeforeTheCacheIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		before := &bench{t: t, ctx: t.Context(), memory: m}
		old := before.set("a", "n1")
		start := before.set("a", "n2")
		onto(t, t.Context(), m, func(b *bench) {
			if _, err := b.SubscribeAfter(store.Interest{}, old, 1); !errors.Is(err, store.ErrCompacted) {
				t.Errorf("after a revision that was gone before: %v, want ErrCompacted", err)
			}
			sub, err := b.SubscribeAfter(store.Interest{}, start, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			b.wait(b.set("b", "n1"))
			have := map[string]string{}
			follow(t, b.ctx, sub, have)
			if diff := cmp.Diff(map[string]string{"b": fmt.Sprint("n1@", start+1)}, have); diff != "" {
				t.Error(diff)
			}
		})
	})
}

func TestOfABatchOnlyWhatWasNotSeenIsDelivered(t *testing.T) {
	bubble(t, func(b *bench) {
		b.wait(b.set("before", "n1"))
		b.faults.HoldWatches()
		first := b.set("a", "n1")
		last := b.set("b", "n1")
		b.memory.Compact(last)
		b.faults.BreakWatches(store.ErrCompacted)
		b.faults.ReleaseWatches()
		b.wait(last) // by one list, so in one batch
		sub, err := b.SubscribeAfter(store.Interest{}, first, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		have := map[string]string{}
		follow(t, b.ctx, sub, have)
		if diff := cmp.Diff(map[string]string{"b": fmt.Sprint("n1@", last)}, have); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAClosedSubscriptionIsNotFilledAnyMore(t *testing.T) {
	bubble(t, func(b *bench) {
		_, sub := b.Subscribe(1)
		sub.Close()
		for range 3 {
			b.wait(b.set("a", "n1"))
		}
		if err := sub.Err(); err != nil || sub.Revision() != 0 {
			t.Errorf("%v at revision %d, want neither an error nor a change", err, sub.Revision())
		}
	})
}

func TestABrokenWatchIsBegunAgain(t *testing.T) {
	for name, broken := range map[string]error{"where it broke": errors.New("connection lost"), "by a new list": store.ErrCompacted, "without a reason": nil} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.set("stays", "n1")
				b.set("goes", "n1")
				b.wait(b.set("changes", "n1"))
				v, sub := b.Subscribe(10)
				defer sub.Close()
				have := content(v)
				b.faults.HoldWatches()
				b.set("comes", "n1")
				b.set("goes", "")
				last := b.set("changes", "n2")
				if errors.Is(broken, store.ErrCompacted) {
					b.memory.Compact(last)
				}
				b.faults.BreakWatches(broken)
				b.faults.ReleaseWatches()
				b.wait(last)
				follow(t, b.ctx, sub, have)
				want := content(b.View())
				if diff := cmp.Diff(want, have); diff != "" || len(want) != 3 {
					t.Errorf("the subscriber's copy of %v differs:\n%s", want, diff)
				}
			})
		})
	}
}

func TestAStoreThatFailsIsAskedEverMoreSeldomAndSpokenOfOnce(t *testing.T) {
	bubble(t, func(b *bench) {
		lists := 0
		b.faults.On(func(c storetest.Call) storetest.Fault {
			if c.Op != storetest.List {
				return storetest.Fault{}
			}
			lists++
			return storetest.Fault{Refuse: errors.New("no")}
		})
		b.wait(b.set("a", "n1"))
		b.faults.BreakWatches(store.ErrCompacted)
		time.Sleep(time.Minute)
		synctest.Wait()
		if lists < 25 || lists > 40 {
			t.Errorf("%d lists in a minute, want about 30", lists)
		}
		if n := strings.Count(b.log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, b.log.String())
		}
		if b.View().Len(store.Bindings) != 1 {
			t.Error("the last view is gone")
		}
		b.faults.On(nil)
		b.wait(b.set("a", "n2"))
		time.Sleep(time.Minute)
		begun := time.Now()
		b.faults.BreakWatches(errors.New("again"))
		b.wait(b.set("a", "n3"))
		if took := time.Since(begun); took > 100*time.Millisecond {
			t.Errorf("a break after it had been well took %v, want 100 ms", took)
		}
		synctest.Wait()
		if n := strings.Count(b.log.String(), "level=WARN"); n != 2 {
			t.Errorf("%d warnings of two outages:\n%s", n, b.log.String())
		}
	})
}

func TestTheCacheEndsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		c := store.NewCache(s, quiet)
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context()) }()
		<-c.Ready()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, store.ErrClosed) {
			t.Errorf("run: %v, want ErrClosed", err)
		}
	})
}

// TestWhateverHappensTheCacheAndItsSubscribersComeToHaveWhatTheStoreHas mixes writes with stale, broken and compacted
// watches and lists that fail, and subscribers that are slow and resume.
func TestWhateverHappensTheCacheAndItsSubscribersComeToHaveWhatTheStoreHas(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := make([]step, rapid.IntRange(1, 60).Draw(rt, "steps"))
		for i := range steps {
			steps[i] = step{rapid.IntRange(0, 9).Draw(rt, "what"), fmt.Sprint(rapid.IntRange(0, 5).Draw(rt, "name")), fmt.Sprint(rapid.IntRange(0, 3).Draw(rt, "node"))}
		}
		buffer := rapid.IntRange(1, 5).Draw(rt, "buffer")
		rapid.SyncTest(rt, func(rt *rapid.T) {
			inBubble(rt, context.Background(), func(b *bench) { misbehave(rt, b, steps, buffer) })
		})
	})
}

// step is one thing that happens.
type step struct {
	what       int
	name, node string
}

func misbehave(rt *rapid.T, b *bench, steps []step, buffer int) {
	v, sub := b.Subscribe(buffer)
	have := content(v)
	catchUp := func() {
		follow(rt, b.ctx, sub, have)
		for sub.Err() != nil {
			after, err := b.SubscribeAfter(store.Interest{}, sub.Revision(), buffer)
			if err != nil {
				rt.Fatalf("resume: %v", err)
			}
			sub = after
			follow(rt, b.ctx, sub, have)
		}
	}
	for _, s := range steps {
		switch s.what {
		case 0:
			b.faults.HoldWatches()
		case 1:
			b.faults.ReleaseWatches()
		case 2:
			b.faults.BreakWatches(errors.New("lost"))
		case 3:
			rev := b.set(s.name, s.node)
			b.memory.Compact(rev)
			b.faults.BreakWatches(store.ErrCompacted)
		case 4:
			b.set(s.name, "")
		case 5:
			time.Sleep(time.Second)
		case 6:
			catchUp()
		case 7:
			b.faults.On(func(c storetest.Call) storetest.Fault {
				if c.Op == storetest.List {
					return storetest.Fault{Refuse: errors.New("no")}
				}
				return storetest.Fault{}
			})
		default:
			b.set(s.name, "n"+s.node)
		}
	}
	b.faults.On(nil)
	b.faults.ReleaseWatches()
	b.wait(b.set("last", "n1"))
	catchUp()
	sub.Close()
	recs, _, err := b.memory.List(b.ctx)
	if err != nil {
		rt.Fatalf("list: %v", err)
	}
	want := map[string]string{}
	for _, r := range recs {
		want[r.Key.Name] = fmt.Sprint(r.Value.(*spec.Binding).Node, "@", r.Revision)
	}
	if got := content(b.View()); !maps.Equal(want, got) {
		rt.Fatalf("the cache differs:\n%s", cmp.Diff(want, got))
	}
	if !maps.Equal(want, have) {
		rt.Fatalf("the subscriber's copy differs:\n%s", cmp.Diff(want, have))
	}
}

func TestWhoWantsSomeChangesIsToldOfThoseOnlyAndNotCutForOthers(t *testing.T) {
	bubble(t, func(b *bench) {
		_, all := b.Subscribe(100)
		defer all.Close()
		_, some := b.SubscribeTo(store.Interest{Families: []store.Family{store.Bindings, store.Nodes}, Namespace: "mine"}, 3)
		defer some.Close()
		put := func(writes ...store.Write) {
			rev, err := b.memory.Commit(b.ctx, store.Txn{Then: writes})
			if err != nil {
				t.Fatal(err)
			}
			b.wait(rev)
		}
		write := func(f store.Family, namespace, name string, v store.Value) store.Write {
			return store.Write{Key: store.Key{Family: f, Namespace: namespace, Name: name}, Value: v}
		}
		binding := &spec.Binding{Node: "n"}
		put(write(store.Bindings, "mine", "a", binding), write(store.Bindings, "others", "a", binding), write(store.Pods, "mine", "a", &spec.Pod{}))
		for range 10 {
			put(write(store.Bindings, "others", "b", binding))
		}
		put(write(store.Nodes, "", "n", &spec.Node{}))
		last := b.View().Revision()
		put(write(store.Bindings, "mine", "c", binding))
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		var got []string
		for changes := range some.C(ctx) {
			for _, c := range changes.Changes {
				got = append(got, string(c.Key.Family)+"/"+c.Key.Namespace+"/"+c.Key.Name)
			}
		}
		if want := []string{"bindings/mine/a", "nodes//n", "bindings/mine/c"}; !slices.Equal(got, want) || some.Err() != nil {
			t.Errorf("told of %q, want %q; %v", got, want, some.Err())
		}
		if r := some.Revision(); r <= last {
			t.Errorf("it has seen revision %d, want what came after %d", r, last)
		}
		after, err := b.SubscribeAfter(store.Interest{Namespace: "others", Families: []store.Family{store.Bindings}}, last, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer after.Close()
		if r := after.Revision(); r <= last {
			t.Errorf("one who resumes has seen revision %d, though nothing is there for it", r)
		}
	})
}
