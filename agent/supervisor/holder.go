package supervisor

import (
	"errors"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holder is the process that a pod's one PID namespace belongs to: PID 1 of it, which does nothing but collect what has no
// other parent there. The kernel kills it with the supervisor, and with it all that is in the namespace, so a shared
// namespace is as sure an end as one a container. It is made when the first container starts, and again should it be killed.
type holder struct {
	pid   int // 0 for none; under pod.mu
	life  int // our end of the pipe that tells it that the supervisor is gone
	space int // its namespace
	own   int // the supervisor's
}

// fork has a process started in the namespace. It runs on the main thread, whose children are in the namespace only for that
// time: the kernel starts no thread from a thread whose children are elsewhere.
func (h *holder) fork(self []string, start func() (int, error)) (int, error) {
	if h.pid == 0 {
		if err := h.open(self); err != nil {
			return 0, err
		}
	}
	if err := unix.Setns(h.space, unix.CLONE_NEWPID); err != nil {
		return 0, os.NewSyscallError("enter the pod's PID namespace", err)
	}
	pid, err := start()
	if back := unix.Setns(h.own, unix.CLONE_NEWPID); back != nil {
		unix.Kill(os.Getpid(), unix.SIGKILL) // the next thread could not be started
	}
	return pid, err
}

func (h *holder) open(self []string) (err error) {
	*h = holder{life: -1, space: -1, own: -1}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.own, err = unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("open own PID namespace", err)
	}
	var life [2]int
	if err := unix.Pipe2(life[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	defer unix.Close(life[0])
	h.life = life[1]
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	pid, err := syscall.ForkExec(selfExe, append(slices.Clip(self), "hold"), &syscall.ProcAttr{
		Files: []uintptr{uintptr(life[0]), uintptr(null), uintptr(null)}, Env: RuntimeEnv,
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWPID},
	})
	if err != nil {
		return errors.New("start the holder of the PID namespace: " + err.Error())
	}
	h.pid = pid
	h.space, err = unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return os.NewSyscallError("open the pod's PID namespace", err)
}

// close lets go of a holder that has been reaped, or was never made.
func (h *holder) close() {
	for _, fd := range []int{h.life, h.space, h.own} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	*h = holder{life: -1, space: -1, own: -1}
}

// endHolder kills the holder and waits until it is reaped, which another goroutine does.
func (p *pod) endHolder() {
	for end := time.Now().Add(killTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		pid := p.holder.pid
		if pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
		p.mu.Unlock()
		if pid == 0 {
			return
		}
	}
}

// hold is the holder's life: until the supervisor's is over, it collects zombies. No signal ends it, for containers may send
// it any.
func hold() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals)
	go func() {
		var b [1]byte
		for {
			if _, err := unix.Read(0, b[:]); err != unix.EINTR {
				os.Exit(0)
			}
		}
	}()
	for range signals {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != syscall.EINTR && pid <= 0 {
				break
			}
		}
	}
	return 0
}
