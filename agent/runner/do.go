package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/lease"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// do carries out one action and tells the machine how it ended. What it has to do of a hook lasts no longer than hook.
func (r *Runner) do(hook context.Context, h *held, w pod.Wanted, a pod.Action) {
	ctx, cancel := context.WithTimeout(r.ctx, callTimeout+a.Grace)
	defer cancel()
	if a.Why != "" {
		r.deps.Log.Info("pod action", "pod", w.Pod.Key().String(), "container", a.Container, "action", a.Kind.String(), "why", a.Why, "grace", a.Grace)
	}
	var err, hookErr error
	var made container.Pod
	var started container.Container
	switch a.Kind {
	case pod.EnsureSandbox:
		err = r.counted(ctx, func() error { made, err = r.ensure(ctx, h, &w); return err })
	case pod.StartContainer:
		err = r.counted(ctx, func() error { started, err = r.start(ctx, h, &w, a); return err })
	case pod.RunPostStart:
		err = r.hook(hook, h, w.Pod.Spec.Container(a.Container), a.ID, w.Pod.Spec.Container(a.Container).PostStart)
	case pod.StopContainer:
		grace := a.Grace
		if a.PreStop {
			grace, hookErr = r.preStop(hook, h, w.Pod.Spec.Container(a.Container), a)
		}
		if err = r.deps.Runtime.StopContainer(ctx, container.ContainerID(a.ID), grace); errors.Is(err, container.ErrNotFound) {
			err = nil
		}
	case pod.RemoveSandbox:
		err = r.deps.Runtime.RemovePod(ctx, h.ref)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return // the next agent looks for itself
	}
	if a.Kind == pod.RunPostStart { // it has changed nothing that is listed
		r.hookedLocked(h, w, a, err)
		return
	}
	h.since = r.listing + 1 // what began to be listed before now may lack this
	res := pod.Result{HookFailed: hookErr != nil}
	switch {
	case err != nil:
		res.Failure, res.Text = failure(err), err.Error()
		h.stale = true
		r.deps.Log.Info("pod action failed", "pod", w.Pod.Key().String(), "container", a.Container, "action", a.Kind.String(), "err", err)
	case a.Kind == pod.EnsureSandbox:
		h.seen = facts(&made)
	case a.Kind == pod.RemoveSandbox:
		h.seen = pod.Seen{Known: true}
	case a.Kind == pod.StartContainer:
		res.Instance = instance(&started)
		h.seen.Instances = slices.DeleteFunc(slices.Clone(h.seen.Instances), func(i pod.Instance) bool { return i.Name == a.Container })
		h.seen.Instances = append(h.seen.Instances, res.Instance)
	default:
		h.stale = true
	}
	poke(r.look)
	h.machine.Done(time.Now(), w, a.Seq, res)
	r.stepLocked(h)
}

// errMisconfigured marks what a new try can only mend when something outside the pod changes.
var errMisconfigured = errors.New("misconfigured")

func failure(err error) pod.Failure {
	switch {
	case errors.Is(err, container.ErrFenced), errors.Is(err, lease.ErrNotAssigned):
		return pod.Fenced
	case errors.Is(err, container.ErrCannotStart):
		return pod.CannotStart
	case errors.Is(err, errMisconfigured), errors.Is(err, container.ErrUnsupported):
		return pod.Misconfigured
	}
	return pod.Other
}

// counted runs f as one of a bounded number, of which it is no longer one when it takes long.
func (r *Runner) counted(ctx context.Context, f func() error) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	slow := time.AfterFunc(slowStart, func() { <-r.slots })
	err := f()
	if slow.Stop() {
		<-r.slots
	}
	return err
}

func (r *Runner) ensure(ctx context.Context, h *held, w *pod.Wanted) (container.Pod, error) {
	s := &w.Pod.Spec
	if err := r.refusePrivileges(w.Pod); err != nil {
		return container.Pod{}, misconfigured{err}
	}
	cfg := container.PodConfig{
		PodRef: h.ref, Namespace: w.Pod.Namespace, Name: w.Pod.Name, Hostname: s.Hostname, Grace: s.TerminationGrace, IP: r.cfg.HostIP,
		OwnNetwork: r.cfg.PodNetwork && !s.HostNetwork, HostNetwork: s.HostNetwork, HostPID: s.HostPID, HostIPC: s.HostIPC, SharePID: s.ShareProcessNamespace,
		Volumes: volumes(w.Pod, r.cfg.Isolation == isolationFull), Limits: podLimits(s, r.cfg.PodPIDs),
	}
	if r.cfg.Resolv != nil {
		cfg.Resolv = r.cfg.Resolv(w.Pod)
	}
	if cfg.Hostname == "" {
		cfg.Hostname = w.Pod.Name
	}
	var err error
	if !s.HostNetwork {
		if cfg.IP, err = r.deps.Addresses.Allocate(h.ref.UID); err != nil {
			return container.Pod{}, err
		}
		if err := r.publish(w.Pod); err != nil {
			return container.Pod{}, err
		}
	}
	if h.class == spec.Fenced {
		if r.deps.Lease == nil {
			return container.Pod{}, fmt.Errorf("fenced pods: %w", container.ErrUnsupported)
		}
		if cfg.FenceSlot, err = r.deps.Lease.Slot(h.ref.UID, h.ref.Epoch); err != nil {
			return container.Pod{}, err
		}
		r.mu.Lock()
		h.slot = cfg.FenceSlot
		r.mu.Unlock()
	}
	if !r.cfg.PodNetwork {
		r.warnOfSharedPorts(h, w.Pod)
	}
	if what := limited(s); what != "" && !r.cfg.Limits {
		r.mu.Lock()
		r.record(h, pod.Event{Type: spec.EventWarning, Reason: "LimitsNotEnforced", Message: what + " is not held: this node's agent may not make control groups"})
		r.mu.Unlock()
	}
	return r.deps.Runtime.EnsurePod(ctx, cfg)
}

