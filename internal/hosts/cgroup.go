package hosts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the name of every host's cgroup; the pid of the process that has made it follows.
const cgroupPrefix = "muster-test-"

// A hierarchy of cgroups as this process sees it.
type hierarchy struct {
	// mount is where it is mounted, and own the directory of this process's cgroup, empty where that is not below.
	mount, own string
	// options are the mount's: the controllers of version 1, empty for version 2.
	options string
}

// hierarchies lists the mounted ones.
func hierarchies() ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for line := range strings.Lines(string(cgroups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id, controllers, path
		if len(parts) != 3 {
			return nil, fmt.Errorf("/proc/self/cgroup has a line %q", line)
		}
		h := hierarchy{options: parts[1]}
		for mount := range strings.Lines(string(mounts)) {
			left, right, _ := strings.Cut(mount, " - ")
			where, what := strings.Fields(left), strings.Fields(right)
			if len(where) < 5 || len(what) < 3 || !h.is(what[0], what[2]) {
				continue
			}
			h.mount, h.own = where[4], ""
			if below, ok := strings.CutPrefix(parts[2], strings.TrimSuffix(where[3], "/")); ok {
				h.own = filepath.Join(h.mount, below)
			}
		}
		if h.mount != "" {
			found = append(found, h)
		}
	}
	return found, nil
}

// is tells whether a mount of this type and with these options is the hierarchy's.
func (h hierarchy) is(kind, options string) bool {
	if h.options == "" {
		return kind == "cgroup2"
	}
	has := strings.Split(options, ",")
	return kind == "cgroup" && !slices.ContainsFunc(strings.Split(h.options, ","), func(o string) bool { return !slices.Contains(has, o) })
}

// cgroups are the host's in every hierarchy.
type cgroups []hostCgroup

type hostCgroup struct {
	hierarchy
	dir string
}

// makeCgroups makes a host's cgroups, below this process's own. Where this process may not, there is an error.
func makeCgroups(name string) (all cgroups, err error) {
	found, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, h := range found {
		if h.own == "" {
			continue
		}
		g := hostCgroup{h, filepath.Join(h.own, name)}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return nil, errors.Join(err, all.remove())
		}
		all = append(all, g)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // without them version 1 takes no process
			b, err := os.ReadFile(filepath.Join(h.own, file))
			if err != nil || h.options == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(g.dir, file), b, 0); err != nil {
				return nil, errors.Join(err, all.remove())
			}
		}
	}
	return all, nil
}

// join has cmd start in the cgroups, and take them for the roots, when this thread starts it; release is to be called
// afterwards. The thread is not to be used for anything else.
func (all cgroups) join(cmd *exec.Cmd) (release func(), err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Unshareflags |= unix.CLONE_NEWCGROUP
	release = func() {}
	for _, g := range all {
		if g.options != "" {
			// In version 1 a thread's children are born where it is.
			if err := os.WriteFile(filepath.Join(g.dir, "tasks"), []byte("0"), 0); err != nil {
				return release, err
			}
			continue
		}
		dir, err := os.Open(g.dir)
		if err != nil {
			return release, err
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		release = func() { dir.Close() }
	}
	return release, nil
}

// remove takes the cgroups away, with all below, once no process is in them.
func (all cgroups) remove() error {
	deadline := time.Now().Add(endTime)
	var errs []error
	for _, g := range all {
		errs = append(errs, removeCgroup(g.dir, deadline))
	}
	return errors.Join(errs...)
}

// removeCgroup removes a cgroup with all below. A process that has ended may be in it for a moment yet.
func removeCgroup(dir string, deadline time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignore(err, os.ErrNotExist)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name()), deadline); err != nil {
				return err
			}
		}
	}
	for {
		switch err := unix.Rmdir(dir); {
		case err == nil, errors.Is(err, os.ErrNotExist):
			return nil
		case !errors.Is(err, unix.EBUSY), time.Now().After(deadline):
			return fmt.Errorf("remove %s: %w", dir, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func ignore(err, which error) error {
	if errors.Is(err, which) {
		return nil
	}
	return err
}

// Sweep removes the cgroups that killed tests have left: the only thing of theirs that does not vanish by itself. New
// does it too.
func Sweep() error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(endTime)
	var errs []error
	for _, h := range found {
		if h.own == "" {
			continue
		}
		left, err := filepath.Glob(filepath.Join(h.own, cgroupPrefix+"*"))
		errs = append(errs, err)
		for _, dir := range left {
			maker, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
			pid, err := strconv.Atoi(maker)
			if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				errs = append(errs, removeCgroup(dir, deadline))
			}
		}
	}
	return errors.Join(errs...)
}

// mountOwn mounts the hierarchies anew, so that this process's cgroups are the roots of what is seen of them.
func mountOwn() error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range found {
		kind, options := "cgroup", h.options
		switch {
		case options == "":
			kind = "cgroup2"
		case strings.HasPrefix(options, "name="):
			options = "none," + options
		}
		// The same file system may not be on top of itself.
		if err := unix.Unmount(h.mount, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", h.mount, err)
		}
		if err := unix.Mount("cgroup", h.mount, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("mount %s: %w", h.mount, err)
		}
	}
	return nil
}
