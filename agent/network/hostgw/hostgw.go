// Package hostgw sets up a node's part of the flat pod network: a bridge for its pods, a link and an address in each
// pod's network namespace, routes through the other nodes to theirs, forwarding, and the translation of what leaves the
// cluster and of what comes in by ports of the node. Pod to pod is never translated.
//
// All of it is held as it should be: it is looked at every few seconds, and at once when the kernel tells of a change,
// for a link that goes down takes its routes with it. What to do is decided by plan, a function of what is wanted and
// what is seen. Everything has a name of this agent's own, and what has another name is never touched.
//
// Who has which address is agent/network's to say, and which node has which network the coordinator's.
package hostgw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/network"
	"github.com/musterhq/muster/internal/atomicfile"
)

const (
	// every is how often is looked whether all is as it should be, anyway how often even if the kernel told of no change.
	every, anyway = 3 * time.Second, 30 * time.Second
	// minPause is the least time between two looks: changes come in bursts.
	minPause = 200 * time.Millisecond
	// rounds bounds the looks of one pass: what a step makes may ask for the next.
	rounds = 4

	maxFile = 8 << 20
	// maxPorts bounds the ports of one pod.
	maxPorts = 256
)

// ErrPortTaken means that another pod here has the node's port.
var ErrPortTaken = errors.New("port of the node is taken")

// Config says whose network this is.
type Config struct {
	// ID names the agent for good, such as its instance; the names of all it makes are derived from it.
	ID string
	// Path is the file that keeps what the coordinator said and the pods' ports over restarts of the agent.
	Path string
	// Address is the node's own, IPv4.
	Address netip.Addr
	// NetNS is the path of the network namespace to work in; empty: the process's own.
	NetNS string
	// Problem is told, at each change, what keeps pods out of reach: a sentence for people, or empty when nothing does. It
	// must not block.
	Problem func(text string)
}

// Addresses is what is needed of agent/network's Allocator.
type Addresses interface {
	// Use names the network that pods' addresses come from.
	Use(cidr netip.Prefix) error
	// Pods returns the address of each pod, by uid.
	Pods() map[string]netip.Addr
}

// Network is one node's part. Its methods may be called from any goroutine.
type Network struct {
	cfg       Config
	names     names
	addresses Addresses
	log       *slog.Logger
	wake      chan struct{}
	signs     *signs
	now       func() time.Time

	mu      sync.Mutex // guards what follows
	state   state
	unsaved bool // the state is newer than the file
	told    string

	acting    sync.Mutex // guards the kernel and what follows
	kernel    *kernel
	links     map[string]alias     // pods' links, by name; nil before the first look
	unclaimed map[string]time.Time // links whose pod has no address, by name
	ports     []published          // those of the last look
}

// state is what is kept in the file. It is replaced, never changed.
type state struct {
	Cluster Cluster           `json:"cluster"`
	Ports   map[string][]Port `json:"ports"`
}

