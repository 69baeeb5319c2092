package fence

import "time"

// Binding names what is held.
type Binding struct {
	UID   string
	Epoch int64
}

// Holder is the agent's side: it turns acknowledgements into deadlines for the fenced bindings that are assigned in the
// present session. That a pod which its lease has ended waits for a newer session is its runner's to see to: here it only
// has a deadline that has passed, until there is another.
type Holder struct {
	session int64
	// sent has when each renewal went out that is not answered yet.
	sent map[uint64]time.Duration
	// held is set once this session's full set has come.
	held     bool
	bindings map[Binding]*deadline

	holderFaults
}

// holderFaults are errors that only tests switch on.
type holderFaults struct {
	ackTime, ackBeforeSet, anySession bool
}

type deadline struct {
	at time.Duration
	// session is the one that assigned it last.
	session int64
}

// maxUnanswered bounds the renewals that wait for an answer: older ones are forgotten, and their answers ignored.
const maxUnanswered = 1024

// NewHolder holds nothing.
func NewHolder() *Holder {
	return &Holder{sent: map[uint64]time.Duration{}, bindings: map[Binding]*deadline{}}
}

// Begin starts a session: from now on only its messages count.
func (h *Holder) Begin(session int64) {
	h.session, h.held = session, false
	clear(h.sent)
}

// Sent notes that renewal n goes out now. It must be called before the message can leave.
func (h *Holder) Sent(session int64, n uint64, now time.Duration) {
	if session != h.session {
		return
	}
	if len(h.sent) >= maxUnanswered {
		for k := range h.sent {
			if k+maxUnanswered <= n {
				delete(h.sent, k)
			}
		}
	}
	h.sent[n] = now
}

// Acked takes the answer to renewal n: every binding that is assigned in this session may go on for ttl from when n was
// sent. It returns the bindings whose deadline has moved.
func (h *Holder) Acked(session int64, n uint64, ttl, now time.Duration) []Binding {
	at, ok := h.sent[n]
	if session != h.session || !ok {
		return nil
	}
	for k := range h.sent {
		if k <= n { // only answers to later ones count from now on
			delete(h.sent, k)
		}
	}
	if h.ackTime {
		at = now
	}
	if !h.held && !h.ackBeforeSet {
		return nil
	}
	var moved []Binding
	for b, d := range h.bindings {
		if d.session != session && !h.ackBeforeSet {
			continue
		}
		if at+ttl != d.at {
			d.at = at + ttl
			moved = append(moved, b)
		}
	}
	return moved
}

// Assign takes the fenced bindings of this session: all of them with full, otherwise more of them.
func (h *Holder) Assign(session int64, full bool, bindings []Binding) {
	if session != h.session && !h.anySession {
		return
	}
	for _, b := range bindings {
		d := h.bindings[b]
		if d == nil {
			d = &deadline{}
			h.bindings[b] = d
		}
		d.session = h.session
	}
	h.held = h.held || full
}

// Withdraw says that a binding is no longer assigned; what runs of it gets no more time.
func (h *Holder) Withdraw(session int64, b Binding) {
	if d := h.bindings[b]; d != nil && session == h.session {
		d.session = 0
	}
}

// Unassigned returns the bindings that this session, whose full set has come, has not assigned.
func (h *Holder) Unassigned() []Binding {
	if !h.held {
		return nil
	}
	var all []Binding
	for b, d := range h.bindings {
		if d.session != h.session {
			all = append(all, b)
		}
	}
	return all
}

// Forget drops a binding of which nothing runs any more.
func (h *Holder) Forget(b Binding) { delete(h.bindings, b) }

// Deadline is until when a binding may execute; false when it may not at all.
func (h *Holder) Deadline(b Binding) (time.Duration, bool) {
	d := h.bindings[b]
	if d == nil || d.at == 0 {
		return 0, false
	}
	return d.at, true
}

// Assigned tells whether a binding is assigned in this session and may be started under it.
func (h *Holder) Assigned(b Binding) bool {
	d := h.bindings[b]
	return d != nil && h.held && d.session == h.session
}

// Longest is the longest time that any binding still has.
func (h *Holder) Longest(now time.Duration) time.Duration {
	var longest time.Duration
	for _, d := range h.bindings {
		longest = max(longest, d.at-now)
	}
	return longest
}

// Adopt takes up a binding that runs already, with the deadline that it was given. It is extended once a session has
// assigned it.
func (h *Holder) Adopt(b Binding, at time.Duration) {
	d := h.bindings[b]
	if d == nil {
		d = &deadline{}
		h.bindings[b] = d
	}
	d.at = max(d.at, at)
}
