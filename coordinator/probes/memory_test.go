package probes

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// A fleet has 450,000 probes; a tenth of them is measured here.
func TestWhatIsBelievedOfAFleetsProbesFitsInAGibibyte(t *testing.T) {
	const fleet, part = 450_000, 10
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	table := New()
	for i := range fleet / part / 3 {
		uid := fmt.Sprintf("%036d", i)
		var ids []spec.ProbeState
		for _, kind := range spec.ProbeKinds {
			ids = append(ids, spec.ProbeState{ID: spec.ProbeID{PodUID: uid, Container: "main", Kind: kind}})
		}
		table.Declare(uid, spec.ObjectName{Namespace: "default", Name: fmt.Sprint("pod-", i)}, "n1", 5, ids)
		for range 2 * Ring {
			for _, s := range ids {
				observe(table, Key{s.ID, 5}, spec.Attempt{Start: time.Unix(1, 0), Result: spec.ResultSuccess})
			}
		}
	}
	if each := (used() - before) * part / fleet; each*fleet > 1<<30 {
		t.Errorf("%d bytes a probe, %d MiB for %d", each, each*fleet>>20, fleet)
	} else {
		t.Logf("%d bytes a probe, %d MiB for %d", each, each*fleet>>20, fleet)
	}
	runtime.KeepAlive(table)
}
