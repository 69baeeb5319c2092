package process_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/process"
)

// cpuOf is the user and system time of a process itself, in clock ticks of 10 ms.
func cpuOf(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return time.Duration(u+s) * 10 * time.Millisecond
}

func self() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkExec is what an exec costs beside the command's own time: in this process, and in supervisor and init.
func BenchmarkExec(b *testing.B) {
	bench := newBench(b)
	c := bench.sh("sleep 3600")
	cmd := container.ExecConfig{Argv: []string{"/bin/true"}, Timeout: 10 * time.Second}
	if _, err := bench.Exec(bench.ctx, c.ID, cmd); err != nil {
		b.Fatal(err)
	}
	sup := bench.supervisor().PID
	children, err := filepath.Glob("/proc/" + strconv.Itoa(sup) + "/task/*/children")
	if err != nil {
		b.Fatal(err)
	}
	pids := []int{sup}
	for _, f := range children {
		list, _ := os.ReadFile(f)
		for p := range strings.FieldsSeq(string(list)) {
			n, _ := strconv.Atoi(p)
			pids = append(pids, n)
		}
	}
	sum := func() (d time.Duration) {
		for _, p := range pids {
			d += cpuOf(b, p)
		}
		return d
	}
	var child time.Duration
	there, here := sum(), self()
	for b.Loop() {
		r, err := bench.Exec(bench.ctx, c.ID, cmd)
		if err != nil {
			b.Fatal(err)
		}
		child += r.CPU
	}
	n := float64(b.N)
	b.ReportMetric(float64((self()-here).Microseconds())/n, "agent-µs/exec")
	b.ReportMetric(float64((sum()-there).Microseconds())/n, "supervisor-µs/exec")
	b.ReportMetric(float64(child.Microseconds())/n, "command-µs/exec")
}

// BenchmarkUsage is what it takes to measure all containers of a node with 30 pods once.
func BenchmarkUsage(b *testing.B) {
	groups := cgroups(b)
	for name, mode := range map[string]func(*process.Config){
		"Groups":    func(c *process.Config) { c.Cgroups = groups(c.DataDir) },
		"Processes": plain,
	} {
		b.Run(name, func(b *testing.B) {
			bench := newBench(b, mode)
			bench.removes()
			var ids []container.ContainerID
			for range 30 {
				ref := bench.podOf(func(*container.PodConfig) {})
				c, err := bench.StartContainer(bench.ctx, ref, container.ContainerConfig{
					Name: "main", Argv: []string{"/bin/sleep", "3600"}, WorkingDir: "/", UID: -1, GID: -1,
				})
				if err != nil {
					b.Fatal(err)
				}
				ids = append(ids, c.ID)
			}
			before := self()
			for b.Loop() {
				for _, id := range ids {
					if _, err := bench.Usage(bench.ctx, id); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := bench.Overhead(bench.ctx); err != nil {
					b.Fatal(err)
				}
				bench.Forget()
			}
			b.ReportMetric(float64((self()-before).Microseconds())/float64(b.N), "agent-µs/op")
		})
	}
}
