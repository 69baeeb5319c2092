package hostgw

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podLink is what a pod's own link is called inside.
const podLink = "eth0"

// settings of a pod's network namespace: it may be told of no other gateway than the node, and its programs, which are not
// root, may bind any port and ping.
var settings = map[string]string{
	"/proc/sys/net/ipv4/conf/all/accept_redirects":             "0",
	"/proc/sys/net/ipv4/conf/" + podLink + "/accept_redirects": "0",
	"/proc/sys/net/ipv4/ip_unprivileged_port_start":            "0",
	"/proc/sys/net/ipv4/ping_group_range":                      "0 2147483647",
}

// attach makes a pod's link, unless it is there as it should be.
func (k *kernel) attach(a alias, name, netNS string, own netip.Prefix, bridge netlink.Link) error {
	pod, err := netns.GetFromPath(netNS)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netNS, err)
	}
	defer pod.Close()
	if pod.Equal(k.ns) {
		return fmt.Errorf("network namespace %s is the node's own", netNS)
	}
	in, err := netlink.NewHandleAt(pod, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("speak to the kernel of the pod's routes: %w", err)
	}
	defer in.Close()
	outer, err := k.handle.LinkByName(name)
	if err == nil && (outer.Type() != "veth" || outer.Attrs().Alias != a.String() || !attached(in, a.ip, own)) {
		// Left half done, or of an earlier address.
		if err := k.handle.LinkDel(outer); err != nil {
			return fmt.Errorf("delete link %s: %w", name, err)
		}
		outer = nil
	}
	if missing := (netlink.LinkNotFoundError{}); err != nil && !errors.As(err, &missing) {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if outer == nil || err != nil {
		if outer, err = k.connect(a, name, in, pod, own, bridge.Attrs().MTU); err != nil {
			if left, lookErr := k.handle.LinkByName(name); lookErr == nil {
				_ = k.handle.LinkDel(left) // the next attempt begins anew
			}
			return err
		}
	}
	if outer.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := k.port(outer, bridge); err != nil {
			return fmt.Errorf("add link %s to %s: %w", name, bridge.Attrs().Name, err)
		}
	}
	if err := k.handle.LinkSetUp(outer); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// attached tells whether the pod's side is as connect leaves it.
func attached(in *netlink.Handle, ip netip.Addr, own netip.Prefix) bool {
	eth, err := in.LinkByName(podLink)
	if err != nil || eth.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	routes, err := in.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false
	}
	addresses, err := in.AddrList(eth, netlink.FAMILY_V4)
	if err != nil {
		return false
	}
	has, leads := false, false
	for _, at := range addresses {
		p, _ := prefixOf(at.IPNet)
		has = has || p == netip.PrefixFrom(ip, own.Bits())
	}
	for _, r := range routes {
		ones := -1
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		leads = leads || ones <= 0 && r.Gw.Equal(gatewayOf(own).AsSlice())
	}
	return has && leads
}

// connect makes the pair of links, one end of it in the pod.
func (k *kernel) connect(a alias, name string, in *netlink.Handle, pod netns.NsHandle, own netip.Prefix, mtu int) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	// By itself the kernel makes queues at both ends for each processor that there could be, and each costs time and memory.
	// What is sent over such a link waits in none of them.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	// The hardware address follows from the IP: nobody's memory of who had it before is wrong.
	mac := append(net.HardwareAddr{0x0a, 0x78}, a.ip.AsSlice()...)
	outer := &netlink.Veth{LinkAttrs: attrs, PeerName: podLink, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(pod)}
	err := k.handle.LinkAdd(outer)
	if errors.Is(err, unix.EEXIST) { // the pod's old one, whose other end is gone, or not on our bridge
		if left, lookErr := in.LinkByName(podLink); lookErr == nil && left.Type() == "veth" {
			if err := in.LinkDel(left); err != nil {
				return nil, fmt.Errorf("delete the pod's old %s: %w", podLink, err)
			}
			err = k.handle.LinkAdd(outer)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("add link %s: %w", name, err)
	}
	_ = k.handle.LinkSetIP6AddrGenMode(outer, ip6None) // without IPv6 there is nothing to save
	inner, err := in.LinkByName(podLink)
	if err != nil {
		return nil, fmt.Errorf("link %s of the pod: %w", podLink, err)
	}
	if err := in.AddrAdd(inner, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a.ip, own.Bits()))}); err != nil {
		return nil, fmt.Errorf("add address %s: %w", a.ip, err)
	}
	loopback := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: loopbackIndex}}
	for _, l := range []netlink.Link{loopback, inner} {
		if err := in.LinkSetUp(l); err != nil {
			return nil, fmt.Errorf("set link %s of the pod up: %w", l.Attrs().Name, err)
		}
	}
	if err := in.RouteReplace(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: gatewayOf(own).AsSlice()}); err != nil {
		return nil, fmt.Errorf("add the pod's default route: %w", err)
	}
	if err := inside(pod, func() error {
		for path, value := range settings {
			if err := set(path, value); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("set up the pod's network namespace: %w", err)
	}
	// The alias is the mark of a link that is whole.
	if err := k.handle.LinkSetAlias(outer, a.String()); err != nil {
		return nil, fmt.Errorf("name link %s: %w", name, err)
	}
	return outer, nil
}

// set writes a setting of the kernel, without what a file that may block takes.
func set(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("write %q to %s: %w", value, path, err)
	}
	return nil
}

// loopbackIndex is that of a namespace's first link, which the kernel makes with it.
const loopbackIndex = 1

// ip6None keeps a link from making itself an IPv6 address: IN6_ADDR_GEN_MODE_NONE of the kernel.
const ip6None = 1

// remove deletes a link; one that is gone is no error.
func (k *kernel) remove(name string) error {
	l, err := k.handle.LinkByName(name)
	if err == nil {
		err = k.handle.LinkDel(l)
	}
	if missing := (netlink.LinkNotFoundError{}); err == nil || errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete link %s: %w", name, err)
}

// clean takes away all that has an agent's names.
func (k *kernel) clean(n names) error {
	s, err := k.look(n)
	if err != nil {
		return err
	}
	w := &wanted{names: n}
	var failed error
	for _, r := range s.routes {
		if r.ours {
			failed = errors.Join(failed, k.act(w, step{do: deleteRoute, net: r.net, via: r.via, link: r.link}))
		}
	}
	for _, l := range s.links {
		_, pod := parseAlias(l.alias)
		if l.name == n.bridge && l.kind == "bridge" || pod && strings.HasPrefix(l.name, n.pods) {
			failed = errors.Join(failed, k.remove(l.name))
		}
	}
	return errors.Join(failed, k.rules.remove(n.table))
}
