package runner_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/internal/spec"
)

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// configOf returns what the container of a pod is started with, or the event that says why it is not.
func configOf(t *testing.T, p *spec.Pod, set func(*bench)) (cfg container.ContainerConfig, refused string) {
	t.Helper()
	on(t, func(t *testing.T, b *bench) {
		b.stop()
		if set != nil {
			set(b)
		}
		var mu sync.Mutex
		b.fake.Behave = func(_ container.PodRef, c container.ContainerConfig) containertest.Behaviour {
			mu.Lock()
			defer mu.Unlock()
			cfg = c
			return containertest.Behaviour{}
		}
		b.start()
		b.full(1, fast(p, 5))
		b.settle(100 * time.Millisecond)
		for _, e := range b.events {
			if _, text, ok := strings.Cut(e, "Warning Failed "); ok {
				refused = text
			}
		}
		if s := b.must(p.UID, 5); refused != "" && (s.Status.Containers[0].State.Waiting == nil ||
			s.Status.Containers[0].State.Waiting.Reason != "CreateContainerConfigError" || !strings.Contains(refused, s.Status.Containers[0].State.Waiting.Message)) {
			t.Errorf("refused with %q, but the status is %+v", refused, s.Status.Containers[0].State)
		}
	})
	return cfg, refused
}

func TestEnvironmentIsTheManifestsAndTheDefaultsAlone(t *testing.T) {
	t.Setenv("LEAKED", "secret")
	p := pod("u1")
	p.Labels, p.Annotations = map[string]string{"app": "shop"}, map[string]string{"a/b": "c"}
	c := &p.Spec.Containers[0]
	c.Command, c.Args = []string{"/bin/$(NAME)", "$$(NAME)", "$(NONE)", "$(open", "a$"}, []string{"$(POD_IP):$(PORT)"}
	c.Env = []spec.EnvVar{
		{Name: "NAME", Value: "serve"}, {Name: "PORT", Value: "80"}, {Name: "URL", Value: "http://$(NAME):$(PORT)/$(LATER)"}, {Name: "LATER", Value: "x"},
		{Name: "PORT", Value: "8080"}, {Name: "POD_IP", FieldPath: "status.podIP"}, {Name: "HOST_IP", FieldPath: "status.hostIP"},
		{Name: "N", FieldPath: "metadata.name"}, {Name: "NS", FieldPath: "metadata.namespace"}, {Name: "U", FieldPath: "metadata.uid"},
		{Name: "NODE", FieldPath: "spec.nodeName"}, {Name: "L", FieldPath: "metadata.labels['app']"}, {Name: "A", FieldPath: "metadata.annotations['a/b']"},
		{Name: "HOME", Value: "/root"}, {Name: "RAW", Value: "$(N)$$x"},
	}
	cfg, refused := configOf(t, p, nil)
	if refused != "" {
		t.Fatal(refused)
	}
	want := []string{"PATH=/bin", "HOME=/root", "TMPDIR=/pods/u1-5/tmp", "MUSTER_EPOCH=5", "MUSTER_POD_UID=u1", "MUSTER_POD_DIR=/pods/u1-5",
		"NAME=serve", "PORT=8080", "URL=http://serve:80/$(LATER)", "LATER=x", "POD_IP=127.77.1.1", "HOST_IP=127.0.0.1", "N=pod-u1", "NS=default", "U=u1",
		"NODE=n1", "L=shop", "A=c", "RAW=pod-u1$x"}
	if !slices.Equal(cfg.Env, want) {
		t.Errorf("environment\n%q, want\n%q", cfg.Env, want)
	}
	if want := []string{"/bin/serve", "$(NAME)", "$(NONE)", "$(open", "a$", "127.77.1.1:8080"}; !slices.Equal(cfg.Argv, want) {
		t.Errorf("argv %q, want %q", cfg.Argv, want)
	}
	if cfg.WorkingDir != "/" || cfg.UID != -1 || cfg.GID != -1 {
		t.Errorf("config %+v", cfg)
	}
}

