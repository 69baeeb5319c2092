// Package storetest is for tests: the conformance suite of store.Store, which whatever keeps the coordinator's records
// passes, and Faults, a store that misbehaves on order.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// Harness is a store under test.
type Harness struct {
	Store store.Store
	// Compact forgets the history up to a revision.
	Compact func(t *testing.T, revision int64)
}

func key(name string) store.Key {
	return store.Key{Family: store.Bindings, Namespace: "default", Name: name}
}

func on(node string) *spec.Binding { return &spec.Binding{UID: "u", Node: node, Class: spec.Fast} }

func put(name, node string) store.Write { return store.Write{Key: key(name), Value: on(node)} }

// tests are the sentences that a store must make true.
var tests = map[string]func(t *testing.T, h Harness){
	"a record that was put can be read, with its revisions":                   putAndGet,
	"an absent record is not found":                                           absent,
	"a condition that does not hold lets nothing be written":                  conditions,
	"revision 0 in a condition means absent":                                  absentCondition,
	"of several transactions in a round each stands for itself":               commitEach,
	"conditions of a round are judged before it":                              judgedBefore,
	"a round that changes nothing has no revision of its own":                 nothingWritten,
	"too many operations are refused before anything is written":              tooMany,
	"a round has room for fewer operations the more transactions it has":      nestedLimit,
	"a value over the limit is refused before anything is written":            tooLarge,
	"a round over the limit is refused before anything is written":            roundTooLarge,
	"a key that is no path of its own is refused":                             badKeys,
	"a call whose context has ended says so, and never that it conflicts":     ended,
	"a list is of one revision and of the families asked for":                 list,
	"a watch delivers every change after its revision, in order":              watch,
	"a watch delivers revisions whole, to each who watches":                   wholeRevisions,
	"a watch that nobody reads holds up nobody":                               unread,
	"a watch of compacted revisions says so":                                  compacted,
	"a watch of what compaction left goes on":                                 notCompacted,
	"a lease that is not kept alive takes its keys along":                     leaseExpires,
	"a lease lasts two seconds at least":                                      leaseLasts,
	"a revoked lease takes its keys along":                                    leaseRevoked,
	"a key that was written under another lease goes with that one":           leaseChanged,
	"a lease that is gone can not be kept alive or written under":             leaseGone,
	"a lease that is gone matters to transactions only whose conditions hold": leaseGoneConflict,
	"of many writers with one condition exactly one wins":                     race,
	"counting under conditions by many loses no count":                        counters,
	"a closed store says so":                                                  closed,
}

// Run holds a store to the contract of store.Store. newStore makes an empty one for each test and closes it after.
func Run(t *testing.T, newStore func(t *testing.T) Harness) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, newStore(t)) })
	}
}

// RunInBubbles is Run in fake time, for a store without IO.
func RunInBubbles(t *testing.T, newStore func(t *testing.T) Harness) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newStore(t)) })
		})
	}
}

func commit(t *testing.T, s store.Store, conds []store.Cond, writes ...store.Write) int64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), store.Txn{If: conds, Then: writes})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return rev
}

