package restartguard

import (
	"fmt"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// fail has a pod fail, and everybody hear of what follows.
func (f *fleet) fail(c *container) {
	c.failing = true
	f.act(c)
	f.settle()
}

func (f *fleet) restarted(c *container) bool {
	for _, r := range f.restarts {
		if r.uid == c.UID {
			return true
		}
	}
	return false
}

func TestOfThreePodsOneIsRestartedAndTheSecondIsHeld(t *testing.T) {
	f := newFleet(3, 3, settings())
	f.settle()
	for _, c := range f.pods {
		f.fail(c)
	}
	if f.within(-1) != 1 || !f.restarted(f.pods[0]) || !f.last.Holding || f.last.Held != 2 {
		t.Errorf("%d restarted, %+v; want the first, and two held", f.within(-1), f.last)
	}
}

func TestNothingIsLetGoWhileMoreThanTheShareFails(t *testing.T) {
	f := newFleet(7, 2, settings())
	f.settle()
	f.now += time.Second
	for _, c := range f.pods {
		f.fail(c)
	}
	for _, c := range f.pods { // those that were restarted are well
		c.live = !c.failing
		f.speak(c.Node)
	}
	f.settle()
	f.now += time.Hour
	f.settle()
	if f.within(-1) != 3 || f.last.Failing != 4 || !f.last.Holding {
		t.Errorf("%d restarted, %+v; want 3, and 4 held", f.within(-1), f.last)
	}
	for _, c := range f.pods {
		if c.failing { // one recovers by itself: three of seven are no more than half
			c.failing, c.live = false, true
			f.speak(c.Node)
			break
		}
	}
	f.settle()
	f.now += f.settings.Window - time.Millisecond
	f.settle()
	if f.within(-1) != 3 {
		t.Errorf("%d restarted: what fails no more for less than a window may be well in a moment", f.within(-1))
	}
	f.now += time.Millisecond
	f.settle()
	if f.within(-1) != 4 {
		t.Errorf("%d restarted, want one more", f.within(-1))
	}
}

func TestAPodThatKeepsFailingAloneIsRestartedEachTime(t *testing.T) {
	f := newFleet(3, 3, settings())
	f.settle()
	for range 5 {
		f.now += 20 * time.Second
		f.fail(f.pods[1])
	}
	if len(f.restarts) != 5 || f.last.Holding {
		t.Errorf("%d restarts, %+v; want 5", len(f.restarts), f.last)
	}
}

func TestAnAgentThatDoesNotAnswerKeepsNoOtherPodWaiting(t *testing.T) {
	f := newFleet(5, 5, settings())
	f.settle()
	var mute, asks *container
	for _, c := range f.pods {
		switch {
		case c.allowed && mute == nil:
			mute = c
		case !c.allowed && asks == nil:
			asks = c
		}
	}
	f.links[mute.Node].up = false
	asks.failing = true
	f.act(asks)
	for range 3 {
		for _, node := range f.nodes() {
			for f.links[node].up && (f.deliver(node, true) || f.deliver(node, false)) {
			}
		}
		f.now += patience
		f.decide()
	}
	if asks.failing {
		t.Errorf("it waits: %+v", f.last)
	}
}

func TestFewerPodsThanAreWantedCountAsFew(t *testing.T) {
	for name, tc := range map[string]struct{ there, wanted, pods, most int }{
		"all are there":                     {10, 10, 10, 5},
		"more are, in a rollout":            {12, 10, 10, 5},
		"only some fit":                     {4, 10, 4, 2},
		"the last one may still restart":    {1, 3, 3, 1},
		"an odd number is rounded downward": {7, 7, 7, 3},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(tc.there, 1, settings())
			var pods []Pod
			for _, c := range f.pods {
				pods = append(pods, c.Pod)
			}
			f.guard.Set(f.settings, tc.wanted, pods)
			if d := f.guard.Decide(0); d.Pods != tc.pods || d.Most != tc.most {
				t.Errorf("%+v, want %d pods of which %d", d, tc.pods, tc.most)
			}
		})
	}
}

func TestWordsOfPodsThatAreUnknownAreDropped(t *testing.T) {
	g := New(0, 1)
	g.Set(settings(), 3, []Pod{{Key: Key{"a", 2}, Fresh: true}})
	g.Heard(0, &spec.RestartWord{UID: "a", Epoch: 1, Held: true})
	g.Heard(0, &spec.RestartWord{UID: "b", Epoch: 2, Held: true})
	if d := g.Decide(0); d.Held != 0 || g.Resume() {
		t.Errorf("%+v, want nothing held, and nothing to resume", d)
	}
}

func TestTheAllowanceIsSpreadOverTheNodes(t *testing.T) {
	f := newFleet(9, 3, settings())
	f.settle()
	on := map[string]int{}
	for _, c := range f.pods {
		if c.allowed {
			on[c.Node]++
		}
	}
	if on["n0"]+on["n1"]+on["n2"] != 4 || max(on["n0"], on["n1"], on["n2"]) != 2 || min(on["n0"], on["n1"], on["n2"]) != 1 {
		t.Errorf("allowed: %v, want four, one or two on each node", on)
	}
}

func BenchmarkDecideOfTenThousandPods(b *testing.B) {
	g := New(0, 1)
	var pods []Pod
	for i := range 10_000 {
		pods = append(pods, Pod{Key: Key{fmt.Sprint("p", i), 1}, Node: fmt.Sprint("n", i%100), Fresh: true})
	}
	g.Set(settings(), len(pods), pods)
	for i := range b.N {
		g.Decide(time.Duration(i))
	}
}
