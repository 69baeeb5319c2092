package fence

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const t10 = 10 * time.Second

var webHello = Hello{Session: 1, Instance: "i", Boot: "b"}

// opened is an owner, begun at 100 s, that has opened session 1 at 101 s, revision 5.
func opened(t *testing.T) *Owner {
	t.Helper()
	o := NewOwner("run2", t10, Record{}, 0, 100*time.Second, 100*time.Second)
	rec, err := o.Admit(101*time.Second, webHello)
	if err != nil || !o.Opened(101*time.Second, rec, 5) {
		t.Fatalf("session 1 not opened: %v", err)
	}
	return o
}

func TestTTLOutOfBoundsIsRefused(t *testing.T) {
	for ttl, ok := range map[time.Duration]bool{
		MinTTL - 1: false, MinTTL: true, DefaultTTL: true, MaxTTL: true, MaxTTL + 1: false,
	} {
		if err := CheckTTL(ttl); (err == nil) != ok {
			t.Errorf("%v: %v", ttl, err)
		}
	}
}

func TestMarginAndRenewalFollowTheTTL(t *testing.T) {
	for _, c := range []struct{ ttl, margin, every time.Duration }{
		{3 * time.Second, time.Second, 600 * time.Millisecond},
		{5 * time.Second, time.Second, time.Second},
		{10 * time.Second, 2 * time.Second, time.Second},
		{2 * time.Minute, 24 * time.Second, time.Second},
	} {
		if m, e := Margin(c.ttl), RenewEvery(c.ttl); m != c.margin || e != c.every {
			t.Errorf("%v: margin %v, every %v", c.ttl, m, e)
		}
	}
}

