package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/guard"
	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/internal/fence"
)

func TestMain(m *testing.M) {
	code := m.Run()
	containertest.RemoveSupervisor()
	os.Exit(code)
}

// ensure has a guard for the directory, ended with the test.
func ensure(t *testing.T, dir string, change ...func(*guard.Config)) *guard.Client {
	t.Helper()
	cfg := guard.Config{DataDir: dir, Argv: []string{containertest.BuildSupervisor(t)}, Listen: "127.0.0.1:0"}
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := guard.Ensure(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		stop(t, dir)
	})
	return c
}

func stop(t *testing.T, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := guard.Stop(ctx, dir); err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func identity(t *testing.T, dir string) supervisor.SupervisorRecord {
	t.Helper()
	rec, err := supervisor.ReadIdentity(filepath.Join(dir, "guard"))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestGuardIsFoundAgainAndOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := ensure(t, dir)
	a.Page().Assign(5, 77)
	b := ensure(t, dir)
	if a.Info() != b.Info() {
		t.Errorf("got %+v and %+v, want one guard", a.Info(), b.Info())
	}
	if !a.Page().Same(b.Page()) {
		t.Error("two pages")
	}
	b.Page().SetDeadline(5, 1234)
	if got := a.Page().Deadline(5, 77); got != 1234 {
		t.Errorf("deadline %d, want what the other wrote", got)
	}
	if got := a.Page().Deadline(5, 78); got != 0 {
		t.Errorf("deadline of another epoch: %d, want 0", got)
	}
	sid, err := syscall.Getpgid(a.Info().PID)
	if err != nil || sid != a.Info().PID {
		t.Errorf("process group %d, %v; want its own", sid, err)
	}
}

func TestAnswerSaysWhatLives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := ensure(t, dir)
	ask := func() fence.GuardAnswer {
		a, err := guard.Query(t.Context(), c.Info().Addr)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if got := ask(); got.Agent != fence.AgentRunning || got.Supervisors != 0 || got.BootID != strings.ReplaceAll(supervisor.BootID(), "-", "") {
		t.Errorf("got %+v", got)
	}
	// A sleep stands in for a supervisor, and another for the agent.
	sup, agent := sleeper(t), sleeper(t)
	record(t, dir, "a-1", sup)
	register(t, dir, agent)
	if got := ask(); got.Agent != fence.AgentRunning || got.Supervisors != 1 {
		t.Errorf("got %+v, want running and 1", got)
	}
	if err := agent.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "the agent's stop", func() bool { return ask().Agent == fence.AgentStopped })
	agent.Process.Kill()
	agent.Wait()
	sup.Process.Kill()
	sup.Wait()
	if got := ask(); got.Agent != fence.AgentDead || got.Supervisors != 0 {
		t.Errorf("got %+v, want dead and 0", got)
	}
}

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// record writes the pod directory of a supervisor.
func record(t *testing.T, dir, name string, proc *exec.Cmd) {
	t.Helper()
	pod := filepath.Join(dir, "pods", name)
	if err := os.MkdirAll(pod, 0o755); err != nil {
		t.Fatal(err)
	}
	st, err := supervisor.ReadStat(proc.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	uid, epoch, _ := strings.Cut(name, "-")
	n, _ := strconv.ParseInt(epoch, 10, 64)
	rec := supervisor.PodRecord{UID: uid, Epoch: n}
	sup := supervisor.SupervisorRecord{PID: st.PID, StartTime: st.StartTime, BootID: supervisor.BootID()}
	if err := rec.Write(pod); err != nil {
		t.Fatal(err)
	}
	if err := sup.Write(filepath.Join(pod, supervisor.SupervisorFile)); err != nil {
		t.Fatal(err)
	}
}

// register tells the guard of another agent than this process.
func register(t *testing.T, dir string, proc *exec.Cmd) {
	t.Helper()
	st, err := supervisor.ReadStat(proc.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if got := talk(t, dir, "agent "+strconv.Itoa(st.PID)+" "+strconv.FormatUint(st.StartTime, 10)+" 0 127.0.0.1:0"); !strings.HasPrefix(got, "ok ") {
		t.Fatalf("guard says %q", got)
	}
}

func talk(t *testing.T, dir, line string) string {
	t.Helper()
	conn, err := supervisor.Dial(t.Context(), dir, supervisor.GuardSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		t.Fatal(err)
	}
	var b [600]byte
	n, err := conn.Read(b[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNonsenseOnTheSocketIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ensure(t, dir)
	for _, tc := range []struct{ line, want string }{
		{"what", "error unknown request\n"},
		{"agent x 1 0 127.0.0.1:0", "error pid: want a number\n"},
		{"agent 1 x 0 127.0.0.1:0", "error start: want a number\n"},
		{"agent " + strconv.Itoa(os.Getpid()) + " 1 0 127.0.0.1:0", "error no such agent\n"},
		{strings.Repeat("x", 2000), ""},
		{"ping", "ok\n"},
	} {
		if got := talk(t, dir, tc.line); got != tc.want {
			t.Errorf("%.20s: got %q, want %q", tc.line, got, tc.want)
		}
	}
}

func TestPortAnswersWhateverIsSentAndCloses(t *testing.T) {
	t.Parallel()
	c := ensure(t, t.TempDir())
	for _, sent := range []string{"", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 4000)} {
		conn, err := net.Dial("tcp", c.Info().Addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if _, perr := fence.ParseGuardAnswer(string(got)); err != nil || perr != nil {
			t.Errorf("sent %.10q: got %q, %v, %v", sent, got, err, perr)
		}
		conn.Close()
	}
}

func TestIdleConnectionsDoNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	c := ensure(t, t.TempDir())
	for range 40 { // more than are served at a time
		conn, err := net.Dial("tcp", c.Info().Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	until(t, "an answer", func() bool {
		_, err := guard.Query(t.Context(), c.Info().Addr)
		return err == nil
	})
}

// Not parallel: this process stands in for a supervisor, which has one page open and not those of other tests.
func TestKilledGuardIsReplacedAndThePageStays(t *testing.T) {
	dir := t.TempDir()
	changed := make(chan error, 8)
	c := ensure(t, dir, func(cfg *guard.Config) { cfg.Changed = func(err error) { changed <- err } })
	c.Page().Assign(9, 99)
	// Someone with the page open stands in for a supervisor: this very test does.
	pageHolder(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	before, page := identity(t, dir), c.Page()
	if err := before.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-changed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no other guard")
	}
	if after := identity(t, dir); after == before || !after.Alive() {
		t.Errorf("got %+v after %+v", after, before)
	}
	if !c.Page().Same(page) || c.Page() != page {
		t.Error("another page, although a supervisor held the old one")
	}
	if _, err := guard.Query(ctx, c.Info().Addr); err != nil {
		t.Error(err)
	}
}

// pageHolder records this process, which has the page open, as a supervisor.
func pageHolder(t *testing.T, dir string) {
	t.Helper()
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	record(t, dir, "holder-1", &exec.Cmd{Process: self})
}

// halt stops a process. The signal is one thread's to take, which on a busy machine may be a while: until then the others go on,
// and answer.
func halt(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goes := func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err != nil || len(tasks) == 0 || slices.ContainsFunc(tasks, func(f string) bool {
			b, err := os.ReadFile(f)
			_, state, _ := strings.Cut(string(b), ") ")
			return err != nil || !strings.HasPrefix(state, "T")
		})
	}
	for end := time.Now().Add(10 * time.Second); goes(); {
		if time.Now().After(end) {
			t.Fatal("it does not stop")
		}
		<-time.After(time.Millisecond)
	}
}

func TestStuckGuardIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ensure(t, dir)
	stuck := identity(t, dir)
	halt(t, stuck.PID)
	c := ensure(t, dir)
	if c.Info().PID == stuck.PID || stuck.Alive() {
		stat, err := supervisor.ReadStat(stuck.PID)
		t.Errorf("the stuck guard is still there, or the guard: %d (%+v, %v), now %+v", stuck.PID, stat, err, c.Info())
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = guard.Ensure(t.Context(), guard.Config{
		DataDir: t.TempDir(), Argv: []string{containertest.BuildSupervisor(t)}, Listen: l.Addr().String(),
	})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+": bind: address already in use") {
		t.Errorf("got %v", err)
	}
}

func TestRunningGuardMovesToAnotherPort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := ensure(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	b := ensure(t, dir, func(cfg *guard.Config) { cfg.Listen = addr })
	if b.Info().Addr != addr || b.Info().PID != a.Info().PID {
		t.Errorf("got %+v, want address %s", b.Info(), addr)
	}
	if _, err := guard.Query(t.Context(), addr); err != nil {
		t.Error(err)
	}
	if _, err := guard.Query(t.Context(), a.Info().Addr); err == nil {
		t.Error("the old port answers")
	}
}

func TestNodeNumbersAreDistinctAndKept(t *testing.T) {
	t.Parallel()
	loopback := func(cfg *guard.Config) { cfg.Loopback = true }
	dir := t.TempDir()
	a, b := ensure(t, dir, loopback), ensure(t, t.TempDir(), loopback)
	if a.Info().Node < 1 || b.Info().Node < 1 || a.Info().Node == b.Info().Node {
		t.Errorf("numbers %d and %d", a.Info().Node, b.Info().Node)
	}
	if none := ensure(t, t.TempDir()); none.Info().Node != 0 {
		t.Errorf("number %d without loopback", none.Info().Node)
	}
	stop(t, dir)
	if again := ensure(t, dir, loopback); again.Info().Node != a.Info().Node {
		t.Errorf("number %d became %d", a.Info().Node, again.Info().Node)
	}
}

func TestGuardEndsAfterAgentAndSupervisors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := ensure(t, dir, func(cfg *guard.Config) { cfg.Linger = 100 * time.Millisecond })
	rec := identity(t, dir)
	sup, agent := sleeper(t), sleeper(t)
	record(t, dir, "a-1", sup)
	register(t, dir, agent)
	agent.Process.Kill()
	agent.Wait()
	for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if !rec.Alive() {
			t.Fatal("ended while a supervisor lives")
		}
	}
	sup.Process.Kill()
	sup.Wait()
	until(t, "the guard's end", func() bool { return !rec.Alive() })
	c.Close()
}
