package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is what it takes to start a process inside a group from its first instruction on, so that nothing of it is ever
// outside: on a locked thread call Join, start the process from that thread with Unified as its SysProcAttr.CgroupFD,
// and let no other work have the thread, which stays in the groups of version 1.
type Entry struct {
	// Tasks are the files of version 1 that move the thread whose id is written; its children start where it is.
	Tasks []string
	// Unified is the directory of version 2 to open for CgroupFD (CLONE_INTO_CGROUP); empty without version 2.
	Unified string
}

// Entry is the way into the group.
func (g Group) Entry() Entry {
	e := Entry{Unified: g.Unified}
	for _, dir := range g.all() {
		if dir != g.Unified {
			e.Tasks = append(e.Tasks, filepath.Join(dir, "tasks"))
		}
	}
	return e
}

// Join moves the calling thread, which must be locked, into the groups of version 1.
func (e Entry) Join() error {
	tid := strconv.Itoa(unix.Gettid())
	for _, path := range e.Tasks {
		if err := write(filepath.Dir(path), filepath.Base(path), tid); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Processes are the ids of the processes in the group and below, sorted. Zombies are none, nor is a process that only
// has a thread here (Entry.Join). 0 stands for all that this PID namespace does not show.
func (g Group) Processes() ([]int, error) {
	seen := map[int]bool{}
	for _, dir := range g.all() {
		if err := processes(dir, seen); err != nil {
			return nil, fmt.Errorf("read processes of cgroup: %w", err)
		}
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids, nil
}

func processes(dir string, into map[int]bool) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		if !visits(dir, pid) {
			into[pid] = true
		}
	}
	below, err := groupsIn(dir)
	for _, name := range below {
		err = errors.Join(err, processes(filepath.Join(dir, name), into))
	}
	return err
}

// visits says that a process only has a thread in a group of version 1, lent to start others there: cgroup.procs names
// it, but it is not to be killed. One whose first thread has ended while others run is no visitor.
func visits(dir string, pid int) bool {
	tasks, err := os.ReadFile(filepath.Join(dir, "tasks"))
	if err != nil || slices.Contains(strings.Fields(string(tasks)), strconv.Itoa(pid)) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the name, which is in brackets and may hold any character.
	_, state, found := strings.Cut(string(stat[max(strings.LastIndex(string(stat), ")"), 0):]), " ")
	return found && state[0] != 'Z' && state[0] != 'X'
}

// Kill kills every process in the group and below it, and returns when none is left, or with ErrLeft after the time
// given. It takes what has left its session and process group too, and what forks meanwhile.
func (g Group) Kill(within time.Duration) error {
	end := time.Now().Add(within)
	for round := 0; ; round++ {
		left, err := g.Processes()
		if err != nil || len(left) == 0 {
			return err
		}
		if round > 0 && time.Now().After(end) {
			return fmt.Errorf("kill cgroup: %d processes are %w after %v", len(left), ErrLeft, within)
		}
		if err := g.killOnce(round, left, end); err != nil {
			return fmt.Errorf("kill cgroup: %w", err)
		}
		time.Sleep(min(time.Millisecond<<min(round, 5), max(time.Until(end), 0)))
	}
}

// killOnce asks version 2 to kill all, which takes it an instant. Where there is none, and for what is still there
// later, it freezes the group, so that none can fork and no id passes to another, and kills one by one.
func (g Group) killOnce(round int, left []int, end time.Time) error {
	if slices.Contains(left, os.Getpid()) {
		return errors.New("this process is in it")
	}
	if g.Unified != "" && round < 4 {
		// A kernel before 5.14 has no such file.
		if err := write(g.Unified, "cgroup.kill", "1"); err == nil {
			return nil
		} else if !gone(err) {
			return err
		}
	}
	thaw := g.freeze(end)
	pids, err := g.Processes()
	for _, pid := range pids {
		if pid > 0 && pid != os.Getpid() {
			if killed := unix.Kill(pid, unix.SIGKILL); killed != nil && !errors.Is(killed, unix.ESRCH) {
				err = errors.Join(err, fmt.Errorf("process %d: %w", pid, killed))
			}
		}
	}
	return errors.Join(err, thaw())
}

// freeze stops every process of the group until thaw. One in the middle of a call that can't be interrupted may keep it
// from being complete: it waits up to 100 ms for that.
func (g Group) freeze(end time.Time) (thaw func() error) {
	dir, file, on, off := g.Dirs[Freezer], "freezer.state", "FROZEN", "THAWED"
	frozen := func() bool {
		text, err := os.ReadFile(filepath.Join(dir, file))
		return err != nil || strings.TrimSpace(string(text)) == on
	}
	if dir == g.Unified {
		file, on, off = "cgroup.freeze", "1", "0"
		frozen = func() bool {
			n, err := read(dir, "cgroup.events", "frozen")
			return err != nil || n == 1
		}
	}
	if dir == "" || write(dir, file, on) != nil {
		return func() error { return nil }
	}
	for range 100 {
		if frozen() || time.Now().After(end) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return func() error {
		if err := write(dir, file, off); !gone(err) {
			return err
		}
		return nil
	}
}

// Remove removes the group and all below it, none of which may hold a process any more, and tries for the time given
// while the kernel still holds them; then the error is ErrLeft. One that is gone is no error.
func (g Group) Remove(within time.Duration) error {
	end := time.Now().Add(within)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		busy := ""
		for _, dir := range g.all() {
			if err := remove(dir); errors.Is(err, unix.EBUSY) {
				busy = dir
			} else if err != nil {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
		if busy == "" {
			return nil
		}
		if !time.Now().Before(end) {
			return fmt.Errorf("remove cgroup: %s is %w after %v", busy, ErrLeft, within)
		}
		time.Sleep(min(wait, max(time.Until(end), 0)))
	}
}

func remove(dir string) error {
	below, err := groupsIn(dir)
	for _, name := range below {
		err = errors.Join(err, remove(filepath.Join(dir, name)))
	}
	if err != nil {
		return err
	}
	if err := unix.Rmdir(dir); !gone(err) {
		return err
	}
	return nil
}
