package fence

import "time"

// Hello is what an agent says of itself to open a session.
type Hello struct {
	Session        int64
	Instance, Boot string
}

// Owner is the coordinator's side of one node's lease: one run of a coordinator, its clock, one node.
type Owner struct {
	self  string
	ttl   time.Duration
	start time.Duration

	rec      Record
	revision int64
	// open is set while renewals of rec's session are acknowledged.
	open bool
	// received is when the last sign of life of rec's session came.
	received time.Duration
	// seen is when rec was first seen here.
	seen time.Duration
	// held is set once the hold is written: this session is acknowledged with the record's T.
	held bool
	ownerFaults
}

// ownerFaults are errors that only tests switch on, to see that they are caught.
type ownerFaults struct {
	noMargin, ackAfterSeal, noRestartWait bool
}

// NewOwner is the lease of a node as this run finds it now: rec is what is stored (the zero Record where nothing is), at
// revision; start is when this run began: no earlier run has acknowledged anything since.
func NewOwner(self string, ttl time.Duration, rec Record, revision int64, start, now time.Duration) *Owner {
	return &Owner{self: self, ttl: ttl, start: start, rec: rec, revision: revision, seen: now}
}

// Record is the lease as it was last seen, with its revision.
func (o *Owner) Record() (Record, int64) { return o.rec, o.revision }

// Received is when the last sign of life came, and whether there was one in this run.
func (o *Owner) Received() (at time.Duration, ok bool) { return o.received, o.received != 0 }

// margin is M, for the record's T.
func (o *Owner) margin() time.Duration {
	if o.noMargin {
		return 0
	}
	return Margin(o.rec.TTL)
}

// over is when every deadline of the record's session has certainly passed.
func (o *Owner) over() time.Duration {
	switch {
	case o.rec.State == "":
		return o.start
	case o.rec.State == Sealed:
		return o.seen + o.rec.Remaining
	case o.rec.Owner == o.self && o.received != 0:
		return o.received + o.rec.TTL + o.margin()
	case o.noRestartWait:
		return o.start
	}
	// An earlier run acknowledged last: it did so before this one began.
	return o.start + o.rec.TTL + o.margin()
}

// Expired tells whether every deadline of the record's session has certainly passed, sealed or not.
func (o *Owner) Expired(now time.Duration) bool { return now >= o.over() }

// Admit says what record to write, on the condition that the lease is still at the revision of Record, so that the
// session is opened; or why it is not.
func (o *Owner) Admit(now time.Duration, h Hello) (Record, error) {
	same := o.rec.Instance == h.Instance && o.rec.Boot == h.Boot
	switch {
	case o.rec.State == "":
	case o.rec.Instance == h.Instance && h.Session <= o.rec.Session:
		return Record{}, ErrStale
	case o.rec.Barred && now < o.over()+BarGrace:
		return Record{}, ErrBarred
	case !same && now < o.over():
		return Record{}, ErrNameTaken
	}
	next := Record{State: Open, Owner: o.self, Session: h.Session, Instance: h.Instance, Boot: h.Boot, TTL: o.ttl}
	if same {
		// Deadlines of the session before may still stand on the longer T.
		next.TTL = max(next.TTL, o.rec.TTL)
	}
	return next, nil
}

// Opened says that the record of Admit was written at revision; heard is when Hello came. An answer that comes after a
// newer record was seen opens nothing: false.
func (o *Owner) Opened(heard time.Duration, rec Record, revision int64) bool {
	if revision < o.revision {
		return false
	}
	o.rec, o.revision, o.received, o.open, o.held = rec, revision, max(o.received, heard), true, false
	return true
}

// Revision is that of the record while session's lease is open and acknowledged here. A hold, or its end, changes it.
func (o *Owner) Revision(session int64) (int64, bool) {
	return o.revision, o.open && session == o.rec.Session
}

// See takes the record as the store has it. It never goes back to an older one.
func (o *Owner) See(now time.Duration, rec Record, revision int64) {
	if revision <= o.revision {
		return
	}
	if rec.State != Open || rec.Owner != o.self || rec.Session != o.rec.Session {
		if !o.ackAfterSeal {
			o.open = false
		}
	}
	o.rec, o.revision, o.seen = rec, revision, now
}

// Renew takes a renewal and says how long it lasts from when it was sent. ErrNotOpen ends the session.
func (o *Owner) Renew(now time.Duration, session int64) (ttl time.Duration, err error) {
	if !o.open || session != o.rec.Session {
		return 0, ErrNotOpen
	}
	o.received = now
	if o.held {
		return o.rec.TTL, nil
	}
	return min(o.ttl, o.rec.TTL), nil
}

// Lower says what record to write when nothing stands on a longer T any more; false when there is nothing to lower.
func (o *Owner) Lower(longest time.Duration) (Record, bool) {
	if !o.open || o.held || o.rec.TTL <= o.ttl || longest > o.ttl {
		return Record{}, false
	}
	next := o.rec
	next.TTL = o.ttl
	return next, true
}

// Seal answers a sealing record that See has taken: from now on nothing of that session is acknowledged, and the sealed
// record says how long it takes until all that was is over. False when there is nothing to answer.
func (o *Owner) Seal(now time.Duration) (Record, bool) {
	if o.rec.State != Sealing {
		return Record{}, false
	}
	if !o.ackAfterSeal {
		o.open = false
	}
	next := o.rec
	next.State, next.Remaining = Sealed, max(0, o.over()-now)
	return next, true
}

// Hold says what record to write before an orderly stop, so that fenced pods outlive it; false when none is open.
func (o *Owner) Hold() (Record, bool) {
	if !o.open {
		return Record{}, false
	}
	next := o.rec
	next.TTL = max(next.TTL, HoldTTL)
	return next, true
}

// Written says that a record of Lower, Hold or Seal was written at revision.
func (o *Owner) Written(now time.Duration, rec Record, revision int64) {
	if revision < o.revision {
		return
	}
	if revision > o.revision {
		o.seen = now
	}
	// See may have taken this very record before.
	o.held = o.held || o.open && rec.TTL >= max(HoldTTL, o.rec.TTL)
	o.rec, o.revision = rec, revision
}