// Permitted tells whether this process may set up links, routes and rules: root, with NET_ADMIN.
func Permitted() bool {
	if os.Geteuid() != 0 {
		return false
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// New opens the network as it was left; nothing is changed before Run. Close it.
func New(cfg Config, addresses Addresses, log *slog.Logger) (*Network, error) {
	n, err := build(cfg, addresses, log)
	if err != nil {
		return nil, err
	}
	if n.kernel, err = openKernel(n.cfg.NetNS); err != nil {
		return nil, err
	}
	return n, nil
}

// build is New without the kernel.
func build(cfg Config, addresses Addresses, log *slog.Logger) (*Network, error) {
	if cfg.ID == "" || cfg.Path == "" || !cfg.Address.Is4() {
		return nil, fmt.Errorf("id, path and an IPv4 address of the node are required, not %q, %q and %s", cfg.ID, cfg.Path, cfg.Address)
	}
	if cfg.NetNS == "" {
		cfg.NetNS = "/proc/self/ns/net"
	}
	n := &Network{
		cfg: cfg, names: namesOf(cfg.ID), addresses: addresses, log: log, wake: make(chan struct{}, 1), signs: newSigns(), now: time.Now,
		unclaimed: map[string]time.Time{},
	}
	var err error
	if n.state, err = load(cfg.Path); err != nil {
		log.Warn("pod network forgotten: the file is damaged", "path", cfg.Path, "err", err)
	}
	if own := n.state.Cluster.Own; own.IsValid() {
		if err := addresses.Use(own); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Close lets go of the kernel; what is set up stays.
func (n *Network) Close() {
	n.acting.Lock()
	defer n.acting.Unlock()
	n.kernel.close()
}

func load(path string) (state, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err == nil && len(data) > maxFile {
		err = errors.New("too large")
	}
	var s state
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil {
		err = s.Cluster.check()
	}
	if err != nil {
		return state{}, err
	}
	return s, nil
}

// check holds what comes from outside to what plan expects.
func (c *Cluster) check() error {
	ok := func(p netip.Prefix) bool { return p.Addr().Is4() && p == p.Masked() && p.Bits() >= 8 && p.Bits() <= 24 }
	if c.Own.IsValid() && !ok(c.Own) {
		return fmt.Errorf("pod cidr %s: must be an IPv4 network of /8 to /24", c.Own)
	}
	if c.All.IsValid() && !ok(c.All) {
		return fmt.Errorf("cluster cidr %s: must be an IPv4 network of /8 to /24", c.All)
	}
	for _, node := range c.Nodes {
		if !ok(node.Pods) || !node.Address.Is4() || c.Own.IsValid() && c.Own.Overlaps(node.Pods) {
			return fmt.Errorf("node %s: pod cidr %s behind %s: must be an IPv4 network of /8 to /24 that is not this node's, behind an IPv4 address", node.Name, node.Pods, node.Address)
		}
	}
	return nil
}

// storeLocked replaces the state, once it is on disk.
func (n *Network) storeLocked(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(n.cfg.Path, data, 0o600); err != nil {
		return fmt.Errorf("store the pod network: %w", err)
	}
	n.state, n.unsaved = s, false
	n.poke()
	return nil
}

// save brings the file up to date.
func (n *Network) save() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.unsaved {
		return nil
	}
	return n.storeLocked(n.state)
}

func (n *Network) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Set takes in what the coordinator says of the network: all of it, at each change.
func (n *Network) Set(c Cluster) error {
	if err := c.check(); err != nil {
		return err
	}
	c.Nodes = slices.Clone(c.Nodes)
	slices.SortFunc(c.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	if err := n.replace(c); err != nil || !c.Own.IsValid() {
		return err
	}
	return n.addresses.Use(c.Own)
}

func (n *Network) replace(c Cluster) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := state{Cluster: c, Ports: n.state.Ports}
	switch {
	case c.Own != n.state.Cluster.Own:
		return n.storeLocked(s) // before any pod has an address of it
	case !reflect.DeepEqual(n.state.Cluster, c):
		// Of the other nodes there may be thousands, and each is a change: the file waits for Run.
		n.state, n.unsaved = s, true
		n.poke()
	}
	return nil
}

// Gateway is the node's own address in its pods' network; not valid while it has none.
func (n *Network) Gateway() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if own := n.state.Cluster.Own; own.IsValid() {
		return gatewayOf(own)
	}
	return netip.Addr{}
}

// Has tells whether an address is a pod's, of whatever node, or a node's in its pods' network.
func (n *Network) Has(ip netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.Cluster.All.IsValid() && n.state.Cluster.All.Contains(ip)
}

// Publish makes ports of the node lead to a pod's, in place of those it had, for as long as the pod has its address.
// ErrPortTaken when another pod has one of them; then nothing changes.
func (n *Network) Publish(uid string, ports []Port) error {
	if len(ports) > maxPorts {
		return fmt.Errorf("%d ports of the node for one pod, at most %d", len(ports), maxPorts)
	}
	for _, p := range ports {
		if _, ok := protocols[p.Protocol]; !ok || p.Host == 0 || p.Pod == 0 {
			return fmt.Errorf("port %d/%s to %d: must be 1 to 65535 and tcp or udp", p.Host, p.Protocol, p.Pod)
		}
	}
	held := n.addresses.Pods()
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Equal(n.state.Ports[uid], ports) {
		return nil
	}
	next := maps.Clone(n.state.Ports)
	if next == nil {
		next = map[string][]Port{}
	}
	maps.DeleteFunc(next, func(other string, _ []Port) bool { _, ok := held[other]; return !ok })
	delete(next, uid)
	for other, theirs := range next {
		for _, p := range theirs {
			if slices.ContainsFunc(ports, func(q Port) bool { return q.Protocol == p.Protocol && q.Host == p.Host }) {
				return fmt.Errorf("port %d/%s: %w by pod %s", p.Host, p.Protocol, ErrPortTaken, other)
			}
		}
	}
	if len(ports) > 0 {
		next[uid] = slices.Clone(ports)
	}
	return n.storeLocked(state{Cluster: n.state.Cluster, Ports: next})
}

// wanted is how things should be now.
func (n *Network) wanted() *wanted {
	held := n.addresses.Pods()
	n.mu.Lock()
	defer n.mu.Unlock()
	w := &wanted{names: n.names, cluster: n.state.Cluster, self: n.cfg.Address}
	for uid, ports := range n.state.Ports {
		ip, ok := held[uid]
		if !ok {
			continue
		}
		for _, p := range ports {
			w.ports = append(w.ports, published{p.Protocol, p.Host, netip.AddrPortFrom(ip, p.Pod)})
		}
	}
	slices.SortFunc(w.ports, comparePorts)
	return w
}

// Run keeps the network as it should be until ctx ends. What is set up stays: pods outlive the agent.
func (n *Network) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { n.watch(ctx) })
	said := ""
	looked := time.Time{}
	for ctx.Err() == nil {
		if n.due(looked) {
			looked = n.now()
			said = n.say(errors.Join(n.save(), n.pass()), said)
		}
		tick := time.NewTimer(every)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-n.wake:
			n.signs.see(false)
		case <-n.signs.urgent:
		}
		tick.Stop()
		select {
		case <-ctx.Done():
		case <-time.After(minPause - n.now().Sub(looked)):
		}
	}
	return n.save()
}

