// Package containertest has what tests of and around container runtimes share: Run, the conformance suite that every
// runtime passes; Fake, a runtime in memory whose containers do what a test says, in real or in fake time; and
// BuildSupervisor, the tiny binary.
package containertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var supervisorBinary struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// EnvSupervisor names a tiny binary that is built already, for a test that runs itself as another user.
const EnvSupervisor = "MUSTER_TEST_SUPERVISOR"

// BuildSupervisor returns the path of the tiny binary, built once per test run as a release builds it. Whoever runs as
// another user may execute it. RemoveSupervisor, from TestMain, takes it away again.
func BuildSupervisor(t testing.TB) string {
	t.Helper()
	b := &supervisorBinary
	b.once.Do(func() {
		if b.path = os.Getenv(EnvSupervisor); b.path != "" {
			return
		}
		if b.dir, b.err = os.MkdirTemp("", "muster-supervisor-"); b.err != nil {
			return
		}
		if b.err = os.Chmod(b.dir, 0o755); b.err != nil {
			return
		}
		b.path = filepath.Join(b.dir, "muster-supervisor")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.path, "github.com/musterhq/muster/cmd/muster-supervisor")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		b.err = cmd.Run()
	})
	if b.err != nil {
		t.Fatalf("build muster-supervisor: %v", b.err)
	}
	return b.path
}

// BuildSupervisorWithC returns the path of a tiny binary that is linked with C, as "go install" builds where there is a
// compiler. It is the test's own. The test is skipped where there is none, unless CI is set.
func BuildSupervisorWithC(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil && os.Getenv("CI") == "" {
		t.Skip("there is no C compiler")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "muster-supervisor")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/musterhq/muster/cmd/muster-supervisor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build muster-supervisor with C: %v\n%s", err, out)
	}
	return path
}

// RemoveSupervisor removes what BuildSupervisor has built, if it has. For TestMain, after m.Run.
func RemoveSupervisor() {
	if supervisorBinary.dir != "" {
		os.RemoveAll(supervisorBinary.dir)
	}
}
