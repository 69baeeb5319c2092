package supervisor

import (
	"errors"
	"os"
	"strconv"
	"strings"
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
	for _, f := range files {
		// Not made if missing: then there is no such group.
		procs, err := os.OpenFile(f, os.O_WRONLY, 0)
		if err == nil {
			_, err = procs.WriteString(strconv.Itoa(pid))
			procs.Close()
		}
		if err != nil {
			return errors.New("enter control group: " + err.Error())
		}
	}
	return nil
}

// oomKills reads how many processes of a group the kernel has killed for want of memory; 0 where nothing tells.
func oomKills(file string) int64 {
	if file == "" {
		return 0
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}