func node(t *testing.T, s store.Store, name string) string {
	t.Helper()
	r, err := s.Get(t.Context(), key(name))
	if errors.Is(err, store.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return r.Value.(*spec.Binding).Node
}

func putAndGet(t *testing.T, h Harness) {
	first := commit(t, h.Store, nil, put("a", "n1"))
	second := commit(t, h.Store, nil, put("a", "n2"))
	r, err := h.Store.Get(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	want := store.Record{Key: key("a"), Value: on("n2"), Revision: second, Created: first}
	if diff := cmp.Diff(want, r); diff != "" || second <= first {
		t.Errorf("record after revisions %d, %d:\n%s", first, second, diff)
	}
	commit(t, h.Store, nil, store.Write{Key: key("a")}, store.Write{Key: key("never")})
	if n := node(t, h.Store, "a"); n != "" {
		t.Errorf("deleted record is still there: %q", n)
	}
	if third := commit(t, h.Store, nil, put("a", "n3")); third <= second {
		t.Errorf("revision %d after %d", third, second)
	}
	if r, _ := h.Store.Get(t.Context(), key("a")); r.Created != r.Revision {
		t.Errorf("created %d, revision %d of a record made anew; want them equal", r.Created, r.Revision)
	}
}

func absent(t *testing.T, h Harness) {
	if _, err := h.Store.Get(t.Context(), key("a")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get: %v, want ErrNotFound", err)
	}
}

func conditions(t *testing.T, h Harness) {
	rev := commit(t, h.Store, nil, put("a", "n1"), put("b", "n1"))
	_, err := h.Store.Commit(t.Context(), store.Txn{
		If:   []store.Cond{{Key: key("a"), Revision: rev}, {Key: key("b"), Revision: rev - 1}},
		Then: []store.Write{put("a", "n2"), put("c", "n2")},
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("commit: %v, want ErrConflict", err)
	}
	if a, c := node(t, h.Store, "a"), node(t, h.Store, "c"); a != "n1" || c != "" {
		t.Errorf("a on %q, c on %q after a conflict; want n1 and nothing", a, c)
	}
	commit(t, h.Store, []store.Cond{{Key: key("a"), Revision: rev}}, put("a", "n2"))
}

func absentCondition(t *testing.T, h Harness) {
	free := []store.Cond{{Key: key("a")}}
	commit(t, h.Store, free, put("a", "n1"))
	if _, err := h.Store.Commit(t.Context(), store.Txn{If: free, Then: []store.Write{put("a", "n2")}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("second create: %v, want ErrConflict", err)
	}
	commit(t, h.Store, nil, store.Write{Key: key("a")})
	commit(t, h.Store, free, put("a", "n3"))
}

func commitEach(t *testing.T, h Harness) {
	rev := commit(t, h.Store, nil, put("a", "n1"), put("b", "n1"))
	got, errs, err := h.Store.CommitEach(t.Context(), []store.Txn{
		{If: []store.Cond{{Key: key("a"), Revision: rev}}, Then: []store.Write{put("a", "n2")}},
		{If: []store.Cond{{Key: key("b"), Revision: rev - 1}}, Then: []store.Write{put("b", "n2")}},
		{If: []store.Cond{{Key: key("c")}}, Then: []store.Write{put("c", "n2")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if errs[0] != nil || !errors.Is(errs[1], store.ErrConflict) || errs[2] != nil || got <= rev {
		t.Errorf("errors %v at revision %d after %d; want only the second to conflict", errs, got, rev)
	}
	if a, b, c := node(t, h.Store, "a"), node(t, h.Store, "b"), node(t, h.Store, "c"); a != "n2" || b != "n1" || c != "n2" {
		t.Errorf("a, b, c on %q, %q, %q; want n2, n1, n2", a, b, c)
	}
	_, errs, err = h.Store.CommitEach(t.Context(), []store.Txn{{Then: []store.Write{put("a", "x")}}, {Then: []store.Write{put("a", "y")}}})
	if err == nil {
		t.Errorf("two writes of one key in one round: errors %v, want a refusal", errs)
	}
}

func judgedBefore(t *testing.T, h Harness) {
	rev := commit(t, h.Store, nil, put("a", "n1"))
	_, errs, err := h.Store.CommitEach(t.Context(), []store.Txn{
		{If: []store.Cond{{Key: key("a"), Revision: rev}}, Then: []store.Write{{Key: key("a")}, put("b", "n1")}},
		{If: []store.Cond{{Key: key("a"), Revision: rev}, {Key: key("b")}}, Then: []store.Write{put("c", "n1")}},
		{If: []store.Cond{{Key: key("a")}}, Then: []store.Write{put("d", "n1")}},
	})
	if err != nil || errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], store.ErrConflict) {
		t.Errorf("errors %v, %v; want only the third to conflict: it sees nothing of the first", errs, err)
	}
}

func nothingWritten(t *testing.T, h Harness) {
	rev := commit(t, h.Store, nil, put("a", "n1"))
	got, errs, err := h.Store.CommitEach(t.Context(), []store.Txn{{If: []store.Cond{{Key: key("a")}}, Then: []store.Write{put("a", "n2")}}})
	if err != nil || !errors.Is(errs[0], store.ErrConflict) || got != rev {
		t.Errorf("revision %d, %v, %v; want a conflict at %d", got, errs, err, rev)
	}
	if got := commit(t, h.Store, nil, store.Write{Key: key("never")}); got != rev {
		t.Errorf("deleting what is absent: revision %d, want %d", got, rev)
	}
	if _, errs, err := h.Store.CommitEach(t.Context(), nil); err != nil || len(errs) != 0 {
		t.Errorf("an empty round: %v, %v", errs, err)
	}
}

func tooMany(t *testing.T, h Harness) {
	var writes []store.Write
	var txns []store.Txn
	for i := range store.MaxOps {
		writes = append(writes, put(fmt.Sprint(i), "n1"))
		txns = append(txns, store.Txn{Then: []store.Write{put(fmt.Sprint(i), "n2")}})
	}
	commit(t, h.Store, nil, writes...)
	if _, _, err := h.Store.CommitEach(t.Context(), txns); err != nil {
		t.Fatalf("a full round: %v", err)
	}
	_, err := h.Store.Commit(t.Context(), store.Txn{Then: append(writes, put("more", "n1"))})
	if !errors.Is(err, store.ErrTooLarge) || node(t, h.Store, "0") != "n2" {
		t.Errorf("one write more: %v, record 0 on %q; want ErrTooLarge and n2", err, node(t, h.Store, "0"))
	}
	_, _, err = h.Store.CommitEach(t.Context(), append(txns, store.Txn{Then: []store.Write{put("more", "n1")}}))
	if !errors.Is(err, store.ErrTooLarge) || node(t, h.Store, "more") != "" {
		t.Errorf("one transaction more: %v, want ErrTooLarge", err)
	}
}

func nestedLimit(t *testing.T, h Harness) {
	round := func(txns, ops int) []store.Txn {
		ts := make([]store.Txn, txns)
		for i := range ts {
			ts[i].Then = []store.Write{put(fmt.Sprint(i), "n1")}
		}
		for i := 1; i < ops; i++ {
			ts[0].Then = append(ts[0].Then, put(fmt.Sprint("x", i), "n1"))
		}
		for i := range ops {
			ts[txns-1].If = append(ts[txns-1].If, store.Cond{Key: key(fmt.Sprint("free", i))})
		}
		return ts
	}
	for _, x := range []struct{ txns, ops int }{{1, store.MaxOps}, {64, 64}, {store.MaxOps, store.MaxRoundOps - store.MaxOps}} {
		if _, errs, err := h.Store.CommitEach(t.Context(), round(x.txns, x.ops)); err != nil || errors.Join(errs...) != nil {
			t.Errorf("%d transactions with %d operations: %v, %v", x.txns, x.ops, errors.Join(errs...), err)
		}
		if _, _, err := h.Store.CommitEach(t.Context(), round(x.txns, x.ops+1)); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%d transactions with %d operations: %v, want ErrTooLarge", x.txns, x.ops+1, err)
		}
	}
}

func roundTooLarge(t *testing.T, h Harness) {
	ts := make([]store.Txn, store.MaxRoundBytes/(64<<10)+1)
	for i := range ts {
		ts[i].Then = []store.Write{{Key: store.Key{Family: store.Config, Name: fmt.Sprint(i)}, Value: &spec.Blob{Data: make([]byte, 64<<10)}}}
	}
	if _, _, err := h.Store.CommitEach(t.Context(), ts); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("over the limit: %v, want ErrTooLarge", err)
	}
	if recs, _, err := h.Store.List(t.Context(), store.Config); err != nil || len(recs) != 0 {
		t.Errorf("%d records were written, %v; want none", len(recs), err)
	}
	if _, errs, err := h.Store.CommitEach(t.Context(), ts[:len(ts)-2]); err != nil || errors.Join(errs...) != nil {
		t.Errorf("below the limit: %v, %v", errors.Join(errs...), err)
	}
}

func badKeys(t *testing.T, h Harness) {
	for _, k := range []store.Key{
		{}, {Family: store.Pods}, {Name: "a"}, {Family: "a/b", Name: "c"},
		{Family: store.Bindings, Name: "a/b"}, {Family: store.Bindings, Namespace: "a/b", Name: "c"},
	} {
		if _, err := h.Store.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: on("n1")}}}); err == nil {
			t.Errorf("write of %+v: no error", k)
		}
		if _, err := h.Store.Commit(t.Context(), store.Txn{If: []store.Cond{{Key: k}}, Then: []store.Write{put("a", "n1")}}); err == nil {
			t.Errorf("condition on %+v: no error", k)
		}
	}
	if recs, _, err := h.Store.List(t.Context()); err != nil || len(recs) != 0 {
		t.Errorf("%d records were written, %v; want none", len(recs), err)
	}
}

