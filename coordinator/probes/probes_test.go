package probes

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

var (
	web  = spec.ObjectName{Namespace: "default", Name: "web"}
	live = spec.ProbeID{PodUID: "u1", Container: "c", Kind: spec.Liveness}
	t0   = time.Unix(1000, 0)
)

func declared(t *Table, epoch int64, ids ...spec.ProbeID) {
	var ps []spec.ProbeState
	for _, id := range ids {
		ps = append(ps, spec.ProbeState{ID: id, Period: time.Second})
	}
	t.Declare("u1", web, "node-1", epoch, ps)
}

func observe(t *Table, k Key, a spec.Attempt) {
	h := t.Handle(k)
	t.Observe(func(yield func(Handle, *spec.Attempt) bool) { yield(h, &a) })
}

var all = Filter{}

func TestAnOldEpochCanNoLongerSpeakOfAProbe(t *testing.T) {
	table := New()
	declared(table, 7, live)
	table.Believe(table.Handle(Key{live, 6}), &spec.ProbeState{Verdict: spec.ResultFailure})
	observe(table, Key{live, 6}, spec.Attempt{Start: t0, Result: spec.ResultFailure})
	if r := table.List(all)[0]; r.Verdict != spec.ResultUnknown || r.Last != nil {
		t.Errorf("row = %+v, want nothing believed", r)
	}
}

func TestANewEpochForgetsWhatWasBelieved(t *testing.T) {
	table := New()
	declared(table, 7, live)
	table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Verdict: spec.ResultSuccess, Since: t0})
	declared(table, 7, live)
	if r := table.List(all)[0]; r.Verdict != spec.ResultSuccess {
		t.Errorf("verdict = %v after the same declaration, want success", r.Verdict)
	}
	declared(table, 8, live)
	if r := table.List(all)[0]; r.Verdict != spec.ResultUnknown {
		t.Errorf("verdict = %v after a new epoch, want unknown", r.Verdict)
	}
}

func TestOnlyTheLastEightAttemptsAreKept(t *testing.T) {
	table := New()
	declared(table, 7, live)
	for i := range 11 {
		observe(table, Key{live, 7}, spec.Attempt{Start: t0.Add(time.Duration(i) * time.Second), Result: spec.ResultSuccess})
	}
	got := table.Recent(live)
	if len(got) != Ring || !got[0].Start.Equal(t0.Add(3*time.Second)) || !got[Ring-1].Start.Equal(t0.Add(10*time.Second)) {
		t.Errorf("recent = %v, want attempts 3 to 10", got)
	}
	if r := table.List(all)[0]; r.RunLength != 11 {
		t.Errorf("run length = %d, want 11", r.RunLength)
	}
}

func TestAWatcherSeesVerdictsChangeAndProbesGo(t *testing.T) {
	table := New()
	declared(table, 7, live)
	sub := table.Subscribe(all)
	rows := sub.Take(10)
	defer sub.Close()
	if len(rows) != 1 {
		t.Fatalf("rows = %v, want one", rows)
	}
	table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Verdict: spec.ResultFailure, Since: t0})
	table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Verdict: spec.ResultFailure, Since: t0})
	table.Forget("u1", 6)
	if c := sub.Take(10); len(c) != 1 || c[0].Type != Modified || c[0].Row.Verdict != spec.ResultFailure {
		t.Errorf("changes = %+v, want failure: saying it twice is no change, and an old epoch forgets nothing", c)
	}
	table.Forget("u1", 7)
	if c := sub.Take(10); len(c) != 1 || c[0].Type != Deleted {
		t.Errorf("later changes = %+v, want gone", c)
	}
	if len(table.List(all)) != 0 {
		t.Errorf("rows %v; want none", table.List(all))
	}
}

