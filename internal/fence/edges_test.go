package fence

import (
	"errors"
	"testing"
	"time"
)

func TestAHoldNeverShortensALongerLease(t *testing.T) {
	o := NewOwner("run2", MaxTTL, Record{}, 0, time.Second, time.Second)
	rec, _ := o.Admit(2*time.Second, webHello)
	o.Opened(2*time.Second, rec, 5)
	if held, ok := o.Hold(); !ok || held.TTL != MaxTTL {
		t.Errorf("held for %v after acknowledgements of %v", held.TTL, MaxTTL)
	}
}

func TestASealUnderAKeptHoldWaitsForTheHold(t *testing.T) {
	o := NewOwner("run2", t10, Record{State: Open, Owner: "run1", Session: 1, Instance: "i", Boot: "b", TTL: HoldTTL}, 5, time.Second, time.Second)
	rec, err := o.Admit(2*time.Second, Hello{2, "i", "b"})
	if err != nil || rec.TTL != HoldTTL || !o.Opened(2*time.Second, rec, 6) {
		t.Fatalf("%+v %v", rec, err)
	}
	rec.State = Sealing
	o.See(3*time.Second, rec, 7)
	sealed, ok := o.Seal(3 * time.Second)
	if want := HoldTTL + Margin(HoldTTL) - time.Second; !ok || sealed.Remaining != want {
		t.Errorf("remaining %v, want %v: deadlines of the hold may stand", sealed.Remaining, want)
	}
}

// The open was written, but its answer never came: nothing was acknowledged by this run, and perhaps by the one before.
func TestAnOwnRecordThatWasNeverOpenedIsNotOverEarly(t *testing.T) {
	o := NewOwner("run2", t10, Record{State: Open, Owner: "run1", Session: 1, Instance: "i", Boot: "b", TTL: t10}, 5, 100*time.Second, 100*time.Second)
	o.See(101*time.Second, Record{State: Open, Owner: "run2", Session: 2, Instance: "i", Boot: "b", TTL: t10}, 6)
	if o.Expired(112*time.Second - 1) {
		t.Error("over before the run before it is")
	}
	if !o.Expired(112 * time.Second) {
		t.Error("not over after its start, T and M")
	}
}

func TestNoAcknowledgementIsLongerThanTheRecordSays(t *testing.T) {
	o := opened(t)
	rec, _ := o.Record()
	rec.TTL = MinTTL
	o.See(102*time.Second, rec, 6)
	if ttl, err := o.Renew(102*time.Second, 1); err != nil || ttl != MinTTL {
		t.Errorf("%v %v", ttl, err)
	}
}

func TestAnEarlierRunsWaitIsThatOfItsOwnTTL(t *testing.T) {
	o := NewOwner("run2", MinTTL, Record{State: Open, Owner: "run1", Session: 1, Instance: "i", Boot: "b", TTL: t10}, 5, 100*time.Second, 100*time.Second)
	if o.Expired(112*time.Second-1) || !o.Expired(112*time.Second) {
		t.Error("the wait is not that of the lease as it is stored")
	}
}

func TestASealedLeaseIsOverNoEarlierForItsOwnAnswer(t *testing.T) {
	o := opened(t)
	rec, _ := o.Record()
	rec.State = Sealing
	o.See(101*time.Second, rec, 6)
	sealed, _ := o.Seal(103 * time.Second)
	o.Written(104*time.Second, sealed, 7)
	if _, err := o.Admit(104*time.Second+sealed.Remaining-1, Hello{1, "other", "b"}); !errors.Is(err, ErrNameTaken) {
		t.Errorf("let in within what remained: %v", err)
	}
	if _, err := o.Admit(104*time.Second+sealed.Remaining, Hello{1, "other", "b"}); err != nil {
		t.Error(err)
	}
}

func TestALateSealHasNothingLeftToWait(t *testing.T) {
	o := opened(t)
	rec, _ := o.Record()
	rec.State = Sealing
	o.See(time.Hour, rec, 6)
	if sealed, ok := o.Seal(time.Hour); !ok || sealed.Remaining != 0 {
		t.Errorf("remaining %v", sealed.Remaining)
	}
}

func TestWhatIsSeenEndsAcknowledgementsByItself(t *testing.T) {
	is := func(change func(*Record)) Record {
		rec, _ := opened(t).Record()
		change(&rec)
		return rec
	}
	for name, rec := range map[string]Record{
		"sealing": is(func(r *Record) { r.State = Sealing }),
		"sealed":  is(func(r *Record) { r.State = Sealed }),
		"owner":   is(func(r *Record) { r.Owner = "run3" }),
		"session": is(func(r *Record) { r.Session = 2 }),
	} {
		o := opened(t)
		o.See(102*time.Second, rec, 6)
		for session := range int64(3) {
			if _, err := o.Renew(102*time.Second, session); !errors.Is(err, ErrNotOpen) {
				t.Errorf("%s: session %d acknowledged", name, session)
			}
		}
	}
	o := opened(t)
	rec, _ := o.Record()
	o.See(102*time.Second, is(func(r *Record) { r.State = Sealed }), 5) // of the same revision: not newer
	if o.See(102*time.Second, rec, 4); o.revision != 5 {
		t.Error("went back")
	}
	if _, err := o.Renew(103*time.Second, 1); err != nil {
		t.Errorf("ended by what is not newer: %v", err)
	}
}