func ended(t *testing.T, h Harness) {
	rev := commit(t, h.Store, nil, put("a", "n1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Store.Get(ctx, key("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v, want context.Canceled", err)
	}
	if _, _, err := h.Store.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v, want context.Canceled", err)
	}
	_, err := h.Store.Commit(ctx, store.Txn{If: []store.Cond{{Key: key("a"), Revision: rev + 1}}, Then: []store.Write{put("a", "n2")}})
	if !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrConflict) {
		t.Errorf("commit: %v, want context.Canceled", err)
	}
}

func tooLarge(t *testing.T, h Harness) {
	k := store.Key{Family: store.Config, Name: "big"}
	big := func(n int) []store.Write { return []store.Write{{Key: k, Value: &spec.Blob{Data: make([]byte, n)}}} }
	if _, err := h.Store.Commit(t.Context(), store.Txn{Then: big(store.MaxValueBytes + 1)}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("over the limit: %v, want ErrTooLarge", err)
	}
	commit(t, h.Store, nil, big(store.MaxValueBytes-64)...)
}

func list(t *testing.T, h Harness) {
	commit(t, h.Store, nil, put("a", "n1"), store.Write{Key: store.Key{Family: store.Config, Name: "x"}, Value: &spec.Blob{}})
	last := commit(t, h.Store, nil, put("b", "n1"))
	recs, rev, err := h.Store.List(t.Context(), store.Bindings)
	if err != nil || len(recs) != 2 || rev != last {
		t.Errorf("bindings: %d records at %d, %v; want 2 at %d", len(recs), rev, err, last)
	}
	recs, _, err = h.Store.List(t.Context())
	if err != nil || len(recs) != 3 {
		t.Errorf("everything: %d records, %v; want 3", len(recs), err)
	}
}

