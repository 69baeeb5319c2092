package hosts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	// initName is what the first process of a host is called, and how it is known.
	initName = "muster-test-host"
	// initReady is all it says when it is ready; anything else is an error.
	initReady = "ready"
)

// A host's first process is this program again. It goes its own way before main, so that no test's author has to think
// of it: a test binary that ran its tests in there would make hosts without end.
func init() {
	if len(os.Args) == 2 && os.Args[0] == initName {
		os.Exit(beInit(os.Args[1]))
	}
	// The first thread is the only one that does not end with a goroutine that has it locked. So that onThread never gets
	// it, the main goroutine keeps it.
	runtime.LockOSThread()
}

// beInit sets the host up, reaps its orphans, and ends with the process that has made it, which holds the other end of
// stdin. The kernel kills what is left then.
func beInit(hostname string) int {
	if err := settle(hostname); err != nil {
		fmt.Print(err)
		return 1
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	maker := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // nothing comes but the end
		close(maker)
	}()
	fmt.Print(initReady)
	os.Stdout.Close()
	for {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && err != unix.EINTR {
				break
			}
		}
		select {
		case <-children:
		case <-maker:
			return 0
		}
	}
}

// settle makes what is the machine's own in a host: its name, its processes' /proc, the boot's id, its cgroups, and an
// empty /run.
func settle(hostname string) error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	return errors.Join(boot(), mountOwn(), unix.Sethostname([]byte(hostname)))
}

// boot gives this boot of the host an id.
func boot() error {
	const random = "/proc/sys/kernel/random/"
	id, err := os.ReadFile(random + "uuid")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/run/boot_id", id, 0o444); err != nil {
		return err
	}
	if err := unix.Mount("/run/boot_id", random+"boot_id", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %sboot_id: %w", random, err)
	}
	return nil
}
