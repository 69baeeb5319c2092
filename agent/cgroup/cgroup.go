// Package cgroup gives pods and their containers control groups, of version 1, of version 2, or of both at once as a
// hybrid machine mounts them: limits, accounting, the count of OOM kills, and the killing of everything in a group,
// whatever became of its parents, sessions and process groups.
//
// All groups are below one root, PARENT/HASH, HASH being made from the agent's data directory: agents that share a
// machine never meet. A pod's group is ROOT/UID-EPOCH, and below it has one for each container. In version 2 only
// groups without groups below may hold processes, so nothing is to be put into the pod's own.
//
// The package decides nothing about pods and starts no processes: who starts one gets an Entry. It imports the standard
// library and golang.org/x/sys only.
package cgroup

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrUnavailable means that this machine, or this user's rights, do not offer what was asked; the text says why.
	ErrUnavailable = errors.New("not available")
	// ErrLeft means that processes, or groups that hold them, were still there at the end of the time given.
	ErrLeft = errors.New("still there")
)

// The controllers that are used. In version 2, cpuacct and freezer are not controllers but part of every group.
const (
	CPU     = "cpu"
	CPUAcct = "cpuacct"
	Memory  = "memory"
	PIDs    = "pids"
	Freezer = "freezer"
)

var controllers = []string{CPU, CPUAcct, Memory, PIDs, Freezer}

// DefaultParent is where the roots of all agents of a machine are, in every hierarchy.
const DefaultParent = "/muster"

// Config says where the groups are.
type Config struct {
	// DataDir is the agent's data directory, an absolute path, which its root is named after.
	DataDir string
	// Parent is the group in which the root is made, in every hierarchy, as a path below its mount; default
	// DefaultParent. An ordinary user's is one that has been delegated to them.
	Parent string
	// Mountinfo says what is mounted where; default /proc/self/mountinfo.
	Mountinfo string
}

// Controller is what the machine offers of one.
type Controller struct {
	Name string
	// Version is 1 or 2, or 0 when it is not available.
	Version int
	// Why says in a sentence why it is not available; empty when it is.
	Why string
}

// Manager knows the root. It holds no state but what New has found, and may be used from any goroutine.
type Manager struct {
	root   Group
	parent Group
	found  []Controller
}

// New looks at what is mounted, and makes the root in every hierarchy that lets it. A machine without cgroups, or on
// which this user may make none, is no error: Controllers says so, and MakePod refuses.
func New(cfg Config) (*Manager, error) {
	if !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("data directory %q of cgroups is not an absolute path", cfg.DataDir)
	}
	if cfg.Parent == "" {
		cfg.Parent = DefaultParent
	}
	if !filepath.IsAbs(cfg.Parent) || filepath.Clean(cfg.Parent) != cfg.Parent || cfg.Parent == "/" {
		return nil, fmt.Errorf("parent %q of cgroups is not a clean absolute path below /", cfg.Parent)
	}
	if cfg.Mountinfo == "" {
		cfg.Mountinfo = "/proc/self/mountinfo"
	}
	text, err := os.ReadFile(cfg.Mountinfo)
	if err != nil {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	hash := fnv.New64a()
	hash.Write([]byte(filepath.Clean(cfg.DataDir)))
	root := filepath.Join(cfg.Parent, fmt.Sprintf("%016x", hash.Sum64()))
	v1, v2 := hierarchies(string(text))

	m := &Manager{root: Group{Dirs: map[string]string{}}, parent: Group{Dirs: map[string]string{}}}
	in2, why2 := makeRoot2(v2, root)
	if in2 != nil {
		m.root.Unified = filepath.Join(v2, root)
		m.parent.Unified = filepath.Join(v2, cfg.Parent)
	}
	for _, name := range controllers {
		c := Controller{Name: name}
		switch mount := v1[name]; {
		case mount != "" && !m.has2(name):
			if err := makeRoot(mount, root); err != nil {
				c.Why = refusal(name, mount, err)
				break
			}
			c.Version = 1
			m.root.Dirs[name], m.parent.Dirs[name] = filepath.Join(mount, root), filepath.Join(mount, cfg.Parent)
		case slices.Contains(in2, name):
			c.Version = 2
			m.root.Dirs[name], m.parent.Dirs[name] = m.root.Unified, m.parent.Unified
		case v2 == "":
			c.Why = "no " + name + " cgroups are mounted"
		case why2[name] != "":
			c.Why = why2[name]
		default:
			c.Why = fmt.Sprintf("%s does not offer the controller %s", v2, name)
		}
		m.found = append(m.found, c)
	}
	return m, nil
}

// everyGroup2 has the files by which version 2 does for every group what version 1 has hierarchies of their own for: each of
// these costs two directories a pod, and as many entries into them.
var everyGroup2 = map[string]string{CPUAcct: "cpu.stat", Freezer: "cgroup.freeze"}

// has2 tells whether version 2 does that for every group of the root.
func (m *Manager) has2(name string) bool {
	file := everyGroup2[name]
	if file == "" || m.root.Unified == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(m.root.Unified, file))
	return err == nil
}

// hierarchies finds where version 1 has each controller, and where version 2 is mounted. Of several mounts of one, the
// last below /sys/fs/cgroup counts, which covers those before it, else the last.
func hierarchies(mountinfo string) (v1 map[string]string, v2 string) {
	const usual = "/sys/fs/cgroup"
	better := func(old, point string) string {
		if strings.HasPrefix(old, usual) && !strings.HasPrefix(point, usual) {
			return old
		}
		return point
	}
	v1 = map[string]string{}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		left, right, _ := strings.Cut(line, " - ")
		mount, system := strings.Fields(left), strings.Fields(right)
		if len(mount) < 5 || len(system) < 3 {
			continue
		}
		point := unescape.Replace(mount[4])
		switch system[0] {
		case "cgroup2":
			v2 = better(v2, point)
		case "cgroup":
			for option := range strings.SplitSeq(system[2], ",") {
				if slices.Contains(controllers, option) {
					v1[option] = better(v1[option], point)
				}
			}
		}
	}
	return v1, v2
}