func TestASessionAfterAHoldIsAcknowledgedWithoutIt(t *testing.T) {
	o := opened(t)
	held, _ := o.Hold()
	o.Written(102*time.Second, held, 6)
	rec, _ := o.Admit(103*time.Second, Hello{2, "i", "b"})
	o.Opened(103*time.Second, rec, 7)
	if ttl, err := o.Renew(104*time.Second, 2); err != nil || ttl != t10 {
		t.Errorf("%v %v", ttl, err)
	}
}

func TestOnlyAnOpenLeaseIsSealed(t *testing.T) {
	for _, st := range []State{"", Sealing, Sealed} {
		var s Sealer
		s.See(time.Second, Record{State: st}, 4)
		if _, _, ok := s.Seal(2 * time.Second); ok {
			t.Errorf("%q is sealed again", st)
		}
		if st != Sealed {
			if _, ok := s.Over(time.Hour); ok {
				t.Errorf("%q is over", st)
			}
		}
		if s.LastChoice(2 * time.Second) {
			t.Errorf("%q, not barred, is the last choice", st)
		}
	}
}

func TestABarredNodeIsKeptOutUntilItsPodsHadTimeToMove(t *testing.T) {
	o := NewOwner("run2", t10, Record{State: Sealed, Session: 1, Instance: "i", Boot: "b", TTL: t10, Remaining: 8 * time.Second, Barred: true}, 5, 0, 100*time.Second)
	var s Sealer
	rec, revision := o.Record()
	s.See(100*time.Second, rec, revision)
	if _, ok := s.Over(108 * time.Second); !ok {
		t.Error("its pods may not move yet")
	}
	if _, err := o.Admit(108*time.Second+BarGrace-1, Hello{2, "i", "b"}); !errors.Is(err, ErrBarred) {
		t.Errorf("let in too early: %v", err)
	}
	if rec, err := o.Admit(108*time.Second+BarGrace, Hello{2, "i", "b"}); err != nil || rec.Barred {
		t.Errorf("%+v %v", rec, err)
	}
}

func TestHolderStartsOnlyWhatThisSessionsFullSetAssigns(t *testing.T) {
	h := NewHolder()
	b, other := Binding{"u", 7}, Binding{"v", 8}
	h.Begin(1)
	h.Assign(1, false, []Binding{b})
	if h.Assigned(b) {
		t.Error("before the full set")
	}
	h.Assign(1, true, nil)
	if !h.Assigned(b) || h.Assigned(other) {
		t.Error("after the full set")
	}
	h.Adopt(other, time.Second)
	if h.Assigned(other) {
		t.Error("what runs already is not assigned for that")
	}
	h.Begin(2)
	h.Assign(2, false, []Binding{b})
	h.Sent(2, 1, time.Second)
	if h.Assigned(b) || h.Unassigned() != nil || h.Acked(2, 1, t10, time.Second) != nil {
		t.Error("the set of the session before counts")
	}
	h.Assign(2, true, nil)
	if h.Withdraw(1, b); !h.Assigned(b) {
		t.Error("withdrawn by an older session")
	}
	if h.Withdraw(2, b); h.Assigned(b) {
		t.Error("withdrawn, yet assigned")
	}
}

func TestADeadlineFallsWithAShorterAcknowledgement(t *testing.T) {
	h := NewHolder()
	b := Binding{"u", 7}
	h.Begin(1)
	h.Assign(1, true, []Binding{b})
	h.Sent(1, 1, time.Second)
	h.Acked(1, 1, HoldTTL, time.Second)
	h.Sent(1, 2, 2*time.Second)
	if moved := h.Acked(1, 2, t10, 2*time.Second); len(moved) != 1 || h.Longest(2*time.Second) != t10 {
		t.Errorf("moved %v, longest %v", moved, h.Longest(2*time.Second))
	}
}

func TestAnAnswerToARenewalOfAnOlderSessionExtendsNothing(t *testing.T) {
	h := NewHolder()
	b := Binding{"u", 7}
	h.Begin(1)
	h.Sent(1, 5, time.Second)
	h.Begin(2)
	h.Assign(2, true, []Binding{b})
	if moved := h.Acked(2, 5, t10, 3*time.Second); moved != nil {
		t.Errorf("%v by a number that this session never sent", moved)
	}
}

func TestAdoptingKeepsTheLaterDeadline(t *testing.T) {
	h := NewHolder()
	b := Binding{"u", 7}
	h.Adopt(b, 9*time.Second)
	h.Adopt(b, 4*time.Second)
	if at, ok := h.Deadline(b); !ok || at != 9*time.Second {
		t.Errorf("%v %v", at, ok)
	}
}
