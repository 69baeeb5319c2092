// Package network gives pods their addresses: in a flat network those of the node's pod CIDR; without one
// 127.77.NODE.POD where the node's own address is loopback (127.76, 127.75 and 127.74 follow when those are taken), else the
// node's address for all. It only keeps books: the
// flat network is agent/network/hostgw's to set up, loopback needs no setting up, and which NODE number is this node's
// is for whoever holds its socket to say.
package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/atomicfile"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// MaxPods is how many addresses a node of a flat network has: the third to the 252nd of its pod CIDR, whose second is the
	// node's own.
	MaxPods = 250
	// MaxLoopbackPods is how many a node on loopback has: 127.77.NODE.1 to 127.77.NODE.250, and as many of each of the next three.
	MaxLoopbackPods = 4 * MaxPods
	// Rest is how long an address that was given back is not given again, unless to the same pod.
	Rest = 10 * time.Second
	// MaxNode is the highest NODE number; the lowest is 1.
	MaxNode = 254

	maxFile = 1 << 20
)

var (
	// ErrExhausted means that every address is taken or resting.
	ErrExhausted = errors.New("no pod address is free")
	// ErrNoNetwork means that the coordinator has given this node no pod CIDR yet.
	ErrNoNetwork = errors.New("this node has been given no pod CIDR yet")
)

// Mode is which network a node's pods have: spec.NetworkHostGW or spec.NetworkNone. asked is the setting, empty for the
// default: host-gw where it is possible, for which it takes the right to set up links, routes and rules, and an address
// that other nodes reach.
func Mode(asked string, permitted bool, address netip.Addr) (string, error) {
	switch {
	case asked == "" && permitted && !address.IsLoopback() && address.Is4():
		return spec.NetworkHostGW, nil
	case asked == "" || asked == spec.NetworkNone:
		return spec.NetworkNone, nil
	case asked != spec.NetworkHostGW:
		return "", fmt.Errorf("network: %q, must be host-gw or none", asked)
	case !permitted:
		return "", errors.New("network host-gw: only root, with the capability NET_ADMIN, can set up links, routes and rules (--network none does without)")
	case address.IsLoopback():
		return "", fmt.Errorf("network host-gw: other nodes can't reach this one at its address %s, which is loopback (give --advertise, or --network none)", address)
	case !address.Is4():
		return "", fmt.Errorf("network host-gw: this node's address %s is not IPv4: not built yet", address)
	}
	return spec.NetworkHostGW, nil
}

// Config says where addresses come from.
type Config struct {
	// Path is the file that keeps the addresses over restarts of the agent.
	Path string
	// Node is NODE, 1 to 254; 0 means that pods use NodeAddress.
	Node int
	// NodeAddress is the node's own address, used when Node is 0.
	NodeAddress string
	// Flat means that pods have addresses of the CIDR that Use names; Node and NodeAddress don't matter then.
	Flat bool
}

// Allocator gives addresses. Its methods may be called from any goroutine.
type Allocator struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	cidr    netip.Prefix // of a flat network; not valid before it is known
	pods    map[string]uint16
	resting map[uint16]rest
}

type rest struct {
	uid   string
	until time.Time
}

// file is what is stored.
type file struct {
	Node int               `json:"node,omitempty"`
	CIDR netip.Prefix      `json:"cidr,omitzero"`
	Pods map[string]uint16 `json:"pods"`
}

// Open reads the file, if there is one. A file that can't be understood is logged and counts as none: the addresses of
// pods that still run come back through Claim.
func Open(cfg Config, log *slog.Logger) (*Allocator, error) {
	if cfg.Node < 0 || cfg.Node > MaxNode {
		return nil, fmt.Errorf("node number %d: must be 0 to %d", cfg.Node, MaxNode)
	}
	a := &Allocator{cfg: cfg, log: log, pods: map[string]uint16{}, resting: map[uint16]rest{}}
	if cfg.Flat {
		a.cfg.Node = 0
	} else if cfg.Node == 0 {
		if _, err := netip.ParseAddr(cfg.NodeAddress); err != nil {
			return nil, fmt.Errorf("node address: %w", err)
		}
		return a, nil
	}
	data, err := os.ReadFile(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod addresses: %w", err)
	}
	var f file
	if err := decode(data, &f); err != nil {
		log.Warn("pod addresses forgotten: the file is damaged", "path", cfg.Path, "err", err)
		return a, nil
	}
	switch {
	case cfg.Flat && f.CIDR.IsValid():
		a.cidr, a.pods = f.CIDR, f.Pods
	case !cfg.Flat && f.Node == cfg.Node:
		a.pods = f.Pods
	}
	return a, nil
}

// Use names the CIDR of a flat network: IPv4, a /24 or larger. The addresses of another one are forgotten.
func (a *Allocator) Use(cidr netip.Prefix) error {
	if err := check(cidr); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cidr == cidr {
		return nil
	}
	if len(a.pods) > 0 {
		a.log.Warn("pod addresses forgotten: the node has another pod cidr", "pod_cidr", cidr.String(), "was", a.cidr.String(), "pods", len(a.pods))
	}
	a.cidr = cidr
	clear(a.pods)
	clear(a.resting)
	return a.storeLocked()
}

