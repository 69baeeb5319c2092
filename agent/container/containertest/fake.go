package containertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/agent/container"
)

// Behaviour is what a fake container does. The zero value runs until it is asked to end, and then ends at once with 143.
type Behaviour struct {
	// StartErr makes StartContainer fail; wrap the seam's errors.
	StartErr error
	// StartTakes is how long StartContainer takes.
	StartTakes time.Duration
	// RunFor is after how long it ends by itself, with ExitCode; 0 means never. Negative means at once.
	RunFor   time.Duration
	ExitCode int32
	// TermTakes is how long it takes to end after SIGTERM; negative means that it ignores it.
	TermTakes time.Duration
	// TermCode is its exit code after SIGTERM; 0 stands for 143 unless TermClean.
	TermCode  int32
	TermClean bool
	// Does is what it does at once, before it ends with the code that is returned; nil: RunFor says when it ends.
	Does func(*Inside) int32
	// Takes is how much memory it takes, in bytes: one that is over its limit ends at once, where limits are held.
	Takes int64
	// Output is what it has written to stdout, line by line, as soon as it runs.
	Output []string
	// MilliCPU is how much processor time it takes while it runs, in thousandths of a core, and MemoryBytes what it holds.
	MilliCPU, MemoryBytes int64
}

// Fake is a container.Runtime in memory. It has no goroutines but timers, so it may live in a synctest bubble. All
// methods may be called from any goroutine; the function fields are set before the first use.
type Fake struct {
	// Behave says what an instance does; nil makes all behave as the zero Behaviour.
	Behave func(pod container.PodRef, c container.ContainerConfig) Behaviour
	// OnExec answers Exec in a running container; nil answers exit code 0. It may block, and must then honour ctx.
	OnExec func(ctx context.Context, id container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error)
	// OnInteract answers Interact in a running container; nil answers exit code 0. It may block, and must then honour ctx.
	OnInteract func(ctx context.Context, id container.ContainerID, cmd container.Interaction) (int32, error)
	// Volumes is how many bytes a pod's volume takes on disk; nil means what its containers have written.
	Volumes func(pod container.PodRef, volume string) int64
	// Facts is what Info returns; NewFake fills it.
	Facts container.Info

	mu      sync.Mutex
	changes chan struct{}
	pods    map[string]*fakePod
	ids     map[container.ContainerID]*fakeContainer
	fail    map[string][]error
	calls   []string
	host    map[string]string
	silent  bool
	seq     int
}

type fakePod struct {
	container.Pod
	cfg    container.PodConfig
	files  map[string]map[string]string // by volume and path
	newest map[string]*fakeContainer
}

type fakeContainer struct {
	container.Container
	pod    container.PodRef
	cfg    container.ContainerConfig
	does   Behaviour
	log    []fakeLine
	ended  chan struct{}
	timers []*time.Timer
	termed bool
	execs  time.Duration // the processor time of commands run in it
}

type fakeLine struct {
	at   time.Time
	text string
}

var _ container.Runtime = (*Fake)(nil)

// NewFake returns a fake without pods.
func NewFake() *Fake {
	return &Fake{
		Facts:   container.Info{Name: "fake", Version: "1", Isolation: "full", Fence: "kernel"},
		changes: make(chan struct{}, 1), pods: map[string]*fakePod{}, ids: map[container.ContainerID]*fakeContainer{},
		fail: map[string][]error{}, host: map[string]string{},
	}
}

// FailNext makes the next call of a method (such as "StartContainer") fail with err; calls add up.
func (f *Fake) FailNext(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[method] = append(f.fail[method], err)
}

// Silence makes List incomplete, or complete again.
func (f *Fake) Silence(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = on
	f.hintLocked()
}

// Calls are the calls so far, such as "StartContainer UID/web 0" and "StopContainer process://… 30s", List left out.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Exit ends a running container by itself with an exit code.
func (f *Fake) Exit(id container.ContainerID, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.ids[id]; c != nil {
		f.endLocked(c, code, 0, "")
	}
}

// Die ends a pod's supervisor with all in it, for LeaseExpired or SupervisorDied.
func (f *Fake) Die(uid, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[uid]
	if p == nil || p.Dead {
		return
	}
	for _, c := range p.newest {
		f.endLocked(c, 137, 9, reason)
	}
	p.Dead, p.DeadReason = true, reason
	f.hintLocked()
}

func (f *Fake) hintLocked() {
	select {
	case f.changes <- struct{}{}:
	default:
	}
}

// enter records a call and returns the failure that a test has ordered for it.
func (f *Fake) enterLocked(method, detail string) error {
	f.calls = append(f.calls, method+" "+detail)
	if q := f.fail[method]; len(q) > 0 {
		f.fail[method] = q[1:]
		return q[0]
	}
	return nil
}

