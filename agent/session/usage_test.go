package session

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
)

// meter has the measurements that a test makes.
type meter struct {
	mu     sync.Mutex
	newest spec.NodeUsage
	number uint64
	news   chan struct{}
}

func (m *meter) measure(u spec.NodeUsage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.newest = u
	m.number++
	close(m.news)
	m.news = make(chan struct{})
}

func (m *meter) Next(ctx context.Context, after uint64) (spec.NodeUsage, uint64, error) {
	for {
		m.mu.Lock()
		u, n, news := m.newest, m.number, m.news
		m.mu.Unlock()
		if n > after {
			return u, n, nil
		}
		select {
		case <-ctx.Done():
			return u, n, ctx.Err()
		case <-news:
		}
	}
}

// usages are what a session said of usage since it was asked the last time.
func (w *world) usages(l *link) (all []*agentv1.UsageBatch) {
	for _, m := range w.took(l) {
		if m.GetUsage() != nil {
			all = append(all, m.GetUsage())
		}
	}
	return all
}

func TestWhatIsUsedIsSaidOnceAMeasurementAndAtOnceInANewSession(t *testing.T) {
	var m *meter
	web := pod("web")
	using := func(micro int64) spec.NodeUsage {
		return spec.NodeUsage{
			At: time.Now(), Window: 10 * time.Second, Machine: spec.Usage{MicroCPU: micro, MemoryBytes: 7}, Agent: spec.UnknownUsage, Supervisors: spec.UnknownUsage,
			Containers: []spec.ContainerUsage{
				{PodUID: "of a pod that is not assigned", Container: "c", Usage: spec.Usage{MicroCPU: 1, MemoryBytes: 1}},
				{PodUID: web.UID, Container: "c", Usage: spec.Usage{MicroCPU: micro, MemoryBytes: -1}},
			},
		}
	}
	opening := func(l *link) error {
		l.welcome()
		l.assign(&agentv1.Assignments{Full: true, Assignments: []*agentv1.Assignment{assignment(web, 5, 31)}})
		return nil
	}
	bubble(t, func(w *world) {
		m = &meter{news: make(chan struct{})}
		w.usage, w.opening = m, opening
	}, func(w *world) {
		l := w.link(1)
		if said := w.usages(l); len(said) != 0 {
			t.Errorf("before a measurement: %v", said)
		}
		for _, micro := range []int64{40, 50} {
			m.measure(using(micro))
			said := w.usages(l)
			if len(said) != 1 || said[0].GetMachine().GetMicroCpu() != micro || said[0].GetAgent().MicroCpu != nil || said[0].GetAge().AsDuration() != 0 {
				t.Fatalf("said %v", said)
			}
			if u := said[0]; !slices.Equal(u.GetHandle(), []uint32{31}) || !slices.Equal(u.GetMicroCpu(), []uint64{uint64(micro) + 1}) || !slices.Equal(u.GetMemoryBytes(), []uint64{0}) {
				t.Errorf("containers: %v", u)
			}
		}
		time.Sleep(8 * time.Second)
		if said := w.usages(l); len(said) != 0 {
			t.Errorf("without a measurement: %v", said)
		}
		l.ended <- nil
		said := w.usages(w.link(2))
		if len(said) != 1 || said[0].GetMachine().GetMicroCpu() != 50 || said[0].GetAge().AsDuration() < 8*time.Second {
			t.Errorf("a new session said %v, want the newest measurement with its age", said)
		}
	})
}
