package restarts

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/restartguard"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	"github.com/musterhq/muster/internal/spec"
)

// world is a table on a store in memory, with agents that do what it tells them.
type world struct {
	t     *testing.T
	store *memory.Store
	cache *store.Cache
	table *Table
	start time.Time
	stop  func()
	pods  map[string]*agent

	mu      sync.Mutex
	said    []string
	woken   []string
	changed int
}

// agent is one pod as its agent has it.
type agent struct {
	name     string
	failing  bool
	word     spec.RestartWord
	last     time.Time
	restarts int
}

func (w *world) Record(ref spec.ObjectRef, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf("%s %s/%s %s: %s", kind, ref.Kind, ref.Name, reason, message))
}

func (w *world) put(k store.Key, v store.Value) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(w.t.Context(), store.Txn{Then: []store.Write{{Key: k, Value: v}}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.pause()
	return rev
}

// pause lets what was heard be decided about.
func (w *world) pause() {
	w.t.Helper()
	time.Sleep(minPause)
	synctest.Wait()
}

var siteKey = store.Key{Family: store.Deployments, Namespace: "default", Name: "site"}

func (w *world) deployment(replicas int32, annotation string) {
	d := &spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: "site", UID: "d"}, Spec: spec.DeploymentSpec{Replicas: replicas}}
	if annotation != "" {
		d.Annotations = map[string]string{spec.AnnotationRestartGuard: annotation}
	}
	w.put(siteKey, d)
}

// bind makes a pod of the Deployment, each on a node of its own.
func (w *world) bind(name string) {
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: name, UID: "uid-" + name, Owner: &spec.OwnerRef{Kind: "Deployment", Name: "site", UID: "d"}}}
	w.put(store.PodKey(p.Key()), p)
	epoch := w.put(store.BindingKey(p.Key()), &spec.Binding{UID: p.UID, Node: "node-" + name, Class: spec.Fast})
	w.pods[name] = &agent{name: name, word: spec.RestartWord{UID: p.UID, Epoch: epoch}}
}

func (w *world) guarded(name string) (spec.PodGuard, bool) {
	w.t.Helper()
	v := w.cache.View()
	p, ok := fleet.LookupPod(v, spec.ObjectName{Namespace: "default", Name: name})
	if !ok {
		w.t.Fatalf("no pod %s", name)
	}
	return w.table.Guarded(v, &p)
}

// standing is the last decision about the Deployment.
func (w *world) standing() restartguard.Decision {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	return w.table.owners["d"].last
}

func (w *world) names() []string {
	var names []string
	for name := range w.pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// settle has all agents take in what they are told and say how it stands, until nothing is new.
func (w *world) settle() {
	w.t.Helper()
	for range 20 {
		for _, name := range w.names() {
			a := w.pods[name]
			g, _ := w.guarded(name)
			a.word.Allowed, a.word.Version = g.Allowed, g.Version
			if a.failing && g.Allowed {
				a.failing, a.word.Restarted, a.word.Live, a.last = false, true, false, time.Now()
				a.restarts++
			}
			a.word.Held = a.failing
			word := a.word
			if word.Restarted {
				word.Ago = time.Since(a.last)
			}
			w.table.Heard("node-"+name, []spec.RestartWord{word})
		}
		w.pause()
	}
}

func (w *world) restarted() (n int) {
	for _, a := range w.pods {
		if a.restarts > 0 {
			n++
		}
	}
	return n
}

// run starts a table; it is a new coordinator's.
func (w *world) run() {
	if w.stop != nil {
		w.stop()
	}
	w.table = New(Config{
		Cache: w.cache, Events: w, Log: slog.New(slog.DiscardHandler), Now: func() time.Duration { return time.Since(w.start) + time.Second },
		Wake: func(nodes []string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.woken = append(w.woken, nodes...)
		},
		Changed: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.changed++
		},
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.table.Run(ctx)
	}()
	w.stop = func() {
		cancel()
		<-done
	}
	synctest.Wait()
}

func bubble(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: memory.New(), start: time.Now(), pods: map[string]*agent{}}
		defer w.store.Close()
		w.cache = store.NewCache(w.store, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = w.cache.Run(ctx)
		}()
		synctest.Wait()
		w.run()
		f(w)
		w.stop()
		cancel()
		<-done
	})
}

