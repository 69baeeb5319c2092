// Package restarts keeps the restart guards of all Deployments that have one: it feeds coordinator/restartguard with their
// pods and with what agents say, has coordinator/dispatch tell the agents, and tells people. Nothing of it is stored: agents
// say in each session which restarts they were allowed and have made, so a coordinator that was away knows it again from
// them, and gives nothing out that it does not know to be free.
package restarts

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/restartguard"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// The reasons of events about a Deployment.
const (
	ReasonHeld     = "RestartsHeld"
	ReasonReleased = "RestartsReleased"
)

const (
	// buffer is how many batches of changes the table may be behind before it looks at everything anew.
	buffer = 4096
	// minPause is the least time between two decisions: changes come in bursts, and a decision looks at all pods of its owner.
	minPause = 20 * time.Millisecond
)

// Events takes the coordinator's events; internal/event's Recorder does.
type Events interface {
	Record(ref spec.ObjectRef, kind, reason, message string)
}

// Config is what a table works with. None of the functions may block or call the table back.
type Config struct {
	Cache  *store.Cache
	Events Events
	// Wake is told of nodes whose agents have something new to be told.
	Wake func(nodes []string)
	// Changed is told when Why has come to say something else of any Deployment. It may be nil.
	Changed func()
	// Now reads a clock that only goes forward.
	Now func() time.Duration
	Log *slog.Logger
}

// owner is one Deployment with its pods.
type owner struct {
	uid  string
	name spec.ObjectName
	pods map[spec.ObjectName]restartguard.Pod
	// stale: its pods, or what is wanted of it, have changed since the last decision.
	stale bool
	// guard is nil while it is off.
	guard    *restartguard.Guard
	settings spec.RestartGuard
	last     restartguard.Decision
	// told is what each binding's agent is to be told, as of the last decision.
	told map[restartguard.Key]spec.PodGuard
}

// Table has the restart guards of all Deployments. Its methods may be called from any goroutine.
type Table struct {
	cfg  Config
	wake chan struct{}

	mu     sync.Mutex
	owners map[string]*owner // by the Deployment's uid
	byPod  map[spec.ObjectName]string
	byUID  map[string]spec.ObjectName
	// dirty are the owners to decide about.
	dirty map[string]bool
	// began is the revision of the first view: bindings after it are known to be new.
	began int64
	// decided: every Deployment that there was at the start has been decided about.
	decided bool
}

// New builds a table that is empty before Run.
func New(cfg Config) *Table {
	return &Table{
		cfg: cfg, wake: make(chan struct{}, 1), owners: map[string]*owner{}, byPod: map[spec.ObjectName]string{}, byUID: map[string]spec.ObjectName{},
		dirty: map[string]bool{},
	}
}

// Run keeps the guards up to date until ctx ends.
func (t *Table) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.follow(ctx)
	}()
	for ctx.Err() == nil {
		decided, wait := t.pass()
		if decided {
			timer.Reset(minPause)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-t.wake:
		}
	}
	<-done
	return nil
}

// poke has Run decide soon.
func (t *Table) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// follow takes in what changes in the store.
func (t *Table) follow(ctx context.Context) {
	for ctx.Err() == nil {
		view, sub := t.cfg.Cache.Subscribe(buffer)
		t.fill(view)
		for changes := range sub.C(ctx) {
			t.apply(t.cfg.Cache.View(), changes)
		}
		sub.Close()
	}
}

func (t *Table) fill(v *store.View) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fillLocked(v)
	t.poke()
}

func (t *Table) fillLocked(v *store.View) {
	if t.began == 0 {
		t.began = max(1, v.Revision())
	}
	for name := range t.byPod {
		t.podLocked(v, name)
	}
	for rec := range v.All(store.Pods) {
		t.podLocked(v, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name})
	}
	for uid := range t.owners {
		t.staleLocked(uid)
	}
}

func (t *Table) staleLocked(uid string) { t.owners[uid].stale, t.dirty[uid] = true, true }

func (t *Table) apply(v *store.View, changes store.Changes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes.Changes {
		name := spec.ObjectName{Namespace: c.Key.Namespace, Name: c.Key.Name}
		switch c.Key.Family {
		case store.Pods, store.Bindings, store.PodStatuses:
			t.podLocked(v, name)
		case store.Deployments:
			for uid, o := range t.owners {
				if o.name == name {
					t.staleLocked(uid)
				}
			}
		}
	}
	if len(t.dirty) > 0 {
		t.poke()
	}
}

