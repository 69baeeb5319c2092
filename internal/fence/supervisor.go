package fence

import "time"

const (
	// StartLead is how much time must be left for anything fenced to start.
	StartLead = time.Second
	// MaxTermLead is how long before the kill a pod is asked to end, at most: of its grace the fence gives no more.
	MaxTermLead = 500 * time.Millisecond
	// minLook is the least time between two looks at the page.
	minLook = 10 * time.Millisecond
)

// Do is what a supervisor does next.
type Do uint8

// What a supervisor does.
const (
	// Wait does nothing until Again.
	Wait Do = iota
	// Publish writes At as armed onto the page, and asks again.
	Publish
	// Arm sets the kernel's timer to kill the supervisor at At−KillLead, at once if that has passed, and asks again.
	Arm
	// Term asks the containers to end. The timer stands: it kills what has not. Nothing more follows.
	Term
	// Refuse starts nothing: the page has no time, or under StartLead. Nothing more follows.
	Refuse
)

// Step is one thing to do.
type Step struct {
	Do Do
	// At belongs to Publish and Arm: a deadline.
	At time.Duration
	// Again belongs to Wait: when to ask again.
	Again time.Duration
}

// Supervisor is the executor's side of one fenced pod. Its owner asks Next what to do, does it, and asks again, each
// time with what the page says at that moment.
//
//	         page has time               page read again: arm the lower one
//	begin ──────────────▶ published ──────────────────────▶ armed ──▶ waits, half of what is left
//	  │ under StartLead       ▲                                │          │ page changed     │ nothing came
//	  ▼                       └────────────────────────────────┼──────────┘                  ▼
//	refused                                                    └ publishes what stands    asked to end
//
// What will be armed stands on the page before it is armed, so that whoever sums up the longest time left never misses
// a timer; and the page is read again after that, so that a timer is never armed for a time that was taken back before.
type Supervisor struct {
	lead  time.Duration
	stage stage
	// rising is what has been published to be armed next, armed what the timer stands at, published what the page says.
	rising, armed, published time.Duration

	supervisorFaults
}

// supervisorFaults are errors that only tests switch on.
type supervisorFaults struct {
	startBeforeArming, publishAfterArming bool
}

type stage uint8

const (
	looking stage = iota
	raising
	ended
)

// NewSupervisor supervises a pod with this termination grace. Nothing may execute yet.
func NewSupervisor(grace time.Duration) *Supervisor {
	return &Supervisor{lead: KillLead + min(max(grace, 0), MaxTermLead)}
}

// Next says what to do at now. page is the deadline that the page has just now for this supervisor's epoch, 0 when the
// slot is another's.
func (s *Supervisor) Next(now, page time.Duration) Step {
	switch {
	case s.stage == ended:
		return Step{Do: Wait, Again: now + time.Hour}
	case s.armed == 0 && page-now < StartLead:
		s.stage = ended
		return Step{Do: Refuse}
	case page == 0: // the slot is another's: nothing may be written there, and nobody counts this timer any more
		s.stage = ended
		return Step{Do: Arm}
	case s.stage == raising:
		s.armed, s.stage = min(s.rising, page), looking
		return Step{Do: Arm, At: s.armed}
	case page != s.armed:
		s.rising, s.stage = page, raising
		if s.publishAfterArming {
			return s.Next(now, page)
		}
		s.published = max(page, s.armed)
		return Step{Do: Publish, At: s.published}
	case s.published != s.armed:
		s.published = s.armed
		return Step{Do: Publish, At: s.armed}
	}
	left := s.armed - s.lead - now
	if left <= 0 {
		s.stage = ended
		return Step{Do: Term}
	}
	return Step{Do: Wait, Again: now + max(left/2, minLook)}
}

// MayStart tells whether a container may start at now, with page as in Next: the timer stands, and both it and the page
// leave at least StartLead.
func (s *Supervisor) MayStart(now, page time.Duration) bool {
	if s.stage == ended || page-now < StartLead {
		return false
	}
	return s.startBeforeArming || s.armed-now >= StartLead
}