// publish makes the pod's host ports lead to it.
func (r *Runner) publish(p *spec.Pod) error {
	var ports []PublishedPort
	for _, c := range p.Spec.AllContainers() {
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				ports = append(ports, PublishedPort{Protocol: port.Protocol, Host: port.HostPort, Pod: port.Number})
			}
		}
	}
	switch {
	case r.deps.Ports != nil:
		return r.deps.Ports.Publish(p.UID, ports)
	case len(ports) > 0:
		return misconfigured{fmt.Errorf("hostPort %d: this node's pods have no network of their own", ports[0].Host)}
	}
	return nil
}

// limited names the first limit of a pod's containers; empty without one.
func limited(s *spec.PodSpec) string {
	for _, c := range s.AllContainers() {
		switch l := c.Resources.Limits; {
		case l.MilliCPU > 0:
			return "the CPU limit of container " + c.Name
		case l.MemoryBytes > 0:
			return "the memory limit of container " + c.Name
		}
	}
	return ""
}

// warnOfSharedPorts tells of a port that another pod here declares too: unless both bind their own address, one of them
// shuts the other out.
func (r *Runner) warnOfSharedPorts(h *held, p *spec.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.pods {
		if o == h || o.pod == nil || o.stopped || o.ref.UID == h.ref.UID || o.status.Phase.Final() || !o.seen.Exists {
			continue
		}
		for _, port := range ports(p) {
			if slices.Contains(ports(o.pod), port) {
				r.record(h, pod.Event{Type: spec.EventWarning, Reason: "PortShared", Message: fmt.Sprintf(
					"port %d is declared by pod %s on this node too: bind $(POD_IP), not all addresses", port, o.pod.Key())})
				return
			}
		}
	}
}

func ports(p *spec.Pod) (all []int32) {
	for _, c := range p.Spec.AllContainers() {
		for _, port := range c.Ports {
			all = append(all, port.Number)
		}
	}
	return all
}

func (r *Runner) start(ctx context.Context, h *held, w *pod.Wanted, a pod.Action) (container.Container, error) {
	r.mu.Lock()
	ip := h.seen.IP
	r.mu.Unlock()
	sc := w.Pod.Spec.Container(a.Container)
	cfg, skipped, err := r.containerConfig(w.Pod, h.ref, ip, sc, a.Attempt)
	if err != nil {
		return container.Container{}, fmt.Errorf("container %s: %w", a.Container, misconfigured{err})
	}
	if len(skipped) > 0 {
		r.mu.Lock()
		r.record(h, pod.Event{Type: spec.EventWarning, Reason: "InvalidEnvironmentVariableNames", Container: a.Container, Message: fmt.Sprintf(
			"Keys [%s] were skipped: they are no names of variables, or their values can't be in one", strings.Join(skipped, ", "))})
		r.mu.Unlock()
	}
	for i := range w.Pod.Spec.Volumes {
		v := &w.Pod.Spec.Volumes[i]
		if v.Files == nil || !slices.ContainsFunc(sc.Mounts, func(m spec.Mount) bool { return m.Volume == v.Name }) {
			continue
		}
		if err := r.project(ctx, h, w.Pod, v); err != nil {
			return container.Container{}, err
		}
	}
	return r.deps.Runtime.StartContainer(ctx, h.ref, cfg)
}

// misconfigured is errMisconfigured without its words.
type misconfigured struct{ error }

func (misconfigured) Is(target error) bool { return target == errMisconfigured }
func (m misconfigured) Unwrap() error      { return m.error }

// LogOptions choose what of a log is written.
type LogOptions struct {
	container.LogOptions
	// Previous is the instance before the newest one.
	Previous bool
}

// Logs writes what the newest instance of a container wrote, or the one before. ErrNotFound, ErrNotStarted, or the
// runtime's errors.
func (r *Runner) Logs(ctx context.Context, uid, name string, o LogOptions, w io.Writer) error {
	c, err := r.find(uid, name)
	if err != nil {
		return err
	}
	id := c.ID
	if o.Previous {
		id = ""
		if c.Last.Terminated != nil {
			id = c.Last.Terminated.ID
		}
	}
	if id == "" {
		return fmt.Errorf("container %s: %w", name, ErrNotStarted)
	}
	return r.deps.Runtime.Logs(ctx, container.ContainerID(id), o.LogOptions, w)
}
