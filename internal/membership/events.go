package membership

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// events takes memberlist's news in. Its methods are called under memberlist's lock: they only note what has changed.
type events Membership

func (e *events) NotifyJoin(n *memberlist.Node) { (*Membership)(e).note(n, Alive) }

func (e *events) NotifyUpdate(n *memberlist.Node) { (*Membership)(e).note(n, Alive) }

func (e *events) NotifyLeave(n *memberlist.Node) {
	state := Dead
	if meta, err := decodeMeta(n.Meta); err == nil && meta.Leaving {
		state = Left
	}
	(*Membership)(e).note(n, state)
}

// note keeps a member's newest state and queues the change. The queue has each member once, so it is as bounded as the
// members are.
func (m *Membership) note(n *memberlist.Node, state State) {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		m.deps.Log.Warn("gossip: a member says something of itself that is not understood", "node", n.Name, "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.members[n.Name]
	member := Member{Name: n.Name, State: state, Address: n.Address(), Meta: meta, Since: before.Since}
	if !known || before.State != state || before.Meta.Run != meta.Run {
		member.Since = time.Now()
	}
	m.members[n.Name] = member
	if n.Name == m.cfg.Name || m.deps.Changed == nil {
		return
	}
	if !slices.Contains(m.order, n.Name) {
		m.order = append(m.order, n.Name)
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// deliver tells Changed of every change.
func (m *Membership) deliver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		}
		for {
			c, ok := m.next()
			if !ok || ctx.Err() != nil {
				break
			}
			m.deps.Changed(c)
		}
	}
}

func (m *Membership) next() (Change, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.order) == 0 {
		return Change{}, false
	}
	name := m.order[0]
	m.order = m.order[1:]
	return Change{m.members[name]}, true
}

const (
	// clashGap is how long nothing may be seen of a clash before it counts as over.
	clashGap = 2 * maxRejoin
	// clashPatience is how long somebody else may have this member's name before a person should know: a former run of it
	// is forgotten by then.
	clashPatience = time.Minute
)

// clash is what is known of somebody else under this member's name.
type clash struct {
	// since and last are when it was first and last seen, told when a person was told.
	since, last, told time.Time
}

// NotifyConflict implements memberlist.ConflictDelegate: somebody at another address has a living member's name.
func (e *events) NotifyConflict(existing, other *memberlist.Node) {
	m := (*Membership)(e)
	if existing.Name != m.cfg.Name {
		m.deps.Log.Debug("gossip: two members of one name", "node", existing.Name, "address", existing.Address(), "other", other.Address())
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now, c := time.Now(), &m.clash
	if now.Sub(c.last) > clashGap {
		c.since = now
	}
	c.last = now
	if now.Sub(c.since) > clashPatience && now.Sub(c.told) > clashPatience {
		c.told = now
		m.deps.Log.Error("gossip: another member has this one's name, so this one is not heard", "node", m.cfg.Name, "other", other.Address())
	}
}
