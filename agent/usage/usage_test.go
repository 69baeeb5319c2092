package usage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/internal/spec"
)

var ref = container.PodRef{UID: "u1", Epoch: 3}

// bubble runs f with a meter over a fake runtime with one pod, in fake time.
func bubble(t *testing.T, f func(t *testing.T, m *Meter, r *containertest.Fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := containertest.NewFake()
		r.Behave = func(_ container.PodRef, c container.ContainerConfig) containertest.Behaviour {
			if c.Name == "busy" {
				return containertest.Behaviour{MilliCPU: 250, MemoryBytes: 5 << 20}
			}
			return containertest.Behaviour{MemoryBytes: 1 << 20}
		}
		if _, err := r.EnsurePod(t.Context(), container.PodConfig{PodRef: ref}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		at := func(cores float64, memory int64) func() Reading {
			return func() Reading { return Reading{time.Duration(cores * float64(time.Since(start))), memory} }
		}
		m := New(Config{Node: "node-1", Machine: at(1.5, 1<<30), Self: at(0.02, 40<<20)}, r, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		f(t, m, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func run(t *testing.T, r *containertest.Fake, name string) container.ContainerID {
	t.Helper()
	c, err := r.StartContainer(t.Context(), ref, container.ContainerConfig{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return c.ID
}

// next is the measurement after that number.
func next(t *testing.T, m *Meter, after *uint64) spec.NodeUsage {
	t.Helper()
	u, n, err := m.Next(t.Context(), *after)
	if err != nil || n <= *after {
		t.Fatalf("measurement %d, %v; want one after %d", n, err, *after)
	}
	*after = n
	return u
}

func TestTheFirstMeasurementKnowsMemoryAndTheSecondProcessorTime(t *testing.T) {
	bubble(t, func(t *testing.T, m *Meter, r *containertest.Fake) {
		run(t, r, "busy")
		run(t, r, "idle")
		number := uint64(0)
		first := next(t, m, &number)
		want := []spec.ContainerUsage{
			{PodUID: "u1", Container: "busy", Usage: spec.Usage{MicroCPU: -1, MemoryBytes: 5 << 20}},
			{PodUID: "u1", Container: "idle", Usage: spec.Usage{MicroCPU: -1, MemoryBytes: 1 << 20}},
		}
		if first.Window != 0 || !slices.Equal(first.Containers, want) || first.Machine != (spec.Usage{MicroCPU: -1, MemoryBytes: 1 << 30}) {
			t.Errorf("the first measurement is %+v", first)
		}
		second := next(t, m, &number)
		want[0].MicroCPU, want[1].MicroCPU = 250_000, 0
		if !slices.Equal(second.Containers, want) {
			t.Errorf("containers %+v, want %+v", second.Containers, want)
		}
		if second.Machine != (spec.Usage{MicroCPU: 1_500_000, MemoryBytes: 1 << 30}) || second.Agent != (spec.Usage{MicroCPU: 20_000, MemoryBytes: 40 << 20}) ||
			second.Supervisors != (spec.Usage{MicroCPU: 0, MemoryBytes: -1}) {
			t.Errorf("machine %+v, agent %+v, supervisors %+v", second.Machine, second.Agent, second.Supervisors)
		}
		if second.Window < Every/2 || second.Window >= Every+Every/2 || second.At.Sub(first.At) != second.Window {
			t.Errorf("the window is %v", second.Window)
		}
		if third := next(t, m, &number); third.Window != Every {
			t.Errorf("the window is %v, want %v", third.Window, Every)
		}
	})
}

func TestANewInstanceIsMeasuredAnewAndOneThatEndedNoMore(t *testing.T) {
	bubble(t, func(t *testing.T, m *Meter, r *containertest.Fake) {
		number := uint64(0)
		id := run(t, r, "busy")
		next(t, m, &number)
		next(t, m, &number)
		r.Exit(id, 0)
		if u := next(t, m, &number); len(u.Containers) != 0 {
			t.Errorf("after its end: %+v", u.Containers)
		}
		run(t, r, "busy")
		if u := next(t, m, &number); len(u.Containers) != 1 || u.Containers[0].MicroCPU != -1 {
			t.Errorf("a new instance: %+v, want one of which the processor time is not known", u.Containers)
		}
		if u := next(t, m, &number); u.Containers[0].MicroCPU != 250_000 {
			t.Errorf("a new instance uses %+v", u.Containers[0])
		}
	})
}

func TestWhatCannotBeReadIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := containertest.NewFake()
		dark := func() Reading { return Reading{-1, -1} }
		m := New(Config{Node: "node-1", Machine: dark, Self: dark}, r, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.FailNext("List", context.DeadlineExceeded)
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		number := uint64(0)
		for range 3 {
			if u := next(t, m, &number); u.Machine != spec.UnknownUsage || u.Agent != spec.UnknownUsage {
				t.Errorf("got %+v", u)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWhoAsksLateGetsTheNewestAtOnceAndOnlyThat(t *testing.T) {
	bubble(t, func(t *testing.T, m *Meter, _ *containertest.Fake) {
		time.Sleep(time.Minute)
		u, number, err := m.Next(t.Context(), 0)
		if age := time.Since(u.At); err != nil || number < 5 || age > Every {
			t.Errorf("measurement %d of %v ago, %v", number, age, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, n, err := m.Next(ctx, number); err == nil {
			t.Errorf("measurement %d came without being made", n)
		}
	})
}

func TestNodesMeasureAtDifferentMoments(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var second [15]int
	const nodes = 1000
	for i := range nodes {
		m := New(Config{Node: fmt.Sprintf("node-%d", i)}, nil, nil)
		pause := m.pause(at)
		if pause < Every/2 || pause >= Every+Every/2 {
			t.Fatalf("node-%d waits %v", i, pause)
		}
		if again := m.pause(at.Add(pause)); again != Every {
			t.Fatalf("node-%d then waits %v, want %v", i, again, Every)
		}
		second[int(pause/time.Second)%15]++
	}
	for s, n := range second {
		if n < nodes/30 || n > nodes/7 {
			t.Errorf("in second %d of 15 there are %d of %d nodes", s, n, nodes)
		}
	}
}

func TestTheMachineIsReadFromItsFiles(t *testing.T) {
	const stat = "cpu  100 20 300 100000 4000 5 60 7000 50 8\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
	if got, want := busy([]byte(stat)), (100+20+300+5+60)*10*time.Millisecond; got != want {
		t.Errorf("busy for %v, want %v", got, want)
	}
	const meminfo = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n"
	if got := taken([]byte(meminfo)); got != 600<<10 {
		t.Errorf("%d bytes are taken, want %d", got, 600<<10)
	}
	for _, text := range []string{"", "cpu  1 2", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"} {
		if got := busy([]byte(text)); got != -1 {
			t.Errorf("%q is busy for %v, want -1", text, got)
		}
	}
	if got := taken([]byte("MemTotal: 5 kB\n")); got != -1 {
		t.Errorf("without MemAvailable %d bytes are taken, want -1", got)
	}
	if r := Machine(); r.CPU <= 0 || r.MemoryBytes <= 0 {
		t.Errorf("this machine uses %+v", r)
	}
	if r := Self(); r.CPU <= 0 || r.MemoryBytes <= 0 {
		t.Errorf("this process uses %+v", r)
	}
}
