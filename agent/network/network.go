// Package network gives pods their addresses on nodes without a pod network: 127.77.NODE.POD where the node's own
// address is loopback, else the node's address for all. It only keeps books; loopback needs no setting up, and which
// NODE number is this node's is for whoever holds its socket to say.
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
)

const (
	// MaxPods is how many addresses a node has: 127.77.NODE.1 to 127.77.NODE.250.
	MaxPods = 250
	// Rest is how long an address that was given back is not given again, unless to the same pod.
	Rest = 10 * time.Second
	// MaxNode is the highest NODE number; the lowest is 1.
	MaxNode = 254

	maxFile = 1 << 20
)

// ErrExhausted means that every address is taken or resting.
var ErrExhausted = errors.New("no pod address is free")

// Config says where addresses come from.
type Config struct {
	// Path is the file that keeps the addresses over restarts of the agent.
	Path string
	// Node is NODE, 1 to 254; 0 means that pods use NodeAddress.
	Node int
	// NodeAddress is the node's own address, used when Node is 0.
	NodeAddress string
}

// Allocator gives addresses. Its methods may be called from any goroutine.
type Allocator struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	pods    map[string]uint8
	resting map[uint8]rest
}

type rest struct {
	uid   string
	until time.Time
}

// file is what is stored.
type file struct {
	Node int              `json:"node"`
	Pods map[string]uint8 `json:"pods"`
}

// Open reads the file, if there is one. A file that can't be understood is logged and counts as none: the addresses of
// pods that still run come back through Claim.
func Open(cfg Config, log *slog.Logger) (*Allocator, error) {
	if cfg.Node < 0 || cfg.Node > MaxNode {
		return nil, fmt.Errorf("node number %d: must be 0 to %d", cfg.Node, MaxNode)
	}
	a := &Allocator{cfg: cfg, log: log, pods: map[string]uint8{}, resting: map[uint8]rest{}}
	if cfg.Node == 0 {
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
	if f.Node == cfg.Node {
		a.pods = f.Pods
	}
	return a, nil
}

func decode(data []byte, f *file) error {
	if len(data) > maxFile {
		return errors.New("too large")
	}
	if err := json.Unmarshal(data, f); err != nil {
		return err
	}
	if f.Pods == nil {
		f.Pods = map[string]uint8{}
	}
	taken := map[uint8]bool{}
	for uid, n := range f.Pods {
		if n < 1 || n > MaxPods || taken[n] {
			return fmt.Errorf("pod %s: address %d is out of range or given twice", uid, n)
		}
		taken[n] = true
	}
	return nil
}

// Allocate gives the pod its address: the one it has or had last, else the lowest that is free. ErrExhausted when none
// is; other errors mean that it could not be stored, and then it was not given.
func (a *Allocator) Allocate(uid string) (string, error) {
	if a.cfg.Node == 0 {
		return a.cfg.NodeAddress, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok := a.pods[uid]; ok {
		return a.address(n), nil
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
	return a.address(n), nil
}

func (a *Allocator) pickLocked(uid string, now time.Time) (uint8, error) {
	var taken [MaxPods + 1]bool
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
	for n := 1; n <= MaxPods; n++ {
		if !taken[n] {
			return uint8(n), nil
		}
	}
	return 0, fmt.Errorf("%w: 127.77.%d.1 to .%d are taken", ErrExhausted, a.cfg.Node, MaxPods)
}

// Claim tells of a pod that runs with that address. It reports false when another pod has it; addresses of other
// networks are nobody's here, and no conflict.
func (a *Allocator) Claim(uid, address string) bool {
	ip, err := netip.ParseAddr(address)
	if err != nil || a.cfg.Node == 0 || !ip.Is4() {
		return true
	}
	b := ip.As4()
	if b[0] != 127 || b[1] != 77 || int(b[2]) != a.cfg.Node || b[3] < 1 || b[3] > MaxPods {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for other, n := range a.pods {
		if n == b[3] && other != uid {
			return false
		}
	}
	if a.pods[uid] == b[3] {
		return true
	}
	a.pods[uid] = b[3]
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

func (a *Allocator) address(n uint8) string { return fmt.Sprintf("127.77.%d.%d", a.cfg.Node, n) }

func (a *Allocator) storeLocked() error {
	data, err := json.Marshal(file{a.cfg.Node, a.pods})
	if err != nil {
		return err
	}
	tmp := a.cfg.Path + ".new"
	if err := os.MkdirAll(filepath.Dir(a.cfg.Path), 0o700); err != nil {
		return fmt.Errorf("store pod addresses: %w", err)
	}
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("store pod addresses: %w", err)
	}
	if err := os.Rename(tmp, a.cfg.Path); err != nil {
		return fmt.Errorf("store pod addresses: %w", err)
	}
	return nil
}
