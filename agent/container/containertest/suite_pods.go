package containertest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/musterhq/muster/agent/container"
)

// The part of the suite that holds what containers share with their pod, and with nobody else. What a runtime gives only in
// some isolation it refuses by name in the others.

func (s *suite) info(t *testing.T) container.Info {
	t.Helper()
	info, err := s.Info(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// ensure makes a pod as podCfg is, changed by f.
func (s *suite) ensure(f func(*container.PodConfig)) error {
	cfg := podCfg
	f(&cfg)
	_, err := s.EnsurePod(s.ctx, cfg)
	return err
}

func (s *suite) must(t *testing.T, f func(*container.PodConfig)) {
	t.Helper()
	if err := s.ensure(f); err != nil {
		t.Fatal(err)
	}
}

// says runs a container of a pod to its end, and returns its exit code and what it has written.
func (s *suite) says(t *testing.T, pod container.PodRef, name string, argv []string, change func(*container.ContainerConfig)) (int32, string) {
	t.Helper()
	cfg := config(name, 0, argv)
	if change != nil {
		change(&cfg)
	}
	c, err := s.StartContainer(s.ctx, pod, cfg)
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	var b bytes.Buffer
	if err := s.Logs(s.ctx, c.ID, container.LogOptions{Tail: -1, Follow: true}, &b); err != nil {
		t.Fatal(err)
	}
	return s.end(t, c.ID).ExitCode, b.String()
}

func mounted(m container.Mount) func(*container.ContainerConfig) {
	m.Target = "/volume"
	return func(c *container.ContainerConfig) { c.Mounts = []container.Mount{m} }
}

func withVolume(c *container.PodConfig) { c.Volumes = []container.PodVolume{{Name: "v", GID: -1}} }

func hostName(t *testing.T, s *suite) {
	if s.info(t).Isolation == "none" {
		return // it is the machine's
	}
	s.pod(t)
	for _, name := range []string{"first", "second"} {
		if _, said := s.says(t, ref, name, s.Hostname, nil); said != podCfg.Hostname+"\n" {
			t.Errorf("container %s is on %q, want %q", name, said, podCfg.Hostname)
		}
	}
}

func volumesAreShared(t *testing.T, s *suite) {
	if s.info(t).Isolation == "none" {
		return // VolumesAreMeasured holds the refusal
	}
	s.must(t, withVolume)
	in := mounted(container.Mount{Volume: "v"})
	if code, _ := s.says(t, ref, "writer", s.Write, in); code != 0 {
		t.Fatalf("the writer ended with %d", code)
	}
	if code, said := s.says(t, ref, "reader", s.Read, in); code != 0 || said != "kept\n" {
		t.Errorf("another container of the pod reads %q and ends with %d", said, code)
	}
	other := container.PodRef{UID: "3b1c8f60-0000-4000-8000-0000000000e2", Epoch: 43}
	s.must(t, func(c *container.PodConfig) { withVolume(c); c.PodRef = other; c.Name = "other" })
	c, err := s.StartContainer(s.ctx, other, func() container.ContainerConfig { c := config("reader", 0, s.Read); in(&c); return c }())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Logs(s.ctx, c.ID, container.LogOptions{Tail: -1, Follow: true}, &b); err != nil || b.Len() > 0 {
		t.Errorf("another pod reads %q, %v", b.String(), err)
	}
	if err := errors.Join(s.RemovePod(s.ctx, other), s.RemovePod(s.ctx, ref)); err != nil {
		t.Fatal(err)
	}
	s.must(t, withVolume)
	if code, said := s.says(t, ref, "reader", s.Read, in); code == 0 {
		t.Errorf("a pod that was made anew reads %q", said)
	}
}

func readOnlyMounts(t *testing.T, s *suite) {
	if s.info(t).Isolation == "none" {
		return
	}
	s.must(t, withVolume)
	if code, _ := s.says(t, ref, "writer", s.Write, mounted(container.Mount{Volume: "v"})); code != 0 {
		t.Fatalf("the writer ended with %d", code)
	}
	only := mounted(container.Mount{Volume: "v", ReadOnly: true})
	if code, _ := s.says(t, ref, "vandal", s.Write, only); code == 0 {
		t.Error("a read-only mount was written")
	}
	if code, said := s.says(t, ref, "reader", s.Read, only); code != 0 || said != "kept\n" {
		t.Errorf("reads %q and ends with %d", said, code)
	}
}

func subPaths(t *testing.T, s *suite) {
	if s.info(t).Isolation == "none" {
		return
	}
	s.must(t, withVolume)
	part := mounted(container.Mount{Volume: "v", SubPath: "a/b"})
	if code, _ := s.says(t, ref, "writer", s.Write, part); code != 0 {
		t.Fatalf("the writer ended with %d", code)
	}
	if code, said := s.says(t, ref, "reader", s.Read, part); code != 0 || said != "kept\n" {
		t.Errorf("reads %q and ends with %d", said, code)
	}
	if code, said := s.says(t, ref, "whole", s.Read, mounted(container.Mount{Volume: "v"})); code == 0 {
		t.Errorf("at the top of the volume is %q", said)
	}
}

func hostMounts(t *testing.T, s *suite) {
	if s.info(t).Isolation == "none" {
		return // there a file is where the machine has it
	}
	s.pod(t)
	dir := t.TempDir()
	if code, _ := s.says(t, ref, "writer", s.Write, mounted(container.Mount{Source: dir})); code != 0 {
		t.Fatalf("the writer ended with %d", code)
	}
	if err := s.RemovePod(s.ctx, ref); err != nil {
		t.Fatal(err)
	}
	s.pod(t)
	if code, said := s.says(t, ref, "reader", s.Read, mounted(container.Mount{Source: dir})); code != 0 || said != "kept\n" {
		t.Errorf("after the pod was made anew it reads %q and ends with %d", said, code)
	}
}

func unknownVolume(t *testing.T, s *suite) {
	s.pod(t)
	c := config("main", 0, s.Forever)
	mounted(container.Mount{Volume: "other"})(&c)
	if _, err := s.StartContainer(s.ctx, ref, c); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("a volume that the pod has not: %v", err)
	}
	if got := s.list(t).Containers; len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func rootsOwn(t *testing.T, s *suite) {
	full := s.info(t).Isolation == "full"
	for what, change := range map[string]func(*container.PodConfig){
		"a shared PID namespace": func(c *container.PodConfig) { c.SharePID = true },
		"an IPC namespace":       func(c *container.PodConfig) { c.HostIPC = true },
		"volume v in memory":     func(c *container.PodConfig) { c.Volumes = []container.PodVolume{{Name: "v", Memory: true, GID: -1}} },
	} {
		err := s.ensure(change)
		if full && err != nil || !full && !errors.Is(err, container.ErrUnsupported) {
			t.Errorf("%s, with full isolation %v: %v", what, full, err)
		}
		if !full {
			if l, err := s.List(s.ctx); err != nil || len(l.Pods) != 0 {
				t.Errorf("%s was refused, and left %+v, %v", what, l.Pods, err)
			}
		} else if err := s.RemovePod(s.ctx, ref); err != nil {
			t.Fatal(err)
		}
	}
}

func sharedPIDs(t *testing.T, s *suite) {
	if s.info(t).Isolation != "full" {
		return // WhatOnlyRootHasIsRefusedByName holds the refusal
	}
	sees := func(shared bool) int {
		s.must(t, func(c *container.PodConfig) { c.SharePID = shared })
		s.run(t, "one", 0, s.Forever)
		s.run(t, "two", 0, s.Forever)
		_, said := s.says(t, ref, "count", s.Processes, nil)
		n, err := strconv.Atoi(strings.TrimSpace(said))
		if err != nil {
			t.Fatalf("it sees %q", said)
		}
		if err := s.RemovePod(s.ctx, ref); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if alone, shared := sees(false), sees(true); alone < 1 || shared < alone+2 {
		t.Errorf("with a namespace of its own it sees %d processes, in the pod's %d", alone, shared)
	}
}

func users(t *testing.T, s *suite) {
	if s.info(t).Isolation != "full" {
		return // only root can be another user
	}
	s.pod(t)
	_, said := s.says(t, ref, "main", s.WhoAmI, func(c *container.ContainerConfig) { c.UID, c.GID = 1234, 1234 })
	if said != "1234\n" {
		t.Errorf("it is user %q, want 1234", said)
	}
}

func memoryLimit(t *testing.T, s *suite) {
	if !s.info(t).Limits {
		return
	}
	s.pod(t)
	cfg := config("main", 0, s.Hog)
	cfg.Limits.MemoryBytes = 32 << 20
	c, err := s.StartContainer(s.ctx, ref, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if end := s.end(t, c.ID); end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("it ended with %d, %s", end.ExitCode, end.Reason)
	}
}

// files: those that WriteFiles writes are seen by containers that run already, which can't write them.
func files(t *testing.T, s *suite) {
	info := s.info(t)
	if info.Isolation == "none" {
		return
	}
	for _, memory := range []bool{false, true} {
		if memory && info.Isolation != "full" {
			continue
		}
		s.must(t, func(c *container.PodConfig) {
			c.Volumes = []container.PodVolume{{Name: "v", Files: true, Memory: memory, GID: -1}}
		})
		in := mounted(container.Mount{Volume: "v", ReadOnly: true})
		file := func(text string) container.File { return container.File{Path: "file", Data: []byte(text), Mode: 0o644} }
		if code, said := s.says(t, ref, "early", s.Read, in); code == 0 {
			t.Errorf("before anything is written it reads %q", said)
		}
		for i, text := range []string{"one", "two", "two"} {
			if err := s.WriteFiles(s.ctx, ref, "v", []container.File{file(text), {Path: "more/of/them", Mode: 0o400}}); err != nil {
				t.Fatal(err)
			}
			if code, said := s.says(t, ref, fmt.Sprint("reader-", i), s.Read, in); code != 0 || strings.TrimSpace(said) != text {
				t.Errorf("memory %v: reads %q and ends with %d, want %q", memory, said, code, text)
			}
		}
		if code, _ := s.says(t, ref, "vandal", s.Write, in); code == 0 {
			t.Error("a container writes them")
		}
		if err := s.WriteFiles(s.ctx, ref, "v", []container.File{{Path: "other", Mode: 0o644}}); err != nil {
			t.Fatal(err)
		}
		if code, said := s.says(t, ref, "late", s.Read, in); code == 0 {
			t.Errorf("a file that is not wanted any more is read: %q", said)
		}
		if err := s.RemovePod(s.ctx, ref); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteFiles(s.ctx, ref, "v", nil); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("written after its pod has gone: %v", err)
		}
	}
	s.must(t, withVolume)
	if err := s.WriteFiles(s.ctx, ref, "other", nil); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("a volume that there is not: %v", err)
	}
	for _, path := range []string{"", "/etc/x", "../x", "a/../../x", "..data/x"} {
		if err := s.WriteFiles(s.ctx, ref, "v", []container.File{{Path: path}}); err == nil {
			t.Errorf("%q is taken for a file", path)
		}
	}
}