func TestContainersThatCannotBePutTogetherSayWhy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(dir, "allowed", "link")
	if err := os.Mkdir(filepath.Dir(outside), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", outside); err != nil {
		t.Fatal(err)
	}
	volume := func(path, kind, at string) func(*spec.Pod) {
		return func(p *spec.Pod) {
			p.Spec.Volumes = []spec.Volume{{Name: "v", HostPath: path, HostPathType: kind}}
			p.Spec.Containers[0].Mounts = []spec.Mount{{Volume: "v", Path: at}}
		}
	}
	env := func(v spec.EnvVar) func(*spec.Pod) {
		return func(p *spec.Pod) { p.Spec.Containers[0].Env = []spec.EnvVar{v} }
	}
	privileged := func(b *bench) { b.cfg.AllowPrivileged = true }
	for name, tt := range map[string]struct {
		pod  func(*spec.Pod)
		set  func(*bench)
		want string
	}{
		"no command":         {func(p *spec.Pod) { p.Spec.Containers[0].Command = nil }, nil, "no command"},
		"reserved variable":  {env(spec.EnvVar{Name: "MUSTER_POD_UID", Value: "x"}), nil, "env MUSTER_POD_UID: muster sets it"},
		"unknown field":      {env(spec.EnvVar{Name: "X", FieldPath: "spec.secret"}), nil, `env X: fieldPath "spec.secret"`},
		"zero byte":          {env(spec.EnvVar{Name: "X", Value: "a\x00b"}), nil, "env X: has a zero byte"},
		"undeclared volume":  {func(p *spec.Pod) { p.Spec.Containers[0].Mounts = []spec.Mount{{Volume: "v", Path: "/x"}} }, nil, `volume "v" is not declared`},
		"no directory":       {volume(dir+"/none", "Directory", dir+"/none"), privileged, "no such file"},
		"file for directory": {volume(file, "Directory", file), privileged, "is not a directory"},
		"directory for file": {volume(dir, "File", dir), privileged, "is not a file"},
		"no file":            {volume(dir+"/none", "File", dir+"/none"), privileged, "no such file"},
		"no socket":          {volume(dir, "Socket", dir), privileged, "is not a socket"},
		"no device":          {volume(file, "BlockDevice", file), privileged, "is not a block device"},
		"unknown type":       {volume(dir, "Tape", dir), privileged, "type Tape is not one that muster knows"},
		"root where forbidden": {func(p *spec.Pod) {
			p.Spec.Security.RunAsNonRoot, p.Spec.Security.RunAsUser = true, new(int64)
		}, privileged, "runAs"},
		"other path without namespaces": {volume(dir, "", "/data"), func(b *bench) { b.cfg.AllowPrivileged, b.cfg.Isolation = true, "none" },
			"to mount it at /data needs mount namespaces"},
		"emptyDir without namespaces": {func(p *spec.Pod) {
			p.Spec.Volumes = []spec.Volume{{Name: "v", EmptyDir: &spec.EmptyDir{}}}
			p.Spec.Containers[0].Mounts = []spec.Mount{{Volume: "v", Path: "/data"}}
		}, func(b *bench) { b.cfg.Isolation = "none" }, "to mount it at /data needs mount namespaces"},
		"read-only root without namespaces": {func(p *spec.Pod) { p.Spec.Containers[0].Security.ReadOnlyRootFilesystem = true },
			func(b *bench) { b.cfg.Isolation = "none" }, "readOnlyRootFilesystem needs mount namespaces"},
		"not allowed": {volume(dir, "", dir), nil, "not below --host-path-allow"},
		"dots":        {volume(dir+"/../x", "", dir+"/../x"), privileged, "must be an absolute path"},
		"link that leads out": {volume(outside, "", outside), func(b *bench) { b.cfg.HostPathAllow = []string{dir + "/allowed"} },
			"not below --host-path-allow"},
		"sibling with the same start": {volume(dir+"/allowed-not", "DirectoryOrCreate", dir+"/allowed-not"), func(b *bench) { b.cfg.HostPathAllow = []string{dir + "/allowed"} },
			"not below --host-path-allow"},
		"read-only without namespaces": {func(p *spec.Pod) {
			volume(dir, "", dir)(p)
			p.Spec.Containers[0].Mounts[0].ReadOnly = true
		}, func(b *bench) { b.cfg.AllowPrivileged, b.cfg.Isolation = true, "none" }, "readOnly needs mount namespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod("u1")
			tt.pod(p)
			if _, refused := configOf(t, p, tt.set); !strings.Contains(refused, tt.want) {
				t.Errorf("refused with %q, want %q", refused, tt.want)
			}
		})
	}
}

func TestHostPathsAreMadeWhereTheirTypeSaysSo(t *testing.T) {
	dir := t.TempDir()
	p := pod("u1")
	p.Spec.Volumes = []spec.Volume{{Name: "d", HostPath: dir + "/a/b", HostPathType: "DirectoryOrCreate"}, {Name: "f", HostPath: dir + "/file", HostPathType: "FileOrCreate"}}
	p.Spec.Containers[0].Mounts = []spec.Mount{{Volume: "d", Path: dir + "/a/b/", ReadOnly: true}, {Volume: "f", Path: dir + "/file"}}
	cfg, refused := configOf(t, p, func(b *bench) { b.cfg.HostPathAllow = []string{dir} })
	if refused != "" {
		t.Fatal(refused)
	}
	if want := []container.Mount{{Source: dir + "/a/b", Target: dir + "/a/b", ReadOnly: true}, {Source: dir + "/file", Target: dir + "/file"}}; !slices.Equal(cfg.Mounts, want) {
		t.Errorf("mounts %+v, want %+v", cfg.Mounts, want)
	}
	if info, err := os.Stat(dir + "/a/b"); err != nil || !info.IsDir() {
		t.Errorf("directory: %v", err)
	}
	if info, err := os.Stat(dir + "/file"); err != nil || !info.Mode().IsRegular() {
		t.Errorf("file: %v", err)
	}
}

func TestPodsThatAskForPrivilegesGetNoSandboxWhereNoneAreAllowed(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		on(t, func(t *testing.T, b *bench) {
			b.stop()
			b.cfg.AllowPrivileged = allowed
			b.start()
			p := pod("u1")
			p.Spec.HostNetwork = true
			b.full(1, fast(p, 5))
			b.settle(100 * time.Millisecond)
			said := slices.ContainsFunc(b.events, func(e string) bool {
				return strings.Contains(e, "spec.hostNetwork: this node has no --allow-privileged-pods")
			})
			list, err := b.fake.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if said == allowed || len(list.Pods) == 0 == allowed {
				t.Errorf("allowed %v: %d sandboxes, events %q", allowed, len(list.Pods), b.events)
			}
			if allowed && list.Pods[0].IP != b.cfg.HostIP {
				t.Errorf("a pod of the host's network has address %s, want the node's", list.Pods[0].IP)
			}
		})
	}
}