func TestAWatcherIsToldOnlyOfWhatItWants(t *testing.T) {
	table := New()
	declared(table, 7, live)
	failing := Filter{Namespace: "default", Pod: "web", Node: "node-1", Match: func(r *Row) bool { return r.Verdict == spec.ResultFailure }}
	sub := table.Subscribe(failing)
	rows := sub.Take(10)
	defer sub.Close()
	elsewhere := []*Subscription{}
	for _, f := range []Filter{{Namespace: "other"}, {Pod: "other"}, {Node: "node-2"}} {
		s := table.Subscribe(f)
		defer s.Close()
		elsewhere = append(elsewhere, s)
	}
	if len(rows) != 0 {
		t.Errorf("rows %v, want none", rows)
	}
	var got []ChangeType
	take := func() {
		for _, c := range sub.Take(10) {
			got = append(got, c.Type)
		}
	}
	for i, v := range []spec.Result{spec.ResultSuccess, spec.ResultFailure, spec.ResultFailure, spec.ResultSuccess, spec.ResultUnknown, spec.ResultFailure} {
		table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Verdict: v, Since: t0.Add(time.Duration(i) * time.Second)})
		take()
	}
	table.Forget("u1", 7)
	take()
	if want := []ChangeType{Added, Modified, Deleted, Added, Deleted}; !slices.Equal(got, want) {
		t.Errorf("changes %v, want %v", got, want)
	}
	for _, s := range elsewhere {
		if len(s.C()) > 0 {
			t.Errorf("one who wants %+v is told %+v", s.filter, s.Take(10))
		}
	}
}

func TestPagesHaveEveryRowOnce(t *testing.T) {
	table := New()
	var want []spec.ProbeID
	for i := range 10 {
		uid := fmt.Sprint("u", i)
		id := spec.ProbeID{PodUID: uid, Container: "c", Kind: spec.Liveness}
		table.Declare(uid, spec.ObjectName{Namespace: "default", Name: fmt.Sprint("pod-", i)}, fmt.Sprint("n", i%2), 1, []spec.ProbeState{{ID: id}})
		if i%2 == 0 {
			want = append(want, id)
		}
	}
	var got []spec.ProbeID
	last := ""
	for {
		rows := table.Page(Filter{Node: "n0"}, func(r *Row) bool { return r.Pod.Name <= last }, 2)
		if len(rows) == 0 {
			break
		}
		for _, r := range rows {
			got, last = append(got, r.ID), r.Pod.Name
		}
		if last == "pod-2" { // one comes meanwhile, and one goes
			table.Declare("new", spec.ObjectName{Namespace: "default", Name: "pod-0a"}, "n0", 1, []spec.ProbeState{{ID: spec.ProbeID{PodUID: "new"}}})
			table.Forget("u8", 1)
			want = slices.Delete(want, 4, 5)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAWatcherThatIsBehindIsToldOfEachRowOnceAsItIsThen(t *testing.T) {
	table := New()
	declared(table, 7, live)
	sub := table.Subscribe(all)
	if sub.Synced() {
		t.Error("nothing was there")
	}
	if c := sub.Take(10); len(c) != 1 || c[0].Type != Added || !sub.Synced() {
		t.Errorf("at the beginning %+v, want what is there", c)
	}
	say := func(id spec.ProbeID, v spec.Result, at int) {
		table.Believe(table.Handle(Key{id, 7}), &spec.ProbeState{Verdict: v, Since: t0.Add(time.Duration(at) * time.Second)})
	}
	for i := range 5000 {
		say(live, []spec.Result{spec.ResultFailure, spec.ResultSuccess}[i%2], i)
	}
	declare := func(uid string) spec.ProbeID {
		id := spec.ProbeID{PodUID: uid, Container: "c", Kind: spec.Liveness}
		table.Declare(uid, spec.ObjectName{Namespace: "default", Name: uid}, "node-1", 7, []spec.ProbeState{{ID: id}})
		return id
	}
	say(declare("came"), spec.ResultFailure, 1)
	declare("came-and-went")
	table.Forget("came-and-went", 7)
	table.Forget(live.PodUID, 7)
	declare("came-and-went-again")
	table.Forget("came-and-went-again", 7)
	declare("came-and-went-again")
	if len(sub.C()) != 1 {
		t.Error("nothing says that there is something to take")
	}
	first, rest := sub.Take(1), sub.Take(10)
	if len(first) != 1 || first[0].Type != Deleted || first[0].Row.ID != live || first[0].Row.Verdict != spec.ResultSuccess {
		t.Errorf("first %+v, want that the first probe is gone", first)
	}
	var got []string
	for _, c := range rest {
		if c.Type != Added {
			t.Errorf("change %+v, want only what came", c)
		}
		got = append(got, fmt.Sprint(c.Row.ID.PodUID, " ", c.Row.Verdict))
	}
	if want := []string{"came " + spec.ResultFailure.String(), "came-and-went-again " + spec.ResultUnknown.String()}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if more := sub.Take(10); len(more) != 0 {
		t.Errorf("told twice: %+v", more)
	}
}