func check(cidr netip.Prefix) error {
	if !cidr.IsValid() || !cidr.Addr().Is4() || cidr.Bits() > 24 || cidr.Bits() < 8 || cidr != cidr.Masked() {
		return fmt.Errorf("pod cidr %s: must be an IPv4 network of /8 to /24", cidr)
	}
	return nil
}

// Pods returns the addresses that are given in a flat network, by the pods' uids.
func (a *Allocator) Pods() map[string]netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]netip.Addr, len(a.pods))
	for uid, n := range a.pods {
		if a.cidr.IsValid() {
			out[uid] = nth(a.cidr, n)
		}
	}
	return out
}

// nth is the address of the n-th pod: the network's own and the node's come first.
func nth(cidr netip.Prefix, n uint16) netip.Addr {
	b := cidr.Addr().As4()
	b[3] += byte(n + 1) // no carry: the last byte of a /24 or larger is 0
	return netip.AddrFrom4(b)
}

func decode(data []byte, f *file) error {
	if len(data) > maxFile {
		return errors.New("too large")
	}
	if err := json.Unmarshal(data, f); err != nil {
		return err
	}
	if f.Pods == nil {
		f.Pods = map[string]uint16{}
	}
	if f.CIDR.IsValid() {
		if err := check(f.CIDR); err != nil {
			return err
		}
	}
	taken := map[uint16]bool{}
	for uid, n := range f.Pods {
		if n < 1 || n > MaxLoopbackPods || f.CIDR.IsValid() && n > MaxPods || taken[n] {
			return fmt.Errorf("pod %s: address %d is out of range or given twice", uid, n)
		}
		taken[n] = true
	}
	return nil
}

// Allocate gives the pod its address: the one it has or had last, else the lowest that is free. ErrExhausted when none
// is, ErrNoNetwork before a flat network's CIDR is known; other errors mean that it could not be stored, and then it was
// not given.
func (a *Allocator) Allocate(uid string) (string, error) {
	if a.cfg.Node == 0 && !a.cfg.Flat {
		return a.cfg.NodeAddress, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.Flat && !a.cidr.IsValid() {
		return "", ErrNoNetwork
	}
	if n, ok := a.pods[uid]; ok {
		return a.addressLocked(n), nil
	}
	n, err := a.pickLocked(uid, time.Now())
	if err != nil {
		return "", err
	}
	a.pods[uid] = n
	if err := a.storeLocked(); err != nil {
		delete(a.pods, uid)
		return "", err
	}
	delete(a.resting, n)
	return a.addressLocked(n), nil
}

func (a *Allocator) pickLocked(uid string, now time.Time) (uint16, error) {
	var taken [MaxLoopbackPods + 1]bool
	for _, n := range a.pods {
		taken[n] = true
	}
	for n, r := range a.resting {
		switch {
		case !now.Before(r.until):
			delete(a.resting, n)
		case r.uid == uid && !taken[n]:
			return n, nil
		default:
			taken[n] = true
		}
	}
	for n := uint16(1); n <= a.most(); n++ {
		if !taken[n] {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d from %s to %s are taken", ErrExhausted, a.most(), a.addressLocked(1), a.addressLocked(a.most()))
}

// Claim tells of a pod that runs with that address. It reports false when another pod has it; addresses of other
// networks are nobody's here, and no conflict.
func (a *Allocator) Claim(uid, address string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	num := a.numberLocked(address)
	if num == 0 {
		return true
	}
	for other, n := range a.pods {
		if n == num && other != uid {
			return false
		}
	}
	if a.pods[uid] == num {
		return true
	}
	a.pods[uid] = num
	if err := a.storeLocked(); err != nil {
		a.log.Warn("pod address not stored", "pod_uid", uid, "err", err)
	}
	return true
}

// Release gives the pod's address back; it rests before another pod gets it.
func (a *Allocator) Release(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, ok := a.pods[uid]
	if !ok {
		return
	}
	delete(a.pods, uid)
	a.resting[n] = rest{uid, time.Now().Add(Rest)}
	if err := a.storeLocked(); err != nil {
		a.log.Warn("pod address not stored", "pod_uid", uid, "err", err)
	}
}

// most is the number of the last pod that has an address.
func (a *Allocator) most() uint16 {
	if a.cfg.Flat {
		return MaxPods
	}
	return MaxLoopbackPods
}

func (a *Allocator) addressLocked(n uint16) string {
	if a.cfg.Flat {
		return nth(a.cidr, n).String()
	}
	n--
	return netip.AddrFrom4([4]byte{127, byte(77 - n/MaxPods), byte(a.cfg.Node), byte(1 + n%MaxPods)}).String()
}

// numberLocked is the inverse of addressLocked; 0 for what is no pod's address here.
func (a *Allocator) numberLocked(address string) uint16 {
	for n := uint16(1); n <= a.most(); n++ {
		if (a.cfg.Node != 0 || a.cidr.IsValid()) && a.addressLocked(n) == address {
			return n
		}
	}
	return 0
}

func (a *Allocator) storeLocked() error {
	data, err := json.Marshal(file{a.cfg.Node, a.cidr, a.pods})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(a.cfg.Path), 0o700); err != nil {
		return fmt.Errorf("store pod addresses: %w", err)
	}
	if err := atomicfile.Rewrite(a.cfg.Path, data, 0o600, false); err != nil {
		return fmt.Errorf("store pod addresses: %w", err)
	}
	return nil
}
