// Package endpoints works out which pods are behind each Service: those that its selector chooses, that have an address and
// have not finished. Nothing of it is stored: it follows from Services, pods, what agents say of them and what is believed of
// their nodes, and the Table keeps it up to date from the changes of these. So a pod is in no Service any more as soon as its
// unreadiness, its deletion or the verdict on its node is known here, without a write in between.
package endpoints

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// member is a pod that Services may choose.
type member struct {
	labels   map[string]string
	spec     *spec.PodSpec
	endpoint spec.Endpoint // without ports; Ready is the pod's own
	node     string
	revision int64
}

// entry is one Service with the pods behind it.
type entry struct {
	service  *spec.Service
	revision int64
	members  map[string]spec.Endpoint // by the pod's name
	changed  int64                    // the newest revision that any of it follows from
}

// Table knows the endpoints of all Services. Its methods may be called from any goroutine.
type Table struct {
	cache *store.Cache
	// filled is closed once everything has been looked at.
	filled chan struct{}

	mu       sync.Mutex
	services map[string]map[string]*entry // by namespace and name
	pods     map[string]map[string]*member
	byNode   map[string]map[spec.ObjectName]bool
	revision int64
	watches  map[*Watch]bool
}

// New builds a table that is empty before Run.
func New(cache *store.Cache) *Table {
	return &Table{cache: cache, filled: make(chan struct{}), watches: map[*Watch]bool{}}
}

// buffer is how many batches of changes the table may be behind before it looks at everything anew.
const buffer = 4096

// Run keeps the table up to date until ctx ends.
func (t *Table) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		view, sub := t.cache.Subscribe(buffer)
		t.fill(view)
		for changes := range sub.C(ctx) {
			t.apply(t.cache.View(), changes)
		}
		sub.Close()
	}
	return nil
}

// fill looks at everything, and tells the watches of all that was or is there.
func (t *Table) fill(v *store.View) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dirty := map[spec.ObjectName]bool{}
	for namespace, all := range t.services {
		for name := range all {
			dirty[spec.ObjectName{Namespace: namespace, Name: name}] = true
		}
	}
	t.services, t.pods, t.byNode = map[string]map[string]*entry{}, map[string]map[string]*member{}, map[string]map[spec.ObjectName]bool{}
	for rec := range v.All(store.Pods) {
		t.podLocked(v, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name}, nil)
	}
	for rec := range v.All(store.Services) {
		t.serviceLocked(v, spec.ObjectName{Namespace: rec.Key.Namespace, Name: rec.Key.Name}, dirty)
	}
	t.revision = v.Revision()
	select {
	case <-t.filled:
	default:
		close(t.filled)
	}
	t.tellLocked(dirty)
}

// Wait returns once the table knows everything; it fails only when ctx ends. Before, it would seem that there are no Services.
func (t *Table) Wait(ctx context.Context) error {
	select {
	case <-t.filled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Table) apply(v *store.View, changes store.Changes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pods, services := map[spec.ObjectName]bool{}, map[spec.ObjectName]bool{}
	for _, c := range changes.Changes {
		name := spec.ObjectName{Namespace: c.Key.Namespace, Name: c.Key.Name}
		switch c.Key.Family {
		case store.Pods, store.Bindings, store.PodStatuses:
			pods[name] = true
		case store.NodeStatus:
			maps.Copy(pods, t.byNode[c.Key.Name])
		case store.Services:
			services[name] = true
		}
	}
	dirty := map[spec.ObjectName]bool{}
	for name := range pods {
		t.podLocked(v, name, dirty)
	}
	for name := range services {
		t.serviceLocked(v, name, dirty)
	}
	t.revision = max(t.revision, changes.Revision)
	t.tellLocked(dirty)
}

// lookup is a pod as Services may choose it; nil for one that has no address, or has finished.
func lookup(v *store.View, name spec.ObjectName) *member {
	p, ok := fleet.LookupPod(v, name)
	if !ok || p.Binding == nil {
		return nil
	}
	m := &member{labels: p.Labels, spec: &p.Spec, node: p.Node(), revision: p.Revision}
	st := fleet.Shown(v, &p)
	if st.PodIP == "" || st.Phase.Final() {
		return m
	}
	hostname := p.Spec.Hostname
	if hostname == "" {
		hostname = p.Name
	}
	m.endpoint = spec.Endpoint{
		IP: st.PodIP, Ready: st.Ready() && !p.Deleting(), Pod: p.Name, PodUID: p.UID, Hostname: hostname, Node: p.Node(),
	}
	return m
}

// podLocked takes in what has become of a pod. dirty may be nil.
func (t *Table) podLocked(v *store.View, name spec.ObjectName, dirty map[spec.ObjectName]bool) {
	was, is := t.pods[name.Namespace][name.Name], lookup(v, name)
	if was != nil && (is == nil || is.node != was.node) {
		if delete(t.byNode[was.node], name); len(t.byNode[was.node]) == 0 {
			delete(t.byNode, was.node)
		}
	}
	switch {
	case is != nil:
		put(t.pods, name.Namespace, name.Name, is)
		put(t.byNode, is.node, name, true)
	case was != nil:
		if delete(t.pods[name.Namespace], name.Name); len(t.pods[name.Namespace]) == 0 {
			delete(t.pods, name.Namespace)
		}
	}
	for service, e := range t.services[name.Namespace] {
		if e.take(name.Name, is, v.Revision()) && dirty != nil {
			dirty[spec.ObjectName{Namespace: name.Namespace, Name: service}] = true
		}
	}
}

func put[A, B comparable, V any](m map[A]map[B]V, a A, b B, v V) {
	if m[a] == nil {
		m[a] = map[B]V{}
	}
	m[a][b] = v
}

// take updates one pod of a Service, and tells whether that changed its endpoints.
func (e *entry) take(pod string, m *member, revision int64) bool {
	was, had := e.members[pod]
	is, has := endpoint(e.service, m)
	switch {
	case !has && !had || has && had && is.Equal(was):
		return false
	case has:
		e.members[pod] = is
		e.changed = max(e.changed, m.revision)
	default:
		delete(e.members, pod)
		e.changed = max(e.changed, revision)
	}
	return true
}

// serviceLocked takes in what has become of a Service.
func (t *Table) serviceLocked(v *store.View, name spec.ObjectName, dirty map[spec.ObjectName]bool) {
	s, revision, ok := store.Get[*spec.Service](v, store.Key{Family: store.Services, Namespace: name.Namespace, Name: name.Name})
	if !ok {
		if _, had := t.services[name.Namespace][name.Name]; had {
			dirty[name] = true
		}
		if delete(t.services[name.Namespace], name.Name); len(t.services[name.Namespace]) == 0 {
			delete(t.services, name.Namespace)
		}
		return
	}
	e := &entry{service: s, revision: revision, changed: revision, members: map[string]spec.Endpoint{}}
	for pod, m := range t.pods[name.Namespace] {
		e.take(pod, m, revision)
	}
	put(t.services, name.Namespace, name.Name, e)
	dirty[name] = true
}

// endpoint is a pod as it is behind a Service; false where it is not.
func endpoint(s *spec.Service, m *member) (spec.Endpoint, bool) {
	if m == nil || m.endpoint.IP == "" || len(s.Spec.Selector) == 0 || !(spec.Selector{Labels: s.Spec.Selector}).Matches(m.labels) {
		return spec.Endpoint{}, false
	}
	e := m.endpoint
	e.Ready = e.Ready || s.Spec.PublishNotReady
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if number, ok := m.spec.PortOf(p); ok {
			e.Ports = append(e.Ports, spec.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: number})
		}
	}
	return e, true
}

