package supervisor

import (
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolation says what keeps a container's processes apart and together.
type Isolation string

// The isolations.
const (
	// IsolationFull is root's: UTS, IPC and, where there is a pod network, network namespaces of the pod, PID and mount
	// namespaces of each container. Whatever a container starts dies with it.
	IsolationFull Isolation = "full"
	// IsolationUser is PID, mount and UTS namespaces of each container, through a user namespace that maps the user to
	// itself.
	IsolationUser Isolation = "user"
	// IsolationNone is plain processes. A container's descendants are found through their parents; only a process whose
	// init has been killed first can escape, and is then found by MUSTER_POD_UID in its environment if it kept that.
	IsolationNone Isolation = "none"
)

// selfExe is this very binary, whatever has become of its path.
const selfExe = "/proc/self/exe"

// namespaces gives a process its own world, as far as the isolation goes; with ownPID it is PID 1 there.
func (i Isolation) namespaces(attr *syscall.SysProcAttr, ownPID bool) {
	if ownPID && i != IsolationNone {
		attr.Cloneflags = unix.CLONE_NEWPID
	}
	switch i {
	case IsolationFull:
		attr.Cloneflags |= unix.CLONE_NEWNS
	case IsolationUser:
		uid, gid := os.Geteuid(), os.Getegid()
		attr.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWUTS
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		// Kept over exec for the mounts; init lets go of it before the container starts.
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
}

// detectIsolation tries what the kernel allows, best first, by starting this binary as "noop" in such a world.
func detectIsolation(self []string) Isolation {
	try := []Isolation{IsolationUser}
	if os.Geteuid() == 0 {
		try = []Isolation{IsolationFull, IsolationUser}
	}
	for _, i := range try {
		attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{}}
		i.namespaces(attr.Sys, true)
		pid, err := syscall.ForkExec(selfExe, append(slices.Clip(self), "noop"), attr)
		if err != nil {
			continue
		}
		var ws syscall.WaitStatus
		for {
			if _, err = syscall.Wait4(pid, &ws, 0, nil); err != syscall.EINTR {
				break
			}
		}
		if err == nil && ws.Exited() && ws.ExitStatus() == 0 {
			return i
		}
	}
	return IsolationNone
}

// noop succeeds where init could do its work: as PID 1 with a /proc of its own.
func noop() int {
	if os.Getpid() != 1 || ownProc() != nil {
		return 1
	}
	return 0
}

// ownProc mounts /proc for this PID namespace, seen by this mount namespace only.
func ownProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount / as slave", err)
	}
	return os.NewSyscallError("mount /proc", unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
}