// podLocked takes in what has become of a pod.
func (t *Table) podLocked(v *store.View, name spec.ObjectName) {
	p, ok := fleet.LookupPod(v, name)
	ok = ok && p.Owner != nil && p.Owner.Kind == "Deployment" && p.Binding != nil && !p.Deleting() && !p.Stopped()
	if ok {
		if h := p.Current(); h != nil && h.Status.Phase.Final() {
			ok = false
		}
	}
	if was, known := t.byPod[name]; known && (!ok || was != p.Owner.UID) {
		o := t.owners[was]
		delete(t.byUID, o.pods[name].UID)
		delete(o.pods, name)
		delete(t.byPod, name)
		t.staleLocked(was)
	}
	if !ok {
		return
	}
	o := t.owners[p.Owner.UID]
	if o == nil {
		o = &owner{uid: p.Owner.UID, name: spec.ObjectName{Namespace: name.Namespace, Name: p.Owner.Name}, pods: map[spec.ObjectName]restartguard.Pod{}}
		t.owners[o.uid] = o
	}
	is := restartguard.Pod{Key: restartguard.Key{UID: p.UID, Epoch: p.Epoch}, Node: p.Node(), Fresh: p.Epoch > t.began}
	if o.pods[name] == is {
		return
	}
	delete(t.byUID, o.pods[name].UID) // another pod may have had the name
	o.pods[name], t.byPod[name], t.byUID[p.UID] = is, o.uid, name
	t.staleLocked(o.uid)
}

// deployment is an owner as it is wanted, nil when it is not.
func deployment(v *store.View, name spec.ObjectName, uid string) *spec.Deployment {
	d, _, ok := store.Get[*spec.Deployment](v, store.Key{Family: store.Deployments, Namespace: name.Namespace, Name: name.Name})
	if !ok || d.UID != uid {
		return nil
	}
	return d
}

// decideLocked decides about owners.
func (t *Table) decideLocked(v *store.View, owners []string) {
	now := t.cfg.Now()
	nodes, changed := map[string]bool{}, false
	for _, uid := range owners {
		delete(t.dirty, uid)
		o := t.owners[uid]
		if o == nil {
			continue
		}
		o.stale = false
		var on bool
		d := deployment(v, o.name, o.uid)
		if d != nil {
			o.settings, on = d.RestartGuard()
		}
		was := o.last.Holding
		wasWhy, wasKnown := t.whyLocked(uid)
		if !on {
			o.guard, o.last, o.told = nil, restartguard.Decision{}, nil
		} else {
			if o.guard == nil {
				// Versions are higher than those of an earlier guard, which has changed its mind less often than once a nanosecond.
				o.guard = restartguard.New(now, uint64(time.Now().UnixNano()))
			}
			o.guard.Set(o.settings, int(d.Spec.Replicas), slices.Collect(maps.Values(o.pods)))
			o.last = o.guard.Decide(now)
			t.tellLocked(o, nodes)
		}
		if o.last.Holding != was {
			t.recordLocked(o, d)
		}
		if why, known := t.whyLocked(uid); why != wasWhy || known != wasKnown {
			changed = true
		}
		if len(o.pods) == 0 {
			delete(t.owners, uid)
		}
	}
	if len(nodes) > 0 {
		t.cfg.Wake(slices.Collect(maps.Keys(nodes)))
	}
	if changed && t.cfg.Changed != nil {
		t.cfg.Changed()
	}
}

// tellLocked notes the nodes whose agents have to be told something new.
func (t *Table) tellLocked(o *owner, nodes map[string]bool) {
	told := make(map[restartguard.Key]spec.PodGuard, len(o.pods))
	for _, p := range o.pods {
		told[p.Key] = o.guard.Standing(p.Key)
		if was, ok := o.told[p.Key]; !ok || was != told[p.Key] {
			nodes[p.Node] = true
		}
	}
	o.told = told
}

func (t *Table) recordLocked(o *owner, d *spec.Deployment) {
	ref := spec.ObjectRef{Kind: "Deployment", Namespace: o.name.Namespace, Name: o.name.Name, UID: o.uid}
	if !o.last.Holding {
		t.cfg.Log.Info("restarts of a deployment are no longer held", "deployment", o.name.String())
		if d != nil {
			t.cfg.Events.Record(ref, spec.EventNormal, ReasonReleased, "Liveness may restart pods again")
		}
		return
	}
	t.cfg.Log.Warn("restarts of a deployment are held: too many of its pods fail liveness at once", "deployment", o.name.String(),
		"failing", o.last.Failing, "pods", o.last.Pods, "held", o.last.Held)
	t.cfg.Events.Record(ref, spec.EventWarning, ReasonHeld, text(&o.settings)+fmt.Sprintf(": \"muster resume deployment/%s\" lets them go on one at a time", o.name.Name))
}