// endpoints are those of an entry, by address.
func (e *entry) endpoints() spec.Endpoints {
	out := spec.Endpoints{Meta: e.service.Meta, Endpoints: slices.SortedFunc(maps.Values(e.members), func(a, b spec.Endpoint) int {
		return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.Pod, b.Pod))
	})}
	out.Revision = max(e.revision, e.changed)
	return out
}

// Get returns the endpoints of one Service.
func (t *Table) Get(name spec.ObjectName) (spec.Endpoints, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.services[name.Namespace][name.Name]
	if e == nil {
		return spec.Endpoints{}, false
	}
	return e.endpoints(), true
}

// List returns the endpoints of all Services that match, by namespace and name, and the revision that they are of.
func (t *Table) List(match func(*spec.Service) bool) (all []spec.Endpoints, revision int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, namespace := range slices.Sorted(maps.Keys(t.services)) {
		for _, name := range slices.Sorted(maps.Keys(t.services[namespace])) {
			if e := t.services[namespace][name]; match(e.service) {
				all = append(all, e.endpoints())
			}
		}
	}
	return all, t.revision
}

// Watch hears of Services whose endpoints may have changed.
type Watch struct {
	t *Table
	c chan struct{}

	mu    sync.Mutex
	dirty map[spec.ObjectName]bool
}

// Watch begins a watch, to which everything that is there counts as changed. It has to be closed.
func (t *Table) Watch() *Watch {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &Watch{t: t, c: make(chan struct{}, 1), dirty: map[spec.ObjectName]bool{}}
	for namespace, all := range t.services {
		for name := range all {
			w.dirty[spec.ObjectName{Namespace: namespace, Name: name}] = true
		}
	}
	t.watches[w] = true
	return w
}

// Close ends the watch.
func (w *Watch) Close() {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	delete(w.t.watches, w)
}

// C is signalled when there is something to take.
func (w *Watch) C() <-chan struct{} { return w.c }

// Take returns the names of the Services whose endpoints may have changed since the last time, in order, and the revision that
// the table is at.
func (w *Watch) Take() ([]spec.ObjectName, int64) {
	w.t.mu.Lock()
	revision := w.t.revision
	w.t.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	names := slices.SortedFunc(maps.Keys(w.dirty), func(a, b spec.ObjectName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	w.dirty = map[spec.ObjectName]bool{}
	return names, revision
}

func (t *Table) tellLocked(dirty map[spec.ObjectName]bool) {
	if len(dirty) == 0 {
		return
	}
	for w := range t.watches {
		w.mu.Lock()
		maps.Copy(w.dirty, dirty)
		w.mu.Unlock()
		select {
		case w.c <- struct{}{}:
		default:
		}
	}
}
