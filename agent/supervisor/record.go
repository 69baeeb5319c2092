package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/atomicfile"
)

// The names in a pod's directory.
const (
	PodFile        = "pod"
	SupervisorFile = "supervisor"
	LockFile       = "lock"
	SocketFile     = "sock"
	FencedFile     = "fenced"
	WorkDir        = "work"
	ContainersDir  = "c"
	StateFile      = "state"
	LogFile        = "log"
	OldLogFile     = "log.1"
	tmpDir         = "tmp"
)

// maxRecord bounds a record file, in bytes.
const maxRecord = 64 << 10

// PodRecord is what a supervisor is told of its pod.
type PodRecord struct {
	UID             string
	Epoch           int64
	Namespace, Name string
	Hostname, IP    string
	// FenceSlot is 0 when the pod is not fenced.
	FenceSlot int
	// Grace is the pod's termination grace period, of which the fence gives at most 500 ms.
	Grace     time.Duration
	Created   time.Time
	Isolation Isolation
	// WorkDir is MUSTER_POD_DIR as the containers have it: by it, and not by the pod's uid, are its processes told from
	// those of another epoch or of another node on this machine.
	WorkDir string
	// OwnNetwork gives the pod a network namespace, and HostIPC leaves it the node's IPC namespace. Both mean nothing where
	// Isolation is not full.
	OwnNetwork, HostIPC bool
	// HostPID leaves containers the node's PID namespace, SharePID puts them all into one; the latter wants Isolation to be
	// full, or none, where it is so anyway.
	HostPID, SharePID bool
	// Memory are the pod's directories in memory.
	Memory []MemoryDir
}

// pidNamespace is whose PID namespace a container's processes are in.
type pidNamespace int

const (
	pidsOfContainer pidNamespace = iota // whatever a container starts dies with its init
	pidsOfPod                           // and with the pod's holder, which is PID 1 there
	pidsOfNode                          // and is found through its parents
)

func (p *PodRecord) pids() pidNamespace {
	switch {
	case p.Isolation == IsolationNone || p.HostPID:
		return pidsOfNode
	case p.SharePID:
		return pidsOfPod
	}
	return pidsOfContainer
}

// Contained tells whether the kernel ends whatever the pod has started when its supervisor ends. Otherwise what its
// containers have detached has to be looked for.
func (p *PodRecord) Contained() bool { return p.pids() != pidsOfNode }

func (p *PodRecord) fenceKind() string {
	if p.Contained() {
		return FenceKernel
	}
	return FenceBestEffort
}

// MemoryDir is a directory in memory that all containers of a pod see.
type MemoryDir struct {
	// Path is below the pod's directory; no comma or colon is in it.
	Path string
	// Size bounds it, in bytes; 0 for half of the machine's memory.
	Size int64
	// GID owns it; -1 for the supervisor's own group.
	GID int
}

// SupervisorRecord identifies a process for ever: a pid alone is used again.
type SupervisorRecord struct {
	PID int
	// StartTime is in clock ticks since the boot (field 22 of /proc/PID/stat).
	StartTime uint64
	BootID    string
	// Fence is kernel or best-effort for fenced pods, empty otherwise.
	Fence string
	// Version is the protocol's.
	Version int
}

// ContainerRecord is one instance of a container.
type ContainerRecord struct {
	// Name is the container's, Instance is "ATTEMPT-RANDOM".
	Name, Instance string
	Attempt        int32
	Running        bool
	// PID is that of the instance's init, which all processes of the container descend from, as the supervisor sees it; 0
	// once it has ended. The supervisor says it, no file does.
	PID               int
	Started, Finished time.Time
	// ExitCode is 128 + Signal for a death by signal.
	ExitCode, Signal int32
	// Reason is Completed, Error, OOMKilled or LeaseExpired once it has ended.
	Reason string
	// DroppedLines counts the lines of output that could not be written.
	DroppedLines int64
	// Change is the number of changes in State with the one that made the instance start, in the answer to Start; else 0.
	Change int64
}

// The reasons of a container's end.
const (
	ReasonCompleted      = "Completed"
	ReasonError          = "Error"
	ReasonOOMKilled      = "OOMKilled"
	ReasonLeaseExpired   = "LeaseExpired"
	ReasonSupervisorDied = "SupervisorDied"
)

