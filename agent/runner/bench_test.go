package runner_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/lease"
	machine "github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/internal/spec"
)

// bench is a node: a runner on a fake runtime, with a prober, a lease and events that only take notes.
type bench struct {
	t    *testing.T
	dir  string
	fake *containertest.Fake
	// listTakes makes a listing tell what was there so long ago.
	listTakes time.Duration
	r         *runner.Runner
	cfg       runner.Config
	leased    bool
	// unassigned makes Slot refuse.
	unassigned bool
	log        *lockedBuffer
	stop       func()

	mu      sync.Mutex
	rows    map[spec.ProbeID]runner.ProbeRow
	pulls   []spec.ProbeID
	events  []string
	slots   map[string]int
	adopted []string
	ips     map[string]string
	// spent is what each probe has spent.
	spent map[spec.ProbeID]machine.Spent
	// published has what pods publish; nil for a node without a pod network.
	published map[string][]runner.PublishedPort
	// notify answers the GETs of hooks.
	notify func(ctx context.Context, a *spec.HTTPAction, address string) error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *bench) Set(row runner.ProbeRow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows[row.ID] = row
}

func (b *bench) Remove(id spec.ProbeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rows, id)
}

func (b *bench) Trigger(id spec.ProbeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pulls = append(b.pulls, id)
}

func (b *bench) Record(ref spec.ObjectRef, kind, reason, message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, strings.Join([]string{ref.Name, ref.FieldPath, kind, reason, message}, " "))
}

// spending is what a probe has spent.
func (b *bench) spending(id spec.ProbeID) machine.Spent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spent[id]
}

// spend adds an attempt of a probe.
func (b *bench) spend(id spec.ProbeID, cpu time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.spent[id]
	b.spent[id] = machine.Spent{CPU: s.CPU + cpu, Attempts: s.Attempts + 1}
}

func (b *bench) hasEvent(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.events, func(e string) bool { return strings.Contains(e, part) })
}

func (b *bench) Slot(uid string, epoch int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := fmt.Sprint(uid, ".", epoch)
	if b.unassigned {
		return 0, fmt.Errorf("pod %s: %w", uid, lease.ErrNotAssigned)
	}
	if b.slots[k] == 0 {
		b.slots[k] = len(b.slots) + 1
	}
	return b.slots[k], nil
}

func (b *bench) refuse(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unassigned = on
}

func (b *bench) Adopt(uid string, epoch int64, slot int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots[fmt.Sprint(uid, ".", epoch)] = slot
	b.adopted = append(b.adopted, uid)
}

func (b *bench) lease(uid string, epoch int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.slots, fmt.Sprint(uid, ".", epoch))
}

var _ runner.Lease = (*lease.Lease)(nil)

// leases and addresses are bench's other two faces; both have a Release.
type leases struct{ *bench }

func (l leases) Live(uid string, epoch int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slots[fmt.Sprint(uid, ".", epoch)] != 0 && !l.unassigned
}
func (l leases) Release(uid string, epoch int64) { l.lease(uid, epoch) }

type addresses struct{ *bench }

func (a addresses) Allocate(uid string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ips[uid] == "" {
		a.ips[uid] = fmt.Sprintf("127.77.1.%d", len(a.ips)+1)
	}
	return a.ips[uid], nil
}

func (a addresses) Claim(uid, ip string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ips[uid] = ip
	return true
}

func (a addresses) Release(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ips, uid)
}

func (b *bench) notified(ctx context.Context, a *spec.HTTPAction, address string, _ []spec.Port) error {
	return b.notify(ctx, a, address)
}

// Publish notes a pod's ports.
func (b *bench) Publish(uid string, ports []runner.PublishedPort) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published[uid] = ports
	return nil
}

// slowLister is the fake with listings that are old when they come.
type slowLister struct {
	*containertest.Fake
	b *bench
}

func (s slowLister) List(ctx context.Context) (container.List, error) {
	l, err := s.Fake.List(ctx)
	time.Sleep(s.b.listTakes)
	return l, err
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), fake: containertest.NewFake(), leased: true, rows: map[spec.ProbeID]runner.ProbeRow{}, slots: map[string]int{},
		ips: map[string]string{}, spent: map[spec.ProbeID]machine.Spent{}, log: &lockedBuffer{}}
	b.cfg = runner.Config{StateDir: b.dir + "/state", Node: "n1", HostIP: "127.0.0.1", Path: "/bin", RunAsUID: -1, RunAsGID: -1, Isolation: "full",
		Dirs: func(ref container.PodRef) (string, string, string) {
			d := fmt.Sprintf("/pods/%s-%d", ref.UID, ref.Epoch)
			return d, d + "/home", d + "/tmp"
		}}
	return b
}

// start makes a runner and runs it; stop ends it as a kill of the agent would, but orderly.
func (b *bench) start() {
	b.t.Helper()
	deps := runner.Deps{Runtime: slowLister{b.fake, b}, Addresses: addresses{b}, Prober: b, Events: b, Spent: b.spending, Notify: b.notified, Log: slog.New(slog.NewTextHandler(b.log, nil))}
	if b.published != nil {
		deps.Ports = b
	}
	if b.leased {
		deps.Lease = leases{b}
	}
	r, err := runner.New(b.cfg, deps)
	if err != nil {
		b.t.Fatal(err)
	}
	b.r = r
	b.mu.Lock()
	clear(b.rows)
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
		b.stop = func() {}
	}
}

// on runs f in a bubble with a bench that is stopped at the end.
func on(t *testing.T, f func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		defer func() { b.stop() }()
		f(t, b)
	})
}

func (b *bench) settle(d time.Duration) {
	b.t.Helper()
	time.Sleep(d)
	synctest.Wait()
}

func pod(uid string) *spec.Pod {
	return &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "pod-" + uid, UID: uid}, Spec: spec.PodSpec{RestartPolicy: spec.RestartAlways,
		TerminationGrace: 30 * time.Second, Containers: []spec.Container{{Name: "web", Command: []string{"serve"}}}}}
}

func fast(p *spec.Pod, epoch int64) runner.Assigned {
	return runner.Assigned{Pod: p, Epoch: epoch, Class: spec.Fast}
}

func fenced(p *spec.Pod, epoch int64) runner.Assigned {
	return runner.Assigned{Pod: p, Epoch: epoch, Class: spec.Fenced}
}

func (b *bench) full(session int64, as ...runner.Assigned) {
	b.r.Assign(runner.Assignments{Session: session, Full: true, Assigned: as})
}

// held returns what All says of a pod.
func (b *bench) held(uid string, epoch int64) (spec.HeldStatus, bool) {
	b.t.Helper()
	all, _ := b.r.All(b.t.Context())
	for _, s := range all {
		if s.UID == uid && s.Epoch == epoch {
			return s, true
		}
	}
	return spec.HeldStatus{}, false
}

func (b *bench) must(uid string, epoch int64) spec.HeldStatus {
	b.t.Helper()
	s, ok := b.held(uid, epoch)
	if !ok {
		b.t.Fatalf("pod %s of epoch %d is not held", uid, epoch)
	}
	return s
}

// running returns the ids of the containers that run.
func (b *bench) running() (ids []container.ContainerID) {
	l, err := b.fake.List(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range l.Pods {
		for _, c := range p.Containers {
			if c.Running {
				ids = append(ids, c.ID)
			}
		}
	}
	return ids
}

func (b *bench) calls(prefix string) (n int) {
	for _, c := range b.fake.Calls() {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}
