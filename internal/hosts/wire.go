package hosts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// weave makes the bridge in a network namespace of its own.
func (n *Net) weave() (err error) {
	err = onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			n.fabric, err = netns.Get()
		}
		return err
	})
	if err != nil {
		return err
	}
	if n.links, err = netlink.NewHandleAt(n.fabric); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}}
	if err := n.links.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add the bridge: %w", err)
	}
	n.bridge = bridge.Index
	return n.links.LinkSetUp(bridge)
}

// plug connects a host that has just got its power, as it was before. A network card keeps its address.
func (n *Net) plug(h *host) error {
	ip := h.addr.Addr().As4()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: h.port, MasterIndex: n.bridge},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(h.net),
		PeerHardwareAddr: net.HardwareAddr{2, 0, ip[0], ip[1], ip[2], ip[3]},
	}
	if err := n.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("add its link: %w", err)
	}
	in, err := netlink.NewHandleAt(h.net)
	if err != nil {
		return err
	}
	defer in.Close()
	lo, err := in.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := in.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip[:], Mask: net.CIDRMask(h.addr.Bits(), 32)}}
	return errors.Join(in.LinkSetUp(lo), in.AddrAdd(eth0, addr), in.LinkSetUp(eth0), n.cable(h))
}

// unplug takes the host's link away, with both ends.
func (n *Net) unplug(h *host) error {
	link, err := n.links.LinkByName(h.port)
	if err != nil {
		return err
	}
	return n.links.LinkDel(link)
}

// carrierTime bounds how long a link may take to be in use.
const carrierTime = 5 * time.Second

// Cut pulls a host's cable: nothing comes or goes, its own network works. Heal puts it back.
func (n *Net) Cut(name string) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(name)
	h.cut = true
	n.check(n.cable(h), "cut %s off", name)
}

// Heal undoes every Cut, Drop and CutOneWay that the host is part of.
func (n *Net) Heal(name string) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(name)
	h.cut, h.drop = false, 0
	for way := range n.oneWay {
		if way[0] == name || way[1] == name {
			delete(n.oneWay, way)
		}
	}
	n.check(errors.Join(n.cable(h), n.rules()), "heal %s", name)
}

// cable makes the bridge's end of the host's link what it should be.
func (n *Net) cable(h *host) error {
	if h.init == nil {
		return nil // plug will
	}
	link, err := n.links.LinkByName(h.port)
	if err != nil {
		return err
	}
	if h.cut {
		return n.links.LinkSetDown(link)
	}
	if err := n.links.LinkSetUp(link); err != nil {
		return err
	}
	return n.carrier(h)
}

// carrier waits until both ends of a host's link are in use: what is sent before that is lost, and sent again after a
// second. A link whose other end is down stays as it is.
func (n *Net) carrier(h *host) error {
	in, err := netlink.NewHandleAt(h.net)
	if err != nil {
		return err
	}
	defer in.Close()
	for deadline := time.Now().Add(carrierTime); ; time.Sleep(time.Millisecond) {
		eth0, err := in.LinkByName("eth0")
		if err != nil {
			return err
		}
		port, err := n.links.LinkByName(h.port)
		if err != nil {
			return err
		}
		a, b := eth0.Attrs(), port.Attrs()
		switch {
		case a.Flags&b.Flags&net.FlagUp == 0, a.OperState == netlink.OperUp && b.OperState == netlink.OperUp:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("after %v its link is %v inside and %v at the bridge", carrierTime, a.OperState, b.OperState)
		}
	}
}

// LinkDown takes a host's eth0 down from inside, as an administrator would: the kernel forgets every route through it.
// LinkUp, which brings it up, brings only the one to its own network back.
func (n *Net) LinkDown(name string) {
	n.t.Helper()
	n.check(n.eth0(name, (*netlink.Handle).LinkSetDown), "take eth0 of %s down", name)
}

// LinkUp undoes LinkDown.
func (n *Net) LinkUp(name string) {
	n.t.Helper()
	n.check(n.eth0(name, (*netlink.Handle).LinkSetUp), "bring eth0 of %s up", name)
}

func (n *Net) eth0(name string, do func(*netlink.Handle, netlink.Link) error) error {
	h := n.host(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.init == nil {
		return errors.New("it has no power")
	}
	in, err := netlink.NewHandleAt(h.net)
	if err != nil {
		return err
	}
	defer in.Close()
	link, err := in.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(do(in, link), n.carrier(h))
}

// Drop loses this share, 0 to 1, of the packets to a host and of those from it, at random. The last word counts.
func (n *Net) Drop(name string, share float64) {
	n.t.Helper()
	if share < 0 || share > 1 {
		n.t.Fatalf("drop %v: want 0 to 1", share)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host(name).drop = share
	n.check(n.rules(), "drop packets of %s", name)
}

// CutOneWay loses every IP packet that goes from one host to another, whoever of from has sent it. The way back is open,
// and stays so: the neighbours' hardware addresses (ARP) pass both ways.
func (n *Net) CutOneWay(from, to string) {
	n.t.Helper()
	n.host(from)
	n.host(to)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.oneWay[[2]string{from, to}] = true
	n.check(n.rules(), "cut the way from %s to %s", from, to)
}

// grain is the parts that the share of lost packets is counted in.
const grain = 10000

// rules writes the bridge's rules anew, all at once.
func (n *Net) rules() error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.fabric)))
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "hosts"})
	conn.FlushTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	drop := func(match ...[]expr.Any) {
		rule := &nftables.Rule{Table: table, Chain: chain}
		for _, m := range match {
			rule.Exprs = append(rule.Exprs, m...)
		}
		rule.Exprs = append(rule.Exprs, &expr.Verdict{Kind: expr.VerdictDrop})
		conn.AddRule(rule)
	}
	from := func(h *host) []expr.Any { return port(expr.MetaKeyIIFNAME, h) }
	to := func(h *host) []expr.Any { return port(expr.MetaKeyOIFNAME, h) }
	for way := range n.oneWay {
		drop(from(n.hosts[way[0]]), to(n.hosts[way[1]]), notARP())
	}
	for _, h := range n.hosts {
		if h.drop > 0 {
			drop(from(h), random(h.drop))
			drop(to(h), random(h.drop))
		}
	}
	return conn.Flush()
}

func port(key expr.MetaKey, h *host) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, h.port)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}}
}

func notARP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_ARP)},
	}
}

// random is true for this share of the packets.
func random(share float64) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: grain, Type: unix.NFT_NG_RANDOM},
		// Registers are compared as bytes.
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, uint32(share*grain))},
	}
}
