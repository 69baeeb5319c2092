package runner_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/internal/spec"
)

func configKey(kind, name string) spec.ConfigKey {
	return spec.ConfigKey{Kind: kind, Namespace: "default", Name: name}
}

func values(pairs ...string) map[string][]byte {
	out := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = []byte(pairs[i+1])
	}
	return out
}

// known is a full set of a ConfigMap and a Secret.
func known() runner.Configs {
	return runner.Configs{Full: true, Values: map[spec.ConfigKey]map[string][]byte{
		configKey("ConfigMap", "cfg"): values("mode", "fast", "a.conf", "x=1\n", "MUSTER_EPOCH", "9"),
		configKey("Secret", "db"):     values("password", "hunter2", "nul", "a\x00b"),
	}}
}

// env is the environment of a container that runs.
func (b *bench) env(uid, name string) map[string]string {
	b.t.Helper()
	c, ok := b.fake.Config(uid, name)
	if !ok {
		b.t.Fatalf("container %s of %s has not been started: %q", name, uid, b.events)
	}
	env := map[string]string{}
	for _, v := range c.Env {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return env
}

func (b *bench) mounts(uid, name string) []container.Mount {
	c, _ := b.fake.Config(uid, name)
	return c.Mounts
}

func TestVariablesComeFromConfigMapsSecretsAndResources(t *testing.T) {
	p := pod("u1")
	c := &p.Spec.Containers[0]
	c.Resources.Limits = spec.ResourceList{MilliCPU: 1500}
	c.Resources.Requests = spec.ResourceList{MilliCPU: 1500, MemoryBytes: 10<<20 + 1}
	c.EnvFrom = []spec.EnvFrom{
		{Kind: "ConfigMap", Name: "cfg"}, {Kind: "Secret", Name: "db", Prefix: "DB_"}, {Kind: "ConfigMap", Name: "none", Optional: true},
	}
	c.Env = []spec.EnvVar{
		{Name: "mode", Value: "slow"},
		{Name: "PW", Key: &spec.KeyRef{Kind: "Secret", Name: "db", Key: "password"}},
		{Name: "A", Key: &spec.KeyRef{Kind: "ConfigMap", Name: "cfg", Key: "none", Optional: true}},
		{Name: "B", Key: &spec.KeyRef{Kind: "Secret", Name: "none", Key: "x", Optional: true}},
		{Name: "URL", Value: "db:$(PW)@$(DB_password)"},
		{Name: "CPU", Resource: &spec.ResourceRef{Resource: "limits.cpu"}},
		{Name: "MILLI", Resource: &spec.ResourceRef{Resource: "requests.cpu", DivisorMilli: 1}},
		{Name: "MI", Resource: &spec.ResourceRef{Container: c.Name, Resource: "requests.memory", DivisorMilli: 1000 << 20}},
		{Name: "ALL", Resource: &spec.ResourceRef{Resource: "limits.memory"}},
	}
	on(t, func(t *testing.T, b *bench) {
		b.stop()
		b.cfg.Allocatable = spec.ResourceList{MilliCPU: 4000, MemoryBytes: 1 << 30}
		b.start()
		b.r.Configure(known())
		b.full(1, fast(p, 5))
		b.settle(100 * time.Millisecond)
		env := b.env("u1", c.Name)
		for name, want := range map[string]string{
			"mode": "slow", "a.conf": "x=1\n", "DB_password": "hunter2", "PW": "hunter2", "URL": "db:hunter2@hunter2", "MUSTER_EPOCH": "5",
			"CPU": "2", "MILLI": "1500", "MI": "11", "ALL": "1073741824", "A": "<none>", "B": "<none>", "DB_nul": "<none>",
		} {
			got, ok := env[name]
			if !ok {
				got = "<none>"
			}
			if got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if !slices.ContainsFunc(b.events, func(e string) bool {
			return strings.Contains(e, "InvalidEnvironmentVariableNames") && strings.Contains(e, "[MUSTER_EPOCH, nul]")
		}) {
			t.Errorf("no event about what was skipped: %q", b.events)
		}
	})
}

func TestAContainerWaitsForWhatItIsMadeOfAndSaysForWhat(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*spec.Container)
		want   string
	}{
		"a variable's object": {func(c *spec.Container) {
			c.Env = []spec.EnvVar{{Name: "X", Key: &spec.KeyRef{Kind: "Secret", Name: "late", Key: "k"}}}
		}, `env X: secret "late" not found`},
		"a variable's key": {func(c *spec.Container) {
			c.Env = []spec.EnvVar{{Name: "X", Key: &spec.KeyRef{Kind: "ConfigMap", Name: "cfg", Key: "k"}}}
		}, "env X: couldn't find key k in ConfigMap default/cfg"},
		"all variables of an object": {func(c *spec.Container) { c.EnvFrom = []spec.EnvFrom{{Kind: "ConfigMap", Name: "late"}} }, `configmap "late" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod("u1")
			c.change(&p.Spec.Containers[0])
			on(t, func(t *testing.T, b *bench) {
				b.r.Configure(known())
				b.full(1, fast(p, 5))
				b.settle(time.Second)
				w := b.must("u1", 5).Status.Containers[0].State.Waiting
				if w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, c.want) {
					t.Fatalf("waits with %+v, want %q", w, c.want)
				}
				b.r.Configure(runner.Configs{Values: map[spec.ConfigKey]map[string][]byte{
					configKey("Secret", "late"): values("k", "v"), configKey("ConfigMap", "late"): values("k", "v"), configKey("ConfigMap", "cfg"): values("k", "v"),
				}})
				b.settle(30 * time.Second)
				if len(b.running()) != 1 {
					t.Error("it does not run now that everything is there")
				}
			})
		})
	}
}

func TestNothingIsMissingBeforeTheCoordinatorHasSaidWhatThereIs(t *testing.T) {
	p := pod("u1")
	p.Spec.Containers[0].EnvFrom = []spec.EnvFrom{{Kind: "ConfigMap", Name: "cfg", Optional: true}}
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(p, 5))
		b.settle(time.Second)
		if len(b.running()) != 0 {
			t.Fatal("it runs without what may be there")
		}
		b.r.Configure(known())
		b.settle(30 * time.Second)
		if env := b.env("u1", p.Spec.Containers[0].Name); env["mode"] != "fast" {
			t.Errorf("it runs with %q", env)
		}
	})
}

// withFiles is a pod with a volume of every kind of source.
func withFiles() *spec.Pod {
	p := pod("u1")
	p.Labels = map[string]string{"app": "web"}
	mode := int32(0o400)
	p.Spec.Volumes = []spec.Volume{{Name: "v", Files: &spec.Files{Kind: spec.FilesProjected, Sources: []spec.FileSource{
		{Kind: spec.FilesConfigMap, Name: "cfg", Items: []spec.FileItem{{Key: "mode", Path: "conf/mode"}, {Key: "a.conf", Path: "a", Mode: &mode}}},
		{Kind: spec.FilesSecret, Name: "db"},
		{Kind: spec.FilesSecret, Name: "none", Optional: true},
		{Kind: spec.FilesDownwardAPI, Items: []spec.FileItem{{Path: "labels", FieldPath: "metadata.labels"}, {Path: "name", FieldPath: "metadata.name"}}},
	}}}}
	p.Spec.Containers[0].Mounts = []spec.Mount{{Volume: "v", Path: "/etc/v"}}
	return p
}

func TestFilesFollowTheirSourcesWhileThePodRuns(t *testing.T) {
	ref := container.PodRef{UID: "u1", Epoch: 5}
	on(t, func(t *testing.T, b *bench) {
		b.r.Configure(known())
		p := withFiles()
		b.full(1, fast(p, 5))
		b.settle(time.Second)
		want := map[string]string{
			"conf/mode": "fast", "a": "x=1\n", "password": "hunter2", "nul": "a\x00b", "labels": `app="web"`, "name": "pod-u1",
		}
		if got := b.fake.Files(ref, "v"); !maps.Equal(got, want) || len(b.running()) != 1 {
			t.Fatalf("files %q, want %q", got, want)
		}
		if m := b.mounts("u1", p.Spec.Containers[0].Name); len(m) != 1 || m[0].Volume != "v" || !m[0].ReadOnly {
			t.Errorf("mounted as %+v", m)
		}
		writes := b.calls("WriteFiles")
		b.settle(time.Minute)
		if n := b.calls("WriteFiles"); n != writes {
			t.Errorf("%d writes more without a change", n-writes)
		}
		b.r.Configure(runner.Configs{Values: map[spec.ConfigKey]map[string][]byte{configKey("ConfigMap", "cfg"): values("mode", "slow", "a.conf", "")}})
		p = p.Clone()
		p.Labels["tier"] = "2"
		b.r.Assign(runner.Assignments{Session: 1, Assigned: []runner.Assigned{fast(p, 5)}})
		b.settle(10 * time.Millisecond)
		want["conf/mode"], want["a"], want["labels"] = "slow", "", "app=\"web\"\ntier=\"2\""
		if got := b.fake.Files(ref, "v"); !maps.Equal(got, want) {
			t.Errorf("after a change %q, want %q", got, want)
		}
		// What goes away leaves the files, and a word.
		b.r.Configure(runner.Configs{Removed: []spec.ConfigKey{configKey("Secret", "db")}})
		b.settle(time.Second)
		if got := b.fake.Files(ref, "v"); !maps.Equal(got, want) || len(b.running()) != 1 {
			t.Errorf("after a deletion %q", got)
		}
		if !slices.ContainsFunc(b.events, func(e string) bool {
			return strings.Contains(e, `FailedMount MountVolume.SetUp failed for volume "v": secret "db" not found`)
		}) {
			t.Errorf("no word of it: %q", b.events)
		}
	})
}

func TestAContainerWaitsForTheFilesThatItMounts(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.r.Configure(runner.Configs{Full: true})
		p := withFiles()
		b.full(1, fast(p, 5))
		b.settle(time.Second)
		w := b.must("u1", 5).Status.Containers[0].State.Waiting
		if w == nil || !strings.Contains(w.Message, `volume "v": configmap "cfg" not found`) {
			t.Fatalf("waits with %+v", w)
		}
		b.r.Configure(known())
		b.settle(30 * time.Second)
		if len(b.running()) != 1 {
			t.Error("it does not run now that everything is there")
		}
	})
}
