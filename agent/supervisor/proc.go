package supervisor

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Stat is what /proc/PID/stat says of a process.
type Stat struct {
	PID, PPID, Session int
	// State is one letter: R S D T t Z X ….
	State byte
	// StartTime is in clock ticks since the boot.
	StartTime uint64
	// CPU is the user and system time of the process, WaitedCPU that of the children it has waited for, with theirs.
	CPU, WaitedCPU time.Duration
}

// clockTick is the unit of times in /proc: USER_HZ is 100 on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// Dead tells whether the process runs no more, a zombie included.
func (s Stat) Dead() bool { return s.State == 'Z' || s.State == 'X' }

// Stopped tells whether a signal or a debugger has stopped the process.
func (s Stat) Stopped() bool { return s.State == 'T' || s.State == 't' }

var errNoStat = errors.New("unexpected form of /proc/PID/stat")

// ReadStat reads /proc/PID/stat.
func ReadStat(pid int) (Stat, error) {
	var buf [1024]byte
	n, err := readSmall("/proc/"+strconv.Itoa(pid)+"/stat", buf[:])
	if err != nil {
		return Stat{}, err
	}
	return parseStat(buf[:n])
}

// parseStat looks from the last parenthesis on, for a process's name may hold anything.
func parseStat(b []byte) (Stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < 0 || end+2 > len(b) {
		return Stat{}, errNoStat
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	f := strings.Fields(string(b[end+1:]))
	if err != nil || len(f) < 20 {
		return Stat{}, errNoStat
	}
	s := Stat{PID: pid, State: f[0][0]}
	var e1, e2, e3 error
	s.PPID, e1 = strconv.Atoi(f[1])
	s.Session, e2 = strconv.Atoi(f[3])
	s.StartTime, e3 = strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(e1, e2, e3); err != nil {
		return Stat{}, errNoStat
	}
	var ticks [4]int64 // utime, stime, cutime, cstime
	for i := range ticks {
		if ticks[i], err = strconv.ParseInt(f[11+i], 10, 64); err != nil {
			return Stat{}, errNoStat
		}
	}
	s.CPU, s.WaitedCPU = time.Duration(ticks[0]+ticks[1])*clockTick, time.Duration(ticks[2]+ticks[3])*clockTick
	return s, nil
}

// readSmall reads a file of /proc into buf with two system calls and a close.
func readSmall(path string, buf []byte) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.Read(fd, buf)
}

// BootID is the kernel's id of this boot.
var BootID = sync.OnceValue(func() string {
	var buf [64]byte
	n, err := readSmall("/proc/sys/kernel/random/boot_id", buf[:])
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(buf[:n]))
})

// pids lists the processes that /proc shows.
func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	out := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Stats reads the stat of every process that /proc shows.
func Stats() []Stat {
	var all []Stat
	for _, pid := range pids() {
		if s, err := ReadStat(pid); err == nil {
			all = append(all, s)
		}
	}
	return all
}

// descendants are the living processes below root, root itself left out.
func descendants(root int) []int {
	all := Stats()
	below := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for _, s := range all {
			if below[s.PPID] && !below[s.PID] {
				below[s.PID], grown = true, true
			}
		}
	}
	var out []int
	for _, s := range all {
		if below[s.PID] && s.PID != root && !s.Dead() {
			out = append(out, s.PID)
		}
	}
	return out
}

// killUntilNone kills what find finds until it finds nothing twice, for a process may fork while it is looked for. It
// tells whether nothing was left within the limit.
func killUntilNone(limit time.Duration, find func() []int) bool {
	for end, wait, none := time.Now().Add(limit), time.Millisecond, 0; ; {
		found := find()
		for _, pid := range found {
			unix.Kill(pid, unix.SIGKILL)
		}
		if len(found) > 0 {
			none = 0
		} else if none++; none == 2 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		if len(found) > 0 {
			time.Sleep(wait)
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

// maxEnviron bounds how much of an environment is searched, in bytes.
const maxEnviron = 256 << 10

// WithEnv lists the living processes in whose first environment (what they were executed with) NAME=VALUE stands.
// A process that has replaced its environment, or that may not be read, is not found.
func WithEnv(nameValue string) []int {
	want := []byte(nameValue)
	buf := make([]byte, maxEnviron)
	var out []int
	self := os.Getpid()
	for _, pid := range pids() {
		if pid == self {
			continue
		}
		if environHas(pid, want, buf) {
			if s, err := ReadStat(pid); err == nil && !s.Dead() {
				out = append(out, pid)
			}
		}
	}
	return out
}

func environHas(pid int, want, buf []byte) bool {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/environ", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n := 0
	for n < len(buf) {
		k, err := unix.Read(fd, buf[n:])
		if err != nil || k <= 0 {
			break
		}
		n += k
	}
	for rest := buf[:n]; len(rest) > 0; {
		var entry []byte
		entry, rest, _ = bytes.Cut(rest, []byte{0})
		if bytes.Equal(entry, want) {
			return true
		}
	}
	return false
}

// The variables that every container and its init have. Their values are the supervisor's, whatever a manifest says.
const (
	EnvPodUID = "MUSTER_POD_UID"
	EnvPodDir = "MUSTER_POD_DIR"
)

// KillPod kills every process of a pod, found by its MUSTER_POD_DIR, again and again until none is left, and tells
// whether that came true within limit.
func KillPod(pod PodRecord, limit time.Duration) bool {
	return killUntilNone(limit, func() []int { return WithEnv(EnvPodDir + "=" + pod.WorkDir) })
}
