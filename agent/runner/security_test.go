package runner_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/spec"
)

func TestAContainersSecurityWinsOverItsPods(t *testing.T) {
	yes, no := true, false
	p := pod("u1")
	p.Spec.Security = spec.PodSecurity{RunAsNonRoot: true, Seccomp: "RuntimeDefault"}
	c := &p.Spec.Containers[0]
	c.Security = spec.ContainerSecurity{
		RunAsNonRoot: &no, AddCapabilities: []string{"CHOWN"}, DropCapabilities: []string{"ALL"}, ReadOnlyRootFilesystem: true, AllowPrivilegeEscalation: &no,
	}
	c.Resources = spec.Resources{Limits: spec.ResourceList{MilliCPU: 200, MemoryBytes: 1 << 20}, Requests: spec.ResourceList{MilliCPU: 100}}
	cfg, refused := configOf(t, p, nil)
	if refused != "" {
		t.Fatal(refused)
	}
	if !slices.Equal(cfg.AddCapabilities, []string{"CHOWN"}) || !slices.Equal(cfg.DropCapabilities, []string{"ALL"}) ||
		!cfg.ReadOnlyRoot || !cfg.NoNewPrivileges || !cfg.SeccompDefault {
		t.Errorf("config %+v lacks what the pod asks for", cfg)
	}
	if cfg.Limits.MilliCPU != 200 || cfg.Limits.CPURequest != 100 || cfg.Limits.MemoryBytes != 1<<20 {
		t.Errorf("limits %+v", cfg.Limits)
	}
	c.Security = spec.ContainerSecurity{Seccomp: "Unconfined", AllowPrivilegeEscalation: &yes, RunAsNonRoot: &no}
	if cfg, refused := configOf(t, p, nil); refused != "" || cfg.SeccompDefault || cfg.NoNewPrivileges {
		t.Errorf("config %+v, %s: has what the container switched off", cfg, refused)
	}
}

func TestOnlyRootRunsContainersAsSomebodyElse(t *testing.T) {
	user, group, other := int64(12345), int64(54321), int64(777)
	p := pod("u1")
	p.Spec.Security = spec.PodSecurity{RunAsUser: &other, RunAsGroup: &group, RunAsNonRoot: true, SupplementalGroups: []int64{5}, FSGroup: &group}
	p.Spec.Containers[0].Security.RunAsUser = &user
	cfg, refused := configOf(t, p, func(b *bench) { b.cfg.RunAsUID, b.cfg.RunAsGID = 65534, 65533 })
	if os.Geteuid() != 0 {
		if !strings.Contains(refused, "this agent is not root") {
			t.Errorf("refused with %q", refused)
		}
		return
	}
	if refused != "" || cfg.UID != 12345 || cfg.GID != 54321 || !slices.Equal(cfg.Groups, []int{5, 54321}) {
		t.Errorf("runs as %d:%d with groups %d, %s", cfg.UID, cfg.GID, cfg.Groups, refused)
	}
	p.Spec.Security.RunAsGroup = nil
	if cfg, refused := configOf(t, p, func(b *bench) { b.cfg.RunAsUID, b.cfg.RunAsGID = 65534, 65533 }); refused != "" || cfg.GID != 65533 {
		t.Errorf("a user that this machine does not know runs in group %d, want that of --run-as; %s", cfg.GID, refused)
	}
	p.Spec.Containers[0].Security.RunAsUser = new(int64)
	if _, refused := configOf(t, p, func(b *bench) { b.cfg.AllowPrivileged = true }); !strings.Contains(refused, "runAsNonRoot: it would run as user 0") {
		t.Errorf("user 0 is refused with %q", refused)
	}
}
