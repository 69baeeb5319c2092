package event_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/event"
	"github.com/musterhq/muster/internal/spec"
)

var web = spec.ObjectRef{Kind: "Pod", Namespace: "shop", Name: "web", UID: "u1"}

// drain returns what comes within d.
func drain(t *testing.T, r *event.Recorder, d time.Duration) (all []spec.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		events, err := r.Next(ctx, 100)
		if err != nil {
			return all
		}
		all = append(all, events...)
	}
}

func TestFirstOccurrenceGoesOutAtOnceAndItsCountOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begin := event.New("agent", "n1"), time.Now()
		r.Record(web, spec.EventWarning, "Unhealthy", "refused")
		first := drain(t, r, time.Second)
		if len(first) != 1 {
			t.Fatalf("%d events, want 1", len(first))
		}
		e := first[0]
		if e.Count != 1 || e.Type != "Warning" || e.Reason != "Unhealthy" || e.Message != "refused" || e.Involved != web || e.Namespace != "shop" ||
			!strings.HasPrefix(e.Name, "web.") || !e.FirstTime.Equal(begin) || e.Source != "agent" || e.Node != "n1" {
			t.Errorf("event %+v", e)
		}
		for range 120 { // 10 s apart, for 20 minutes
			time.Sleep(10 * time.Second)
			r.Record(web, spec.EventWarning, "Unhealthy", "refused")
		}
		more := drain(t, r, 2*time.Minute)
		if n := len(more); n != 1 || more[0].Count != 121 || more[0].Name != e.Name || !more[0].FirstTime.Equal(begin) {
			t.Errorf("%d writes after 20 minutes without a reader: %+v", n, more)
		}
		stop := make(chan int)
		go func() { stop <- len(drain(t, r, 10*time.Minute+time.Second)) }()
		for range 59 {
			time.Sleep(10 * time.Second)
			r.Record(web, spec.EventWarning, "Unhealthy", "refused")
		}
		if n := <-stop; n < 9 || n > 11 {
			t.Errorf("%d writes in 10 minutes, want one a minute", n)
		}
		drain(t, r, time.Minute) // the last count
		if n := len(drain(t, r, time.Hour)); n != 0 {
			t.Errorf("%d writes without news", n)
		}
	})
}

func TestDifferentObjectsAndFieldsAreDifferentEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := event.New("agent", "n1")
		field, other := web, web
		field.FieldPath, other.UID = "spec.containers{web}", "u2"
		for _, ref := range []spec.ObjectRef{web, field, other} {
			r.Record(ref, spec.EventNormal, "Started", "Container started")
		}
		names := map[string]bool{}
		for _, e := range drain(t, r, time.Second) {
			names[e.Name] = true
		}
		if len(names) != 3 {
			t.Errorf("%d events, want 3 with names of their own", len(names))
		}
	})
}

// Rule 12.2.
func TestSimilarEventsAreCombined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := event.New("agent", "n1")
		for i := range 20 {
			r.Record(web, spec.EventWarning, "Unhealthy", fmt.Sprintf("attempt %d", i))
		}
		all := drain(t, r, 2*time.Minute)
		if len(all) != 11 {
			t.Fatalf("%d events, want 10 and a combined one", len(all))
		}
		if e := all[10]; e.Message != "(combined from similar events): attempt 19" || e.Count != 10 {
			t.Errorf("event %q with count %d", e.Message, e.Count)
		}
		r.Record(web, spec.EventWarning, "Failed", "Error: no")
		if all := drain(t, r, time.Second); len(all) != 1 || all[0].Message != "Error: no" {
			t.Errorf("another reason was combined: %+v", all)
		}
		time.Sleep(11 * time.Minute)
		r.Record(web, spec.EventWarning, "Unhealthy", "attempt 99")
		if all := drain(t, r, time.Second); len(all) != 1 || all[0].Message != "attempt 99" {
			t.Errorf("still combined after 10 quiet minutes: %+v", all)
		}
	})
}

func TestNewEventsOfAnObjectAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := event.New("agent", "n1")
		storm := func(n int) {
			for i := range n {
				r.Record(web, spec.EventNormal, fmt.Sprintf("Reason%d-%d", time.Now().Unix(), i), "x")
			}
		}
		storm(100)
		if n := len(drain(t, r, time.Second)); n != event.Burst || r.Dropped() != 100-event.Burst {
			t.Errorf("%d events and %d dropped, want %d and %d", n, r.Dropped(), event.Burst, 100-event.Burst)
		}
		time.Sleep(3*event.Refill + time.Second)
		storm(100)
		if n := len(drain(t, r, time.Second)); n != 3 {
			t.Errorf("%d events after %v, want 3", n, 3*event.Refill)
		}
		other := web
		other.UID = "u2"
		r.Record(other, spec.EventNormal, "Started", "x")
		if n := len(drain(t, r, time.Second)); n != 1 {
			t.Errorf("%d events of another object, want 1", n)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := event.New("agent", "n1")
		for i := range 3 * event.MaxEvents {
			ref := web
			ref.UID = fmt.Sprint(i)
			r.Record(ref, spec.EventNormal, "Started", strings.Repeat("x", 2*event.MaxMessage))
			if i%1000 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		all := drain(t, r, time.Second)
		if n := len(all); n > event.MaxEvents || n < event.MaxEvents/2 || int(r.Dropped())+n != 3*event.MaxEvents {
			t.Errorf("%d events kept, %d dropped of %d", n, r.Dropped(), 3*event.MaxEvents)
		}
		if last := all[len(all)-1]; last.Involved.UID != fmt.Sprint(3*event.MaxEvents-1) || len(last.Message) != event.MaxMessage {
			t.Errorf("the newest is %s with %d bytes", last.Involved.UID, len(last.Message))
		}
	})
}

func TestMessageIsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := event.New("agent", "n1")
		r.Record(web, spec.EventNormal, "Started", "a\xffb")
		if all := drain(t, r, time.Second); len(all) != 1 || all[0].Message != "a\uFFFDb" {
			t.Errorf("%+v", all)
		}
	})
}
