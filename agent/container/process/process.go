// Package process is the embedded container runtime: host programs in pods, each pod under a tiny supervisor that
// outlives the agent. It answers for finding supervisors again, for driving them, and for leaving nothing behind when
// one has died; what a supervisor does is agent/supervisor's. It does not decide what runs.
//
// A pod is alive while exactly the process that its record names lives (pid, start time and boot id together). The
// records on disk are enough to take every pod up again, and to tell how a container ended while no agent ran.
package process

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/cgroup"
	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/seccomp"
	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// askLimit is how long a supervisor may take to answer what takes it no time.
	askLimit = 500 * time.Millisecond
	// launchLimit is how long a supervisor may take to be ready.
	launchLimit = 10 * time.Second
	// killLimit is how long killing a pod's leftovers may take before it is tried anew.
	killLimit = 5 * time.Second
	// lookEvery is how often a list looks whether a supervisor is stopped: pods are listed whenever one of them changes.
	lookEvery = time.Second
	// execSlack is how much longer than its own timeout an exec's answer is waited for.
	execSlack = 3 * time.Second
	// maxIdleExecs is how many connections for execs are kept open per container.
	maxIdleExecs = 4
)

// Config is what a Runtime is made from.
type Config struct {
	// DataDir is the agent's data directory, absolute. Pods live in DataDir/pods, binaries in DataDir/bin.
	DataDir string
	// SupervisorArgv starts a supervisor, such as {"/path/muster-supervisor"} or {"/path/muster", "pod-supervisor"};
	// SupervisorArgv in package process finds it. The first element is an absolute path.
	SupervisorArgv []string
	// Isolation makes new pods with less than the kernel allows; empty asks the kernel.
	Isolation supervisor.Isolation
	// Note is told by Info, such as that no tiny binary is embedded; may be empty.
	Note string
	// Version is told by Info.
	Version string
	// Network links pods that have network namespaces of their own; nil means that such pods are refused.
	Network Network
	// Cgroups makes control groups; nil: containers run where the agent does, and no limit is held.
	Cgroups *cgroup.Manager
	// Fence tells of slots of the fence page whether their time is over; nil means that fenced pods are refused.
	Fence Fence
	// TimerSlack is that of containers; 0: as this process has it.
	TimerSlack time.Duration
	// Log is where changes go.
	Log *slog.Logger
}

// Network is what the runtime wants of a pod network.
type Network interface {
	// Attach gives the network namespace at that path its link and address; it may be said again.
	Attach(ctx context.Context, ref container.PodRef, netns, ip string) error
	// Detach takes a pod's link away; unknown pods are no error.
	Detach(ref container.PodRef) error
}

// Fence is what the runtime wants to know of the fence page.
type Fence interface {
	// Expired tells whether what the slot has armed for that epoch, or the deadline it was given, is over.
	Expired(slot int, epoch int64) bool
}

// Runtime is a container.Runtime. Make one with New; there is one per data directory.
type Runtime struct {
	cfg       Config
	isolation supervisor.Isolation
	changes   chan struct{}
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	procs       processes
	supervisors overhead

	mu   sync.Mutex
	pods map[string]*pod // by uid: at most one epoch of a uid exists
}

var _ container.Runtime = (*Runtime)(nil)

// pod is a sandbox that exists, or is about to.
type pod struct {
	ref    container.PodRef
	dir    string
	client supervisor.Client
	// ready is closed once rec and sup are valid or err says why there is no pod.
	ready chan struct{}
	err   error
	rec   supervisor.PodRecord
	sup   supervisor.SupervisorRecord

	mu sync.Mutex
	// last is what the supervisor said with lastOf changes, the newest that is known. It holds while the supervisor is watched, has
	// told of no more than that, and was asked after what was last doubted, so that a list of pods that do nothing asks nobody.
	last          []supervisor.ContainerRecord
	lastOf, told  int64
	doubts, asked uint64
	watched       bool
	// went is when the supervisor was last seen not to be stopped.
	went time.Time

	dead       bool
	deadReason string
	idle       map[string][]*supervisor.ExecConn // by container_instance
	removing   sync.Mutex
	writing    sync.Mutex // of the files of volumes
}