func (f *Fake) endLocked(c *fakeContainer, code, signal int32, reason string) {
	if !c.Running {
		return
	}
	for _, t := range c.timers {
		t.Stop()
	}
	c.Running, c.FinishedAt, c.ExitCode, c.Signal, c.Reason = false, time.Now(), code, signal, reason
	if reason == "" {
		c.Reason = "Completed"
		if code != 0 {
			c.Reason = "Error"
		}
	}
	close(c.ended)
	f.hintLocked()
}

// Info implements container.Runtime.
func (f *Fake) Info(context.Context) (container.Info, error) { return f.Facts, nil }

// Changes implements container.Runtime.
func (f *Fake) Changes() <-chan struct{} { return f.changes }

// Close implements container.Runtime.
func (f *Fake) Close() error { return nil }

// EnsurePod implements container.Runtime.
func (f *Fake) EnsurePod(_ context.Context, cfg container.PodConfig) (container.Pod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enterLocked("EnsurePod", cfg.UID+" "+strconv.FormatInt(cfg.Epoch, 10)); err != nil {
		return container.Pod{}, err
	}
	p := f.pods[cfg.UID]
	if p != nil && p.PodRef != cfg.PodRef {
		return container.Pod{}, fmt.Errorf("epoch %d of it still exists", p.Epoch)
	}
	if p == nil {
		if err := supported(f.Facts.Isolation, &cfg); err != nil {
			return container.Pod{}, err
		}
		files := map[string]map[string]string{}
		for _, v := range cfg.Volumes {
			files[v.Name] = map[string]string{}
		}
		p = &fakePod{newest: map[string]*fakeContainer{}, cfg: cfg, files: files, Pod: container.Pod{
			PodRef: cfg.PodRef, Namespace: cfg.Namespace, Name: cfg.Name, IP: cfg.IP, FenceSlot: cfg.FenceSlot, CreatedAt: time.Now(),
		}}
		if cfg.FenceSlot > 0 {
			p.Fence = f.Facts.Fence
		}
		f.pods[cfg.UID] = p
		f.hintLocked()
	}
	return p.view(), nil
}

func (p *fakePod) view() container.Pod {
	v := p.Pod
	for _, c := range p.newest {
		v.Containers = append(v.Containers, c.Container)
	}
	slices.SortFunc(v.Containers, func(a, b container.Container) int { return cmp.Compare(a.Name, b.Name) })
	return v
}

