package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func lock(t *testing.T, dir string, kind Kind, name string) *Dir {
	t.Helper()
	d, err := Lock(dir, kind, name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestASecondHolderIsToldWhoHasTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "coordinator")
	d := lock(t, dir, Coordinator, "")
	if pid, err := Holder(dir); pid != os.Getpid() || err != nil {
		t.Errorf("Holder = %d, %v, want this process", pid, err)
	}
	_, err := Lock(dir, Coordinator, "")
	if !errors.Is(err, ErrInUse) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("second Lock = %v, want ErrInUse with the pid", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if pid, err := Holder(dir); pid != 0 || err != nil {
		t.Errorf("Holder after Close = %d, %v, want none", pid, err)
	}
	lock(t, dir, Coordinator, "").Close()
}

func TestADeadProcessesFilesAreNoObstacle(t *testing.T) {
	dir := t.TempDir()
	d := lock(t, dir, Agent, "n1")
	if err := d.WriteAddresses(Addresses{Gossip: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	d.lock.Close() // as the kernel does when a process dies; pid and addresses stay
	d = lock(t, dir, Agent, "n1")
	defer d.Close()
	if a, err := ReadAddresses(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead process's addresses are still told: %+v, %v", a, err)
	}
}

func TestAddressesAreWrittenAsScriptsReadThem(t *testing.T) {
	dir := t.TempDir()
	d := lock(t, dir, Coordinator, "")
	want := Addresses{Listen: "127.0.0.1:1", HTTP: "127.0.0.1:2", Gossip: "127.0.0.1:3"}
	if err := d.WriteAddresses(want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	if err != nil || string(b) != `{"listen":"127.0.0.1:1","http":"127.0.0.1:2","gossip":"127.0.0.1:3"}`+"\n" {
		t.Errorf("addresses.json = %s, %v", b, err)
	}
	if got, err := ReadAddresses(dir); got != want || err != nil {
		t.Errorf("ReadAddresses = %+v, %v", got, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pid", "addresses.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there after Close", name)
		}
	}
}

func TestADirectoryOfSomethingElseIsRefusedInOneLine(t *testing.T) {
	used := t.TempDir()
	lock(t, used, Agent, "n1").Close()
	newer := t.TempDir()
	if err := os.WriteFile(filepath.Join(newer, "muster.json"), []byte(`{"format":99,"kind":"agent"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "muster.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, name, want string
		kind            Kind
	}{
		{used, "n2", "belongs to node n1, not n2", Agent},
		{used, "", "belongs to muster agent, not coordinator", Coordinator},
		{newer, "n1", "written by a newer muster (format 99", Agent},
		{damaged, "n1", "is damaged", Agent},
		{file, "n1", "is not a directory", Agent},
		{"", "n1", "pass --data-dir", Agent},
	} {
		_, err := Lock(c.dir, c.kind, c.name)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Lock(%s, %s) = %v, want one line with %q", c.kind, c.name, err, c.want)
		}
	}
	if pid, err := Holder(used); pid != 0 || err != nil {
		t.Errorf("a refused Lock still holds: %d, %v", pid, err)
	}
}

func TestFileSystemTroubleIsOneLineWithTheNextStep(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ENOSPC: "the disk is full",
		syscall.EDQUOT: "the disk is full",
		syscall.EROFS:  "is not writable",
		syscall.EACCES: "is not writable",
	} {
		got := explain("/d", &os.PathError{Op: "write", Path: "/d/x", Err: err})
		if !strings.Contains(got.Error(), want) || !strings.Contains(got.Error(), "--data-dir") || !errors.Is(got, err) {
			t.Errorf("explain(%v) = %v, want %q", err, got, want)
		}
	}
}

func TestADiskWithTooLittleRoomIsToldWithWhatIsNeeded(t *testing.T) {
	d, err := Lock(t.TempDir(), Coordinator, "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Room(1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	err = d.Room(1 << 62)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), "MiB are needed") {
		t.Errorf("2^62 bytes: %v", err)
	}
}