// text says why restarts are held, in the same words for as long as they are.
func text(g *spec.RestartGuard) string {
	return fmt.Sprintf("More than %d%% of the pods fail liveness within %v, restarts are held for at most %v", g.Share, g.Window, g.ReleaseAfter)
}

// pass decides about the owners that are dirty, and those whose time has come. It says whether there were any, and how long the
// next one has.
func (t *Table) pass() (decided bool, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	for uid, o := range t.owners {
		if o.last.Recheck != 0 && o.last.Recheck <= now {
			t.dirty[uid] = true
		}
	}
	decided = len(t.dirty) > 0
	t.decideLocked(t.cfg.Cache.View(), slices.Sorted(maps.Keys(t.dirty)))
	if !t.decided && t.began != 0 {
		t.decided = true
		if t.cfg.Changed != nil {
			t.cfg.Changed()
		}
	}
	wait = time.Hour
	for _, o := range t.owners {
		if o.last.Recheck != 0 {
			wait = min(wait, max(time.Millisecond, o.last.Recheck-now))
		}
	}
	return decided, wait
}

// Heard takes in what a node's agent says. Words of pods that the node does not hold are dropped.
func (t *Table) Heard(node string, words []spec.RestartWord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.cfg.Cache.View()
	// An agent may speak of what this table has not looked at yet: its pods and their guards must be there to hear it.
	unseen := func(w spec.RestartWord) bool { _, ok := t.byUID[w.UID]; return !ok }
	if t.began == 0 || slices.ContainsFunc(words, unseen) {
		t.fillLocked(v)
	}
	now := t.cfg.Now()
	for i := range words {
		name, ok := t.byUID[words[i].UID]
		if !ok {
			continue
		}
		o := t.owners[t.byPod[name]]
		if o.stale {
			t.decideLocked(v, []string{o.uid})
		}
		if o.guard != nil && o.pods[name].Node == node {
			o.guard.Heard(now, &words[i])
			t.dirty[o.uid] = true
		}
	}
	t.poke()
}

// Guarded is how the guard stands for a pod's binding; false where there is none. It goes by the view, so that a pod which
// this table has not heard of yet is guarded from the start.
func (t *Table) Guarded(v *store.View, p *fleet.Pod) (spec.PodGuard, bool) {
	if p.Owner == nil || p.Owner.Kind != "Deployment" {
		return spec.PodGuard{}, false
	}
	d := deployment(v, spec.ObjectName{Namespace: p.Namespace, Name: p.Owner.Name}, p.Owner.UID)
	if d == nil {
		return spec.PodGuard{}, false
	}
	settings, on := d.RestartGuard()
	if !on {
		return spec.PodGuard{}, false
	}
	key := restartguard.Key{UID: p.UID, Epoch: p.Epoch}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.owners[p.Owner.UID]; o != nil && o.guard != nil {
		return o.guard.Standing(key), true
	}
	return spec.PodGuard{UID: p.UID, Epoch: p.Epoch, ReleaseAfter: settings.ReleaseAfter}, true
}

// Why says why restarts of a Deployment are held, empty when they are not; known is false while that has to be heard from
// agents, after this coordinator's start.
func (t *Table) Why(uid string) (why string, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.whyLocked(uid)
}

func (t *Table) whyLocked(uid string) (why string, known bool) {
	o := t.owners[uid]
	switch {
	case !t.decided:
		return "", false
	case o == nil || o.guard == nil:
		return "", true
	case o.last.Holding:
		return text(&o.settings), true
	}
	return "", o.last.Unknown == 0
}

// Resume lets the held restarts of a Deployment go on one at a time; false when none are held.
func (t *Table) Resume(uid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.owners[uid]
	if o == nil || o.guard == nil || !o.guard.Resume() {
		return false
	}
	t.cfg.Log.Info("somebody lets held restarts go on", "deployment", o.name.String())
	t.dirty[uid] = true
	t.poke()
	return true
}

// Held counts the Deployments whose restarts are held, and the pods that wait.
func (t *Table) Held() (deployments, pods int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.owners {
		if o.last.Holding {
			deployments++
			pods += o.last.Held
		}
	}
	return deployments, pods
}
