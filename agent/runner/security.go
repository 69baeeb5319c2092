package runner

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/internal/spec"
)

// secure fills in whom a container runs as and what it may do. Its errors are for people.
func (r *Runner) secure(p *spec.Pod, sc *spec.Container, cfg *container.ContainerConfig) error {
	ps, cs := &p.Spec.Security, &sc.Security
	uid, gid := cmp.Or(cs.RunAsUser, ps.RunAsUser), cmp.Or(cs.RunAsGroup, ps.RunAsGroup)
	if uid != nil {
		cfg.UID = int(*uid)
		if gid == nil {
			cfg.GID = r.groupOf(cfg.UID)
		}
	}
	if gid != nil {
		cfg.GID = int(*gid)
		if cfg.UID < 0 {
			cfg.UID = os.Geteuid()
		}
	}
	if cfg.UID == os.Geteuid() && cfg.GID == os.Getegid() {
		cfg.UID, cfg.GID = -1, -1
	}
	for _, g := range ps.SupplementalGroups {
		cfg.Groups = append(cfg.Groups, int(g))
	}
	if ps.FSGroup != nil {
		cfg.Groups = append(cfg.Groups, int(*ps.FSGroup))
	}
	own := os.Geteuid()
	if own != 0 && (cfg.UID >= 0 || len(cfg.Groups) > 0) {
		return errors.New("runAsUser, runAsGroup, supplementalGroups or fsGroup: this agent is not root, so it runs containers as its own user only")
	}
	nonRoot := ps.RunAsNonRoot
	if cs.RunAsNonRoot != nil {
		nonRoot = *cs.RunAsNonRoot
	}
	if nonRoot && (cfg.UID == 0 || cfg.UID < 0 && own == 0) {
		return errors.New("runAsNonRoot: it would run as user 0")
	}
	cfg.AddCapabilities, cfg.DropCapabilities = cs.AddCapabilities, cs.DropCapabilities
	cfg.ReadOnlyRoot = cs.ReadOnlyRootFilesystem
	cfg.NoNewPrivileges = cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation
	cfg.SeccompDefault = cmp.Or(cs.Seccomp, ps.Seccomp) == spec.SeccompRuntimeDefault
	if r.cfg.Isolation == isolationNone && cfg.ReadOnlyRoot {
		return errors.New("readOnlyRootFilesystem needs mount namespaces, which this node has not")
	}
	return nil
}

// groupOf is the user's own group on this machine; for a user that it does not know, that of --run-as.
func (r *Runner) groupOf(uid int) int {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if gid, err := strconv.Atoi(u.Gid); err == nil {
			return gid
		}
	}
	if r.cfg.RunAsGID >= 0 {
		return r.cfg.RunAsGID
	}
	return os.Getegid()
}

// refusePrivileges says what the pod asks for that this node gives to no pod.
func (r *Runner) refusePrivileges(p *spec.Pod) error {
	if r.cfg.AllowPrivileged {
		return nil
	}
	if what := p.Spec.Privilege(); what != "" {
		return fmt.Errorf("%s: this node has no --allow-privileged-pods", what)
	}
	return nil
}

// podLimits are the sums over the containers that run together, as far as each of them has a limit.
func podLimits(s *spec.PodSpec, pids int64) container.Limits {
	memory := func(l spec.ResourceList) int64 { return l.MemoryBytes }
	cpu := func(l spec.ResourceList) int64 { return l.MilliCPU }
	return container.Limits{MilliCPU: podLimit(s, cpu), CPURequest: s.Requests().MilliCPU, MemoryBytes: podLimit(s, memory), PIDs: pids}
}

// podLimit is the most that the containers may use together of one resource: the sidecars with the containers, or with an
// init container; 0, which is none, where one of them has no limit.
func podLimit(s *spec.PodSpec, of func(spec.ResourceList) int64) int64 {
	var most, beside int64
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		n := of(c.Resources.Limits)
		if n == 0 {
			return 0
		}
		if c.Sidecar() {
			beside += n
		} else {
			most = max(most, beside+n)
		}
	}
	sum := beside
	for i := range s.Containers {
		n := of(s.Containers[i].Resources.Limits)
		if n == 0 {
			return 0
		}
		sum += n
	}
	return max(most, sum)
}