// StartContainer implements container.Runtime.
func (f *Fake) StartContainer(ctx context.Context, ref container.PodRef, cfg container.ContainerConfig) (container.Container, error) {
	var does Behaviour
	if f.Behave != nil {
		does = f.Behave(ref, cfg)
	}
	f.mu.Lock()
	err := f.enterLocked("StartContainer", ref.UID+"/"+cfg.Name+" "+strconv.Itoa(int(cfg.Attempt)))
	f.mu.Unlock()
	if err == nil {
		err = does.StartErr
	}
	if err == nil && does.StartTakes > 0 {
		select {
		case <-time.After(does.StartTakes):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return container.Container{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[ref.UID]
	if p == nil || p.PodRef != ref {
		return container.Container{}, fmt.Errorf("pod %s: %w", ref.UID, container.ErrNotFound)
	}
	if p.Dead {
		return container.Container{}, fmt.Errorf("pod is dead (%s): %w", p.DeadReason, container.ErrNotRunning)
	}
	if old := p.newest[cfg.Name]; old != nil && old.Running {
		return container.Container{}, fmt.Errorf("container %s runs already", cfg.Name)
	}
	for _, m := range cfg.Mounts {
		if m.Volume != "" && p.files[m.Volume] == nil {
			return container.Container{}, fmt.Errorf("mount %s: the pod has no volume %q", m.Target, m.Volume)
		}
	}
	f.seq++
	id := container.ContainerID(fmt.Sprintf("process://%s/%s/%d-%08x", ref.UID, cfg.Name, cfg.Attempt, f.seq))
	c := &fakeContainer{
		Container: container.Container{ID: id, Name: cfg.Name, Attempt: cfg.Attempt, Running: true, StartedAt: time.Now()},
		pod:       ref, cfg: cfg, does: does, ended: make(chan struct{}),
	}
	for _, text := range does.Output {
		c.log = append(c.log, fakeLine{time.Now(), text})
	}
	p.newest[cfg.Name], f.ids[id] = c, c
	f.hintLocked()
	running := c.Container
	limit := cfg.Limits.MemoryBytes
	switch {
	case f.Facts.Limits && limit > 0 && does.Takes > limit:
		f.endLocked(c, 137, 9, "OOMKilled")
	case does.Does != nil:
		in := p.inside(f, &cfg)
		code := does.Does(in)
		for _, line := range in.said {
			c.log = append(c.log, fakeLine{time.Now(), line})
		}
		f.endLocked(c, code, 0, "")
	case does.RunFor > 0:
		f.laterLocked(c, does.RunFor, does.ExitCode, 0)
	case does.RunFor < 0:
		f.endLocked(c, does.ExitCode, 0, "")
	}
	return running, nil
}

func (p *fakePod) inside(f *Fake, cfg *container.ContainerConfig) *Inside {
	in := &Inside{Hostname: p.cfg.Hostname, UID: max(cfg.UID, 0), Processes: 1, mounts: cfg.Mounts, pod: p, host: f.host}
	if p.cfg.SharePID {
		in.Processes = 0
		for _, c := range p.newest {
			if c.Running {
				in.Processes++
			}
		}
	}
	return in
}

func (f *Fake) laterLocked(c *fakeContainer, after time.Duration, code, signal int32) {
	c.timers = append(c.timers, time.AfterFunc(after, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.endLocked(c, code, signal, "")
	}))
}

// StopContainer implements container.Runtime.
func (f *Fake) StopContainer(ctx context.Context, id container.ContainerID, grace time.Duration) error {
	f.mu.Lock()
	if err := f.enterLocked("StopContainer", string(id)+" "+grace.String()); err != nil {
		f.mu.Unlock()
		return err
	}
	c := f.ids[id]
	if c == nil {
		f.mu.Unlock()
		return fmt.Errorf("container %s: %w", id, container.ErrNotFound)
	}
	if c.Running {
		if !c.termed && grace > 0 && c.does.TermTakes >= 0 {
			code, signal := c.does.TermCode, int32(0)
			if code == 0 && !c.does.TermClean {
				code, signal = 143, 15
			}
			if c.does.TermTakes == 0 {
				f.endLocked(c, code, signal, "")
			} else {
				f.laterLocked(c, c.does.TermTakes, code, signal)
			}
		}
		c.termed = true
		if c.Running {
			if grace <= 0 {
				f.endLocked(c, 137, 9, "")
			} else {
				f.laterLocked(c, grace, 137, 9)
			}
		}
	}
	f.mu.Unlock()
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RemovePod implements container.Runtime.
func (f *Fake) RemovePod(_ context.Context, ref container.PodRef) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enterLocked("RemovePod", ref.UID+" "+strconv.FormatInt(ref.Epoch, 10)); err != nil {
		return err
	}
	p := f.pods[ref.UID]
	if p == nil || p.PodRef != ref {
		return nil
	}
	for id, c := range f.ids {
		if c.pod == ref {
			f.endLocked(c, 137, 9, "")
			delete(f.ids, id)
		}
	}
	delete(f.pods, ref.UID)
	f.hintLocked()
	return nil
}

// into is the running container that a command is to be run in.
func (f *Fake) into(method string, id container.ContainerID, argv []string) (*fakeContainer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enterLocked(method, string(id)+" "+strings.Join(argv, " ")); err != nil {
		return nil, err
	}
	return f.runningLocked(id)
}

func (f *Fake) runningLocked(id container.ContainerID) (*fakeContainer, error) {
	switch c := f.ids[id]; {
	case c == nil:
		return nil, fmt.Errorf("container %s: %w", id, container.ErrNotFound)
	case !c.Running:
		return nil, fmt.Errorf("container %s: %w", id, container.ErrNotRunning)
	default:
		return c, nil
	}
}

// Exec implements container.Runtime.
func (f *Fake) Exec(ctx context.Context, id container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
	c, err := f.into("Exec", id, cmd.Argv)
	if err != nil || f.OnExec == nil {
		return container.ExecResult{}, err
	}
	res, err := f.OnExec(ctx, id, cmd)
	f.mu.Lock()
	defer f.mu.Unlock()
	c.execs += max(res.CPU, 0)
	return res, err
}

// Interact implements container.Runtime.
func (f *Fake) Interact(ctx context.Context, id container.ContainerID, cmd container.Interaction) (int32, error) {
	if _, err := f.into("Interact", id, cmd.Argv); err != nil || f.OnInteract == nil {
		return 0, err
	}
	return f.OnInteract(ctx, id, cmd)
}

// Usage implements container.Runtime.
func (f *Fake) Usage(_ context.Context, id container.ContainerID) (container.Usage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.runningLocked(id)
	if err != nil {
		return container.Usage{}, err
	}
	now := time.Now()
	own := now.Sub(c.StartedAt) * time.Duration(c.does.MilliCPU) / 1000
	return container.Usage{At: now, CPU: own + c.execs, MemoryBytes: c.does.MemoryBytes}, nil
}

// Overhead implements container.Runtime: a fake costs nothing.
func (f *Fake) Overhead(context.Context) (time.Duration, error) { return 0, nil }

// Dial implements container.Runtime: nothing listens in a pod that is not there.
func (f *Fake) Dial(_ context.Context, ref container.PodRef, port int) (container.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[ref.UID]
	if p == nil || p.PodRef != ref {
		return nil, fmt.Errorf("pod %s: %w", ref.UID, container.ErrNotFound)
	}
	return nil, fmt.Errorf("pod %s, port %d: %w: nothing listens there", ref.UID, port, container.ErrCannotConnect)
}

// List implements container.Runtime.
func (f *Fake) List(context.Context) (container.List, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q := f.fail["List"]; len(q) > 0 {
		f.fail["List"] = q[1:]
		return container.List{}, q[0]
	}
	l := container.List{Complete: !f.silent}
	for _, p := range f.pods {
		l.Pods = append(l.Pods, p.view())
	}
	slices.SortFunc(l.Pods, func(a, b container.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return l, nil
}

// VolumeUsage implements container.Runtime.
func (f *Fake) VolumeUsage(_ context.Context, ref container.PodRef, volume string, most int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[ref.UID]
	at := -1
	if p != nil && p.PodRef == ref {
		at = slices.IndexFunc(p.cfg.Volumes, func(v container.PodVolume) bool { return v.Name == volume })
	}
	switch {
	case at < 0:
		return 0, fmt.Errorf("volume %s of pod %s: %w", volume, ref.UID, container.ErrNotFound)
	case p.cfg.Volumes[at].Memory:
		return 0, fmt.Errorf("volume %s in memory: %w", volume, container.ErrUnsupported)
	case f.Volumes != nil:
		return min(f.Volumes(ref, volume), most+1), nil
	}
	var used int64
	for _, text := range p.files[volume] {
		used += int64(len(text))
	}
	return min(used, most+1), nil
}

// Config is what the newest instance of a container was started with; false without one.
func (f *Fake) Config(uid, name string) (container.ContainerConfig, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[uid]; p != nil && p.newest[name] != nil {
		return p.newest[name].cfg, true
	}
	return container.ContainerConfig{}, false
}

// Files are what one of a pod's volumes has, by path; nil without the pod.
func (f *Fake) Files(ref container.PodRef, volume string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[ref.UID]; p != nil && p.PodRef == ref {
		return maps.Clone(p.files[volume])
	}
	return nil
}

// WriteFiles implements container.Runtime.
func (f *Fake) WriteFiles(_ context.Context, ref container.PodRef, volume string, files []container.File) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[ref.UID]
	if p == nil || p.PodRef != ref || !slices.ContainsFunc(p.cfg.Volumes, func(v container.PodVolume) bool { return v.Name == volume }) {
		return fmt.Errorf("volume %s of pod %s: %w", volume, ref.UID, container.ErrNotFound)
	}
	if err := f.enterLocked("WriteFiles", ref.UID+" "+volume); err != nil {
		return err
	}
	has := map[string]string{}
	for i := range files {
		if !filepath.IsLocal(files[i].Path) || strings.HasPrefix(files[i].Path, "..") {
			return fmt.Errorf("volume %s: %q is no path of a file in it", volume, files[i].Path)
		}
		has[files[i].Path] = string(files[i].Data)
	}
	p.files[volume] = has
	return nil
}

// Logs implements container.Runtime.
func (f *Fake) Logs(ctx context.Context, id container.ContainerID, opts container.LogOptions, w io.Writer) error {
	f.mu.Lock()
	c := f.ids[id]
	if c == nil {
		f.mu.Unlock()
		return fmt.Errorf("container %s: %w", id, container.ErrNotFound)
	}
	var b bytes.Buffer
	lines := slices.DeleteFunc(slices.Clone(c.log), func(l fakeLine) bool { return !opts.Since.IsZero() && l.at.Before(opts.Since) })
	if opts.Tail >= 0 {
		lines = lines[max(len(lines)-opts.Tail, 0):]
	}
	for _, l := range lines {
		if opts.Timestamps {
			b.WriteString(l.at.UTC().Format(time.RFC3339Nano) + " ")
		}
		b.WriteString(l.text + "\n")
	}
	f.mu.Unlock()
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	if opts.Follow {
		select {
		case <-c.ended:
		case <-ctx.Done():
		}
	}
	return nil
}
