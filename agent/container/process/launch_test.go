package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/supervisor/embedded"
)

func TestBinaryIsInstalledOnceAndOldOnesGoWhenUnused(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "bin")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	old, err := install(bin, program)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(old, "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	unused, err := install(bin, []byte("of another version"))
	if err != nil {
		t.Fatal(err)
	}
	current, err := install(bin, []byte("of this version"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(unused); err == nil {
		t.Error("an unused binary is kept")
	}
	if _, err := os.Stat(old); err != nil {
		t.Error("a binary in use was taken away")
	}
	before, err := os.Stat(current)
	if err != nil || before.Mode().Perm() != 0o755 {
		t.Fatalf("%v, %v", before, err)
	}
	if again, err := install(bin, []byte("of this version")); err != nil || again != current {
		t.Errorf("got %s, %v; want %s", again, err, current)
	}
	if after, err := os.Stat(current); err != nil || !os.SameFile(before, after) {
		t.Error("written a second time")
	}
	if err := os.WriteFile(current, []byte("torn"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := install(bin, []byte("of this version")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(current); err != nil || string(b) != "of this version" {
		t.Errorf("a damaged binary is kept: %q, %v", b, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := install(bin, []byte("of this version")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the old binary is kept after its last process")
	}
}

func TestDataDirectoryWithoutExecIsRefusedInOneSentence(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Skip("this root may not mount: " + err.Error())
	}
	defer unix.Unmount(dir, 0)
	_, err := install(filepath.Join(dir, "bin"), []byte("x"))
	if err == nil || !strings.Contains(err.Error(), "mounted noexec") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestWithoutEmbeddedBinaryTheOwnIsUsedAndSaidSo(t *testing.T) {
	if len(embedded.Binary) > 0 {
		t.Skip("this build has the tiny binary")
	}
	argv, note, err := SupervisorArgv(t.TempDir(), []string{"/bin/muster", "pod-supervisor"})
	if err != nil || len(argv) != 2 || argv[0] != "/bin/muster" || note == "" {
		t.Errorf("got %q, %q, %v", argv, note, err)
	}
}
