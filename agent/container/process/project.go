package process

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

// The names that a volume of files has beside its files, as the kubelet's have them: dataLink leads to the directory that has the
// files now, and what is visible are links that go through it. To replace dataLink is to replace all files at once.
const (
	dataLink    = "..data"
	newDataLink = "..data_tmp"
)

// WriteFiles implements container.Runtime.
func (r *Runtime) WriteFiles(_ context.Context, ref container.PodRef, volume string, files []container.File) error {
	r.mu.Lock()
	p := r.pods[ref.UID]
	r.mu.Unlock()
	notFound := func() error { return fmt.Errorf("volume %s of pod %s: %w", volume, ref.UID, container.ErrNotFound) }
	if p == nil || p.ref != ref || !validVolume(volume) {
		return notFound()
	}
	select {
	case <-p.ready:
	default:
		return notFound()
	}
	for i := range files {
		if f := &files[i]; !filepath.IsLocal(f.Path) || f.Path != filepath.Clean(f.Path) || strings.HasPrefix(f.Path, "..") || f.Path == "." {
			return fmt.Errorf("volume %s: %q is no path of a file in it", volume, f.Path)
		}
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	dir := r.volumeDir(p, volume)
	if slices.ContainsFunc(p.rec.Memory, func(m supervisor.MemoryDir) bool { return m.Path == filepath.Join(volumesDir, volume) }) {
		// It is mounted where only the pod's containers see it, and the supervisor.
		if !p.sup.Alive() {
			return notFound()
		}
		dir = filepath.Join(fmt.Sprintf("/proc/%d/root", p.sup.PID), dir)
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound()
	}
	if err != nil {
		return fmt.Errorf("write volume %s: %w", volume, err)
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err == nil {
		err = project(root, files, gidOf(info))
	}
	if err != nil {
		return fmt.Errorf("write volume %s: %w", volume, err)
	}
	return nil
}

// project makes files what the directory has.
func project(root *os.Root, files []container.File, gid int) error {
	files = slices.SortedFunc(slices.Values(files), func(a, b container.File) int { return cmp.Compare(a.Path, b.Path) })
	old, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != "" && same(root, old, files) {
		return nil
	}
	next := ".." + time.Now().UTC().Format("2006_01_02_15_04_05.") + rand.Text()[:8]
	if err := fill(root, next, files, gid); err != nil {
		return errors.Join(err, root.RemoveAll(next))
	}
	if err := root.RemoveAll(newDataLink); err != nil {
		return err
	}
	if err := root.Symlink(next, newDataLink); err != nil {
		return err
	}
	if err := root.Rename(newDataLink, dataLink); err != nil {
		return err
	}
	return tidy(root, next, files)
}

// gidOf is the group that a directory belongs to, and so do the files in it.
func gidOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Gid)
	}
	return -1
}

// fill makes a directory with the files.
func fill(root *os.Root, dir string, files []container.File, gid int) error {
	if err := root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := root.Chmod(dir, 0o755); err != nil {
		return err
	}
	for i := range files {
		f := &files[i]
		at := filepath.Join(dir, f.Path)
		if parent := filepath.Dir(at); parent != dir {
			if err := root.MkdirAll(parent, 0o755); err != nil {
				return err
			}
		}
		if err := root.WriteFile(at, f.Data, 0o600); err != nil {
			return err
		}
		if gid >= 0 {
			if err := root.Lchown(at, -1, gid); err != nil {
				return err
			}
		}
		if err := root.Chmod(at, f.Mode.Perm()); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether a directory has these files and no others.
func same(root *os.Root, dir string, files []container.File) bool {
	left := len(files)
	for i := range files {
		at := filepath.Join(dir, files[i].Path)
		info, err := root.Lstat(at)
		if err != nil || info.Mode() != files[i].Mode.Perm() || info.Size() != int64(len(files[i].Data)) {
			return false
		}
		if text, err := root.ReadFile(at); err != nil || !bytes.Equal(text, files[i].Data) {
			return false
		}
	}
	sub, err := root.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer sub.Close()
	err = fs.WalkDir(sub.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left--
		}
		return err
	})
	return err == nil && left == 0
}

// tidy makes a link for each name at the top, and takes away what is of no use any more.
func tidy(root *os.Root, data string, files []container.File) error {
	wanted := map[string]bool{data: true, dataLink: true}
	for i := range files {
		top, _, _ := strings.Cut(files[i].Path, "/")
		if wanted[top] {
			continue
		}
		wanted[top] = true
		if err := root.Symlink(filepath.Join(dataLink, top), top); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	top, err := root.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	names, err := top.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !wanted[name] {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}
