package spec

import (
	"maps"
	"slices"
)

// Clone returns a copy that shares nothing with p.
func (p *Pod) Clone() *Pod {
	return &Pod{Meta: p.clone(), Spec: p.Spec.Clone()}
}

// Clone returns a copy that shares nothing with d.
func (d *Deployment) Clone() *Deployment {
	out := *d
	out.Meta = d.clone()
	out.Spec.Selector = d.Spec.Selector.clone()
	s := &out.Spec.Strategy
	s.MaxSurge, s.MaxUnavailable = clonePtr(s.MaxSurge), clonePtr(s.MaxUnavailable)
	out.Spec.RevisionHistoryLimit = clonePtr(out.Spec.RevisionHistoryLimit)
	t := &out.Spec.Template
	t.Labels, t.Annotations, t.Spec = maps.Clone(t.Labels), maps.Clone(t.Annotations), t.Spec.Clone()
	out.Status.Conditions = slices.Clone(d.Status.Conditions)
	return &out
}

// Clone returns a copy that shares nothing with s.
func (s PodSpec) Clone() PodSpec {
	s.InitContainers, s.Containers = cloneContainers(s.InitContainers), cloneContainers(s.Containers)
	s.Volumes, s.ReadinessGates = slices.Clone(s.Volumes), slices.Clone(s.ReadinessGates)
	for i := range s.Volumes {
		s.Volumes[i].EmptyDir, s.Volumes[i].Files = clonePtr(s.Volumes[i].EmptyDir), s.Volumes[i].Files.clone()
	}
	s.NodeSelector, s.DNS = maps.Clone(s.NodeSelector), s.DNS.clone()
	sec := &s.Security
	sec.RunAsUser, sec.RunAsGroup, sec.FSGroup = clonePtr(sec.RunAsUser), clonePtr(sec.RunAsGroup), clonePtr(sec.FSGroup)
	sec.SupplementalGroups = slices.Clone(sec.SupplementalGroups)
	s.Affinity, s.Tolerations = s.Affinity.clone(), cloneTolerations(s.Tolerations)
	s.TopologySpreadConstraints = cloneSpread(s.TopologySpreadConstraints)
	return s
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func cloneContainers(all []Container) []Container {
	all = slices.Clone(all)
	for i := range all {
		c := &all[i]
		c.Command, c.Args, c.Env = slices.Clone(c.Command), slices.Clone(c.Args), slices.Clone(c.Env)
		for j := range c.Env {
			c.Env[j].Key, c.Env[j].Resource = clonePtr(c.Env[j].Key), clonePtr(c.Env[j].Resource)
		}
		c.EnvFrom = slices.Clone(c.EnvFrom)
		c.Ports, c.Mounts = slices.Clone(c.Ports), slices.Clone(c.Mounts)
		c.Liveness, c.Readiness, c.Startup = c.Liveness.clone(), c.Readiness.clone(), c.Startup.clone()
		c.PostStart, c.PreStop = c.PostStart.clone(), c.PreStop.clone()
		c.RestartRules = slices.Clone(c.RestartRules)
		for j := range c.RestartRules {
			c.RestartRules[j].ExitCodes = slices.Clone(c.RestartRules[j].ExitCodes)
		}
		sec := &c.Security
		sec.RunAsUser, sec.RunAsGroup = clonePtr(sec.RunAsUser), clonePtr(sec.RunAsGroup)
		sec.RunAsNonRoot, sec.AllowPrivilegeEscalation = clonePtr(sec.RunAsNonRoot), clonePtr(sec.AllowPrivilegeEscalation)
		sec.AddCapabilities, sec.DropCapabilities = slices.Clone(sec.AddCapabilities), slices.Clone(sec.DropCapabilities)
	}
	return all
}

func (p *Probe) clone() *Probe {
	if p == nil {
		return nil
	}
	out := *p
	if p.Exec != nil {
		out.Exec = &ExecAction{Command: slices.Clone(p.Exec.Command)}
	}
	if p.HTTP != nil {
		a := *p.HTTP
		a.Headers = slices.Clone(a.Headers)
		out.HTTP = &a
	}
	if p.TCP != nil {
		a := *p.TCP
		out.TCP = &a
	}
	if p.GRPC != nil {
		a := *p.GRPC
		out.GRPC = &a
	}
	if p.TerminationGrace != nil {
		g := *p.TerminationGrace
		out.TerminationGrace = &g
	}
	return &out
}