// next reads changes until n have come.
func next(t *testing.T, w store.Watch, n int) []store.Change {
	t.Helper()
	var got []store.Change
	timeout := time.After(10 * time.Second)
	for len(got) < n {
		select {
		case c, ok := <-w.C():
			if !ok {
				t.Fatalf("the watch ended after %d of %d changes: %v", len(got), n, w.Err())
			}
			got = append(got, c.Changes...)
			if last := got[len(got)-1].Revision; last != c.Revision {
				t.Errorf("batch of revision %d ends with a change of %d", c.Revision, last)
			}
		case <-timeout:
			t.Fatalf("%d of %d changes", len(got), n)
		}
	}
	return got
}

func watch(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := commit(t, h.Store, nil, put("before", "n1"))
	var want []store.Change
	change := func(name, node string) {
		w := store.Write{Key: key(name)}
		if node != "" {
			w = put(name, node)
		}
		rev := commit(t, h.Store, nil, w)
		c := store.Change{Key: key(name), Revision: rev}
		if node != "" {
			r, err := h.Store.Get(ctx, key(name))
			if err != nil {
				t.Fatal(err)
			}
			c.Record = &r
		}
		want = append(want, c)
	}
	change("a", "n1")
	w := h.Store.Watch(ctx, start)
	change("a", "n2")
	change("before", "")
	change("b", "n3")
	if diff := cmp.Diff(want, next(t, w, len(want))); diff != "" {
		t.Errorf("changes differ:\n%s", diff)
	}
	if diff := cmp.Diff(want[2:], next(t, h.Store.Watch(ctx, want[1].Revision), 2)); diff != "" {
		t.Errorf("changes of a resumed watch differ:\n%s", diff)
	}
	cancel()
	for range w.C() {
	}
	if err := w.Err(); err != nil {
		t.Errorf("a watch whose context has ended says %v, want nil", err)
	}
}

func wholeRevisions(t *testing.T, h Harness) {
	const rounds, each = 20, 10
	start := commit(t, h.Store, nil, put("before", "n1"))
	early := h.Store.Watch(t.Context(), start)
	for r := range rounds {
		var writes []store.Write
		for i := range each {
			writes = append(writes, put(fmt.Sprint(i), fmt.Sprint(r)))
		}
		commit(t, h.Store, nil, writes...)
	}
	for name, w := range map[string]store.Watch{"early": early, "late": h.Store.Watch(t.Context(), start)} {
		last, count := start, 0
		for count < rounds*each {
			of := map[int64]int{}
			got := next(t, w, 1)
			for _, c := range got {
				of[c.Revision]++
				if c.Revision < last {
					t.Errorf("%s: revision %d after %d", name, c.Revision, last)
				}
				last = c.Revision
			}
			for rev, n := range of {
				if n != each {
					t.Errorf("%s: %d of the %d changes of revision %d in one batch", name, n, each, rev)
				}
			}
			count += len(got)
		}
	}
}

