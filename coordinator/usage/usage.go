// Package usage keeps what nodes and their containers use, as their agents said last. It holds one report a node, in memory
// only, which goes with the session that it came in; what is too old counts as unknown. coordinator/dispatch puts
// reports in, the API reads them.
package usage

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// Fresh is how old a report may be: an agent that lives makes three in that time.
const Fresh = 45 * time.Second

// Container is what one container uses.
type Container struct {
	// UID is the pod's, Epoch that of its binding.
	UID   string
	Epoch int64
	Name  string
	spec.Usage
}

// Report is what an agent says. Nobody may change what it holds.
type Report struct {
	// Session is the number of the session that said so.
	Session int64
	// At is when it was measured, by this coordinator's clock, Window what processor time was measured over.
	At                          time.Time
	Window                      time.Duration
	Machine, Agent, Supervisors spec.Usage
	Probes                      spec.ProbeLateness
	// Containers are by UID; Put sorts them.
	Containers []Container
}

// Table has the newest report of each node. All methods may be called from any goroutine.
type Table struct {
	mu    sync.Mutex
	nodes map[string]*Report
}

// New returns an empty table.
func New() *Table { return &Table{nodes: map[string]*Report{}} }

// Put replaces a node's report, unless one of a later session is there.
func (t *Table) Put(node string, r *Report) {
	slices.SortStableFunc(r.Containers, func(a, b Container) int { return cmp.Compare(a.UID, b.UID) })
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.nodes[node]; old == nil || old.Session <= r.Session {
		t.nodes[node] = r
	}
}

// Forget drops what a session that is over has said of its node.
func (t *Table) Forget(node string, session int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.nodes[node]; r != nil && r.Session == session {
		delete(t.nodes, node)
	}
}

// Node returns a node's report; nil when there is none that is fresh.
func (t *Table) Node(node string, now time.Time) *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.nodes[node]; r != nil && now.Sub(r.At) <= Fresh {
		return r
	}
	return nil
}

// Container is what a container of a pod uses; unknown when nothing is said of it. It may be called on nil.
func (r *Report) Container(uid string, epoch int64, name string) spec.Usage {
	if r == nil {
		return spec.UnknownUsage
	}
	i, _ := slices.BinarySearchFunc(r.Containers, uid, func(c Container, uid string) int { return cmp.Compare(c.UID, uid) })
	for ; i < len(r.Containers) && r.Containers[i].UID == uid; i++ {
		if c := &r.Containers[i]; c.Epoch == epoch && c.Name == name {
			return c.Usage
		}
	}
	return spec.UnknownUsage
}
