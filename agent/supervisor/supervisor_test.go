package supervisor_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/supervisor"
)

func TestMain(m *testing.M) {
	code := m.Run()
	containertest.RemoveSupervisor()
	os.Exit(code)
}

const maxSize = 4 << 20

func TestTinyBinaryIsTinyAndImportsLittle(t *testing.T) {
	bin := containertest.BuildSupervisor(t)
	fi, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", fi.Size())
	if fi.Size() > maxSize {
		t.Errorf("%d bytes, at most %d wanted", fi.Size(), maxSize)
	}
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{else}}std {{.ImportPath}}{{end}}",
		"github.com/musterhq/muster/cmd/muster-supervisor").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{
		"github.com/musterhq/muster/cmd/muster-supervisor": true, "github.com/musterhq/muster/agent/supervisor": true,
		"github.com/musterhq/muster/agent/guard": true, "github.com/musterhq/muster/internal/fence": true,
		"github.com/musterhq/muster/internal/spec": true, "github.com/musterhq/muster/internal/atomicfile": true,
		"golang.org/x/sys/unix": true,
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		std, isStd := strings.CutPrefix(line, "std ")
		switch {
		case isStd && (strings.HasPrefix(std, "net/http") || strings.HasPrefix(std, "crypto/") || std == "encoding/gob"):
			t.Errorf("imports %s", std)
		case !isStd && !allowed[line]:
			t.Errorf("imports %s", line)
		}
	}
}

// tiny starts a supervisor over a pod directory and waits until it is ready.
type tiny struct {
	dir  string
	proc *exec.Cmd
}

func startTiny(t testing.TB, bin string) *tiny {
	t.Helper()
	data := t.TempDir()
	dir := filepath.Join(data, "pods", "uid-1")
	if err := os.MkdirAll(filepath.Join(dir, supervisor.WorkDir), 0o755); err != nil {
		t.Fatal(err)
	}
	iso := supervisor.IsolationUser
	if os.Geteuid() == 0 {
		iso = supervisor.IsolationFull
	}
	rec := supervisor.PodRecord{UID: "uid", Epoch: 1, Created: time.Now(), Isolation: iso}
	if err := rec.Write(dir); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(bin, "pod", data, dir)
	cmd.Env = supervisor.RuntimeEnv
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if b, err := io.ReadAll(r); err != nil || string(b) != "ok" {
		t.Fatalf("supervisor: %q, %v", b, err)
	}
	return &tiny{dir, cmd}
}

func TestSupervisorSurvivesSIGTERM(t *testing.T) {
	s := startTiny(t, containertest.BuildSupervisor(t))
	if err := s.proc.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c := supervisor.Client{Dir: s.dir}
	for range 3 {
		if _, err := c.State(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSecondSupervisorOfAPodIsRefused(t *testing.T) {
	bin := containertest.BuildSupervisor(t)
	s := startTiny(t, bin)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(bin, "pod", "/data", s.dir)
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	said, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(said), "another process holds the pod's lock") {
		t.Errorf("said %q, %v", said, err)
	}
	if cmd.Wait() == nil {
		t.Error("exit status 0")
	}
}

func TestProcessKeepsItsIdentityAgainstARecycledPID(t *testing.T) {
	self := os.Getpid()
	st, err := supervisor.ReadStat(self)
	if err != nil {
		t.Fatal(err)
	}
	rec := supervisor.SupervisorRecord{PID: self, StartTime: st.StartTime, BootID: supervisor.BootID()}
	if !rec.Alive() {
		t.Error("this process is not alive")
	}
	for name, other := range map[string]supervisor.SupervisorRecord{
		"start time": {PID: self, StartTime: st.StartTime + 1, BootID: rec.BootID},
		"boot":       {PID: self, StartTime: st.StartTime, BootID: "another"},
		"pid":        {PID: 1 << 22, StartTime: st.StartTime, BootID: rec.BootID},
	} {
		if other.Alive() {
			t.Errorf("another %s counts as this process", name)
		}
		if err := other.Kill(); err != nil {
			t.Errorf("kill with another %s: %v", name, err)
		}
	}
}

// private is how much memory of a process is its own, in bytes.
func private(t testing.TB, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Private_") {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			sum += n << 10
		}
	}
	return sum
}

func cpu(ps *os.ProcessState) time.Duration { return ps.UserTime() + ps.SystemTime() }

const (
	maxIdle  = 2 << 20
	maxStart = 4 * time.Millisecond
)

// syncFile has the pages of the binary written back: dirty ones would count as private.
func syncFile(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Skip("cannot sync the binary: " + err.Error())
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestIdleSupervisorIsSmall(t *testing.T) {
	bin := containertest.BuildSupervisor(t)
	syncFile(t, bin)
	first, second := startTiny(t, bin), startTiny(t, bin)
	for name, pid := range map[string]int{"first": first.proc.Process.Pid, "second": second.proc.Process.Pid} {
		got := private(t, pid)
		t.Logf("%s: %d KiB private", name, got>>10)
		if got > maxIdle {
			t.Errorf("%s: %d bytes of private memory, at most %d wanted", name, got, maxIdle)
		}
	}
}

// BenchmarkSupervisorStart is the life of a supervisor up to being ready, and its end: user and system time of all its
// threads.
func BenchmarkSupervisorStart(b *testing.B) {
	bin := containertest.BuildSupervisor(b)
	var total time.Duration
	best := time.Hour
	for b.Loop() {
		s := startTiny(b, bin)
		s.proc.Process.Kill()
		s.proc.Wait()
		total += cpu(s.proc.ProcessState)
		best = min(best, cpu(s.proc.ProcessState))
	}
	b.ReportMetric(float64((total / time.Duration(b.N)).Microseconds()), "cpu-µs/start")
	b.ReportMetric(float64(best.Microseconds()), "best-cpu-µs/start")
	if best > maxStart { // the mean is the neighbours' too
		b.Errorf("%v CPU for the best start, at most %v wanted", best, maxStart)
	}
}
