package loadtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/agent/cgroup"
	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/process"
	"github.com/musterhq/muster/internal/version"
)

const (
	// maxPods bounds the pods that exec probes run in: more probes share them.
	maxPods = 100
	// removeLimit bounds the removal of all of them.
	removeLimit = time.Minute
	// nobody is the user that containers run as.
	nobody = 65534
)

// pods are those that exec probes run in: real ones, of the process runtime, one container each.
type pods struct {
	dir       string
	argv      []string
	runtime   *process.Runtime
	instances []container.ContainerID
}

func openRuntime(ctx context.Context, dir string, own []string) (*process.Runtime, *cgroup.Manager, error) {
	argv, note, err := process.SupervisorArgv(dir, own)
	if err != nil {
		return nil, nil, err
	}
	groups, err := cgroup.New(cgroup.Config{DataDir: dir})
	if err != nil {
		return nil, nil, err
	}
	r, err := process.New(ctx, process.Config{
		DataDir: dir, SupervisorArgv: argv, Note: note, Version: version.Version, Cgroups: groups, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		groups.Close()
		return nil, nil, err
	}
	return r, groups, nil
}

// startPods starts them.
func startPods(ctx context.Context, j *job) (*pods, error) {
	if err := os.MkdirAll(j.DataDir, 0o711); err != nil { // an earlier run took it away
		return nil, err
	}
	r, _, err := openRuntime(ctx, j.DataDir, j.Supervisor)
	if err != nil {
		return nil, fmt.Errorf("open the process runtime: %w", err)
	}
	p := &pods{dir: j.DataDir, argv: j.Supervisor, runtime: r, instances: make([]container.ContainerID, min(j.Targets, maxPods))}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range p.instances {
		g.Go(func() error {
			ref := container.PodRef{UID: uid(i, j.Seed), Epoch: 1}
			name := fmt.Sprintf("pod-%d", i)
			if _, err := r.EnsurePod(ctx, container.PodConfig{PodRef: ref, Namespace: "loadtest", Name: name, Hostname: name, IP: "127.0.0.1", HostNetwork: true}); err != nil {
				return fmt.Errorf("start pod %s: %w", name, err)
			}
			c, err := r.StartContainer(ctx, ref, container.ContainerConfig{
				Name: "main", Argv: []string{"sleep", "1000000"}, Env: []string{"PATH=" + os.Getenv("PATH")}, WorkingDir: "/", UID: nobody, GID: nobody,
			})
			if err != nil {
				return fmt.Errorf("start pod %s: %w", name, err)
			}
			p.instances[i] = c.ID
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		r.Close()
		return nil, err
	}
	return p, nil
}

// instance is the container that probe i's command runs in.
func (p *pods) instance(i int) container.ContainerID { return p.instances[i%len(p.instances)] }

// spent is the processor time of all supervisors and containers so far, of what was run in them too; negative where it is
// unknown.
func (p *pods) spent(ctx context.Context) time.Duration {
	sum, err := p.runtime.Overhead(ctx)
	if err != nil {
		return -1
	}
	for _, id := range p.instances {
		u, err := p.runtime.Usage(ctx, id)
		if err != nil || u.CPU < 0 {
			return -1
		}
		sum += u.CPU
	}
	return sum
}

func (p *pods) close() {
	p.runtime.Close()
	if removePods(p.dir, p.argv) == nil { // else whoever made the directory tries again, and tells
		os.RemoveAll(p.dir)
	}
}

// removePods takes away every pod of a directory, with its control groups.
func removePods(dir string, own []string) error {
	if _, err := os.Stat(filepath.Join(dir, "pods")); err != nil {
		return nil // there never was one
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeLimit)
	defer cancel()
	r, groups, err := openRuntime(ctx, dir, own)
	if err != nil {
		return fmt.Errorf("remove the pods in %s: %w", dir, err)
	}
	defer r.Close()
	list, err := r.List(ctx)
	if err != nil {
		return fmt.Errorf("remove the pods in %s: %w", dir, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, pod := range list.Pods {
		g.Go(func() error { return r.RemovePod(ctx, pod.PodRef) })
	}
	removed := g.Wait()
	_, swept := groups.Sweep(func(string) bool { return false }, removeLimit)
	groups.Close()
	if err := errors.Join(removed, swept); err != nil {
		return fmt.Errorf("remove the pods in %s: %w", dir, err)
	}
	return nil
}
