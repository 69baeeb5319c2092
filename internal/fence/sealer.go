package fence

import "time"

// Sealer is the leader's side of one node's lease.
type Sealer struct {
	rec      Record
	revision int64
	// seen is when the sealed record was first seen.
	seen time.Duration
	// undone has when re-opens have undone seals, oldest first, within BarWindow.
	undone []time.Duration

	// inherits is an error that only tests switch on.
	inherits bool
}

// See takes the record as the leader's view has it.
func (s *Sealer) See(now time.Duration, rec Record, revision int64) {
	if revision <= s.revision {
		return
	}
	if s.rec.State != Open && s.rec.State != "" && rec.State == Open {
		s.undone = append(s.undone, now)
	}
	if rec.State == Sealed {
		if s.seen = now; s.inherits {
			s.seen = now - rec.Remaining
		}
	}
	s.rec, s.revision = rec, revision
}

// Seal says what record to write, on the condition that it is still at that revision, so that the lease ends. False when
// it is no open lease.
func (s *Sealer) Seal(now time.Duration) (rec Record, revision int64, ok bool) {
	if s.rec.State != Open {
		return Record{}, 0, false
	}
	for len(s.undone) > 0 && now-s.undone[0] > BarWindow {
		s.undone = s.undone[1:]
	}
	next := s.rec
	next.State, next.Barred = Sealing, len(s.undone) >= 2
	return next, s.revision, true
}

// Over says at which revision of the lease its pods may be bound elsewhere: it is sealed, and its time is over. Moves are
// conditioned on that revision.
func (s *Sealer) Over(now time.Duration) (revision int64, ok bool) {
	if s.rec.State != Sealed || now < s.seen+s.rec.Remaining {
		return 0, false
	}
	return s.revision, true
}

// Left is how long Over still says no; false when it is not known.
func (s *Sealer) Left(now time.Duration) (time.Duration, bool) {
	if s.rec.State != Sealed {
		return 0, false
	}
	return max(0, s.seen+s.rec.Remaining-now), true
}

// LastChoice tells whether the node was barred of late, so that it is the last choice for placement.
func (s *Sealer) LastChoice(now time.Duration) bool {
	return s.rec.Barred && now < s.seen+s.rec.Remaining+time.Minute
}
