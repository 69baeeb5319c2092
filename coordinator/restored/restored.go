// Package restored makes a coordinator's data directory of a snapshot, and holds the coordinator that starts on it to what keeps
// fenced pods single.
//
// What happened between the snapshot and the restore is not known: pods may have moved, ended, and been made anew under the same
// names. So bindings come back with the epochs that they had, and count for nothing at first. An agent that joins says what it still
// holds. A binding that its own node still holds at that very epoch goes on, and its containers run on: had the pod been bound again
// since, that epoch would have ended before. All others wait until every acknowledgement of the lost coordinator is over, and are then
// written anew, which gives them new epochs, above all that were ever given out. docs/decisions/0029 has the reasoning.
package restored

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/spec"
)

// Key is the record that says of a store that it comes from a snapshot. It stays.
var Key = store.Key{Family: store.Config, Name: "restored"}

// State is the record.
type State struct {
	// Generation is the cluster's from then on: the revision at which the restored store begins, so that each restore has another.
	Generation int64 `json:"generation"`
	// Snapshot is the revision that the snapshot was of, and Time when it was taken.
	Snapshot int64     `json:"snapshot"`
	Time     time.Time `json:"time"`
	// Longest is the longest T that the lost coordinator may have acknowledged with.
	Longest time.Duration `json:"longest_ns"`
	// Pending is set until the bindings that no agent spoke for have been written anew.
	Pending bool `json:"pending"`
}

func encode(s State) (*spec.Blob, error) {
	text, err := json.Marshal(s)
	return &spec.Blob{Data: text}, err
}

// Load reads the record; ok is false in a store that does not come from a snapshot.
func Load(v *store.View) (s State, revision int64, ok bool, err error) {
	b, revision, ok := store.Get[*spec.Blob](v, Key)
	if !ok {
		return s, 0, false, nil
	}
	if err := json.Unmarshal(b.Data, &s); err != nil {
		return s, 0, false, fmt.Errorf("%s: %w", Key, err)
	}
	return s, revision, true, nil
}

// Generation is the cluster's: 1 in a store that does not come from a snapshot.
func Generation(v *store.View) (int64, error) {
	s, _, ok, err := Load(v)
	if err != nil || !ok {
		return 1, err
	}
	return s.Generation, nil
}

type binding struct {
	uid   string
	epoch int64
}

// Window is the time after a restored coordinator's start in which only what agents hold goes on. Its methods may be called from
// any goroutine.
type Window struct {
	now   func() time.Duration
	until time.Duration
	// over is set once a view has said so: it is asked for each pod.
	over atomic.Bool

	mu sync.Mutex
	// held are the bindings that their own nodes hold; passed the pods of which somebody holds a later epoch; heard the nodes that
	// have spoken.
	held   map[binding]bool
	passed map[string]bool
	heard  map[string]bool
	// names are those of the pods of seen, and of earlier ones, by their uids.
	names map[string]spec.ObjectName
	seen  *store.View
}

// New begins the window of this run, on a view of its store: nothing has been acknowledged by it. now reads a clock that only
// goes forward. In a store that does not come from a snapshot, or whose window is over, it holds nothing back.
func New(v *store.View, ttl time.Duration, now func() time.Duration) (*Window, error) {
	s, _, _, err := Load(v)
	if err != nil {
		return nil, err
	}
	longest := max(s.Longest, ttl, fence.HoldTTL)
	return &Window{
		now: now, until: now() + longest + fence.Margin(longest), held: map[binding]bool{}, passed: map[string]bool{}, heard: map[string]bool{},
	}, nil
}

// Pending tells whether, in a view, there are still bindings that count for nothing, and how long they wait at least.
func (w *Window) Pending(v *store.View) (left time.Duration, pending bool) {
	if w.over.Load() {
		return 0, false
	}
	s, _, ok, err := Load(v)
	if err != nil || !ok || !s.Pending {
		if ok && err == nil {
			w.over.Store(true)
		}
		return 0, false
	}
	return max(0, w.until-w.now()), true
}

// Take takes in what the agent of a node holds, said in a session with this run.
func (w *Window) Take(v *store.View, node string, all []spec.Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		w.names, w.seen = map[string]spec.ObjectName{}, &store.View{}
	}
	for k := range v.Since(w.seen, store.Pods) {
		if pod, _, ok := store.Get[*spec.Pod](v, k); ok {
			w.names[pod.UID] = pod.Key()
		}
	}
	w.seen = v
	w.heard[node] = true
	for _, h := range all {
		p, ok := fleet.LookupPod(v, w.names[h.UID])
		switch {
		case !ok || p.UID != h.UID || p.Binding == nil:
		case h.Epoch > p.Epoch:
			// It moved after the snapshot. What is fenced is not held at the older epoch anywhere; of others the older one goes on
			// until it can be written anew, since its epoch is not the newest.
			w.passed[h.UID] = true
		case h.Epoch == p.Epoch && p.Node() == node && (h.Live || h.Final):
			w.held[binding{h.UID, h.Epoch}] = true
		}
	}
}

// May tells whether a pod's binding may be told to its node, by a view.
func (w *Window) May(v *store.View, p *fleet.Pod) bool {
	if _, pending := w.Pending(v); !pending {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[binding{p.UID, p.Epoch}]
}

// Rewrites are the bindings to write anew once the window's time is over, each on the condition that it is still as in the view:
// those that nobody has spoken for, and those of which somebody holds a later epoch. What had finished stays where it is, unless its
// node has joined and knows nothing of it.
func (w *Window) Rewrites(v *store.View, pods []*fleet.Pod) []store.Txn {
	s, _, _, err := Load(v)
	if err != nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var txns []store.Txn
	for _, p := range pods {
		// One from after the restore has been written anew already.
		if p.Binding == nil || p.Epoch > s.Generation || w.held[binding{p.UID, p.Epoch}] && !w.passed[p.UID] {
			continue
		}
		if h := p.Current(); h != nil && h.Status.Phase.Final() && !w.heard[p.Node()] {
			continue
		}
		b := *p.Binding
		b.Cause = "restored"
		key := store.BindingKey(p.Key())
		txns = append(txns, store.Txn{If: []store.Cond{{Key: key, Revision: p.Epoch}}, Then: []store.Write{{Key: key, Value: &b}}})
	}
	return txns
}

// End is what ends the window in the store once all rewrites are written.
func (w *Window) End(v *store.View) (store.Txn, error) {
	s, revision, _, err := Load(v)
	if err != nil {
		return store.Txn{}, err
	}
	s.Pending = false
	value, err := encode(s)
	return store.Txn{If: []store.Cond{{Key: Key, Revision: revision}}, Then: []store.Write{{Key: Key, Value: value}}}, err
}