// due tells whether it is time to look. Where the kernel has told of no change, forwarding and the ports that are wanted
// are all that may have changed, and all is looked at now and then only.
func (n *Network) due(looked time.Time) bool {
	if n.signs.take() || n.now().Sub(looked) >= anyway {
		return true
	}
	n.acting.Lock()
	defer n.acting.Unlock()
	forwarding, err := n.kernel.forwarding()
	return err != nil || !forwarding || !slices.Equal(n.wanted().ports, n.ports)
}

// say logs what a pass came to; what fails alike is one line.
func (n *Network) say(err error, said string) string {
	text := ""
	if err != nil {
		text = err.Error()
		n.signs.see(false) // it is not done
	}
	switch {
	case text == said:
	case err != nil:
		n.log.Warn("pod network not as it should be", "err", err)
	default:
		n.log.Info("pod network as it should be again")
	}
	return text
}

// pass looks and acts until nothing is left to do.
func (n *Network) pass() error {
	n.acting.Lock()
	defer n.acting.Unlock()
	return n.passLocked()
}

func (n *Network) passLocked() error {
	var failed error
	for range rounds {
		w := n.wanted()
		s, err := n.kernel.look(n.names)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // it changed under our eyes
		}
		if err != nil {
			return fmt.Errorf("look at the network: %w", err)
		}
		n.claim(s)
		n.ports = w.ports
		steps, problems := plan(w, s)
		n.problem(strings.Join(problems, "; "))
		if len(steps) == 0 {
			return nil
		}
		failed = nil
		for _, st := range steps {
			n.log.Debug("pod network", "step", st.String())
			if err := n.kernel.act(w, st); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", st, err))
			}
		}
		if failed != nil {
			return failed
		}
	}
	return failed
}

