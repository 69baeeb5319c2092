package restartguard

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

// container is a pod as it truly is, with what its agent believes.
type container struct {
	Pod
	failing   bool
	allowed   bool
	version   uint64
	restarted bool
	at        time.Duration
	live      bool
}

// link is one session: what is under way on it comes in order, late, or never.
type link struct {
	up     bool
	down   [][]spec.PodGuard
	words  [][]spec.RestartWord
	told   map[Key]spec.PodGuard
	spoken map[Key]spec.RestartWord
}

// fleet is a coordinator, agents, and the network between them.
type fleet struct {
	now      time.Duration
	settings spec.RestartGuard
	guard    *Guard
	last     Decision
	runs     uint64
	pods     []*container
	links    map[string]*link
	// restarts has every restart that was truly done.
	restarts []restart
}

type restart struct {
	uid string
	at  time.Duration
}

func newFleet(pods, nodes int, settings spec.RestartGuard) *fleet {
	f := &fleet{settings: settings, links: map[string]*link{}}
	for i := range nodes {
		f.links[fmt.Sprint("n", i)] = &link{}
	}
	for i := range pods {
		f.pods = append(f.pods, &container{Pod: Pod{Key: Key{fmt.Sprint("p", i), 1}, Node: fmt.Sprint("n", i%nodes)}})
	}
	f.coordinator()
	return f
}

func (f *fleet) nodes() []string { return slices.Sorted(maps.Keys(f.links)) }

// most is what the contract says: half of the pods, or another share, rounded down.
func (f *fleet) most() int { return len(f.pods) * f.settings.Share / 100 }

// coordinator starts one that knows nothing.
func (f *fleet) coordinator() {
	f.runs++
	f.guard = New(f.now, f.runs<<32)
	var pods []Pod
	for _, c := range f.pods {
		pods = append(pods, c.Pod)
	}
	f.guard.Set(f.settings, len(pods), pods)
	for _, node := range f.nodes() {
		f.cut(node)
	}
	f.decide()
}

func (f *fleet) cut(node string) { *f.links[node] = link{} }

func (f *fleet) connect(node string) {
	if l := f.links[node]; !l.up {
		*l = link{up: true, told: map[Key]spec.PodGuard{}, spoken: map[Key]spec.RestartWord{}}
		f.speak(node)
		f.tell()
	}
}

// decide decides, and tells the agents what is new to them.
func (f *fleet) decide() {
	f.last = f.guard.Decide(f.now)
	f.tell()
}

func (f *fleet) tell() {
	for _, node := range f.nodes() {
		l := f.links[node]
		if !l.up {
			continue
		}
		var list []spec.PodGuard
		for _, c := range f.pods {
			if s := f.guard.Standing(c.Key); c.Node == node && (l.told[c.Key] != s || len(l.told) == 0) {
				list = append(list, s)
			}
		}
		for _, s := range list {
			l.told[Key{s.UID, s.Epoch}] = s
		}
		if len(list) > 0 {
			l.down = append(l.down, list)
		}
	}
}

// speak has an agent say what is new of its pods.
func (f *fleet) speak(node string) {
	l := f.links[node]
	if !l.up {
		return
	}
	var words []spec.RestartWord
	for _, c := range f.pods {
		// Ago is by the moment of the restart here, and counts from the moment of arrival there.
		w := spec.RestartWord{UID: c.UID, Epoch: c.Epoch, Version: c.version, Allowed: c.allowed, Held: c.failing && !c.allowed,
			Restarted: c.restarted, Ago: c.at, Live: c.live}
		if old, ok := l.spoken[c.Key]; c.Node == node && (!ok || old != w) {
			l.spoken[c.Key] = w
			w.Ago = f.now - c.at
			words = append(words, w)
		}
	}
	if len(words) > 0 {
		l.words = append(l.words, words)
	}
}

