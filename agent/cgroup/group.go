package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Group is one group, in all hierarchies. It is a plain value that may be stored and sent; methods on a group that does
// not exist find it empty.
type Group struct {
	// Dirs has its directory for each controller that is available; where version 2 has it, that is Unified.
	Dirs map[string]string
	// Unified is its directory in version 2, which a hybrid machine has beside those of version 1; empty without.
	Unified string
}

// Limits are what a group is held to; zero means none. They have the fields of container.Limits.
type Limits struct {
	// MilliCPU is in thousandths of a core, as a quota of each 100 ms, at least 1 ms.
	MilliCPU int64
	// CPURequest weighs against other groups, in thousandths of a core; zero means MilliCPU, and without that the
	// least weight. A machine without the controller cpu ignores it, for it limits nothing.
	CPURequest int64
	// MemoryBytes is in bytes, and leaves no swap.
	MemoryBytes int64
	// PIDs is a number of processes and threads.
	PIDs int64
}

// Usage is what a group with all below it uses; -1 for what the machine does not tell.
type Usage struct {
	// CPU is user and system time since the group was made.
	CPU time.Duration
	// Throttled is how long it was kept from running by its quota, added up over the cores.
	Throttled time.Duration
	// MemoryBytes is the working set: all memory charged to it but the file cache not lately used.
	MemoryBytes int64
	// PIDs is a number of processes and threads.
	PIDs int64
}

// Child is the group of that name below g, whether it exists or not.
func (g Group) Child(name string) Group {
	child := Group{Dirs: make(map[string]string, len(g.Dirs))}
	for c, dir := range g.Dirs {
		child.Dirs[c] = filepath.Join(dir, name)
	}
	if g.Unified != "" {
		child.Unified = filepath.Join(g.Unified, name)
	}
	return child
}

// all are its directories, once each.
func (g Group) all() (dirs []string) {
	for _, c := range controllers {
		if dir := g.Dirs[c]; dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if g.Unified != "" && !slices.Contains(dirs, g.Unified) {
		dirs = append(dirs, g.Unified)
	}
	return dirs
}

// MakeChild makes the group of that name below g, unless it exists, and sets its limits: one for a container in a
// pod's. On failure nothing is left of it unless it existed.
func (g Group) MakeChild(name string, limits Limits) (Group, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\n\x00") || len(name) > 255 {
		return Group{}, fmt.Errorf("make cgroup %q: not a name", name)
	}
	child := g.Child(name)
	var made []string
	err := func() error {
		all := child.all()
		for _, dir := range all {
			if err := os.Mkdir(dir, 0o755); err == nil {
				made = append(made, dir)
			} else if !errors.Is(err, os.ErrExist) {
				return err
			}
		}
		return child.limit(limits, len(made) == len(all))
	}()
	if err != nil {
		for _, dir := range made {
			err = errors.Join(err, unix.Rmdir(dir))
		}
		return Group{}, fmt.Errorf("make cgroup %s: %w", name, err)
	}
	return child, nil
}

// Shares is the weight of version 1 for a request in thousandths of a core, as Kubernetes counts it: 2 to 262144.
func Shares(milliCPU int64) int64 {
	return min(max(min(milliCPU, math.MaxInt64/1024)*1024/1000, 2), 262144)
}

// Weight is the weight of version 2, 1 to 10000, for one of version 1, 2 to 262144, as Kubernetes maps them.
func Weight(shares int64) int64 { return 1 + (shares-2)*9999/262142 }

const periodMicros = 100_000

// quota is the part of a period that a limit allows, in microseconds.
func quota(milliCPU int64) int64 {
	return max(min(milliCPU, math.MaxInt64/periodMicros)*periodMicros/1000, 1000)
}

// Limit sets all limits: one that is zero is lifted. It fails with ErrUnavailable when there is no controller for one
// that is not.
func (g Group) Limit(l Limits) error { return g.limit(l, false) }