// The values of a pod's fence.
const (
	FenceKernel     = "kernel"
	FenceBestEffort = "best-effort"
)

// InstanceDir is the directory of an instance below the pod's.
func InstanceDir(name, instance string) string {
	return filepath.Join(ContainersDir, name+"_"+instance)
}

// A record file has a line NAME=VALUE for each value, in no particular order; unknown names are skipped.
type record map[string]string

func readRecord(path string) (record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 2048) // few records have more
	n := 0
	for {
		k, err := f.Read(b[n:])
		n += k
		if err != nil || n > maxRecord {
			break
		}
		if n == len(b) {
			b = append(b, make([]byte, n)...)
		}
	}
	if n > maxRecord {
		return nil, errors.New(path + ": larger than a record can be")
	}
	r := record{}
	for line := range strings.Lines(string(b[:n])) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			r[k] = v
		}
	}
	if r["end"] != "." {
		return nil, errors.New(path + ": not a whole record")
	}
	return r, nil
}

func (r record) int(key string) int64 {
	v, _ := strconv.ParseInt(r[key], 10, 64)
	return v
}

func (r record) time(key string) time.Time {
	if v := r.int(key); v != 0 {
		return time.Unix(0, v)
	}
	return time.Time{}
}

// lines builds a record file. Newlines cannot be in a value: nothing recorded may have one.
type lines struct{ b []byte }

func (l *lines) str(key, v string) {
	l.b = append(l.b, key...)
	l.b = append(l.b, '=')
	l.b = append(l.b, strings.ReplaceAll(v, "\n", " ")...)
	l.b = append(l.b, '\n')
}

func (l *lines) int(key string, v int64) { l.str(key, strconv.FormatInt(v, 10)) }

func (l *lines) bool(key string, v bool) {
	if v {
		l.int(key, 1)
	}
}

func (l *lines) time(key string, t time.Time) {
	if !t.IsZero() {
		l.int(key, t.UnixNano())
	}
}

func (l *lines) write(path string) error {
	l.str("end", ".")
	return atomicfile.Write(path, l.b, 0o600)
}

// Write replaces the record in a pod's directory.
func (p *PodRecord) Write(dir string) error {
	var l lines
	l.str("uid", p.UID)
	l.int("epoch", p.Epoch)
	l.str("namespace", p.Namespace)
	l.str("name", p.Name)
	l.str("hostname", p.Hostname)
	l.str("ip", p.IP)
	l.int("slot", int64(p.FenceSlot))
	l.int("grace", int64(p.Grace))
	l.time("created", p.Created)
	l.str("isolation", string(p.Isolation))
	l.str("workdir", p.WorkDir)
	l.bool("ownnetwork", p.OwnNetwork)
	l.bool("hostipc", p.HostIPC)
	l.bool("hostpid", p.HostPID)
	l.bool("sharepid", p.SharePID)
	for i, m := range p.Memory {
		l.str("memory"+strconv.Itoa(i), m.Path+":"+strconv.FormatInt(m.Size, 10)+":"+strconv.Itoa(m.GID))
	}
	return l.write(filepath.Join(dir, PodFile))
}

// ReadPodRecord reads it back.
func ReadPodRecord(dir string) (PodRecord, error) {
	r, err := readRecord(filepath.Join(dir, PodFile))
	if err != nil {
		return PodRecord{}, err
	}
	p := PodRecord{
		UID: r["uid"], Epoch: r.int("epoch"), Namespace: r["namespace"], Name: r["name"], Hostname: r["hostname"], IP: r["ip"],
		FenceSlot: int(r.int("slot")), Grace: time.Duration(r.int("grace")), Created: r.time("created"), Isolation: Isolation(r["isolation"]), WorkDir: r["workdir"],
		OwnNetwork: r.int("ownnetwork") != 0, HostIPC: r.int("hostipc") != 0,
		HostPID: r.int("hostpid") != 0, SharePID: r.int("sharepid") != 0,
	}
	for i := 0; ; i++ {
		path, rest, ok := strings.Cut(r["memory"+strconv.Itoa(i)], ":")
		if !ok {
			return p, nil
		}
		size, gid, _ := strings.Cut(rest, ":")
		m := MemoryDir{Path: path}
		var e1, e2 error
		m.Size, e1 = strconv.ParseInt(size, 10, 64)
		m.GID, e2 = strconv.Atoi(gid)
		if e1 != nil || e2 != nil {
			return PodRecord{}, errors.New("memory " + path + ": want a size and a group")
		}
		p.Memory = append(p.Memory, m)
	}
}

