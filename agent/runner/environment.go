package runner

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/internal/spec"
)

// reserved are the variables that are muster's own: the guard knows a pod's processes by them.
var reserved = []string{"MUSTER_EPOCH", "MUSTER_POD_UID", "MUSTER_POD_DIR"}

// containerConfig puts together what an instance is started with. Its errors are for people; skipped are keys of ConfigMaps and
// Secrets that could not be variables.
func (r *Runner) containerConfig(p *spec.Pod, ref container.PodRef, ip string, sc *spec.Container, attempt int32) (cfg container.ContainerConfig, skipped []string, err error) {
	cfg = container.ContainerConfig{Name: sc.Name, Attempt: attempt, WorkingDir: sc.WorkingDir, UID: r.cfg.RunAsUID, GID: r.cfg.RunAsGID}
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = "/"
	}
	podDir, home, tmp := r.cfg.Dirs(ref)
	env := environment{index: map[string]int{}}
	env.set("PATH", r.cfg.Path)
	env.set("HOME", home)
	env.set("TMPDIR", tmp)
	if skipped, err = r.envFrom(p, sc, &env); err != nil {
		return cfg, nil, err
	}
	env.set("MUSTER_EPOCH", strconv.FormatInt(ref.Epoch, 10))
	env.set("MUSTER_POD_UID", ref.UID)
	env.set("MUSTER_POD_DIR", podDir)
	if r.cfg.DNS != nil {
		if at := r.cfg.DNS(); at != "" {
			env.set("MUSTER_DNS", at)
		}
	}
	for _, v := range sc.Env {
		if slices.Contains(reserved, v.Name) {
			return cfg, nil, fmt.Errorf("env %s: muster sets it", v.Name)
		}
		value, ok, err := r.variable(p, ip, sc, &v, env.get)
		if err != nil {
			return cfg, nil, fmt.Errorf("env %s: %w", v.Name, err)
		}
		if strings.ContainsRune(value, 0) {
			return cfg, nil, fmt.Errorf("env %s: has a zero byte", v.Name)
		}
		if ok {
			env.set(v.Name, value)
		}
	}
	cfg.Env = env.list
	for _, a := range sc.Command {
		cfg.Argv = append(cfg.Argv, expand(a, env.get))
	}
	for _, a := range sc.Args {
		cfg.Argv = append(cfg.Argv, expand(a, env.get))
	}
	if len(sc.Command) == 0 {
		return cfg, nil, errors.New("no command: there is no image to take one from")
	}
	for _, m := range sc.Mounts {
		mount, err := r.mount(p, m)
		if err != nil {
			return cfg, nil, err
		}
		cfg.Mounts = append(cfg.Mounts, mount)
	}
	limits, requests := sc.Resources.Limits, sc.Resources.Requests
	cfg.Limits = container.Limits{MilliCPU: limits.MilliCPU, CPURequest: requests.MilliCPU, MemoryBytes: limits.MemoryBytes}
	return cfg, skipped, r.secure(p, sc, &cfg)
}

// variable is the value of a variable; false where it is optional and there is none.
func (r *Runner) variable(p *spec.Pod, ip string, sc *spec.Container, v *spec.EnvVar, get func(string) (string, bool)) (string, bool, error) {
	switch {
	case v.FieldPath != "":
		value, err := r.field(p, ip, v.FieldPath)
		return value, true, err
	case v.Key != nil:
		return r.key(p, v.Key)
	case v.Resource != nil:
		n, err := r.resource(p, v.Resource, sc.Name)
		return strconv.FormatInt(n, 10), true, err
	}
	return expand(v.Value, get), true, nil
}

// environment is a list of NAME=value in which the last value of a name counts.
type environment struct {
	list  []string
	index map[string]int
}

func (e *environment) set(name, value string) {
	if i, ok := e.index[name]; ok {
		e.list[i] = name + "=" + value
		return
	}
	e.index[name] = len(e.list)
	e.list = append(e.list, name+"="+value)
}

func (e *environment) get(name string) (string, bool) {
	i, ok := e.index[name]
	if !ok {
		return "", false
	}
	return e.list[i][len(name)+1:], true
}

// expand replaces $(NAME) by the variable's value. Unknown names stay as they are written, and $$ stands for $.
func expand(s string, get func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			if v, ok := get(s[i+2 : i+end]); ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// field is the value of a fieldRef.
func (r *Runner) field(p *spec.Pod, ip, path string) (string, error) {
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return p.UID, nil
	case "spec.nodeName":
		return r.cfg.Node, nil
	case "status.podIP":
		return ip, nil
	case "status.hostIP":
		return r.cfg.HostIP, nil
	}
	for prefix, values := range map[string]map[string]string{"metadata.labels": p.Labels, "metadata.annotations": p.Annotations} {
		if rest, ok := strings.CutPrefix(path, prefix+"['"); ok {
			if name, ok := strings.CutSuffix(rest, "']"); ok {
				return values[name], nil
			}
		}
	}
	return "", fmt.Errorf("fieldPath %q is not one that muster knows", path)
}

// probe is the question with $(NAME) expanded in an exec command, from the variables that have a literal value.
func probe(sc *spec.Container, kind spec.ProbeKind) *spec.Probe {
	p := sc.Probe(kind)
	if p.Exec == nil || !slices.ContainsFunc(p.Exec.Command, func(s string) bool { return strings.Contains(s, "$") }) {
		return p
	}
	get := func(name string) (string, bool) {
		for _, v := range slices.Backward(sc.Env) {
			if v.Name == name {
				return v.Value, v.FieldPath == "" && v.Key == nil && v.Resource == nil
			}
		}
		return "", false
	}
	expanded, exec := *p, spec.ExecAction{}
	for _, a := range p.Exec.Command {
		exec.Command = append(exec.Command, expand(a, get))
	}
	expanded.Exec = &exec
	return &expanded
}