// makeRoot makes a root and what is above it. Another agent may take the parent away, empty, between two steps.
func makeRoot(mount, root string) (err error) {
	if _, err := os.Stat(mount); err != nil {
		return err
	}
	for range 10 {
		if err = os.MkdirAll(filepath.Join(mount, root), 0o755); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

// makeRoot2 makes the root in version 2 and has its controllers reach it; usable is nil where there can be no groups.
func makeRoot2(mount, root string) (usable []string, why map[string]string) {
	why = map[string]string{}
	if mount == "" {
		return nil, why
	}
	offered, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	if err == nil {
		err = makeRoot(mount, root)
	}
	if err != nil {
		for _, name := range controllers {
			why[name] = refusal(name, mount, err)
		}
		return nil, why
	}
	usable = []string{CPUAcct, Freezer}
next:
	for _, name := range []string{CPU, Memory, PIDs} {
		if !slices.Contains(strings.Fields(string(offered)), name) {
			continue
		}
		dir := mount
		for _, step := range append(strings.Split(root[1:], "/"), "") {
			if err := write(dir, "cgroup.subtree_control", "+"+name); err != nil {
				why[name] = refusal(name, dir, err)
				continue next
			}
			dir = filepath.Join(dir, step)
		}
		usable = append(usable, name)
	}
	return usable, why
}

// refusal says why a hierarchy is of no use.
func refusal(name, dir string, err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Sprintf("%s for %s is read-only", dir, name)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s for %s is not delegated to user %d", dir, name, os.Geteuid())
	case errors.Is(err, unix.EBUSY):
		return fmt.Sprintf("%s holds processes, which keeps %s from groups below it", dir, name)
	}
	return fmt.Sprintf("%s for %s: %v", dir, name, err)
}

// Controllers has what was found of each: cpu, cpuacct, memory, pids, freezer.
func (m *Manager) Controllers() []Controller { return slices.Clone(m.found) }

// Available is nil when the controller can be used, else an ErrUnavailable that says why not.
func (m *Manager) Available(controller string) error {
	for _, c := range m.found {
		if c.Name == controller && c.Version == 0 {
			return fmt.Errorf("cgroups: %w: %s", ErrUnavailable, c.Why)
		}
	}
	return nil
}

// PodName is the name of a pod's group.
func PodName(uid string, epoch int64) string { return uid + "-" + strconv.FormatInt(epoch, 10) }

// Pod is the group of that PodName, whether it exists or not.
func (m *Manager) Pod(name string) Group { return m.root.Child(name) }

// MakePod makes a pod's group, unless it exists, and sets its limits. It fails with ErrUnavailable where there are no
// groups, or no controller for a limit asked for; then nothing is left of it unless it existed.
func (m *Manager) MakePod(name string, limits Limits) (Group, error) {
	if len(m.root.all()) == 0 {
		return Group{}, fmt.Errorf("make cgroup %s: %w", name, m.Available(Freezer))
	}
	g, err := m.root.MakeChild(name, limits)
	if err != nil {
		return Group{}, err
	}
	for c, dir := range g.Dirs {
		if dir != g.Unified || c == CPUAcct || c == Freezer {
			continue
		}
		if err := write(dir, "cgroup.subtree_control", "+"+c); err != nil {
			return Group{}, errors.Join(fmt.Errorf("make cgroup %s: %w", name, err), g.Remove(0))
		}
	}
	return g, nil
}

// List has the names of all pods' groups below the root, sorted, those left by an agent that was killed among them.
func (m *Manager) List() ([]string, error) {
	names := map[string]bool{}
	for _, dir := range m.root.all() {
		below, err := groupsIn(dir)
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, name := range below {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// Sweep kills and removes the groups of pods that nobody wants, giving each the time, and returns their names. Groups
// that could not be removed are in the error.
func (m *Manager) Sweep(wanted func(name string) bool, within time.Duration) (removed []string, err error) {
	names, err := m.List()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		if wanted(name) {
			continue
		}
		g := m.Pod(name)
		if err := errors.Join(g.Kill(within), g.Remove(within)); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, name)
	}
	return removed, errors.Join(errs...)
}

// Close removes the root, and its parent when no other agent has one in it, unless pods have groups there: those stay.
// Nothing can be made afterwards.
func (m *Manager) Close() {
	for _, dir := range append(m.root.all(), m.parent.all()...) {
		unix.Rmdir(dir) //nolint:errcheck // What is not empty stays.
	}
}

// groupsIn has the names of the groups in a directory; one that is gone has none.
func groupsIn(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// gone says whether an error means that the group is no more: its files answer ENODEV while it goes.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// write and slurp are what os.WriteFile and os.ReadFile are without the wait for readiness, which these files don't know, and
// which costs as much as the rest.
func write(dir, file, value string) error {
	path := dir + "/" + file
	fd, err := open(path, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, path, err)
	}
	return nil
}

// maxFile bounds what is read of a group's file, in bytes: the longest, memory.stat, has 3 KiB.
const maxFile = 64 << 10

func slurp(path string, into []byte) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := into[:0]
	for len(text) < maxFile {
		if len(text) == cap(text) {
			text = slices.Grow(text, cap(text)+512)
		}
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return text, nil
		default:
			text = text[:len(text)+n]
		}
	}
	return nil, fmt.Errorf("%s has more than %d bytes", path, maxFile)
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}
