package guard

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/supervisor"
)

// takePage returns the descriptor of the node's page: one that a living supervisor of this data directory holds, or else
// a new one.
func takePage(sups []supervisor.SupervisorRecord) (fd int, err error) {
	for _, s := range sups {
		if fd := pageOf(s); fd >= 0 {
			return fd, nil
		}
	}
	fd, err = unix.MemfdCreate(supervisor.PageName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if err := unix.Ftruncate(fd, supervisor.PageBytes); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("ftruncate", err)
	}
	// Its size is for ever: a shorter file would end whoever has it mapped.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("seal page", err)
	}
	return fd, nil
}

// pageOf opens the page that a process holds, by its descriptors in /proc: a stopped process has them, too. It returns
// -1 where there is none.
func pageOf(s supervisor.SupervisorRecord) int {
	dir := "/proc/" + strconv.Itoa(s.PID) + "/fd"
	d, err := os.Open(dir)
	if err != nil {
		return -1
	}
	names, _ := d.Readdirnames(-1)
	d.Close()
	for _, n := range names {
		path := filepath.Join(dir, n)
		if link, err := os.Readlink(path); err != nil || !strings.HasPrefix(link, "/memfd:"+supervisor.PageName) {
			continue
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if s.Alive() && supervisor.CheckPage(fd) == nil { // looked at last: the pid was its until now
			return fd
		}
		unix.Close(fd)
	}
	return -1
}
