package supervisor

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// enterNamespaces gives this process's main thread the namespaces that the pod's containers share: whatever is forked
// from it inherits them, and they last as long as it does. The other threads stay outside, and so does this process's
// PID: the fence kills it from there.
func enterNamespaces(rec *PodRecord) error {
	if rec.Isolation != IsolationFull {
		return nil
	}
	flags := unix.CLONE_NEWUTS
	if !rec.HostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	if rec.OwnNetwork {
		flags |= unix.CLONE_NEWNET
	}
	if len(rec.Memory) > 0 {
		flags |= unix.CLONE_NEWNS
	}
	if err := unix.Unshare(flags); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if rec.Hostname != "" {
		if err := unix.Sethostname([]byte(rec.Hostname)); err != nil {
			return errors.New("set host name " + rec.Hostname + ": " + err.Error())
		}
	}
	if rec.OwnNetwork {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	return memoryDirs(rec.Memory)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("set up lo", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// memoryDirs mounts the pod's directories in memory where only its containers see them.
func memoryDirs(dirs []MemoryDir) error {
	if len(dirs) == 0 {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount / as slave", err)
	}
	for _, d := range dirs {
		options := "mode=0777"
		if d.Size > 0 {
			options += ",size=" + strconv.FormatInt(d.Size, 10)
		}
		if d.GID >= 0 {
			options += ",gid=" + strconv.Itoa(d.GID)
		}
		if err := unix.Mount("tmpfs", d.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return errors.New("mount memory at " + d.Path + ": " + err.Error())
		}
	}
	return nil
}
