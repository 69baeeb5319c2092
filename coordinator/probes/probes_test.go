package probes

import (
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

func all(*Row) bool { return true }

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
	rows, sub := table.Subscribe(all)
	defer sub.Close()
	if len(rows) != 1 {
		t.Fatalf("rows = %v, want one", rows)
	}
	table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Verdict: spec.ResultFailure, Since: t0})
	table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Verdict: spec.ResultFailure, Since: t0})
	table.Forget("u1", 6)
	table.Forget("u1", 7)
	if c := <-sub.C(); c.Gone || c.Row.Verdict != spec.ResultFailure {
		t.Errorf("first change = %+v, want failure", c)
	}
	if c := <-sub.C(); !c.Gone {
		t.Errorf("second change = %+v, want gone: saying it twice is no change, and an old epoch forgets nothing", c)
	}
	if len(sub.C()) != 0 || len(table.List(all)) != 0 {
		t.Errorf("%d more changes, rows %v; want none", len(sub.C()), table.List(all))
	}
}

func TestASlowWatcherIsCut(t *testing.T) {
	table := New()
	declared(table, 7, live)
	_, sub := table.Subscribe(all)
	for i := range subscriberBuffer + 1 {
		table.Believe(table.Handle(Key{live, 7}), &spec.ProbeState{Since: t0.Add(time.Duration(i+1) * time.Second)})
	}
	n := 0
	for range sub.C() {
		n++
	}
	if n != subscriberBuffer {
		t.Errorf("delivered %d changes before the cut, want %d", n, subscriberBuffer)
	}
}