// Write replaces the record at path.
func (s *SupervisorRecord) Write(path string) error {
	var l lines
	l.int("pid", int64(s.PID))
	l.int("start", int64(s.StartTime))
	l.str("boot", s.BootID)
	l.str("fence", s.Fence)
	l.int("version", int64(s.Version))
	return l.write(path)
}

// ReadSupervisorRecord reads who supervises the pod in dir.
func ReadSupervisorRecord(dir string) (SupervisorRecord, error) {
	return ReadIdentity(filepath.Join(dir, SupervisorFile))
}

// ReadIdentity reads what Write wrote; a guard has such a record, too.
func ReadIdentity(path string) (SupervisorRecord, error) {
	r, err := readRecord(path)
	if err != nil {
		return SupervisorRecord{}, err
	}
	return SupervisorRecord{
		PID: int(r.int("pid")), StartTime: uint64(r.int("start")), BootID: r["boot"], Fence: r["fence"], Version: int(r.int("version")),
	}, nil
}

// Alive tells whether exactly that process runs: same boot, same pid, same start. A zombie counts as dead.
func (s *SupervisorRecord) Alive() bool {
	if s.PID <= 0 || s.BootID != BootID() {
		return false
	}
	st, err := ReadStat(s.PID)
	return err == nil && st.StartTime == s.StartTime && !st.Dead()
}

// Write replaces the record of the instance in the pod's directory.
func (c *ContainerRecord) Write(podDir string) error {
	var l lines
	l.str("name", c.Name)
	l.str("instance", c.Instance)
	l.int("attempt", int64(c.Attempt))
	if c.Running {
		l.int("running", 1)
	}
	l.time("started", c.Started)
	l.time("finished", c.Finished)
	l.int("exit", int64(c.ExitCode))
	l.int("signal", int64(c.Signal))
	l.str("reason", c.Reason)
	l.int("dropped", c.DroppedLines)
	return l.write(filepath.Join(podDir, InstanceDir(c.Name, c.Instance), StateFile))
}

// ReadContainerRecords reads the newest instance of each container from a pod's directory, in order of their names. It
// needs no supervisor.
func ReadContainerRecords(podDir string) ([]ContainerRecord, error) {
	entries, err := os.ReadDir(filepath.Join(podDir, ContainersDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []ContainerRecord
	for _, e := range entries {
		r, err := readRecord(filepath.Join(podDir, ContainersDir, e.Name(), StateFile))
		if err != nil {
			continue // an instance that never came to be
		}
		c := ContainerRecord{
			Name: r["name"], Instance: r["instance"], Attempt: int32(r.int("attempt")), Running: r.int("running") != 0,
			Started: r.time("started"), Finished: r.time("finished"), ExitCode: int32(r.int("exit")), Signal: int32(r.int("signal")),
			Reason: r["reason"], DroppedLines: r.int("dropped"),
		}
		if n := len(all); n > 0 && all[n-1].Name == c.Name {
			if c.Started.After(all[n-1].Started) {
				all[n-1] = c
			}
			continue
		}
		all = append(all, c)
	}
	return all, nil
}

// Stopped tells whether the process lives but a signal has stopped it.
func (s *SupervisorRecord) Stopped() bool {
	st, err := ReadStat(s.PID)
	return err == nil && st.StartTime == s.StartTime && s.BootID == BootID() && st.Stopped()
}

// Kill sends SIGKILL to exactly that process; one that is gone is no error.
func (s *SupervisorRecord) Kill() error {
	fd, err := unix.PidfdOpen(s.PID, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if !s.Alive() { // looked at after the descriptor was opened: that cannot come to mean another process
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}
