package supervisor

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Boottime reads CLOCK_BOOTTIME, which goes on while the machine is suspended: the time since the boot. All deadlines
// of a node are readings of it.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// killTimer is a POSIX timer by which the kernel kills this process, whatever this process is doing then.
type killTimer struct{ id int32 }

// sigevent is the kernel's struct sigevent for SIGEV_SIGNAL: 64 bytes.
type sigevent struct {
	value  uintptr
	signo  int32
	notify int32
	_      [64 - unsafe.Sizeof(uintptr(0)) - 8]byte
}

type itimerspec struct{ interval, value unix.Timespec }

func newKillTimer() (*killTimer, error) {
	const sigevSignal = 0
	t := &killTimer{}
	ev := sigevent{signo: int32(unix.SIGKILL), notify: sigevSignal}
	_, _, e := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ev)), uintptr(unsafe.Pointer(&t.id)))
	if e != 0 {
		return nil, os.NewSyscallError("timer_create", e)
	}
	return t, nil
}

// set arms the timer for a reading of Boottime; one that has passed kills at once.
func (t *killTimer) set(at time.Duration) error {
	const timerAbstime = 1
	spec := itimerspec{value: unix.NsecToTimespec(int64(max(at, 1)))} // 0 would disarm it
	_, _, e := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(t.id), timerAbstime, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if e != 0 {
		return os.NewSyscallError("timer_settime", e)
	}
	return nil
}
