package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

const (
	// lookLife is how long one look at all processes serves: who asks for many containers pays for one.
	lookLife = 500 * time.Millisecond
	// sharesBelow is up to which size of a process it is counted how much of its memory others share. The kernel walks
	// through all of it for that.
	sharesBelow = 1 << 30
)

// look is what /proc showed at one moment.
type look struct {
	at    time.Time
	stats map[int]supervisor.Stat
	below map[int][]int // the children of each process
}

// processes is the newest look at all processes of the machine.
type processes struct {
	mu  sync.Mutex
	now *look
}

func (p *processes) look() *look {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil && time.Since(p.now.at) < lookLife {
		return p.now
	}
	l := &look{at: time.Now(), stats: map[int]supervisor.Stat{}, below: map[int][]int{}}
	for _, s := range supervisor.Stats() {
		l.stats[s.PID] = s
		l.below[s.PPID] = append(l.below[s.PPID], s.PID)
	}
	p.now = l
	return l
}

// tree is a process and all that descend from it.
func (l *look) tree(root int) []supervisor.Stat {
	var all []supervisor.Stat
	for todo := []int{root}; len(todo) > 0; {
		pid := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], l.below[pid]...)
		if s, ok := l.stats[pid]; ok {
			all = append(all, s)
		}
	}
	return all
}

// usage adds up what a container's processes say of themselves. Who has waited for a child has its time too, and in the end
// that is the init, so that nothing is lost of what has ended, but for children that their parent has told the kernel to
// forget (SIGCHLD ignored).
func (l *look) usage(init int) container.Usage {
	u := container.Usage{At: l.at, CPU: -1, MemoryBytes: -1}
	if _, ok := l.stats[init]; !ok || init == 0 {
		return u
	}
	u.CPU, u.MemoryBytes = 0, 0
	for _, s := range l.tree(init) {
		u.CPU += s.CPU + s.WaitedCPU
		if !s.Dead() {
			u.MemoryBytes += memoryOf(s.PID)
		}
	}
	return u
}

// memoryOf is a process's part of the memory that it has resident: pages that n processes share count as an n-th each. A
// process that has ended meanwhile has none.
func memoryOf(pid int) int64 {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return 0
	}
	f := bytes.Fields(statm)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0
	}
	resident := pages * int64(os.Getpagesize())
	if resident == 0 || resident > sharesBelow {
		return resident
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return resident
	}
	for line := range bytes.Lines(rollup) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			if kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64); err == nil {
				return kib << 10
			}
		}
	}
	return resident
}

// Usage implements container.Runtime. Control groups know best; without them, or where they lack a controller, the
// processes are asked.
func (r *Runtime) Usage(ctx context.Context, id container.ContainerID) (container.Usage, error) {
	p, name, instance, err := r.resolve(id)
	if err != nil {
		return container.Usage{}, fmt.Errorf("usage: %w", err)
	}
	rec, err := p.runs(ctx, name, instance)
	if err != nil {
		return container.Usage{}, fmt.Errorf("usage of container %s: %w", name, err)
	}
	u := container.Usage{At: time.Now(), CPU: -1, MemoryBytes: -1}
	if r.grouped() {
		cpu, memory, err := r.cfg.Cgroups.Pod(groupName(p)).Child(name).Used()
		// A group may go with its pod while it is read.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return container.Usage{}, fmt.Errorf("usage of container %s: %w", name, err)
		}
		u.CPU, u.MemoryBytes = cpu, memory // -1 after an error
	}
	if u.CPU >= 0 && u.MemoryBytes >= 0 {
		return u, nil
	}
	seen := r.procs.look().usage(rec.PID)
	if u.CPU < 0 {
		u.CPU, u.At = seen.CPU, seen.At
	}
	if u.MemoryBytes < 0 {
		u.MemoryBytes = seen.MemoryBytes
	}
	return u, nil
}

// runs finds an instance that runs. What is known of a supervisor that does not answer is what it said last.
func (p *pod) runs(ctx context.Context, name, instance string) (supervisor.ContainerRecord, error) {
	p.mu.Lock()
	dead, recs := p.dead, p.last
	p.mu.Unlock()
	if !dead && !p.stopped() {
		said, err := p.records(ctx)
		if err != nil {
			return supervisor.ContainerRecord{}, p.translate(err)
		}
		recs = said
	}
	i := slices.IndexFunc(recs, func(c supervisor.ContainerRecord) bool { return c.Name == name && c.Instance == instance })
	switch {
	case dead || i >= 0 && !recs[i].Running:
		return supervisor.ContainerRecord{}, container.ErrNotRunning
	case i < 0:
		return supervisor.ContainerRecord{}, container.ErrNotFound
	}
	return recs[i], nil
}

// overhead adds up what supervisors have spent, those that are gone included.
type overhead struct {
	mu    sync.Mutex
	total time.Duration
	spent map[*pod]time.Duration // by the pods that were there the last time
}

// Overhead implements container.Runtime.
func (r *Runtime) Overhead(context.Context) (time.Duration, error) {
	r.mu.Lock()
	all := make([]*pod, 0, len(r.pods))
	for _, p := range r.pods {
		all = append(all, p)
	}
	r.mu.Unlock()
	o := &r.supervisors
	o.mu.Lock()
	defer o.mu.Unlock()
	now := make(map[*pod]time.Duration, len(all))
	for _, p := range all {
		select {
		case <-p.ready:
		default:
			continue // being made
		}
		spent := o.spent[p]
		if s, err := supervisor.ReadStat(p.sup.PID); p.err == nil && err == nil && s.StartTime == p.sup.StartTime {
			spent = max(spent, s.CPU)
		}
		o.total += spent - o.spent[p]
		now[p] = spent
	}
	o.spent = now
	return o.total, nil
}