// act has an agent restart what fails and may be restarted.
func (f *fleet) act(c *container) {
	if c.failing && c.allowed {
		c.failing, c.restarted, c.at, c.live = false, true, f.now, false
		f.restarts = append(f.restarts, restart{c.UID, f.now})
	}
	f.speak(c.Node)
}

// deliver lets the oldest message of one direction arrive; false without one.
func (f *fleet) deliver(node string, down bool) bool {
	l := f.links[node]
	switch {
	case down && len(l.down) > 0:
		list := l.down[0]
		l.down = l.down[1:]
		for _, s := range list {
			for _, c := range f.pods {
				if c.Key == (Key{s.UID, s.Epoch}) {
					c.allowed, c.version = s.Allowed, s.Version
					f.act(c)
				}
			}
		}
	case !down && len(l.words) > 0:
		words := l.words[0]
		l.words = l.words[1:]
		for i := range words {
			f.guard.Heard(f.now, &words[i])
		}
		f.decide()
	default:
		return false
	}
	return true
}

// settle connects everybody and lets every message arrive.
func (f *fleet) settle() {
	for _, node := range f.nodes() {
		f.connect(node)
	}
	f.decide()
	for moved := true; moved; {
		moved = false
		for _, node := range f.nodes() {
			moved = f.deliver(node, true) || f.deliver(node, false) || moved
		}
	}
}

// within counts the pods that were restarted after a moment.
func (f *fleet) within(since time.Duration) int {
	pods := map[string]bool{}
	for _, r := range f.restarts {
		if r.at > since {
			pods[r.uid] = true
		}
	}
	return len(pods)
}

// chance lets something happen to the network, the agents, the coordinator or the time.
func (f *fleet) chance(t *rapid.T) {
	node := rapid.SampledFrom(f.nodes()).Draw(t, "node")
	switch rapid.IntRange(0, 13).Draw(t, "what") {
	case 0:
		f.cut(node)
	case 1, 2:
		f.connect(node)
	case 3:
		f.cut(node) // the agent starts anew: it knows its restarts from the disk, but no allowance
		for _, c := range f.pods {
			if c.Node == node {
				c.allowed, c.version = false, 0
			}
		}
	case 4:
		if rapid.IntRange(0, 4).Draw(t, "coordinator") == 0 {
			f.coordinator()
		}
	case 5:
		f.settle()
	case 6, 7:
		f.now += rapid.SampledFrom([]time.Duration{time.Millisecond, 900 * time.Millisecond, 5 * time.Second, 61 * time.Second}).Draw(t, "time")
		f.decide()
	default:
		f.deliver(node, rapid.Bool().Draw(t, "down"))
	}
}

func settings() spec.RestartGuard {
	g := spec.DefaultRestartGuard()
	g.ReleaseAfter = 1000 * time.Hour // nothing is let go by time alone
	return g
}

func drawFleet(t *rapid.T, s spec.RestartGuard) *fleet {
	s.Share = rapid.SampledFrom([]int{50, 50, 50, 1, 34, 99}).Draw(t, "share")
	return newFleet(rapid.IntRange(3, 9).Draw(t, "pods"), rapid.IntRange(1, 4).Draw(t, "nodes"), s)
}

func TestNeverMoreThanTheShareIsRestartedWithinAWindow(t *testing.T) {
	most := 0
	rapid.Check(t, func(t *rapid.T) {
		f := drawFleet(t, settings())
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			switch c := rapid.SampledFrom(f.pods).Draw(t, "pod"); rapid.IntRange(0, 3).Draw(t, "pod does") {
			case 0:
				c.failing, c.live = true, false
				f.act(c)
			case 1:
				c.failing, c.live = false, true
				f.speak(c.Node)
			default:
				f.chance(t)
			}
			n := f.within(f.now - f.settings.Window)
			if n > f.most() {
				t.Fatalf("%d of %d pods were restarted within a window, at most %d may", n, len(f.pods), f.most())
			}
			if n == f.most() && n > 1 {
				most++
			}
		}
	})
	if most == 0 {
		t.Error("the bound was never reached: the check proves nothing")
	}
}

