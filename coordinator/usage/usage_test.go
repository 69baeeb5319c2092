package usage

import (
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

func TestAReportIsShownWhileItIsFreshAndItsSessionIsNotOver(t *testing.T) {
	table, now := New(), time.Unix(1_700_000_000, 0)
	table.Put("n1", &Report{Session: 4, At: now})
	if r := table.Node("n1", now.Add(Fresh)); r == nil || r.Session != 4 {
		t.Errorf("got %+v, want what session 4 said", r)
	}
	if r := table.Node("n1", now.Add(Fresh+1)); r != nil {
		t.Errorf("a report that is too old is shown: %+v", r)
	}
	if r := table.Node("n2", now); r != nil {
		t.Errorf("a node that has said nothing: %+v", r)
	}
	table.Put("n1", &Report{Session: 3, At: now})
	table.Forget("n1", 3)
	if r := table.Node("n1", now); r == nil || r.Session != 4 {
		t.Errorf("an older session has changed it: %+v", r)
	}
	table.Forget("n1", 4)
	if r := table.Node("n1", now); r != nil {
		t.Errorf("after its session: %+v", r)
	}
}

func TestAContainerIsKnownByItsPodsBinding(t *testing.T) {
	table, now := New(), time.Now()
	of := func(n int64) spec.Usage { return spec.Usage{MicroCPU: n, MemoryBytes: 10 * n} }
	table.Put("n1", &Report{At: now, Containers: []Container{
		{UID: "b", Epoch: 5, Name: "main", Usage: of(1)}, {UID: "a", Epoch: 4, Name: "main", Usage: of(2)},
		{UID: "b", Epoch: 5, Name: "side", Usage: of(3)}, {UID: "c", Epoch: 9, Name: "main", Usage: of(4)},
	}})
	r := table.Node("n1", now)
	for _, tc := range []struct {
		uid   string
		epoch int64
		name  string
		want  spec.Usage
	}{
		{"a", 4, "main", of(2)}, {"b", 5, "main", of(1)}, {"b", 5, "side", of(3)}, {"c", 9, "main", of(4)},
		{"a", 5, "main", spec.UnknownUsage}, {"a", 4, "side", spec.UnknownUsage}, {"d", 4, "main", spec.UnknownUsage}, {"", 0, "", spec.UnknownUsage},
	} {
		if got := r.Container(tc.uid, tc.epoch, tc.name); got != tc.want {
			t.Errorf("%s of %s in epoch %d: %+v, want %+v", tc.name, tc.uid, tc.epoch, got, tc.want)
		}
	}
	if got := table.Node("n2", now).Container("a", 4, "main"); got != spec.UnknownUsage {
		t.Errorf("of a node that has said nothing: %+v", got)
	}
}