// outage has all pods fail, with agents that answer between one and the next.
func (w *world) outage() {
	for _, name := range w.names() {
		w.pods[name].failing = true
		w.settle()
	}
}

func TestTheAllowanceIsThereBeforeAnythingFails(t *testing.T) {
	bubble(t, func(w *world) {
		w.deployment(4, "")
		for _, name := range []string{"a", "b", "c", "d"} {
			w.bind(name)
		}
		allowed := 0
		for _, name := range w.names() {
			g, on := w.guarded(name)
			if !on || g.ReleaseAfter != 10*time.Minute || g.Holding {
				t.Errorf("pod %s: %+v, %v", name, g, on)
			}
			if g.Allowed {
				allowed++
				if !slices.Contains(w.woken, "node-"+name) {
					t.Errorf("the node of pod %s was not woken to hear of it", name)
				}
			}
		}
		if allowed != 2 {
			t.Errorf("%d of 4 are allowed, want 2", allowed)
		}
	})
}

func TestWhatIsSmallOffOrBareIsNotGuarded(t *testing.T) {
	bubble(t, func(w *world) {
		w.deployment(2, "")
		w.bind("a")
		if _, on := w.guarded("a"); on {
			t.Error("a Deployment of two pods is guarded")
		}
		w.deployment(3, "off")
		if _, on := w.guarded("a"); on {
			t.Error("off does not turn it off")
		}
		w.deployment(3, "")
		if _, on := w.guarded("a"); !on {
			t.Error("a Deployment of three pods is not guarded")
		}
		bare := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "bare", UID: "uid-bare"}}
		w.put(store.PodKey(bare.Key()), bare)
		w.put(store.BindingKey(bare.Key()), &spec.Binding{UID: bare.UID, Node: "n", Class: spec.Fast})
		if _, on := w.guarded("bare"); on {
			t.Error("a bare pod is guarded")
		}
	})
}

func TestAnOutageIsToldOnceAndSoIsItsEnd(t *testing.T) {
	bubble(t, func(w *world) {
		w.deployment(4, "")
		for _, name := range []string{"a", "b", "c", "d"} {
			w.bind(name)
		}
		w.settle()
		w.outage()
		time.Sleep(2 * time.Minute)
		w.settle()
		s := w.standing()
		if deployments, pods := w.table.Held(); !s.Holding || w.restarted() != 2 || deployments != 1 || pods != 2 {
			t.Fatalf("%+v, %d restarted, %d Deployments and %d pods held", s, w.restarted(), deployments, pods)
		}
		for _, a := range w.pods {
			a.failing, a.word.Live = false, true
		}
		w.settle()
		if why, known := w.table.Why("d"); why != "" || !known {
			t.Errorf("afterwards: %q, known %v", why, known)
		}
		// Told is that it is known, then that restarts are held, then that they are not.
		if s := w.standing(); s.Holding || w.restarted() != 2 || w.changed != 3 {
			t.Errorf("afterwards %+v, %d restarted, %d changes", s, w.restarted(), w.changed)
		}
		if len(w.said) != 2 || !strings.HasPrefix(w.said[0], "Warning Deployment/site RestartsHeld: More than 50% of the pods fail liveness within 1m0s") ||
			!strings.HasPrefix(w.said[1], "Normal Deployment/site RestartsReleased: ") {
			t.Errorf("said %q", w.said)
		}
	})
}

