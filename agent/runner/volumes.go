package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/internal/spec"
)

// isolationFull is a runtime with all namespaces.
const isolationFull = "full"

// isolationNone is a runtime without mount namespaces: its containers see the host's files and nothing else.
const isolationNone = "none"

// volumes are the directories that the pod's sandbox has. Where a runtime can't keep any in memory, Secrets are on disk.
func volumes(p *spec.Pod, secretsInMemory bool) (all []container.PodVolume) {
	for _, v := range p.Spec.Volumes {
		if v.EmptyDir == nil && v.Files == nil {
			continue
		}
		gid := -1
		if g := p.Spec.Security.FSGroup; g != nil {
			gid = int(*g)
		}
		if v.Files != nil {
			all = append(all, container.PodVolume{Name: v.Name, Files: true, Memory: secretsInMemory && v.Files.Secret(), GID: gid})
			continue
		}
		all = append(all, container.PodVolume{Name: v.Name, Memory: v.EmptyDir.Memory, SizeLimit: v.EmptyDir.SizeLimit, GID: gid})
	}
	return all
}

// measure evicts pods whose volumes on disk have outgrown their limits.
func (r *Runner) measure(ctx context.Context) {
	wait := time.NewTimer(measureEvery)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		begun := time.Now()
		for _, v := range r.limitedVolumes() {
			used, err := r.deps.Runtime.VolumeUsage(ctx, v.ref, v.name, v.limit)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, container.ErrNotFound) {
					r.deps.Log.Warn("volume not measured", "pod_uid", v.ref.UID, "err", err)
				}
				continue
			}
			if used > v.limit {
				r.evict(v.ref, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q.", v.name, bytesText(v.limit)))
			}
		}
		wait.Reset(max(measureEvery, 20*time.Since(begun)))
	}
}

// bytesText writes an amount with the largest unit that it is a whole number of.
func bytesText(n int64) string {
	units := [...]string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	unit := 0
	for ; n != 0 && n%1024 == 0; unit++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + units[unit]
}

// limitedVolume is a volume on disk with a limit.
type limitedVolume struct {
	ref   container.PodRef
	name  string
	limit int64
}

func (r *Runner) limitedVolumes() (all []limitedVolume) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref, h := range r.pods {
		if h.pod == nil || h.stopped || !h.seen.Exists || h.status.Phase.Final() {
			continue
		}
		for _, v := range h.pod.Spec.Volumes {
			if e := v.EmptyDir; e != nil && !e.Memory && e.SizeLimit > 0 {
				all = append(all, limitedVolume{ref, v.Name, e.SizeLimit})
			}
		}
	}
	return all
}

func (r *Runner) evict(ref container.PodRef, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.pods[ref]
	if h == nil || h.machine == nil {
		return
	}
	r.deps.Log.Warn("pod evicted", "pod", h.pod.Key().String(), "epoch", ref.Epoch, "why", why)
	h.machine.Evict(why)
	r.saveLocked(h)
	r.stepLocked(h)
}

// mount finds what a container's mount means here, and checks or makes a hostPath as its type says.
func (r *Runner) mount(p *spec.Pod, m spec.Mount) (container.Mount, error) {
	i := slices.IndexFunc(p.Spec.Volumes, func(v spec.Volume) bool { return v.Name == m.Volume })
	if i < 0 {
		return container.Mount{}, fmt.Errorf("volume %q is not declared", m.Volume)
	}
	v := p.Spec.Volumes[i]
	out := container.Mount{SubPath: m.SubPath, Target: filepath.Clean(m.Path), ReadOnly: m.ReadOnly}
	switch {
	case v.EmptyDir != nil:
		out.Volume = v.Name
	case v.Files != nil:
		out.Volume, out.ReadOnly = v.Name, true
	default:
		var err error
		if out.Source, err = r.hostPath(&v); err != nil {
			return container.Mount{}, fmt.Errorf("volume %q: hostPath %s: %w", v.Name, v.HostPath, err)
		}
	}
	if r.cfg.Isolation == isolationNone {
		if m.ReadOnly {
			return container.Mount{}, fmt.Errorf("volume %q: readOnly needs mount namespaces, which this node has not", v.Name)
		}
		if out.Source != out.Target || m.SubPath != "" {
			return container.Mount{}, fmt.Errorf("volume %q: to mount it at %s needs mount namespaces, which this node has not", v.Name, m.Path)
		}
	}
	return out, nil
}

// hostPath checks the path, or makes it where its type says so.
func (r *Runner) hostPath(v *spec.Volume) (string, error) {
	if !filepath.IsAbs(v.HostPath) || filepath.Clean(v.HostPath) != strings.TrimSuffix(v.HostPath, "/") && v.HostPath != "/" {
		return "", errors.New("must be an absolute path without . and ..")
	}
	path := filepath.Clean(v.HostPath)
	if !r.allowed(path) {
		return "", errors.New("not below --host-path-allow of this node, which has no --allow-privileged-pods")
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch v.HostPathType {
		case "DirectoryOrCreate":
			err = os.MkdirAll(path, 0o755)
		case "FileOrCreate":
			var f *os.File
			if f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644); err == nil {
				err = f.Close()
			}
		}
		if err == nil {
			info, err = os.Stat(path)
		}
	}
	if err != nil {
		return "", err
	}
	mode := info.Mode()
	for _, t := range []struct {
		is    bool
		what  string
		types []string
	}{
		{true, "", []string{""}},
		{mode.IsDir(), "a directory", []string{"Directory", "DirectoryOrCreate"}},
		{mode.IsRegular(), "a file", []string{"File", "FileOrCreate"}},
		{mode&fs.ModeSocket != 0, "a socket", []string{"Socket"}},
		{mode&fs.ModeCharDevice != 0, "a character device", []string{"CharDevice"}},
		{mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "a block device", []string{"BlockDevice"}},
	} {
		if slices.Contains(t.types, v.HostPathType) {
			if !t.is {
				return "", errors.New("is not " + t.what)
			}
			return path, nil
		}
	}
	return "", fmt.Errorf("type %s is not one that muster knows", v.HostPathType)
}

// allowed tells whether a path, and where it leads through symbolic links, is below an allowed directory.
func (r *Runner) allowed(path string) bool {
	if r.cfg.AllowPrivileged {
		return true
	}
	return r.below(path) && r.below(resolve(path))
}

// resolve follows symbolic links in as much of the path as exists.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if path == "/" {
		return path
	}
	return filepath.Join(resolve(filepath.Dir(path)), filepath.Base(path))
}

func (r *Runner) below(path string) bool {
	return slices.ContainsFunc(MayMount(r.cfg.HostPathAllow), func(dir string) bool {
		rel, err := filepath.Rel(dir, path)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	})
}

// MayMount are the directories that pods may mount, each as it was given and where its symbolic links lead now.
func MayMount(allow []string) (all []string) {
	for _, dir := range allow {
		all = append(all, filepath.Clean(dir))
		if real := resolve(dir); real != all[len(all)-1] {
			all = append(all, real)
		}
	}
	return all
}