// New takes up the pods that exist and is ready when it returns. ctx bounds that only. Close it in the end.
func New(ctx context.Context, cfg Config) (*Runtime, error) {
	if !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("data directory %q: want an absolute path", cfg.DataDir)
	}
	if len(cfg.SupervisorArgv) == 0 || !filepath.IsAbs(cfg.SupervisorArgv[0]) {
		return nil, fmt.Errorf("supervisor argv %q: want an absolute path first", cfg.SupervisorArgv)
	}
	root := filepath.Join(cfg.DataDir, "pods")
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	if err := traversable(cfg.DataDir, root); err != nil {
		return nil, err
	}
	iso := cfg.Isolation
	if iso == "" {
		var err error
		if iso, err = isolation(ctx, cfg.SupervisorArgv); err != nil {
			return nil, err
		}
	}
	r := &Runtime{cfg: cfg, isolation: iso, changes: make(chan struct{}, 1), pods: map[string]*pod{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	entries, err := os.ReadDir(root)
	if err != nil {
		r.cancel()
		return nil, err
	}
	for _, e := range entries {
		if err := r.adopt(filepath.Join(root, e.Name())); err != nil {
			r.cancel()
			r.wg.Wait()
			return nil, fmt.Errorf("take up pod directory %s: %w", e.Name(), err)
		}
	}
	r.sweepGroups()
	return r, nil
}

// traversable lets containers that run as another user reach their pod's directory. What is secret has modes of its own.
func traversable(dirs ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, d := range dirs {
		fi, err := os.Stat(d)
		if err != nil {
			return err
		}
		if fi.Mode().Perm()&0o011 != 0o011 {
			if err := os.Chmod(d, fi.Mode().Perm()|0o011); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements container.Runtime.
func (r *Runtime) Close() error {
	r.cancel()
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		p.closeIdle()
	}
	return nil
}

// Info implements container.Runtime.
func (r *Runtime) Info(context.Context) (container.Info, error) {
	info := container.Info{
		Name: "process", Version: r.cfg.Version, Isolation: string(r.isolation), Fence: supervisor.FenceKernel, Note: r.cfg.Note,
	}
	info.Limits = r.grouped() && r.cfg.Cgroups.Available(cgroup.CPU) == nil && r.cfg.Cgroups.Available(cgroup.Memory) == nil
	if r.isolation == supervisor.IsolationNone {
		info.Fence = supervisor.FenceBestEffort
		if info.Note == "" {
			info.Note = "the kernel refuses user namespaces, so containers are plain processes and the fence is best-effort"
		}
	}
	return info, nil
}

// Changes implements container.Runtime.
func (r *Runtime) Changes() <-chan struct{} { return r.changes }

func (r *Runtime) hint() {
	select {
	case r.changes <- struct{}{}:
	default:
	}
}

// Dirs are the paths a pod's containers are told of. They exist once EnsurePod has returned.
type Dirs struct {
	// Pod is MUSTER_POD_DIR; the file "epoch" in it has the pod's epoch. Any user may write in it.
	Pod string
	// Home and Tmp are HOME and TMPDIR.
	Home, Tmp string
}

// Dirs says where they are, or will be, for a pod of that reference.
func (r *Runtime) Dirs(ref container.PodRef) Dirs {
	work := filepath.Join(r.podDir(ref), supervisor.WorkDir)
	return Dirs{Pod: work, Home: filepath.Join(work, "home"), Tmp: filepath.Join(work, "tmp")}
}

func (r *Runtime) podDir(ref container.PodRef) string {
	return filepath.Join(r.cfg.DataDir, "pods", ref.UID+"-"+strconv.FormatInt(ref.Epoch, 10))
}

func checkRef(ref container.PodRef) error {
	for _, c := range ref.UID {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("pod uid %q: want letters, digits and dashes", ref.UID)
		}
	}
	if ref.UID == "" || len(ref.UID) > 64 {
		return fmt.Errorf("pod uid %q: want 1 to 64 characters", ref.UID)
	}
	if ref.Epoch < 0 {
		return fmt.Errorf("pod epoch %d: want at least 0", ref.Epoch)
	}
	return nil
}

// EnsurePod implements container.Runtime.
func (r *Runtime) EnsurePod(ctx context.Context, cfg container.PodConfig) (container.Pod, error) {
	p, err := r.ensure(ctx, cfg)
	if err != nil {
		return container.Pod{}, fmt.Errorf("make pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	out, _ := r.describe(ctx, p)
	return out, nil
}

func (r *Runtime) ensure(ctx context.Context, cfg container.PodConfig) (*pod, error) {
	if err := checkRef(cfg.PodRef); err != nil {
		return nil, err
	}
	if cfg.FenceSlot > 0 && r.cfg.Fence == nil {
		return nil, fmt.Errorf("fenced pods need a guard: %w", container.ErrUnsupported)
	}
	r.mu.Lock()
	p := r.pods[cfg.UID]
	if p != nil {
		r.mu.Unlock()
		if p.ref != cfg.PodRef {
			return nil, fmt.Errorf("epoch %d of it still exists", p.ref.Epoch)
		}
		select {
		case <-p.ready:
			return p, p.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(r.pods) >= container.MaxPods {
		r.mu.Unlock()
		return nil, fmt.Errorf("node has %d pods already", container.MaxPods)
	}
	p = newPod(cfg.PodRef, r.podDir(cfg.PodRef))
	r.pods[cfg.UID] = p
	r.mu.Unlock()

	p.err = r.create(ctx, p, cfg)
	if p.err != nil {
		r.mu.Lock()
		delete(r.pods, cfg.UID)
		r.mu.Unlock()
	} else {
		p.watched = true // from here on, and it has no containers yet
		r.follow(p)
		r.hint()
	}
	close(p.ready)
	return p, p.err
}

func newPod(ref container.PodRef, dir string) *pod {
	return &pod{
		ref: ref, dir: dir, client: supervisor.Client{Dir: dir}, ready: make(chan struct{}), idle: map[string][]*supervisor.ExecConn{},
	}
}

// create makes the pod's directory and starts its supervisor.
func (r *Runtime) create(ctx context.Context, p *pod, cfg container.PodConfig) error {
	p.rec = supervisor.PodRecord{
		UID: cfg.UID, Epoch: cfg.Epoch, Namespace: cfg.Namespace, Name: cfg.Name, Hostname: cfg.Hostname, IP: cfg.IP,
		FenceSlot: cfg.FenceSlot, Grace: cfg.Grace, Created: time.Now(), Isolation: r.isolation, WorkDir: r.Dirs(cfg.PodRef).Pod,
		OwnNetwork: cfg.OwnNetwork, HostIPC: cfg.HostIPC, HostPID: cfg.HostPID, SharePID: cfg.SharePID,
	}
	if err := r.supported(&cfg); err != nil {
		return err
	}
	for _, v := range cfg.Volumes {
		if v.Memory {
			p.rec.Memory = append(p.rec.Memory, supervisor.MemoryDir{Path: filepath.Join(volumesDir, v.Name), Size: v.SizeLimit, GID: v.GID})
		}
	}
	if err := r.discard(p.dir); err != nil {
		return err
	}
	err := r.furnish(p, &cfg)
	if err == nil {
		err = r.podGroup(p, cfg.Limits)
	}
	if err == nil {
		err = r.launch(ctx, p)
	}
	if err == nil && cfg.OwnNetwork {
		err = r.cfg.Network.Attach(ctx, cfg.PodRef, fmt.Sprintf("/proc/%d/ns/net", p.sup.PID), cfg.IP)
		if err != nil {
			if kerr := p.sup.Kill(); kerr != nil {
				return errors.Join(err, kerr)
			}
			for end := time.Now().Add(killLimit); locked(p.dir) && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
	}
	if err != nil {
		if gerr := r.dropGroup(p); gerr != nil {
			r.cfg.Log.Warn("control group stays behind", "pod", cfg.Name, "err", gerr)
		}
		if derr := r.discard(p.dir); derr != nil {
			r.cfg.Log.Warn("pod directory stays behind", "pod", cfg.Name, "path", p.dir, "err", derr)
		}
	}
	return err
}

// supported refuses, by its name, what this runtime does not do on this machine.
func (r *Runtime) supported(cfg *container.PodConfig) error {
	full := r.isolation == supervisor.IsolationFull
	for _, x := range []struct {
		bad  bool
		what string
	}{
		{cfg.OwnNetwork && (!full || r.cfg.Network == nil), "a network namespace of the pod's own"},
		{cfg.SharePID && !full, "a shared PID namespace"},
		{cfg.HostIPC && !full, "the choice of an IPC namespace"},
	} {
		if x.bad {
			return fmt.Errorf("%s: %w with isolation %s", x.what, container.ErrUnsupported, r.isolation)
		}
	}
	for _, v := range cfg.Volumes {
		switch {
		case !validVolume(v.Name):
			return fmt.Errorf("volume %q: want lower-case letters, digits and dashes", v.Name)
		case r.isolation == supervisor.IsolationNone:
			return fmt.Errorf("volume %s of the pod's own: %w with isolation none", v.Name, container.ErrUnsupported)
		case v.Memory && !full:
			return fmt.Errorf("volume %s in memory: %w with isolation %s", v.Name, container.ErrUnsupported, r.isolation)
		}
	}
	return nil
}

var errHeld = errors.New("a supervisor holds")

// discard takes a pod's directory away unless a supervisor holds it. The record goes first and under the lock: a
// supervisor that is only just starting then finds nothing to supervise.
func (r *Runtime) discard(dir string) error {
	lock, err := unix.Open(filepath.Join(dir, supervisor.LockFile), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Join(dir, supervisor.LockFile), Err: err}
	}
	defer unix.Close(lock)
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w %s", errHeld, dir)
	}
	if err := os.Remove(filepath.Join(dir, supervisor.PodFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// adopt takes up one directory of a pod.
func (r *Runtime) adopt(dir string) error {
	rec, err := supervisor.ReadPodRecord(dir)
	if err != nil {
		r.cfg.Log.Warn("pod directory without a whole record taken away", "path", dir, "err", err)
		return r.discard(dir)
	}
	p := newPod(container.PodRef{UID: rec.UID, Epoch: rec.Epoch}, dir)
	if r.podDir(p.ref) != dir || r.pods[rec.UID] != nil {
		return fmt.Errorf("record of pod %s epoch %d does not belong here", rec.UID, rec.Epoch)
	}
	p.rec = rec
	// A supervisor that an agent had just started writes its record within moments.
	for end := time.Now().Add(2 * time.Second); ; {
		p.sup, err = supervisor.ReadSupervisorRecord(dir)
		if err == nil || time.Now().After(end) || !locked(dir) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		return r.discard(dir) // nothing was ever started in it
	}
	close(p.ready)
	r.pods[rec.UID] = p
	if rec.OwnNetwork && r.cfg.Network != nil && p.sup.Alive() {
		// The agent may have died between the supervisor's start and this.
		if err := r.cfg.Network.Attach(r.ctx, p.ref, fmt.Sprintf("/proc/%d/ns/net", p.sup.PID), rec.IP); err != nil {
			r.cfg.Log.Warn("pod is not on the network", "pod", rec.Namespace+"/"+rec.Name, "err", err)
		}
	}
	r.cfg.Log.Info("pod taken up", "pod", rec.Namespace+"/"+rec.Name, "epoch", rec.Epoch, "alive", p.sup.Alive())
	r.follow(p)
	return nil
}

func locked(dir string) bool {
	fd, err := unix.Open(filepath.Join(dir, supervisor.LockFile), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil
}

// follow hears of a pod's changes until its supervisor is dead, and then clears up after it.
func (r *Runtime) follow(p *pod) {
	r.wg.Go(func() {
		pause := 10 * time.Millisecond
		for r.ctx.Err() == nil && p.sup.Alive() {
			err := p.client.Watch(r.ctx, func(st supervisor.State) {
				p.changed(st)
				r.hint()
			})
			p.unwatched()
			if r.ctx.Err() != nil {
				return
			}
			if p.sup.Alive() {
				r.cfg.Log.Debug("supervisor does not answer", "pod", p.rec.Name, "err", err)
				select {
				case <-time.After(pause):
				case <-r.ctx.Done():
				}
				pause = min(2*pause, time.Second)
			}
		}
		if r.ctx.Err() == nil {
			r.bury(p)
		}
	})
}

// changed takes in what the supervisor tells of a change. From one that tells no state it is only word that there was one.
func (p *pod) changed(st supervisor.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched = true
	if st.Changes == 0 {
		p.doubts++
		return
	}
	p.takeLocked(&st)
}

func (p *pod) unwatched() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched = false
}

// takeLocked keeps a state unless a newer one is known.
func (p *pod) takeLocked(st *supervisor.State) {
	if st.Changes >= p.lastOf {
		p.last, p.lastOf, p.told = st.Containers, st.Changes, max(p.told, st.Changes)
	}
}

// holdsLocked tells whether last is all that there is to know.
func (p *pod) holdsLocked() bool { return p.watched && p.lastOf >= p.told && p.asked == p.doubts }

// records asks the supervisor for its containers, unless what it has told holds.
func (p *pod) records(ctx context.Context) ([]supervisor.ContainerRecord, error) {
	p.mu.Lock()
	last, doubts, holds := p.last, p.doubts, p.holdsLocked()
	p.mu.Unlock()
	if holds {
		return last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	st, err := p.client.State(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takeLocked(&st)
	p.asked = max(p.asked, doubts)
	return p.last, nil
}

// doubt notes that something was done to the pod: what it said before holds no longer, though word of it may be on its way.
func (p *pod) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubts++
}

// began notes that a container has started with that change, of which word may be on its way.
func (p *pod) began(change int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if change == 0 {
		p.doubts++
	}
	p.told = max(p.told, change)
}

// bury kills what a dead supervisor has left and marks the pod dead.
func (r *Runtime) bury(p *pod) {
	p.removing.Lock()
	defer p.removing.Unlock()
	p.mu.Lock()
	done := p.dead
	p.mu.Unlock()
	if done {
		return
	}
	for !supervisor.KillPod(p.rec, killLimit) {
		r.cfg.Log.Error("processes of a dead pod do not end", "pod", p.rec.Name)
		if r.ctx.Err() != nil {
			return
		}
	}
	reason := supervisor.ReasonSupervisorDied
	if exists(filepath.Join(p.dir, supervisor.FencedFile)) ||
		p.rec.FenceSlot > 0 && r.cfg.Fence != nil && r.cfg.Fence.Expired(p.rec.FenceSlot, p.ref.Epoch) {
		reason = supervisor.ReasonLeaseExpired
	}
	recs, err := supervisor.ReadContainerRecords(p.dir)
	if err != nil {
		r.cfg.Log.Warn("container records of a dead pod are unreadable", "pod", p.rec.Name, "err", err)
	}
	for _, c := range recs {
		if c.Running {
			c.Running, c.Finished, c.ExitCode, c.Signal, c.Reason = false, time.Now(), 128+int32(unix.SIGKILL), int32(unix.SIGKILL), reason
			if err := c.Write(p.dir); err != nil {
				r.cfg.Log.Warn("end of a container is not on disk", "pod", p.rec.Name, "container", c.Name, "err", err)
			}
		}
	}
	p.closeIdle()
	p.mu.Lock()
	p.dead, p.deadReason = true, reason
	p.mu.Unlock()
	r.hint()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// RemovePod implements container.Runtime.
func (r *Runtime) RemovePod(ctx context.Context, ref container.PodRef) error {
	r.mu.Lock()
	p := r.pods[ref.UID]
	r.mu.Unlock()
	if p == nil || p.ref != ref {
		return nil
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.err != nil {
		return nil
	}
	if err := r.remove(ctx, p); err != nil {
		return fmt.Errorf("remove pod %s/%s: %w", p.rec.Namespace, p.rec.Name, err)
	}
	return nil
}

var errStopped = errors.New("supervisor is stopped")

func (r *Runtime) remove(ctx context.Context, p *pod) error {
	p.removing.Lock()
	defer p.removing.Unlock()
	clean := false
	if p.sup.Alive() {
		err := errStopped
		if !p.sup.Stopped() {
			ask, cancel := context.WithTimeout(ctx, 2*time.Second)
			err = p.client.Remove(ask)
			cancel()
		}
		clean = err == nil && p.rec.Contained()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := p.sup.Kill(); err != nil {
				return err
			}
		}
		for p.sup.Alive() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	if !clean && !supervisor.KillPod(p.rec, killLimit) {
		return errors.New("its processes do not end")
	}
	p.closeIdle()
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	if err := r.dropGroup(p); err != nil {
		return err
	}
	if p.rec.OwnNetwork && r.cfg.Network != nil {
		if err := r.cfg.Network.Detach(p.ref); err != nil {
			return err
		}
	}
	for { // the lock goes with the supervisor's last descriptor, an instant after it
		err := r.discard(p.dir)
		if err == nil {
			break
		}
		if !errors.Is(err, errHeld) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	r.mu.Lock()
	if r.pods[p.ref.UID] == p {
		delete(r.pods, p.ref.UID)
	}
	r.mu.Unlock()
	r.hint()
	return nil
}

// List implements container.Runtime. A supervisor that does not answer is given 500 ms, one that is stopped none; what
// is on disk stands in for its answer.
func (r *Runtime) List(ctx context.Context) (container.List, error) {
	r.mu.Lock()
	all := make([]*pod, 0, len(r.pods))
	for _, p := range r.pods {
		all = append(all, p)
	}
	r.mu.Unlock()
	out := make([]container.Pod, len(all))
	silent := make([]bool, len(all))
	exist := make([]bool, len(all))
	sem := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for i, p := range all {
		select {
		case <-p.ready:
		default:
			silent[i] = true // being made
			continue
		}
		if p.err != nil {
			continue
		}
		exist[i] = true
		describe := func() {
			var answered bool
			out[i], answered = r.describe(ctx, p)
			silent[i] = !answered
		}
		p.mu.Lock()
		holds := p.holdsLocked() && !p.dead
		p.mu.Unlock()
		if holds { // nothing to wait for
			describe()
			continue
		}
		wg.Go(func() {
			sem <- struct{}{}
			defer func() { <-sem }()
			describe()
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return container.List{}, fmt.Errorf("list pods: %w", err)
	}
	l := container.List{Complete: true}
	for i := range all {
		if silent[i] {
			l.Complete = false
		}
		if exist[i] {
			l.Pods = append(l.Pods, out[i])
		}
	}
	return l, nil
}

// describe asks the supervisor, or the disk where it does not answer or is dead. It tells whether the answer is certain.
func (r *Runtime) describe(ctx context.Context, p *pod) (container.Pod, bool) {
	out := container.Pod{
		PodRef: p.ref, Namespace: p.rec.Namespace, Name: p.rec.Name, IP: p.rec.IP, FenceSlot: p.rec.FenceSlot,
		CreatedAt: p.rec.Created, Fence: p.sup.Fence,
	}
	p.mu.Lock()
	out.Dead, out.DeadReason = p.dead, p.deadReason
	p.mu.Unlock()
	answered := out.Dead
	var recs []supervisor.ContainerRecord
	if !out.Dead && !p.stopped() {
		var err error
		recs, err = p.records(ctx)
		answered = err == nil
		if err != nil {
			r.cfg.Log.Debug("supervisor does not say its state", "pod", p.rec.Name, "err", err)
		}
	}
	if !answered || out.Dead {
		var err error
		if recs, err = supervisor.ReadContainerRecords(p.dir); err != nil {
			r.cfg.Log.Warn("container records are unreadable", "pod", p.rec.Name, "err", err)
		}
	}
	for _, c := range recs {
		out.Containers = append(out.Containers, p.container(c))
	}
	return out, answered
}

// stopped tells whether the supervisor is stopped; it looks again a second after it last was not.
func (p *pod) stopped() bool {
	p.mu.Lock()
	went := p.went
	p.mu.Unlock()
	now := time.Now()
	if now.Sub(went) < lookEvery {
		return false
	}
	if p.sup.Stopped() {
		return true
	}
	p.mu.Lock()
	p.went = now
	p.mu.Unlock()
	return false
}

func (p *pod) container(c supervisor.ContainerRecord) container.Container {
	return container.Container{
		ID: containerID(p.ref.UID, c.Name, c.Instance), Name: c.Name, Attempt: c.Attempt, Running: c.Running,
		StartedAt: c.Started, FinishedAt: c.Finished, ExitCode: c.ExitCode, Signal: c.Signal, Reason: c.Reason,
	}
}

const idScheme = "process://"

func containerID(uid, name, instance string) container.ContainerID {
	return container.ContainerID(idScheme + uid + "/" + name + "/" + instance)
}

// resolve finds the pod that an id belongs to.
func (r *Runtime) resolve(id container.ContainerID) (p *pod, name, instance string, err error) {
	rest, ok := strings.CutPrefix(string(id), idScheme)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return nil, "", "", fmt.Errorf("container id %q: %w", id, container.ErrNotFound)
	}
	r.mu.Lock()
	p = r.pods[parts[0]]
	r.mu.Unlock()
	if p != nil {
		select {
		case <-p.ready:
			if p.err == nil {
				return p, parts[1], parts[2], nil
			}
		default:
		}
	}
	return nil, "", "", fmt.Errorf("pod of container %s: %w", id, container.ErrNotFound)
}

// StartContainer implements container.Runtime.
func (r *Runtime) StartContainer(ctx context.Context, ref container.PodRef, c container.ContainerConfig) (container.Container, error) {
	out, err := r.start(ctx, ref, c)
	if err != nil {
		return container.Container{}, fmt.Errorf("start container %s: %w", c.Name, err)
	}
	return out, nil
}

func (r *Runtime) start(ctx context.Context, ref container.PodRef, c container.ContainerConfig) (container.Container, error) {
	r.mu.Lock()
	p := r.pods[ref.UID]
	r.mu.Unlock()
	if p == nil || p.ref != ref {
		return container.Container{}, fmt.Errorf("pod %s epoch %d: %w", ref.UID, ref.Epoch, container.ErrNotFound)
	}
	select {
	case <-p.ready:
		if p.err != nil {
			return container.Container{}, fmt.Errorf("pod %s: %w", ref.UID, container.ErrNotFound)
		}
	case <-ctx.Done():
		return container.Container{}, ctx.Err()
	}
	cfg := supervisor.StartConfig{
		Name: c.Name, Instance: strconv.Itoa(int(c.Attempt)) + "-" + randomID(), Attempt: c.Attempt, Argv: c.Argv, Env: c.Env,
		WorkingDir: c.WorkingDir, UID: c.UID, GID: c.GID, ReadOnlyRoot: c.ReadOnlyRoot, NoNewPrivileges: c.NoNewPrivileges,
	}
	if r.isolation != supervisor.IsolationNone {
		cfg.Mounts = r.etcMounts(p)
	}
	for _, m := range c.Mounts {
		source := m.Source
		if m.Volume != "" {
			if source = r.volumeDir(p, m.Volume); !exists(source) {
				return container.Container{}, fmt.Errorf("mount %s: the pod has no volume %q", m.Target, m.Volume)
			}
		}
		cfg.Mounts = append(cfg.Mounts, supervisor.Mount{Source: source, SubPath: m.SubPath, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	for _, g := range c.Groups {
		cfg.Groups = append(cfg.Groups, int64(g))
	}
	if err := r.capabilities(&c, &cfg); err != nil {
		return container.Container{}, err
	}
	if c.SeccompDefault {
		var err error
		if cfg.Seccomp, err = seccomp.RuntimeDefault(r.may(&c)); err != nil {
			return container.Container{}, err
		}
	}
	if err := r.containerGroup(p, &c, &cfg); err != nil {
		return container.Container{}, err
	}
	rec, err := p.client.Start(ctx, cfg)
	if err != nil {
		p.doubt()
		return container.Container{}, p.translate(err)
	}
	p.began(rec.Change)
	return p.container(rec), nil
}

// capabilities says which ones the container lacks, and which it has though it is not user 0.
func (r *Runtime) capabilities(c *container.ContainerConfig, cfg *supervisor.StartConfig) error {
	if !r.givesCapabilities() {
		if len(c.AddCapabilities) > 0 {
			return fmt.Errorf("capabilities.add: this agent is not root: %w", container.ErrUnsupported)
		}
		return nil // there are none to drop
	}
	may := r.may(c)
	cfg.DropCapabilities = ^uint64(may)
	if c.UID > 0 {
		cfg.AmbientCapabilities = uint64(may & spec.EffectiveCapabilities(c.AddCapabilities, []string{"ALL"}))
	}
	return nil
}

// givesCapabilities says whether containers can have any: those of a user namespace are let go of.
func (r *Runtime) givesCapabilities() bool {
	return os.Geteuid() == 0 && r.isolation != supervisor.IsolationUser
}

// may is what the container's processes can have at most.
func (r *Runtime) may(c *container.ContainerConfig) spec.CapabilitySet {
	if !r.givesCapabilities() {
		return 0
	}
	return spec.EffectiveCapabilities(c.AddCapabilities, c.DropCapabilities)
}

func randomID() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// translate puts a supervisor's refusal, or its silence, into the seam's words.
func (p *pod) translate(err error) error {
	var e *supervisor.Error
	if !errors.As(err, &e) {
		p.mu.Lock()
		dead, reason := p.dead, p.deadReason
		p.mu.Unlock()
		if dead || !p.sup.Alive() {
			if reason == "" {
				reason = supervisor.ReasonSupervisorDied
			}
			return fmt.Errorf("pod is dead (%s): %w", reason, container.ErrNotRunning)
		}
		return err
	}
	sentinel := map[int]error{
		supervisor.CodeNotFound: container.ErrNotFound, supervisor.CodeNotRunning: container.ErrNotRunning,
		supervisor.CodeCannotStart: container.ErrCannotStart, supervisor.CodeTimeout: container.ErrTimeout,
		supervisor.CodeFenced: container.ErrFenced, supervisor.CodeUnsupported: container.ErrUnsupported,
	}[e.Code]
	if sentinel == nil {
		return e
	}
	return fmt.Errorf("%w: %s", sentinel, e.Text)
}

// StopContainer implements container.Runtime.
func (r *Runtime) StopContainer(ctx context.Context, id container.ContainerID, grace time.Duration) error {
	p, name, instance, err := r.resolve(id)
	if err != nil {
		return fmt.Errorf("stop container: %w", err)
	}
	defer p.doubt()
	if err := p.client.Stop(ctx, name, instance, max(grace, 0)); err != nil {
		err = p.translate(err)
		if errors.Is(err, container.ErrNotRunning) {
			r.bury(p) // returns once nothing of the pod lives
			return nil
		}
		return fmt.Errorf("stop container %s: %w", name, err)
	}
	return nil
}

// Exec implements container.Runtime.
func (r *Runtime) Exec(ctx context.Context, id container.ContainerID, cmd container.ExecConfig) (container.ExecResult, error) {
	p, name, instance, err := r.resolve(id)
	if err != nil {
		return container.ExecResult{}, fmt.Errorf("exec: %w", err)
	}
	reply, err := p.exec(ctx, name, instance, cmd)
	if err != nil {
		return container.ExecResult{}, fmt.Errorf("exec in container %s: %w", name, err)
	}
	return container.ExecResult{
		ExitCode: reply.ExitCode, Stdout: reply.Stdout, Stderr: reply.Stderr, Duration: reply.Duration, CPU: reply.CPU,
	}, nil
}

func (p *pod) exec(ctx context.Context, name, instance string, cmd container.ExecConfig) (supervisor.ExecReply, error) {
	bounded := ctx
	if cmd.Timeout > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, cmd.Timeout+execSlack)
		defer cancel()
	}
	req := supervisor.ExecRequest{Argv: cmd.Argv, Env: cmd.Env, Timeout: cmd.Timeout, OutputLimit: cmd.OutputLimit}
	if req.OutputLimit <= 0 {
		req.OutputLimit = 10240
	}
	conn, err := p.execConn(bounded, name, instance)
	if err != nil {
		return supervisor.ExecReply{}, p.ended(ctx, err)
	}
	reply, err := conn.Exec(bounded, req)
	var e *supervisor.Error
	if err == nil || errors.As(err, &e) {
		p.giveBack(name, instance, conn)
		if err != nil {
			err = p.translate(err)
		}
		return reply, err
	}
	conn.Close()
	return supervisor.ExecReply{}, p.ended(ctx, err)
}

// ended says what an exec without an answer means. The init serves a connection as long as the container lives, so a
// broken one means that it does not.
func (p *pod) ended(ctx context.Context, err error) error {
	var e *supervisor.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &e):
		return p.translate(err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the container's init does not answer: %w", container.ErrTimeout)
	}
	return fmt.Errorf("%w: %w", container.ErrNotRunning, err)
}

func (p *pod) execConn(ctx context.Context, name, instance string) (*supervisor.ExecConn, error) {
	key := name + "_" + instance
	p.mu.Lock()
	if l := p.idle[key]; len(l) > 0 {
		c := l[len(l)-1]
		p.idle[key] = l[:len(l)-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	return p.client.Attach(ctx, name, instance)
}

// giveBack keeps a connection for the next exec. A newer instance's first connection closes those of the older.
func (p *pod) giveBack(name, instance string, c *supervisor.ExecConn) {
	key := name + "_" + instance
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead || len(p.idle[key]) >= maxIdleExecs {
		c.Close()
		return
	}
	if _, known := p.idle[key]; !known {
		for k, l := range p.idle {
			if strings.HasPrefix(k, name+"_") {
				for _, c := range l {
					c.Close()
				}
				delete(p.idle, k)
			}
		}
	}
	p.idle[key] = append(p.idle[key], c)
}

func (p *pod) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, l := range p.idle {
		for _, c := range l {
			c.Close()
		}
		delete(p.idle, k)
	}
}
