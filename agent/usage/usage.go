// Package usage measures what a node uses: its containers, the whole machine, and what muster itself takes of it. Memory
// can be told at once, processor time only between two measurements, so the agent measures every 15 seconds and always
// knows what was used over the last of these. Who wants to know takes the newest measurement; none is kept longer.
package usage

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/internal/spec"
)

// Every is from one measurement to the next.
const Every = 15 * time.Second

// Runtime is what is measured; container.Runtime is one.
type Runtime interface {
	List(ctx context.Context) (container.List, error)
	Usage(ctx context.Context, id container.ContainerID) (container.Usage, error)
	Overhead(ctx context.Context) (time.Duration, error)
}

// Reading is what has been used up to a moment, and is used at it; what is negative is not known.
type Reading struct {
	// CPU is processor time since some moment that stays the same.
	CPU         time.Duration
	MemoryBytes int64
}

// Config says what is measured beside the runtime's containers.
type Config struct {
	// Node is the node's name: nodes measure at different moments, so that what they say of it comes evenly.
	Node string
	// Machine and Self read what the machine and this process use.
	Machine, Self func() Reading
	// Probes says how late probes were asked since it was asked last; nil where there are none.
	Probes func() spec.ProbeLateness
}

// Meter measures. Its methods may be called from any goroutine.
type Meter struct {
	cfg     Config
	runtime Runtime
	log     *slog.Logger

	// before is owned by Run.
	before readings

	mu     sync.Mutex
	newest spec.NodeUsage
	number uint64
	news   chan struct{} // closed at the next measurement
}

// readings are those of one measurement.
type readings struct {
	at                         time.Time
	machine, self, supervisors Reading
	containers                 map[container.ContainerID]container.Usage
}

// New builds a meter; nothing is measured before Run.
func New(cfg Config, r Runtime, log *slog.Logger) *Meter {
	return &Meter{cfg: cfg, runtime: r, log: log, news: make(chan struct{})}
}

// Run measures at once, and then every 15 seconds, until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	failed := false
	for {
		err := m.measure(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if (err != nil) != failed {
			if failed = err != nil; failed {
				m.log.Warn("what containers use is not measured", "err", err)
			} else {
				m.log.Info("what containers use is measured again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.pause(time.Now())):
		}
	}
}

// pause is the time to the node's next moment. One that is too near for two measurements to tell much is left out.
func (m *Meter) pause(now time.Time) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(m.cfg.Node))
	phase := time.Duration(h.Sum64() % uint64(Every))
	next := (phase - time.Duration(now.UnixNano()%int64(Every)) + Every) % Every
	if next < Every/2 {
		next += Every
	}
	return next
}

// Next waits for a measurement with a higher number than that, and returns the newest and its number. 0 is before the
// first. It fails only when ctx ends.
func (m *Meter) Next(ctx context.Context, after uint64) (spec.NodeUsage, uint64, error) {
	for {
		m.mu.Lock()
		u, n, news := m.newest, m.number, m.news
		m.mu.Unlock()
		if n > after {
			return u, n, nil
		}
		select {
		case <-ctx.Done():
			return spec.NodeUsage{}, 0, ctx.Err()
		case <-news:
		}
	}
}

// Memory is what a container took at the newest measurement, and when that was; 0 when it was not measured.
func (m *Meter) Memory(uid, name string) (memory int64, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.newest.Containers {
		if c.PodUID == uid && c.Container == name {
			return max(c.Usage.MemoryBytes, 0), m.newest.At
		}
	}
	return 0, time.Time{}
}

// measure reads everything and makes known what was used since the time before.
func (m *Meter) measure(ctx context.Context) error {
	now := readings{machine: m.cfg.Machine(), self: m.cfg.Self(), supervisors: Reading{-1, -1}, containers: map[container.ContainerID]container.Usage{}}
	now.at = time.Now()
	spent, err := m.runtime.Overhead(ctx)
	if err == nil {
		now.supervisors.CPU = spent
	}
	list, lerr := m.runtime.List(ctx)
	err = errors.Join(err, lerr)
	u := spec.NodeUsage{At: now.at}
	if m.cfg.Probes != nil {
		u.Probes = m.cfg.Probes()
	}
	if !m.before.at.IsZero() {
		u.Window = now.at.Sub(m.before.at)
	}
	u.Machine, u.Agent = rate(m.before.machine, now.machine, u.Window), rate(m.before.self, now.self, u.Window)
	u.Supervisors = rate(m.before.supervisors, now.supervisors, u.Window)
	for _, p := range list.Pods {
		for _, c := range p.Containers {
			if !c.Running {
				continue
			}
			is, uerr := m.runtime.Usage(ctx, c.ID)
			if errors.Is(uerr, container.ErrNotFound) || errors.Is(uerr, container.ErrNotRunning) {
				continue // it has ended meanwhile
			}
			if uerr != nil {
				err = cmp.Or(err, uerr) // the others will be like the first
				continue
			}
			now.containers[c.ID] = is
			of := spec.Usage{MicroCPU: -1, MemoryBytes: is.MemoryBytes}
			if was, ok := m.before.containers[c.ID]; ok {
				of = rate(Reading{was.CPU, was.MemoryBytes}, Reading{is.CPU, is.MemoryBytes}, is.At.Sub(was.At))
			}
			u.Containers = append(u.Containers, spec.ContainerUsage{PodUID: p.UID, Container: c.Name, Usage: of})
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.before = now
	m.mu.Lock()
	defer m.mu.Unlock()
	m.newest = u
	m.number++
	close(m.news)
	m.news = make(chan struct{})
	return err
}

// rate is what was used between two readings, on average, and the memory of the second. Readings that add up what many
// processes say may go back a little when one has just ended: then nothing was used.
func rate(was, is Reading, window time.Duration) spec.Usage {
	u := spec.Usage{MicroCPU: -1, MemoryBytes: is.MemoryBytes}
	if window > 0 && was.CPU >= 0 && is.CPU >= 0 {
		u.MicroCPU = int64(math.Round(float64(max(is.CPU-was.CPU, 0)) / float64(window) * 1e6))
	}
	return u
}
