package hostgw

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// bridge is what a pod's link is made a port of.
type bridge struct{ index, mtu int32 }

func (k *kernel) bridge(name string) (b bridge, err error) {
	if b.index, err = k.socket.index(name); err == nil {
		b.mtu, err = k.socket.mtu(name)
	}
	return b, err
}

// attach makes a pod's link, unless it is there as it should be.
func (k *kernel) attach(a alias, name, netNS string, own netip.Prefix, to bridge) error {
	pod, err := netns.GetFromPath(netNS)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netNS, err)
	}
	defer pod.Close()
	if pod.Equal(k.ns) {
		return fmt.Errorf("network namespace %s is the node's own", netNS)
	}
	err = k.connect(a, name, pod, own, to)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if done, err := k.reuse(a, name, pod, own, to); done || err != nil {
		return err
	}
	return k.connect(a, name, pod, own, to)
}

// reuse sees to it that a link that is there goes on if it is as it should be; else it is taken away.
func (k *kernel) reuse(a alias, name string, pod netns.NsHandle, own netip.Prefix, to bridge) (done bool, err error) {
	in, err := netlink.NewHandleAt(pod, unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("speak to the kernel of the pod's routes: %w", err)
	}
	defer in.Close()
	outer, err := k.handle.LinkByName(name)
	if missing := (netlink.LinkNotFoundError{}); err != nil && !errors.As(err, &missing) {
		return false, fmt.Errorf("link %s: %w", name, err)
	}
	switch {
	case err != nil:
	case outer.Type() == "veth" && outer.Attrs().Alias == a.String() && attached(in, a.ip, own):
		if outer.Attrs().MasterIndex != int(to.index) {
			if err := k.port(outer, int(to.index)); err != nil {
				return false, fmt.Errorf("add link %s to the bridge: %w", name, err)
			}
		}
		if err := k.handle.LinkSetUp(outer); err != nil {
			return false, fmt.Errorf("set link %s up: %w", name, err)
		}
		return true, nil
	default: // left half done, or of an earlier address
		if err := k.handle.LinkDel(outer); err != nil {
			return false, fmt.Errorf("delete link %s: %w", name, err)
		}
	}
	// The pod's old one, whose other end is gone, or not on our bridge.
	if left, err := in.LinkByName(podLink); err == nil && left.Type() == "veth" {
		if err := in.LinkDel(left); err != nil {
			return false, fmt.Errorf("delete the pod's old %s: %w", podLink, err)
		}
	}
	return false, nil
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

// connect makes the pair of links, one end of it in the pod. EEXIST when one of the two is there.
func (k *kernel) connect(a alias, name string, pod netns.NsHandle, own netip.Prefix, to bridge) error {
	// By itself the kernel makes queues at both ends for each processor that there could be, and each costs time and memory.
	// What is sent over such a link waits in none of them.
	mtu, transmit, receive := number(unix.IFLA_MTU, uint32(to.mtu)), number(unix.IFLA_NUM_TX_QUEUES, 1), number(unix.IFLA_NUM_RX_QUEUES, 1)
	// The hardware address follows from the IP: nobody's memory of who had it before is wrong.
	mac := append([]byte{0x0a, 0x78}, a.ip.AsSlice()...)
	peer := nested(nl.VETH_INFO_PEER, nl.NewIfInfomsg(unix.AF_UNSPEC), text(unix.IFLA_IFNAME, podLink), mtu, transmit, receive,
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac), number(unix.IFLA_NET_NS_FD, uint32(pod)))
	called := text(unix.IFLA_IFNAME, name)
	err := k.socket.do(
		ask("add link "+name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), called, mtu, transmit, receive,
			number(unix.IFLA_MASTER, uint32(to.index)),
			nested(unix.IFLA_LINKINFO, text(nl.IFLA_INFO_KIND, "veth"), nested(nl.IFLA_INFO_DATA, peer))),
		// Without IPv6 there is nothing to save.
		ask("keep link "+name+" from IPv6", unix.RTM_SETLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), called,
			nested(unix.IFLA_AF_SPEC, nested(unix.AF_INET6, nl.NewRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{ip6None})))).ifPossible(),
		ask("let frames leave through link "+name+" that came by it", unix.RTM_NEWLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), called,
			nested(unix.IFLA_LINKINFO, text(nl.IFLA_INFO_SLAVE_KIND, "bridge"),
				nested(nl.IFLA_INFO_SLAVE_DATA, nl.NewRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})))),
	)
	if errors.Is(err, unix.EEXIST) {
		return err
	}
	if err == nil {
		err = inside(pod, func() error { return furnish(netip.PrefixFrom(a.ip, own.Bits()), gatewayOf(own)) })
	}
	if err == nil {
		// The alias is the mark of a link that is whole.
		err = k.socket.do(ask("set link "+name+" up", unix.RTM_SETLINK, 0, up(0), called, text(unix.IFLA_IFALIAS, a.String())))
	}
	if err != nil {
		_ = k.remove(name) // the next attempt begins anew
	}
	return err
}

// furnish sets up the network namespace that this thread is in, a pod's whose link has been made.
func furnish(ip netip.Prefix, gateway netip.Addr) error {
	s, err := openSocket()
	if err != nil {
		return err
	}
	defer s.close()
	eth, err := s.index(podLink)
	if err != nil {
		return err
	}
	route := nl.NewRtMsg()
	route.Family = unix.AF_INET
	if err := s.do(
		ask("add address "+ip.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, address4(eth, ip)...),
		ask("set the pod's lo up", unix.RTM_SETLINK, 0, up(loopbackIndex)),
		ask("set the pod's "+podLink+" up", unix.RTM_SETLINK, 0, up(eth)),
		ask("add the pod's default route", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, route,
			number(unix.RTA_OIF, uint32(eth)), nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice())),
	); err != nil {
		return err
	}
	for path, value := range settings {
		if err := set(path, value); err != nil {
			return err
		}
	}
	return nil
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