func unread(t *testing.T, h Harness) {
	w := h.Store.Watch(t.Context(), 0)
	for i := range 2000 {
		commit(t, h.Store, nil, put("a", fmt.Sprint(i)))
	}
	if err := h.Store.Close(); err != nil {
		t.Fatal(err)
	}
	for range w.C() {
	}
	if err := w.Err(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch: %v, want ErrClosed", err)
	}
}

func notCompacted(t *testing.T, h Harness) {
	commit(t, h.Store, nil, put("a", "n1"))
	kept := commit(t, h.Store, nil, put("a", "n2"))
	commit(t, h.Store, nil, put("a", "n3"))
	h.Compact(t, kept)
	if c := next(t, h.Store.Watch(t.Context(), kept), 1)[0]; c.Record.Value.(*spec.Binding).Node != "n3" {
		t.Errorf("change %+v, want the one to n3", c)
	}
	if n := node(t, h.Store, "a"); n != "n3" {
		t.Errorf("a on %q after a compaction, want n3", n)
	}
}

func compacted(t *testing.T, h Harness) {
	first := commit(t, h.Store, nil, put("a", "n1"))
	commit(t, h.Store, nil, put("a", "n2"))
	last := commit(t, h.Store, nil, put("a", "n3"))
	h.Compact(t, last)
	w := h.Store.Watch(t.Context(), first)
	for range w.C() {
	}
	if err := w.Err(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from a compacted revision: %v, want ErrCompacted", err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func leaseExpires(t *testing.T, h Harness) {
	id, err := h.Store.Grant(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	w := put("a", "n1")
	w.Lease = id
	rev := commit(t, h.Store, nil, w)
	changes := h.Store.Watch(t.Context(), rev)
	for start := time.Now(); time.Since(start) < 3*time.Second; time.Sleep(500 * time.Millisecond) {
		if err := h.Store.KeepAlive(t.Context(), id); err != nil {
			t.Fatalf("keep alive: %v", err)
		}
	}
	if node(t, h.Store, "a") == "" {
		t.Fatal("the key went away while its lease was kept alive")
	}
	eventually(t, "the key goes with its lease", func() bool { return node(t, h.Store, "a") == "" })
	if c := next(t, changes, 1)[0]; c.Key != key("a") || c.Record != nil {
		t.Errorf("change %+v, want the delete of a", c)
	}
}

func leaseLasts(t *testing.T, h Harness) {
	begun := time.Now()
	id, err := h.Store.Grant(t.Context(), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	w := put("a", "n1")
	w.Lease = id
	commit(t, h.Store, nil, w)
	eventually(t, "the key goes with its lease", func() bool { return node(t, h.Store, "a") == "" })
	if took := time.Since(begun); took < 1900*time.Millisecond {
		t.Errorf("the lease lasted %v, want 2 s", took)
	}
}

func leaseRevoked(t *testing.T, h Harness) {
	id, err := h.Store.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	a, b := put("a", "n1"), put("b", "n1")
	a.Lease, b.Lease = id, id
	commit(t, h.Store, nil, a, b)
	commit(t, h.Store, nil, put("b", "n2")) // no longer tied to it
	if err := h.Store.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if a, b := node(t, h.Store, "a"), node(t, h.Store, "b"); a != "" || b != "n2" {
		t.Errorf("a on %q, b on %q after the revoke; want a gone, b on n2", a, b)
	}
}

func grant(t *testing.T, s store.Store) store.LeaseID {
	t.Helper()
	id, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func leaseChanged(t *testing.T, h Harness) {
	first, second := grant(t, h.Store), grant(t, h.Store)
	w := put("a", "n1")
	w.Lease = first
	commit(t, h.Store, nil, w)
	w.Lease = second
	commit(t, h.Store, nil, w)
	if err := h.Store.Revoke(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if node(t, h.Store, "a") == "" {
		t.Error("the key went with a lease that it had left")
	}
	if err := h.Store.Revoke(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if n := node(t, h.Store, "a"); n != "" {
		t.Errorf("a on %q after its lease was revoked", n)
	}
}

func leaseGoneConflict(t *testing.T, h Harness) {
	w := put("a", "n1")
	if w.Lease = grant(t, h.Store); h.Store.Revoke(t.Context(), w.Lease) != nil {
		t.Fatal("not revoked")
	}
	_, errs, err := h.Store.CommitEach(t.Context(), []store.Txn{
		{If: []store.Cond{{Key: key("x"), Revision: 1}}, Then: []store.Write{w}}, {Then: []store.Write{put("b", "n1")}},
	})
	if err != nil || !errors.Is(errs[0], store.ErrConflict) || errs[1] != nil {
		t.Errorf("errors %v, %v; want only the first to conflict", errs, err)
	}
	if err := h.Store.Revoke(t.Context(), w.Lease); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("second revoke: %v, want ErrNotFound", err)
	}
}

func leaseGone(t *testing.T, h Harness) {
	id, err := h.Store.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Store.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := h.Store.KeepAlive(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("keep alive: %v, want ErrNotFound", err)
	}
	w := put("a", "n1")
	w.Lease = id
	if _, err := h.Store.Commit(t.Context(), store.Txn{Then: []store.Write{w}}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("write under it: %v, want ErrNotFound", err)
	}
}

func race(t *testing.T, h Harness) {
	rev := commit(t, h.Store, nil, put("a", "n0"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners := 0
	for i := range 16 {
		wg.Go(func() {
			_, err := h.Store.Commit(t.Context(), store.Txn{
				If: []store.Cond{{Key: key("a"), Revision: rev}}, Then: []store.Write{put("a", fmt.Sprint("n", i+1))},
			})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners++
			} else if !errors.Is(err, store.ErrConflict) {
				t.Errorf("loser: %v, want ErrConflict", err)
			}
		})
	}
	wg.Wait()
	if winners != 1 {
		t.Errorf("%d writers won, want 1", winners)
	}
}

func counters(t *testing.T, h Harness) {
	const writers, each = 8, 20
	start := commit(t, h.Store, nil, put("a", "0"))
	w := h.Store.Watch(t.Context(), start)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := 0; n < each; {
				r, err := h.Store.Get(t.Context(), key("a"))
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				was, err := strconv.Atoi(r.Value.(*spec.Binding).Node)
				if err != nil {
					t.Errorf("value: %v", err)
					return
				}
				_, err = h.Store.Commit(t.Context(), store.Txn{
					If: []store.Cond{{Key: key("a"), Revision: r.Revision}}, Then: []store.Write{put("a", strconv.Itoa(was+1))},
				})
				if err == nil {
					n++
				} else if !errors.Is(err, store.ErrConflict) {
					t.Errorf("commit: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := node(t, h.Store, "a"); n != strconv.Itoa(writers*each) {
		t.Fatalf("counted to %s, want %d", n, writers*each)
	}
	for i, c := range next(t, w, writers*each) {
		if n := c.Record.Value.(*spec.Binding).Node; n != strconv.Itoa(i+1) {
			t.Errorf("change %d is to %s", i+1, n)
		}
	}
}

func closed(t *testing.T, h Harness) {
	w := h.Store.Watch(t.Context(), 0)
	if err := h.Store.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	for range w.C() {
	}
	if err := w.Err(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch: %v, want ErrClosed", err)
	}
	if _, err := h.Store.Get(t.Context(), key("a")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get: %v, want ErrClosed", err)
	}
	if _, err := h.Store.Commit(t.Context(), store.Txn{Then: []store.Write{put("a", "n1")}}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("commit: %v, want ErrClosed", err)
	}
	_, _, listErr := h.Store.List(t.Context())
	_, grantErr := h.Store.Grant(t.Context(), time.Minute)
	late := h.Store.Watch(t.Context(), 0)
	for range late.C() {
	}
	for what, err := range map[string]error{
		"list": listErr, "grant": grantErr, "keep alive": h.Store.KeepAlive(t.Context(), 1), "revoke": h.Store.Revoke(t.Context(), 1),
		"writable": h.Store.Writable(t.Context()), "late watch": late.Err(),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	if err := h.Store.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
