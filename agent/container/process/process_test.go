package process_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/agent/supervisor"
)

func TestMain(m *testing.M) {
	code := m.Run()
	containertest.RemoveSupervisor()
	os.Exit(code)
}

// start makes a runtime over a data directory, closed at the test's end.
func start(t testing.TB, dir string, change ...func(*process.Config)) *process.Runtime {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cfg := process.Config{
		DataDir: dir, SupervisorArgv: []string{containertest.BuildSupervisor(t)}, Version: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	r, err := process.New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func plain(c *process.Config) { c.Isolation = supervisor.IsolationNone }

func TestProcessConforms(t *testing.T) {
	t.Parallel()
	containertest.Run(t, func(t *testing.T) (container.Runtime, containertest.Programs) {
		return start(t, t.TempDir()), containertest.Shell
	})
}

func TestProcessInControlGroupsConforms(t *testing.T) {
	t.Parallel()
	groups := cgroups(t)
	containertest.Run(t, func(t *testing.T) (container.Runtime, containertest.Programs) {
		return start(t, t.TempDir(), func(c *process.Config) { c.Cgroups = groups(c.DataDir) }), containertest.Shell
	})
}

func TestPlainProcessesConform(t *testing.T) {
	t.Parallel()
	containertest.Run(t, func(t *testing.T) (container.Runtime, containertest.Programs) {
		return start(t, t.TempDir(), plain), containertest.Shell
	})
}

func TestControlGroupsConform(t *testing.T) {
	t.Parallel()
	groups := cgroups(t)
	containertest.Run(t, func(t *testing.T) (container.Runtime, containertest.Programs) {
		return start(t, t.TempDir(), func(c *process.Config) { c.Cgroups = groups(c.DataDir) }), containertest.Shell
	})
}

// ordinary is set where the tests run as root, to run themselves once more as nobody.
const ordinary = "MUSTER_TEST_ORDINARY"

func TestAllHoldsForAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 || os.Getenv(ordinary) != "" {
		t.Skip("the tests run as an ordinary user already")
	}
	dir, err := os.MkdirTemp("", "muster-ordinary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "process.test")
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.timeout=2m")
	cmd.Dir = dir
	cmd.Env = []string{ordinary + "=1", containertest.EnvSupervisor + "=" + containertest.BuildSupervisor(t), "TMPDIR=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

const nobody = 65534
