package supervisor

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// enter puts the init into the container's control group. It has started nothing yet, so nothing of the container was
// ever outside.
func (in *instance) enter(files []string) error {
	in.pod.mu.Lock()
	pid := in.pid
	in.pod.mu.Unlock()
	if pid == 0 || len(files) == 0 {
		return nil // it has ended, and says why itself
	}
	id := strconv.AppendInt(nil, int64(pid), 10)
	for _, f := range files {
		// Not made if missing: then there is no such group.
		fd, err := unix.Open(f, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Write(fd, id)
			unix.Close(fd)
		}
		if err != nil {
			return errors.New("enter control group " + f + ": " + err.Error())
		}
	}
	return nil
}

// oomKills reads how many processes of a group the kernel has killed for want of memory; 0 where nothing tells.
func oomKills(file string) int64 {
	if file == "" {
		return 0
	}
	var b [1024]byte
	n, err := readSmall(file, b[:])
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b[:n])) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return kills
		}
	}
	return 0
}
