// Package datadir keeps the data directory of a server: one process at a time may hold it, it says whose it is, and it
// tells others where that process listens. What else lies in the directory is its owner's business.
//
//	DIR/lock            locked (as an open file) while the holder lives; the kernel lets go of it when the process ends,
//	                    however it ends, so that a dead process's files are no obstacle
//	DIR/pid             the holder's process id
//	DIR/addresses.json  where the holder listens
//	DIR/muster.json     what kind of directory this is, and of which format
package datadir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/atomicfile"
)

// Kind says whose data a directory has.
type Kind string

// The kinds of data directories.
const (
	Coordinator Kind = "coordinator"
	Agent       Kind = "agent"
	Dev         Kind = "dev"
)

// Format is the newest format of data directories that this build understands.
const Format = 1

// ErrInUse means that a living process holds the directory.
var ErrInUse = errors.New("in use")

// Dir is a data directory that this process holds.
type Dir struct {
	path string
	lock *os.File
}

// Addresses are where a server listens, each HOST:PORT; empty where it does not.
type Addresses struct {
	// Listen is the gRPC API of a coordinator.
	Listen string `json:"listen,omitempty"`
	HTTP   string `json:"http,omitempty"`
	Gossip string `json:"gossip,omitempty"`
	Guard  string `json:"guard,omitempty"`
}

// mark is what DIR/muster.json has.
type mark struct {
	Format int  `json:"format"`
	Kind   Kind `json:"kind"`
	// Name is the node's name; empty for the other kinds.
	Name string `json:"name,omitempty"`
}

// Lock makes the directory where it is missing, holds it for this process, and writes DIR/pid. name is the node's name
// for an agent and empty for the others. An error is one line for people: the directory is held by another process
// (ErrInUse, with its pid), belongs to another kind of server, another node or a newer muster, is not writable, or
// its disk is full.
func Lock(dir string, kind Kind, name string) (*Dir, error) {
	if dir == "" {
		return nil, errors.New("no data directory: pass --data-dir DIR")
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, explain(dir, err)
	}
	// Pods of other users must reach their own directories below an agent's; a coordinator's has the cluster's keys.
	perm := os.FileMode(0o711)
	if kind == Coordinator {
		perm = 0o700
	}
	if err := os.MkdirAll(path, perm); err != nil {
		return nil, explain(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explain(path, err)
	}
	d := &Dir{path: path, lock: lock}
	if err := d.take(kind, name); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) take(kind Kind, name string) error {
	if err := unix.FcntlFlock(d.lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		if !errors.Is(err, syscall.EAGAIN) {
			return explain(d.path, err)
		}
		who := "another process"
		if pid := readPid(d.path); pid != 0 {
			who = fmt.Sprintf("process %d", pid)
		}
		return fmt.Errorf("data directory %s is %w by %s: stop that first, or choose another with --data-dir", d.path, ErrInUse, who)
	}
	if err := d.check(kind, name); err != nil {
		return err
	}
	// What an earlier holder left says nothing about this one.
	if err := atomicfile.Remove(filepath.Join(d.path, "addresses.json")); err != nil {
		return explain(d.path, err)
	}
	if err := d.room(); err != nil {
		return explain(d.path, err)
	}
	return explain(d.path, d.write("pid", []byte(strconv.Itoa(os.Getpid())+"\n")))
}

// check compares the directory's mark, and writes it where there is none.
func (d *Dir) check(kind Kind, name string) error {
	file := filepath.Join(d.path, "muster.json")
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		b, err := json.Marshal(mark{Format: Format, Kind: kind, Name: name})
		if err != nil {
			return err
		}
		return explain(d.path, d.write("muster.json", append(b, '\n')))
	}
	if err != nil {
		return explain(d.path, err)
	}
	var m mark
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%s is damaged (%w): choose another directory with --data-dir", file, err)
	}
	switch {
	case m.Format > Format:
		return fmt.Errorf("data directory %s was written by a newer muster (format %d, this one knows %d): use that version", d.path, m.Format, Format)
	case m.Kind != kind:
		return fmt.Errorf("data directory %s belongs to muster %s, not %s: choose another with --data-dir", d.path, m.Kind, kind)
	case m.Name != name:
		return fmt.Errorf("data directory %s belongs to node %s, not %s: give each node a directory of its own with --data-dir", d.path, m.Name, name)
	}
	return nil
}

// room finds a full disk now rather than at the first write that matters.
func (d *Dir) room() error {
	f, err := os.CreateTemp(d.path, ".room-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte{1}, 256<<10)); err != nil {
		return err
	}
	return f.Sync()
}

// Room checks that so many bytes can still be written below the directory.
func (d *Dir) Room(need int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.path, &fs); err != nil {
		return explain(d.path, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return explain(d.path, fmt.Errorf("%d MiB are free, %d MiB are needed: %w", free>>20, need>>20, syscall.ENOSPC))
	}
	return nil
}

// Path is the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// WriteAddresses tells others where this process listens.
func (d *Dir) WriteAddresses(a Addresses) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return explain(d.path, d.write("addresses.json", append(b, '\n')))
}

// ReadAddresses is what the directory's holder has written; an error that is os.ErrNotExist before it has.
func ReadAddresses(dir string) (Addresses, error) {
	var a Addresses
	b, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("read %s: %w", filepath.Join(dir, "addresses.json"), err)
	}
	return a, nil
}

// Close lets the directory go and takes away what spoke of this process.
func (d *Dir) Close() error {
	err := errors.Join(os.Remove(filepath.Join(d.path, "pid")), atomicfile.Remove(filepath.Join(d.path, "addresses.json")))
	return errors.Join(err, d.lock.Close())
}

// Holder is the process that holds the directory, 0 when none does. It never blocks and changes nothing.
func Holder(dir string) (pid int, err error) {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held); err != nil {
		return 0, fmt.Errorf("lock of %s: %w", dir, err)
	}
	if held.Type == unix.F_UNLCK {
		return 0, nil
	}
	if pid = readPid(dir); pid == 0 {
		return 0, fmt.Errorf("data directory %s is %w, and does not say by whom", dir, ErrInUse)
	}
	return pid, nil
}

func readPid(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

func (d *Dir) write(name string, b []byte) error {
	return atomicfile.Write(filepath.Join(d.path, name), b, 0o644)
}

// explain turns what the file system says into one line with the next step; nil stays nil.
func explain(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("data directory %s: the disk is full: free some space, or choose another with --data-dir (%w)", dir, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("data directory %s is not writable: change its owner or mode, or choose another with --data-dir (%w)", dir, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("data directory %s is not a directory: choose another with --data-dir (%w)", dir, err)
	}
	return fmt.Errorf("data directory %s: %w", dir, err)
}