func TestThroughAnOutageNeverMoreThanTheShareIsRestarted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFleet(t, settings())
		f.settle()
		begun := f.now
		f.now += time.Millisecond
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "fail") { // and once restarted it fails again
				c := rapid.SampledFrom(f.pods).Draw(t, "pod")
				c.failing, c.live = true, false
				f.act(c)
			} else {
				f.chance(t)
			}
			if n := f.within(begun); n > f.most() {
				t.Fatalf("%d of %d pods were restarted in an outage of %v, at most %d may", n, len(f.pods), f.now-begun, f.most())
			}
		}
		// It ends: those that run on succeed, and all is as it was.
		for _, c := range f.pods {
			c.failing, c.live = false, true
		}
		for range 3 {
			for _, node := range f.nodes() {
				f.speak(node)
			}
			f.settle()
			f.now += f.settings.Window + patience
		}
		f.settle()
		allowed := 0
		for _, c := range f.pods {
			if c.allowed {
				allowed++
			}
		}
		if f.last.Holding || f.last.Held != 0 || allowed != f.most() {
			t.Fatalf("afterwards: %+v, %d allowed, want nothing held and %d allowed", f.last, allowed, f.most())
		}
	})
}

func TestAFewThatFailAreRestartedWhereverTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := settings()
		f := newFleet(rapid.IntRange(3, 9).Draw(t, "pods"), rapid.IntRange(1, 4).Draw(t, "nodes"), s)
		for range rapid.IntRange(0, 40).Draw(t, "steps before") {
			f.chance(t)
		}
		f.settle()
		f.now += patience
		f.settle()
		perm := rapid.Permutation(f.pods).Draw(t, "order")
		for _, c := range perm[:rapid.IntRange(1, f.most()).Draw(t, "failing")] {
			c.failing = true
			f.act(c)
			f.settle()
			if c.failing {
				t.Fatalf("pod %s on %s waits, with %+v", c.UID, c.Node, f.last)
			}
		}
	})
}

func TestAfterReleaseAfterOneAtATimeIsLetGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := spec.DefaultRestartGuard()
		f := newFleet(rapid.IntRange(3, 9).Draw(t, "pods"), rapid.IntRange(1, 4).Draw(t, "nodes"), s)
		f.settle()
		f.now += time.Second
		for _, c := range f.pods {
			c.failing = true
			f.act(c)
		}
		f.settle()
		resumed := rapid.Bool().Draw(t, "somebody resumes")
		if resumed && !f.guard.Resume() {
			t.Fatal("there was nothing to resume")
		}
		before, began := f.within(-1), f.now
		revives := rapid.Bool().Draw(t, "restarted pods are live")
		for range 3 * len(f.pods) {
			done := len(f.restarts)
			f.settle()
			switch n := len(f.restarts) - done; {
			case n > 1:
				t.Fatalf("%d let go at once", n)
			case n == 1 && !resumed && f.now < began+s.ReleaseAfter:
				t.Fatalf("let go after %v", f.now-began)
			case n == 1 && !revives:
				was := len(f.restarts)
				f.now += s.Window - time.Second
				f.settle()
				if len(f.restarts) > was {
					t.Fatal("the next was let go though the one before was not live")
				}
			case n == 1:
				for _, c := range f.pods {
					if !c.failing {
						c.live = true
						f.speak(c.Node)
					}
				}
			case n == 0:
				f.now += s.Window
			}
			if f.now < began+s.ReleaseAfter && !resumed {
				f.now = began + s.ReleaseAfter
			}
		}
		if f.within(-1) != len(f.pods) {
			t.Fatalf("%d pods were restarted before, and %d of %d in the end: %+v", before, f.within(-1), len(f.pods), f.last)
		}
	})
}