// claim notes how long links have been there without a pod that has their address.
func (n *Network) claim(s *seen) {
	held := n.addresses.Pods()
	now := n.now()
	unclaimed := map[string]time.Time{}
	n.links = map[string]alias{}
	for i := range s.links {
		l := &s.links[i]
		a, ok := parseAlias(l.alias)
		if !ok || !strings.HasPrefix(l.name, n.names.pods) {
			continue
		}
		if n.links[l.name] = a; held[a.uid] == a.ip {
			continue
		}
		since, ok := n.unclaimed[l.name]
		if !ok {
			since = now
		}
		unclaimed[l.name] = since
		l.unclaimed = now.Sub(since)
	}
	n.unclaimed = unclaimed
}

// problem tells of a change.
func (n *Network) problem(text string) {
	n.mu.Lock()
	changed := n.told != text
	n.told = text
	n.mu.Unlock()
	if !changed {
		return
	}
	if text != "" {
		n.log.Error("pods out of reach", "err", text)
	} else {
		n.log.Info("no pods out of reach any more")
	}
	if n.cfg.Problem != nil {
		n.cfg.Problem(text)
	}
}

// Err says what keeps pods out of reach; nil when nothing does, and before the first look.
func (n *Network) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !n.state.Cluster.Own.IsValid():
		return network.ErrNoNetwork
	case n.told != "":
		return errors.New(n.told)
	}
	return nil
}

// Attach gives a pod's network namespace, at a path such as /proc/PID/ns/net, its link and address: eth0 in it, with the
// node as its gateway. It is done when it returns, and may be said again. network.ErrNoNetwork before the node has a
// network.
func (n *Network) Attach(ctx context.Context, ref container.PodRef, netNS, ip string) error {
	a := alias{uid: ref.UID, epoch: ref.Epoch}
	var err error
	if a.ip, err = netip.ParseAddr(ip); err != nil {
		return fmt.Errorf("attach pod %s: %w", ref.UID, err)
	}
	n.mu.Lock()
	own := n.state.Cluster.Own
	n.mu.Unlock()
	switch {
	case !own.IsValid():
		return fmt.Errorf("attach pod %s: %w", ref.UID, network.ErrNoNetwork)
	case !own.Contains(a.ip):
		return fmt.Errorf("attach pod %s: address %s is not of the node's pod cidr %s", ref.UID, a.ip, own)
	}
	n.acting.Lock()
	defer n.acting.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	bridge, err := n.kernel.bridge(n.names.bridge)
	if err != nil || n.links == nil {
		if err = n.passLocked(); err == nil {
			bridge, err = n.kernel.bridge(n.names.bridge)
		}
		if err != nil {
			return fmt.Errorf("attach pod %s: %w", ref.UID, err)
		}
	}
	name := n.names.link(podName(ref.UID, ref.Epoch))
	for other, was := range n.links { // whoever has the address now says so
		if was.ip == a.ip && other != name {
			if err := n.kernel.remove(other); err != nil {
				return fmt.Errorf("attach pod %s: %w", ref.UID, err)
			}
		}
	}
	if err := n.kernel.attach(a, name, netNS, own, bridge); err != nil {
		return fmt.Errorf("attach pod %s: %w", ref.UID, err)
	}
	n.links[name] = a
	return nil
}

// Detach takes a pod's link away. The kernel takes it with the pod's network namespace, too, but not at once. Unknown
// pods are no error.
func (n *Network) Detach(ref container.PodRef) error {
	n.acting.Lock()
	defer n.acting.Unlock()
	name := n.names.link(podName(ref.UID, ref.Epoch))
	if err := n.kernel.remove(name); err != nil {
		return fmt.Errorf("detach pod %s: %w", ref.UID, err)
	}
	delete(n.links, name)
	return nil
}

func podName(uid string, epoch int64) string { return fmt.Sprintf("%s %d", uid, epoch) }

// Clean takes away what an agent with this ID and Path has left where it takes no part in the network any more, pods' links
// among it. Without a file it has never taken part, and nothing is done.
func Clean(cfg Config) error {
	if _, err := os.Stat(cfg.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if cfg.NetNS == "" {
		cfg.NetNS = "/proc/self/ns/net"
	}
	k, err := openKernel(cfg.NetNS)
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.clean(namesOf(cfg.ID)); err != nil {
		return fmt.Errorf("take the pod network away: %w", err)
	}
	return os.Remove(cfg.Path)
}
