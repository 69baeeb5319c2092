package prober

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/internal/spec"
)

// beginner answers attempts as it is told, by the address of the question.
type beginner struct {
	mu    sync.Mutex
	asked map[string]int
	begun map[*probe.Question]int
}

func (b *beginner) begin(ctx context.Context, q *probe.Question, done probe.Done) (probe.Answer, probe.Begun) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun[q]++
	success := probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}
	switch q.Address {
	case "over":
		return success, probe.Over
	case "under way":
		time.AfterFunc(300*time.Millisecond, func() { done.Done(success) })
		return probe.Answer{}, probe.UnderWay
	case "at once":
		done.Done(success) // as by another goroutine that is faster
		return probe.Answer{}, probe.UnderWay
	case "errored":
		return probe.Answer{Outcome: spec.OutcomeErrored, Output: "no"}, probe.Over
	case "never":
		go func() {
			<-ctx.Done()
			time.Sleep(time.Second)
			done.Done(probe.Answer{Outcome: spec.OutcomeFailure})
		}()
		return probe.Answer{}, probe.UnderWay
	}
	return probe.Answer{}, probe.NotBegun
}

func (b *beginner) attempt(_ context.Context, q *probe.Question) probe.Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[q.Address]++
	return probe.Answer{Outcome: spec.OutcomeSuccess, Output: "asked", CPU: -1}
}

func TestAnAttemptThatNeedsNobodyIsBegunAndOthersAreMade(t *testing.T) {
	b := &beginner{asked: map[string]int{}, begun: map[*probe.Question]int{}}
	attempts := map[string][]spec.Attempt{}
	var ended time.Duration
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		p := New(Config{
			Attempt: b.attempt, Begin: b.begin, Report: func(Report) {}, Believe: func(spec.ProbeState) {}, Forgotten: func(spec.ProbeID) {},
			Result:  func(id spec.ProbeID, a spec.Attempt) { attempts[id.PodUID] = append(attempts[id.PodUID], a) },
			Metrics: r, Log: slog.New(slog.DiscardHandler),
		})
		for _, address := range []string{"over", "under way", "at once", "errored", "never", "another"} {
			p.Set(Row{
				ID: spec.ProbeID{PodUID: address, Container: "main", Kind: spec.Readiness}, Address: address, Instance: "i", Running: true, Started: true,
				Probe: &spec.Probe{Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3, Handler: spec.Handler{TCP: &spec.TCPAction{}}},
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Second)
		defer cancel()
		began := time.Now()
		_ = p.Run(ctx)
		ended = time.Since(began)
	})
	took := map[string]time.Duration{"over": 0, "under way": 300 * time.Millisecond, "at once": 0, "errored": 0, "another": 0}
	for address, want := range took {
		if n := len(attempts[address]); n < 9 || n > 10 {
			t.Errorf("%s: %d attempts", address, n)
		}
		for _, a := range attempts[address] {
			if a.Outcome != spec.OutcomeSuccess || a.Duration != want {
				t.Errorf("%s: %+v", address, a)
			}
		}
	}
	// One that could not be made is made again, by somebody who can wait; one that nobody waits for any more is not told of.
	if b.asked["errored"] != len(attempts["errored"]) || b.asked["another"] != len(attempts["another"]) || len(b.asked) != 2 || len(attempts["never"]) != 0 {
		t.Errorf("asked %v, never %v", b.asked, attempts["never"])
	}
	if ended != 96*time.Second {
		t.Errorf("it returned after %v, want once nothing is under way", ended)
	}
	var again []int
	for q, n := range b.begun {
		if q.Address != "never" {
			again = append(again, n)
		}
	}
	if len(again) != 5 || slices.Min(again) < 9 {
		t.Errorf("questions were asked %v times: each row has one", again)
	}
}

func TestAQuestionIsAnotherWhereItsRowHasChanged(t *testing.T) {
	var mu sync.Mutex
	var asked []probe.Question
	begin := func(_ context.Context, q *probe.Question, _ probe.Done) (probe.Answer, probe.Begun) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, *q)
		return probe.Answer{Outcome: spec.OutcomeSuccess, CPU: -1}, probe.Over
	}
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{
			Begin: begin, Report: func(Report) {}, Believe: func(spec.ProbeState) {}, Forgotten: func(spec.ProbeID) {}, Result: func(spec.ProbeID, spec.Attempt) {},
			Metrics: &recorder{}, Log: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = p.Run(ctx) }()
		row := Row{
			ID: spec.ProbeID{PodUID: "a", Container: "main", Kind: spec.Readiness}, Address: "1", Instance: "i", Running: true, Started: true,
			Probe: &spec.Probe{Period: 10 * time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: 3, Handler: spec.Handler{TCP: &spec.TCPAction{}}},
		}
		for _, change := range []func(){
			func() {}, func() { row.Address = "2" }, func() { row.Instance = "j" }, func() { row.Ports = []spec.Port{{Name: "a", Number: 1}} },
			func() { other := *row.Probe; other.FailureThreshold = 4; row.Probe = &other },
		} {
			change()
			p.Set(row)
			time.Sleep(time.Minute)
			mu.Lock()
			if q := asked[len(asked)-1]; q.Address != row.Address || q.Instance != row.Instance || len(q.Ports) != len(row.Ports) || q.Probe != row.Probe {
				t.Errorf("asked %+v, want %+v", q, row)
			}
			mu.Unlock()
		}
	})
}
