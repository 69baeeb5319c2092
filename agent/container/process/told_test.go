package process

import (
	"testing"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

func TestWhatASupervisorHasToldHoldsUntilThereIsMoreToKnow(t *testing.T) {
	p := newPod(container.PodRef{UID: "uid", Epoch: 1}, t.TempDir()) // nobody listens there
	want := func(containers int, when string) {
		t.Helper()
		recs, err := p.records(t.Context())
		switch {
		case containers < 0 && err == nil:
			t.Errorf("%s: the supervisor is not asked", when)
		case containers >= 0 && (err != nil || len(recs) != containers):
			t.Errorf("%s: %d containers, %v; want %d", when, len(recs), err, containers)
		}
	}
	state := func(changes int64, containers int) supervisor.State {
		return supervisor.State{Changes: changes, Containers: make([]supervisor.ContainerRecord, containers)}
	}
	const asked = -1
	want(asked, "before it is watched")
	p.watched = true
	want(0, "new")
	p.changed(state(1, 0))
	want(0, "watched")
	p.began(3)
	want(asked, "a container has started")
	p.changed(state(2, 0))
	want(asked, "it has told of what was before that")
	p.changed(state(3, 1))
	want(1, "it has told of the start")
	older := state(2, 0)
	p.takeLocked(&older)
	want(1, "an older answer has come late")
	p.doubt()
	want(asked, "something else was done")
	p.changed(state(3, 1))
	want(asked, "what it has told may be older")
	p.asked = p.doubts
	want(1, "it was asked")
	p.unwatched()
	want(asked, "nobody watches it")
	p.changed(state(4, 2))
	want(2, "watched again")
	p.changed(supervisor.State{})
	want(asked, "one of an older version has told of a change")
}