// limit does so; a new group has none to be lifted.
func (g Group) limit(l Limits, isNew bool) error {
	for _, wanted := range []struct {
		controller, text string
		value            int64
	}{{CPU, "a CPU limit", l.MilliCPU}, {Memory, "a memory limit", l.MemoryBytes}, {PIDs, "a limit of processes", l.PIDs}} {
		if wanted.value < 0 {
			return fmt.Errorf("%s of %d is negative", wanted.text, wanted.value)
		}
		if wanted.value > 0 && g.Dirs[wanted.controller] == "" {
			return fmt.Errorf("%s needs the cgroup controller %s: %w", wanted.text, wanted.controller, ErrUnavailable)
		}
	}
	request := l.CPURequest
	if request == 0 {
		request = l.MilliCPU
	}
	shares := Shares(request)
	number := func(v int64, none string) string {
		if v == 0 {
			return none
		}
		return strconv.FormatInt(v, 10)
	}
	var errs []error
	set := func(c, file, value string) { errs = append(errs, write(g.Dirs[c], file, value)) }
	// Without swap accounting there is no such file, and nothing to set.
	setSwap := func(file, value string) {
		if err := write(g.Dirs[Memory], file, value); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	matters := func(value int64) bool { return value > 0 || !isNew }
	switch dir := g.Dirs[CPU]; {
	case dir == "":
	case dir == g.Unified:
		set(CPU, "cpu.weight", strconv.FormatInt(Weight(shares), 10))
		if !matters(l.MilliCPU) {
			break
		}
		most := "max"
		if l.MilliCPU > 0 {
			most = strconv.FormatInt(quota(l.MilliCPU), 10)
		}
		set(CPU, "cpu.max", fmt.Sprintf("%s %d", most, periodMicros))
	default:
		set(CPU, "cpu.shares", strconv.FormatInt(shares, 10))
		if !matters(l.MilliCPU) {
			break
		}
		most := "-1"
		if l.MilliCPU > 0 {
			most = strconv.FormatInt(quota(l.MilliCPU), 10)
		}
		set(CPU, "cpu.cfs_period_us", strconv.Itoa(periodMicros))
		set(CPU, "cpu.cfs_quota_us", most)
	}
	switch dir := g.Dirs[Memory]; {
	case dir == "" || !matters(l.MemoryBytes):
	case dir == g.Unified:
		set(Memory, "memory.max", number(l.MemoryBytes, "max"))
		if l.MemoryBytes > 0 {
			setSwap("memory.swap.max", "0")
		} else {
			setSwap("memory.swap.max", "max")
		}
	default:
		// Memory with swap may at no moment be limited to less than memory is.
		if !isNew {
			setSwap("memory.memsw.limit_in_bytes", "-1")
		}
		set(Memory, "memory.limit_in_bytes", number(l.MemoryBytes, "-1"))
		setSwap("memory.memsw.limit_in_bytes", number(l.MemoryBytes, "-1"))
	}
	if g.Dirs[PIDs] != "" && matters(l.PIDs) {
		set(PIDs, "pids.max", number(l.PIDs, "max"))
	}
	return errors.Join(errs...)
}

// Usage reads what the group uses.
func (g Group) Usage() (Usage, error) {
	u := Usage{CPU: -1, Throttled: -1, MemoryBytes: -1, PIDs: -1}
	var errs []error
	number := func(dir, file, key string) int64 {
		v, err := read(dir, file, key)
		errs = append(errs, err)
		return v
	}
	var err error
	u.CPU, u.MemoryBytes, err = g.Used()
	errs = append(errs, err)
	switch dir := g.Dirs[CPU]; {
	case dir == "":
	case dir == g.Unified:
		u.Throttled = time.Duration(number(dir, "cpu.stat", "throttled_usec")) * time.Microsecond
	default:
		u.Throttled = time.Duration(number(dir, "cpu.stat", "throttled_time"))
	}
	if dir := g.Dirs[PIDs]; dir != "" {
		u.PIDs = number(dir, "pids.current", "")
	}
	if err := errors.Join(errs...); err != nil {
		return Usage{CPU: -1, Throttled: -1, MemoryBytes: -1, PIDs: -1}, fmt.Errorf("read usage of cgroup: %w", err)
	}
	return u, nil
}

// Used is the processor time and the memory of Usage, for a third less of work; -1 where it is unknown.
func (g Group) Used() (cpu time.Duration, memoryBytes int64, err error) {
	cpu, memoryBytes = -1, -1
	var errs []error
	number := func(dir, file, key string) int64 {
		v, err := read(dir, file, key)
		errs = append(errs, err)
		return v
	}
	switch dir := g.Dirs[CPUAcct]; {
	case dir == "":
	case dir == g.Unified:
		cpu = time.Duration(number(dir, "cpu.stat", "usage_usec")) * time.Microsecond
	default:
		cpu = time.Duration(number(dir, "cpuacct.usage", ""))
	}
	switch dir := g.Dirs[Memory]; {
	case dir == "":
	case dir == g.Unified:
		memoryBytes = max(number(dir, "memory.current", "")-number(dir, "memory.stat", "inactive_file"), 0)
	default:
		memoryBytes = max(number(dir, "memory.usage_in_bytes", "")-number(dir, "memory.stat", "total_inactive_file"), 0)
	}
	if err := errors.Join(errs...); err != nil {
		return -1, -1, err
	}
	return cpu, memoryBytes, nil
}

// OOMKills is how many processes the kernel has killed here for want of memory; -1 without the controller memory. In
// version 1 those of groups below are not counted: ask the container's own.
func (g Group) OOMKills() (int64, error) {
	dir, file := g.Dirs[Memory], "memory.oom_control"
	if dir == "" {
		return -1, nil
	}
	if dir == g.Unified {
		file = "memory.events"
	}
	return read(dir, file, "oom_kill")
}

// read takes a number from a file: all there is for an empty key, else what follows the key in a line.
func read(dir, file, key string) (int64, error) {
	var room [4096]byte
	path := dir + "/" + file
	text, err := slurp(path, room[:])
	if err != nil {
		return -1, err
	}
	value, found := text, key == ""
	for !found && len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			value, found = line[len(key)+1:], true
		}
	}
	if !found {
		return -1, fmt.Errorf("%s has no %s", path, key)
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
