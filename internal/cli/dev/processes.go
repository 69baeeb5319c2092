package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/datadir"
)

// process is one process as /proc shows it.
type process struct {
	pid, parent int
	// start is when it began, in the kernel's ticks: with the pid it names a process for good.
	start string
	argv  []string
}

// role says in which order the parts of a node die: what would notice the death of the others goes first.
type role int

const (
	roleNone role = iota
	roleServer
	roleGuard
	rolePod // supervisors and the inits of containers
	roleContainer
)

// snapshot lists the living processes.
func snapshot() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := read(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// read looks at one process; false when it is gone or only waits to be reaped.
func read(pid int) (process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	// The name in parentheses may have any character in it, so what counts begins after the last one.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return process{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return process{}, false
	}
	p := process{pid: pid, parent: parent, start: fields[19]}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(b) > 0 {
		p.argv = strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
	return p, true
}

// claim says which data directories are meant: those that is accepts.
type claim struct {
	is func(dataDir string) bool
	// roots are written in front of every path below those directories.
	roots []string
}

// claimOne means one server's directory.
func claimOne(dir string) claim {
	dirs := names(dir)
	return claim{func(d string) bool { return slices.Contains(dirs, d) }, dirs}
}

// claimBelow means every directory directly below dir, whether it is still there or not.
func claimBelow(dir string) claim {
	dirs := names(dir)
	return claim{func(d string) bool { return slices.Contains(dirs, filepath.Dir(d)) }, dirs}
}

// role is what the process is to the servers that are meant, by its command line alone.
func (p process) role(c claim) role {
	for i, a := range p.argv {
		if i+1 >= len(p.argv) {
			break
		}
		next := c.is(filepath.Clean(p.argv[i+1]))
		switch {
		case i >= 1 && i <= 2 && next && a == "guard":
			return roleGuard
		case i >= 1 && i <= 2 && next && (a == "pod" || a == "init"):
			return rolePod
		case i == 1 && (a == "agent" || a == "coordinator"):
			for j, flag := range p.argv[2:] {
				value, ok := strings.CutPrefix(flag, "--data-dir=")
				if !ok && flag == "--data-dir" && j+3 < len(p.argv) {
					value, ok = p.argv[j+3], true
				}
				if ok && c.is(filepath.Clean(value)) {
					return roleServer
				}
			}
		}
	}
	return roleNone
}

// inPod tells whether the process's environment says that it belongs to a pod of the servers that are meant. It finds
// the containers of nodes without namespaces, whose processes may have left their supervisor.
func (p process) inPod(c claim) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	if err != nil {
		return false // another user's, so not one of ours
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if path, ok := bytes.CutPrefix(v, []byte("MUSTER_POD_DIR=")); ok {
			return slices.ContainsFunc(c.roots, func(d string) bool { return strings.HasPrefix(string(path), d+"/") })
		}
	}
	return false
}

// names are the ways in which a directory may be written.
func names(dir string) []string {
	dirs := []string{filepath.Clean(dir)}
	if abs, err := filepath.Abs(dir); err == nil {
		dirs = append(dirs, abs)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		if real, err = filepath.Abs(real); err == nil {
			dirs = append(dirs, real)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// owned finds the processes of the servers that are meant: themselves, their guards, supervisors and containers, and
// everything below those. holders are data directories whose holder is one of them, whatever it is called. They are in
// the order in which they should die. This process is never one.
func owned(c claim, holders ...string) ([]process, error) {
	all, err := snapshot()
	if err != nil {
		return nil, err
	}
	holding := map[int]bool{}
	for _, dir := range holders {
		pid, err := datadir.Holder(dir)
		if err != nil && !errors.Is(err, datadir.ErrInUse) {
			return nil, err
		}
		holding[pid] = true
	}
	roles := map[int]role{}
	for _, p := range all {
		r := p.role(c)
		switch {
		case r != roleNone:
		case holding[p.pid]:
			r = roleServer
		case p.inPod(c):
			r = roleContainer
		}
		roles[p.pid] = r
	}
	parents := map[int]int{}
	for _, p := range all {
		parents[p.pid] = p.parent
	}
	var found []process
	for _, p := range all {
		for up := p.parent; up > 1 && roles[p.pid] == roleNone; up = parents[up] {
			if roles[up] != roleNone {
				roles[p.pid] = roleContainer
			}
		}
		if roles[p.pid] != roleNone && p.pid != os.Getpid() {
			found = append(found, p)
		}
	}
	slices.SortStableFunc(found, func(a, b process) int { return int(roles[a.pid] - roles[b.pid]) })
	return found, nil
}

// signal sends s to this very process, never to another that got its number since.
func (p process) signal(s unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	if now, ok := read(p.pid); !ok || now.start != p.start {
		return nil
	}
	return gone(unix.PidfdSendSignal(fd, s, nil, 0))
}

func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// killTime bounds how long killing takes.
const killTime = 10 * time.Second

// kill ends the processes that find finds until there are none left, and returns how many there were.
func kill(ctx context.Context, find func() ([]process, error)) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	seen := map[string]bool{}
	for {
		found, err := find()
		if err != nil {
			return len(seen), err
		}
		if len(found) == 0 {
			return len(seen), nil
		}
		var left []string
		for _, p := range found {
			seen[strconv.Itoa(p.pid)+" "+p.start] = true
			left = append(left, strconv.Itoa(p.pid))
			if err := p.signal(unix.SIGKILL); err != nil {
				return len(seen), fmt.Errorf("kill process %d: %w", p.pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return len(seen), fmt.Errorf("processes %s do not end: %w", strings.Join(left, ", "), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