func TestHeldRestartsGoOnOneAtATimeAfterAWhileOrWhenSomebodyResumes(t *testing.T) {
	for name, resumed := range map[string]bool{"after a while": false, "resumed": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.deployment(4, "release-after=5m")
				for _, name := range []string{"a", "b", "c", "d"} {
					w.bind(name)
				}
				w.settle()
				if w.table.Resume("d") || w.table.Resume("none") {
					t.Error("resumed what is not held")
				}
				w.outage()
				wait := 5 * time.Minute
				if resumed {
					if !w.table.Resume("d") {
						t.Fatal("not resumed")
					}
					wait = 0
				} else {
					time.Sleep(5*time.Minute - 5*time.Second)
					w.settle()
					if w.restarted() != 2 {
						t.Fatalf("%d restarted before its time", w.restarted())
					}
				}
				time.Sleep(wait + 5*time.Second)
				w.settle()
				if w.restarted() != 3 {
					t.Fatalf("%d restarted, want one more", w.restarted())
				}
				time.Sleep(time.Minute)
				w.settle()
				if w.restarted() != 4 {
					t.Errorf("%d restarted, want all", w.restarted())
				}
			})
		})
	}
}

func TestACoordinatorThatComesBackLearnsFromAgentsWhatIsAllowedAndRestarted(t *testing.T) {
	bubble(t, func(w *world) {
		w.deployment(4, "")
		for _, name := range []string{"a", "b", "c", "d"} {
			w.bind(name)
		}
		w.settle()
		w.outage()
		if why, known := w.table.Why("d"); why == "" || !known {
			t.Errorf("held: %q, known %v", why, known)
		}
		w.run()
		if why, known := w.table.Why("d"); why != "" || known {
			t.Errorf("before an agent has spoken: %q, known %v", why, known)
		}
		if w.table.Resume("d") {
			t.Error("it knows of held restarts that nobody has told it of")
		}
		for range 3 {
			w.settle()
			time.Sleep(50 * time.Second)
		}
		s := w.standing()
		if w.restarted() != 2 || !s.Holding || s.Failing != 4 {
			t.Errorf("%d restarted, %+v; want 2, and the others held", w.restarted(), s)
		}
	})
}

func TestOnlyTheHolderSpeaksForAPod(t *testing.T) {
	bubble(t, func(w *world) {
		w.deployment(3, "")
		w.bind("a")
		held := w.pods["a"].word
		held.Held = true
		w.table.Heard("elsewhere", []spec.RestartWord{held})
		held.Epoch++
		w.table.Heard("node-a", []spec.RestartWord{held, {UID: "none", Epoch: 1}})
		if s := w.standing(); s.Held != 0 {
			t.Errorf("%+v, want nothing held", s)
		}
	})
}

func TestAnAgentIsHeardThoughItSpeaksBeforeItsPodWasLookedAt(t *testing.T) {
	for name, looked := range map[string]bool{"not looked at": false, "not decided about": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.deployment(3, "")
				w.stop() // from here on nobody looks or decides by himself
				w.bind("a")
				v := w.cache.View()
				if looked {
					w.table.fill(v)
				}
				word := w.pods["a"].word
				word.Held = true
				w.table.Heard("node-a", []spec.RestartWord{word})
				w.table.pass()
				if s := w.standing(); s.Held != 1 {
					t.Errorf("%+v, want it held", s)
				}
			})
		})
	}
}

func TestNothingIsLeftOfADeploymentThatIsGone(t *testing.T) {
	bubble(t, func(w *world) {
		w.deployment(3, "")
		w.bind("a")
		w.put(siteKey, nil)
		if _, on := w.guarded("a"); on {
			t.Error("its pod is guarded still")
		}
		w.put(store.PodKey(spec.ObjectName{Namespace: "default", Name: "a"}), nil)
		w.table.mu.Lock()
		defer w.table.mu.Unlock()
		if len(w.table.owners) != 0 || len(w.table.byPod) != 0 || len(w.table.byUID) != 0 {
			t.Errorf("left: %v, %v, %v", w.table.owners, w.table.byPod, w.table.byUID)
		}
	})
}
