package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privateTmp is where every container instance has a directory of its own.
const privateTmp = "/tmp"

// mounts makes the container's view of the files: the host's, but with a private /tmp, over it whatever is asked for
// (the pod's own directory included, should it lie below /tmp), and the /proc of its PID namespace.
func mounts(c *initConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount / as slave", err)
	}
	want := c.Mounts
	if below(c.workDir, privateTmp) {
		want = append([]Mount{{Source: c.workDir, Target: c.workDir}}, want...)
	}
	// Sources are opened before anything is covered.
	fds := make([]int, len(want))
	for i, m := range want {
		fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return errors.New("mount " + m.Target + ": open " + m.Source + ": " + err.Error())
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	if fi, err := os.Stat(privateTmp); err == nil && fi.IsDir() {
		if err := unix.Mount(c.temp, privateTmp, "", unix.MS_BIND, ""); err != nil {
			return os.NewSyscallError("mount private /tmp", err)
		}
	}
	for i, m := range want {
		if err := bind(fds[i], m); err != nil {
			return errors.New("mount " + m.Target + ": " + err.Error())
		}
	}
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return os.NewSyscallError("mount /proc", err)
}

func below(path, dir string) bool { return strings.HasPrefix(filepath.Clean(path), dir+"/") }

// bind puts what fd refers to at the mount's target, which is made only where it lies in the private /tmp.
func bind(fd int, m Mount) error {
	if below(m.Target, privateTmp) {
		if err := mountPoint(fd, m.Target); err != nil {
			return err
		}
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), m.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if !m.ReadOnly {
		return nil
	}
	// Flags that the mount has already may be locked: they are named again.
	var st unix.Statfs_t
	if err := unix.Statfs(m.Target, &st); err != nil {
		return err
	}
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	return unix.Mount("", m.Target, "", keep|unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

func mountPoint(fd int, target string) error {
	if _, err := os.Lstat(target); err == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
