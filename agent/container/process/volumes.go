package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/supervisor"
)

// maxDepth bounds how deep below a volume files are counted: each level holds a descriptor.
const maxDepth = 256

// VolumeUsage implements container.Runtime. What lies more than 256 directories deep is not counted.
func (r *Runtime) VolumeUsage(ctx context.Context, ref container.PodRef, volume string, most int64) (int64, error) {
	r.mu.Lock()
	p := r.pods[ref.UID]
	r.mu.Unlock()
	if p == nil || p.ref != ref || !validVolume(volume) {
		return 0, fmt.Errorf("volume %s of pod %s: %w", volume, ref.UID, container.ErrNotFound)
	}
	if slices.ContainsFunc(p.rec.Memory, func(m supervisor.MemoryDir) bool { return m.Path == filepath.Join(volumesDir, volume) }) {
		return 0, fmt.Errorf("volume %s in memory: %w", volume, container.ErrUnsupported)
	}
	root, err := os.OpenRoot(r.volumeDir(p, volume))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("volume %s of pod %s: %w", volume, ref.UID, container.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("measure volume %s: %w", volume, err)
	}
	defer root.Close()
	u := usage{ctx: ctx, most: most, linked: map[inode]bool{}}
	if err := u.directory(root, 0); err != nil && !errors.Is(err, errEnough) {
		return 0, fmt.Errorf("measure volume %s: %w", volume, err)
	}
	return u.bytes, nil
}

// usage adds up what files take on disk. What changes meanwhile is counted as it is met; no link leads out of the volume.
type usage struct {
	ctx    context.Context
	bytes  int64
	most   int64
	linked map[inode]bool // files with several names that have been counted
}

type inode struct{ device, number uint64 }

var errEnough = errors.New("more than was asked for")

// batch is how many entries of a directory are read at a time.
const batch = 256

func (u *usage) directory(root *os.Root, depth int) error {
	dir, err := root.Open(".")
	if err != nil {
		return nil //nolint:nilerr // it is gone, or its owner has shut it
	}
	defer dir.Close()
	if info, err := dir.Stat(); err == nil {
		if err := u.add(info); err != nil {
			return err
		}
	}
	for {
		entries, err := dir.ReadDir(batch)
		for _, e := range entries {
			info, err := root.Lstat(e.Name())
			if err != nil {
				continue // gone
			}
			if !info.IsDir() {
				err = u.add(info)
			} else if depth < maxDepth {
				err = u.below(root, e.Name(), depth)
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || err == nil && len(entries) == 0 {
			return u.ctx.Err()
		}
		if err != nil {
			return nil //nolint:nilerr // as above
		}
	}
}

func (u *usage) below(root *os.Root, name string, depth int) error {
	sub, err := root.OpenRoot(name)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	defer sub.Close()
	return u.directory(sub, depth+1)
}

func (u *usage) add(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if st.Nlink > 1 && !info.IsDir() {
		id := inode{st.Dev, st.Ino}
		if u.linked[id] {
			return nil
		}
		u.linked[id] = true
	}
	if u.bytes += st.Blocks * 512; u.bytes > u.most {
		return errEnough
	}
	return u.ctx.Err()
}