func TestOwnerAdmits(t *testing.T) {
	open := Record{State: Open, Owner: "run1", Session: 7, Instance: "i", Boot: "b", TTL: t10}
	with := func(change func(*Record)) Record {
		r := open
		change(&r)
		return r
	}
	for _, c := range []struct {
		name  string
		rec   Record
		now   time.Duration // the run began at 100 s
		hello Hello
		want  error
	}{
		{"a node that never had a lease", Record{}, 100 * time.Second, webHello, nil},
		{"the same life's next session at once", open, 100 * time.Second, Hello{8, "i", "b"}, nil},
		{"no session number twice", open, 200 * time.Second, Hello{7, "i", "b"}, ErrStale},
		{"no lower session number of another boot", open, 200 * time.Second, Hello{6, "i", "c"}, ErrStale},
		{"no other boot while an earlier run's lease may live", open, 111 * time.Second, Hello{8, "i", "c"}, ErrNameTaken},
		{"another boot when it is over", open, 112 * time.Second, Hello{8, "i", "c"}, nil},
		{"no other instance while the lease may live", open, 111 * time.Second, Hello{1, "j", "b"}, ErrNameTaken},
		{"another instance, which numbers anew, when it is over", open, 112 * time.Second, Hello{1, "j", "b"}, nil},
		{"the hold's longer lease is waited for", with(func(r *Record) { r.TTL = HoldTTL }), 243 * time.Second, Hello{8, "i", "c"}, ErrNameTaken},
		{"what remains of a sealed lease is waited for", with(func(r *Record) { r.State, r.Remaining = Sealed, 4*time.Second }),
			103 * time.Second, Hello{1, "j", "b"}, ErrNameTaken},
		{"and not longer", with(func(r *Record) { r.State, r.Remaining = Sealed, 4*time.Second }), 104 * time.Second, Hello{1, "j", "b"}, nil},
		{"its own session undoes a seal", with(func(r *Record) { r.State = Sealing }), 101 * time.Second, Hello{8, "i", "b"}, nil},
		{"but not a bar, for the wait and the moves", with(func(r *Record) { r.State, r.Barred, r.Remaining = Sealed, true, 4*time.Second }),
			108 * time.Second, Hello{8, "i", "b"}, ErrBarred},
		{"after which it is let in", with(func(r *Record) { r.State, r.Barred, r.Remaining = Sealed, true, 4*time.Second }),
			109 * time.Second, Hello{8, "i", "b"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := NewOwner("run2", t10, c.rec, 3, 100*time.Second, 100*time.Second)
			got, err := o.Admit(c.now, c.hello)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil && (got.State != Open || got.Owner != "run2" || got.Session != c.hello.Session || got.Barred || got.Remaining != 0) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestOwnerAnswersASealWithWhatItsLastAcknowledgementLeaves(t *testing.T) {
	o := opened(t)
	if _, err := o.Renew(110*time.Second, 1); err != nil {
		t.Fatal(err)
	}
	rec, _ := o.Record()
	rec.State = Sealing
	o.See(113*time.Second, rec, 6)
	sealed, ok := o.Seal(113 * time.Second)
	if want := 9 * time.Second; !ok || sealed.State != Sealed || sealed.Remaining != want || sealed.Session != 1 {
		t.Fatalf("got %+v, want %v left", sealed, want)
	}
	if _, err := o.Renew(113*time.Second, 1); !errors.Is(err, ErrNotOpen) {
		t.Errorf("a renewal after the seal: %v", err)
	}
}

func TestOwnerAnswersForAnEarlierRunByItsOwnWait(t *testing.T) {
	rec := Record{State: Sealing, Owner: "run1", Session: 7, TTL: t10}
	o := NewOwner("run2", t10, rec, 3, 100*time.Second, 104*time.Second)
	if got, ok := o.Seal(104 * time.Second); !ok || got.Remaining != 8*time.Second {
		t.Errorf("got %+v", got)
	}
}

func TestAnOpenThatWasOvertakenBySealingAcknowledgesNothing(t *testing.T) {
	o := NewOwner("run2", t10, Record{}, 0, 0, time.Second)
	rec, err := o.Admit(time.Second, webHello)
	if err != nil {
		t.Fatal(err)
	}
	sealing := rec
	sealing.State = Sealing
	o.See(2*time.Second, rec, 5)
	o.See(2*time.Second, sealing, 6)
	if o.Opened(time.Second, rec, 5) {
		t.Error("opened")
	}
	if _, err := o.Renew(2*time.Second, 1); !errors.Is(err, ErrNotOpen) {
		t.Errorf("renewed: %v", err)
	}
}

func TestAHoldIsAcknowledgedOnceItIsWritten(t *testing.T) {
	for _, seenFirst := range []bool{false, true} {
		o := opened(t)
		rec, ok := o.Hold()
		if !ok || rec.TTL != HoldTTL {
			t.Fatalf("got %+v", rec)
		}
		if ttl, _ := o.Renew(102*time.Second, 1); ttl != t10 {
			t.Errorf("before it was written: %v", ttl)
		}
		if seenFirst {
			o.See(103*time.Second, rec, 6)
		}
		o.Written(103*time.Second, rec, 6)
		if ttl, err := o.Renew(104*time.Second, 1); err != nil || ttl != HoldTTL {
			t.Errorf("seen first %v: %v %v", seenFirst, ttl, err)
		}
		if _, ok := o.Lower(0); ok {
			t.Error("lowered in a session that was acknowledged with it")
		}
		if rev, ok := o.Revision(1); !ok || rev != 6 {
			t.Errorf("the session's revision: %d %v", rev, ok)
		}
	}
}

func TestAKeptHoldIsLoweredOnlyWhenNothingStandsOnIt(t *testing.T) {
	old := Record{State: Open, Owner: "run1", Session: 1, Instance: "i", Boot: "b", TTL: HoldTTL}
	o := NewOwner("run2", t10, old, 5, 100*time.Second, 100*time.Second)
	rec, err := o.Admit(101*time.Second, Hello{2, "i", "b"})
	if err != nil || rec.TTL != HoldTTL {
		t.Fatalf("got %+v, %v: the longer T must be kept", rec, err)
	}
	o.Opened(101*time.Second, rec, 6)
	if ttl, _ := o.Renew(102*time.Second, 2); ttl != t10 {
		t.Errorf("acknowledged with %v", ttl)
	}
	if _, ok := o.Lower(t10 + 1); ok {
		t.Error("lowered while a timer stood on it")
	}
	low, ok := o.Lower(t10)
	if !ok || low.TTL != t10 {
		t.Fatalf("not lowered: %+v", low)
	}
	o.Written(103*time.Second, low, 7)
	// A second orderly stop holds again.
	hold, ok := o.Hold()
	if !ok {
		t.Fatal("no second hold")
	}
	o.Written(104*time.Second, hold, 8)
	if ttl, _ := o.Renew(105*time.Second, 2); ttl != HoldTTL {
		t.Errorf("second hold acknowledged with %v", ttl)
	}
}

func TestAHoldOverAKeptHoldHolds(t *testing.T) {
	old := Record{State: Open, Owner: "run1", Session: 1, Instance: "i", Boot: "b", TTL: HoldTTL}
	o := NewOwner("run2", t10, old, 5, 0, time.Second)
	rec, _ := o.Admit(time.Second, Hello{2, "i", "b"})
	o.Opened(time.Second, rec, 6)
	hold, _ := o.Hold()
	o.Written(2*time.Second, hold, 7)
	if ttl, _ := o.Renew(3*time.Second, 2); ttl != HoldTTL {
		t.Errorf("acknowledged with %v", ttl)
	}
}

func TestSealerCountsTheWaitFromWhenItSaw(t *testing.T) {
	var s Sealer
	s.See(50*time.Second, Record{State: Sealed, Remaining: 8 * time.Second}, 4)
	for now, want := range map[time.Duration]bool{57 * time.Second: false, 58 * time.Second: true} {
		if rev, ok := s.Over(now); ok != want || ok && rev != 4 {
			t.Errorf("at %v: %v %d", now, ok, rev)
		}
	}
	if left, ok := s.Left(55 * time.Second); !ok || left != 3*time.Second {
		t.Errorf("left %v %v", left, ok)
	}
	s.See(59*time.Second, Record{State: Open}, 5)
	if _, ok := s.Over(time.Hour); ok {
		t.Error("over after it was opened anew")
	}
}

// A node that opens a session after every seal, and never does more, must not keep its pods for ever.
func TestTheThirdSealOfANodeThatKeepsReopeningIsBarred(t *testing.T) {
	o := opened(t)
	var s Sealer
	revision, session, now := int64(5), int64(1), 101*time.Second
	write := func(rec Record) {
		revision++
		o.See(now, rec, revision)
		s.See(now, rec, revision)
	}
	rec, _ := o.Record()
	s.See(now, rec, revision)
	for round := 1; round <= 3; round++ {
		sealing, _, ok := s.Seal(now)
		if !ok || sealing.Barred != (round == 3) {
			t.Fatalf("seal %d: %+v", round, sealing)
		}
		write(sealing)
		sealed, _ := o.Seal(now)
		write(sealed)
		now += 5 * time.Second
		session++
		rec, err := o.Admit(now, Hello{session, "i", "b"})
		if round < 3 {
			if err != nil {
				t.Fatal(err)
			}
			revision++
			o.Opened(now, rec, revision)
			s.See(now, rec, revision)
			continue
		}
		if !errors.Is(err, ErrBarred) {
			t.Fatalf("third: %v", err)
		}
	}
	now += 12 * time.Second
	if _, ok := s.Over(now); !ok {
		t.Error("its pods can't move")
	}
	if !s.LastChoice(now) {
		t.Error("not the last choice")
	}
	// Seals that were undone long ago do not count.
	var later Sealer
	for i, st := range []State{Open, Sealing, Open, Sealing, Open} {
		later.See(time.Duration(i)*time.Second, Record{State: st}, int64(i+1))
	}
	if rec, _, _ := later.Seal(BarWindow + 5*time.Second); rec.Barred {
		t.Error("barred for old seals")
	}
}

func TestHolderExtendsFromWhenTheRenewalWasSent(t *testing.T) {
	h, b := NewHolder(), Binding{"u", 3}
	h.Begin(4)
	h.Sent(4, 1, 20*time.Second)
	h.Acked(4, 1, t10, 21*time.Second)
	if _, ok := h.Deadline(b); ok {
		t.Fatal("a deadline before it was assigned")
	}
	h.Assign(4, true, []Binding{b})
	if _, ok := h.Deadline(b); ok {
		t.Fatal("a deadline without an acknowledgement since the full set")
	}
	h.Sent(4, 2, 22*time.Second)
	h.Sent(4, 3, 23*time.Second)
	h.Acked(4, 3, t10, 24*time.Second)
	h.Acked(4, 2, t10, 25*time.Second) // a number below the last
	h.Acked(4, 9, t10, 25*time.Second) // never sent
	h.Acked(3, 3, t10, 25*time.Second) // an older session
	if at, ok := h.Deadline(b); !ok || at != 33*time.Second {
		t.Errorf("deadline %v %v, want 33s", at, ok)
	}
	h.Withdraw(4, b)
	h.Sent(4, 4, 26*time.Second)
	h.Acked(4, 4, t10, 26*time.Second)
	if at, _ := h.Deadline(b); at != 33*time.Second {
		t.Errorf("extended to %v after it was withdrawn", at)
	}
}

func TestHolderForgetsAnOldSessionsAssignments(t *testing.T) {
	h, kept, gone := NewHolder(), Binding{"u", 3}, Binding{"v", 4}
	h.Begin(1)
	h.Assign(1, true, []Binding{kept, gone})
	h.Begin(2)
	h.Assign(1, true, []Binding{gone})
	if h.Assigned(gone) || h.Assigned(kept) {
		t.Fatal("assigned by an older session")
	}
	h.Assign(2, true, []Binding{kept})
	h.Sent(2, 1, time.Second)
	h.Acked(2, 1, t10, time.Second)
	if _, ok := h.Deadline(gone); ok || !h.Assigned(kept) {
		t.Error("what the new session left out was extended")
	}
}

func TestHolderBoundsWhatItRemembersOfRenewals(t *testing.T) {
	h := NewHolder()
	h.Begin(1)
	for n := range uint64(10 * maxUnanswered) {
		h.Sent(1, n, time.Duration(n))
	}
	if len(h.sent) > maxUnanswered {
		t.Errorf("%d are remembered", len(h.sent))
	}
}

func TestSupervisorPublishesThenArmsThenLets(t *testing.T) {
	s := NewSupervisor(30 * time.Second)
	now := 100 * time.Second
	if st := s.Next(now, 110*time.Second); st != (Step{Do: Publish, At: 110 * time.Second}) {
		t.Fatalf("first %+v", st)
	}
	if s.MayStart(now, 110*time.Second) {
		t.Error("may start before it is armed")
	}
	if st := s.Next(now, 108*time.Second); st != (Step{Do: Arm, At: 108 * time.Second}) {
		t.Fatalf("the page has fallen: %+v", st)
	}
	if st := s.Next(now, 108*time.Second); st != (Step{Do: Publish, At: 108 * time.Second}) {
		t.Fatalf("what stands: %+v", st)
	}
	if s.MayStart(now, 100500*time.Millisecond) {
		t.Error("may start though the page has fallen")
	}
	if !s.MayStart(now, 108*time.Second) || s.MayStart(107*time.Second+1, 108*time.Second) {
		t.Error("may start with a second left, and not with less")
	}
	// Half of what is left before SIGTERM, which comes a second before the deadline.
	if st := s.Next(now, 108*time.Second); st != (Step{Do: Wait, Again: 103500 * time.Millisecond}) {
		t.Errorf("%+v", st)
	}
	if st := s.Next(107*time.Second, 108*time.Second); st.Do != Term {
		t.Errorf("at the end %+v", st)
	}
	if st := s.Next(107*time.Second, 120*time.Second); st.Do != Wait || s.MayStart(107*time.Second, 120*time.Second) {
		t.Errorf("after the end %+v", st)
	}
}

func TestSupervisorRefusesUnderASecond(t *testing.T) {
	for page, refused := range map[time.Duration]bool{0: true, 100500 * time.Millisecond: true, 101 * time.Second: false} {
		if st := NewSupervisor(0).Next(100*time.Second, page); (st.Do == Refuse) != refused {
			t.Errorf("%v: %+v", page, st)
		}
	}
}

func TestSupervisorEndsAtOnceWhenItsSlotIsAnothers(t *testing.T) {
	s := NewSupervisor(0)
	for range 2 {
		s.Next(0, t10)
	}
	if st := s.Next(time.Second, 0); st != (Step{Do: Arm}) {
		t.Errorf("%+v", st)
	}
}

// Whatever the page says and whenever it is asked, the timer is never armed for later than what was published before and
// than what the page said at that moment.
func TestSupervisorNeverArmsWhatIsNotPublishedOrAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSupervisor(time.Duration(rapid.IntRange(0, 5).Draw(t, "grace")) * time.Second)
		now, published, armed := time.Duration(0), time.Duration(0), time.Duration(0)
		for range 50 {
			now += time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 300, 1000, 3000}).Draw(t, "ms")) * time.Millisecond
			page := now + time.Duration(rapid.SampledFrom([]int{500, 1000, 2000, 5000, 8000, 11000, 15000}).Draw(t, "left"))*time.Millisecond
			if rapid.IntRange(0, 20).Draw(t, "gone") == 20 {
				page = 0
			}
			if armed > 0 && now >= armed-KillLead {
				return // killed
			}
			switch st := s.Next(now, page); st.Do {
			case Publish:
				published = st.At
				if st.At < armed {
					t.Fatalf("%v published while %v is armed", st.At, armed)
				}
			case Arm:
				if armed = st.At; armed == 0 {
					return // killed at once
				}
				if armed > published || armed > page {
					t.Fatalf("armed %v, published %v, page %v", armed, published, page)
				}
			case Wait:
				if s.MayStart(now, page) && (armed-now < StartLead || page-now < StartLead) {
					t.Fatalf("may start at %v, armed %v, page %v", now, armed, page)
				}
			}
		}
	})
}
