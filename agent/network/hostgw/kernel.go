package hostgw

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const forwardingFile = "/proc/sys/net/ipv4/ip_forward"

// kernel looks and acts in one network namespace. One goroutine at a time may use it.
type kernel struct {
	ns     netns.NsHandle
	handle *netlink.Handle
	socket *socket
	rules  *ruler
}

// openKernel works in the network namespace at a path.
func openKernel(path string) (*kernel, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("speak to the kernel of routes: %w", err)
	}
	k := &kernel{ns: ns, handle: handle, rules: &ruler{ns: ns}}
	err = inside(ns, func() (err error) {
		k.socket, err = openSocket()
		return err
	})
	if err != nil {
		handle.Close()
		_ = ns.Close()
		return nil, fmt.Errorf("speak to the kernel of links: %w", err)
	}
	return k, nil
}

func (k *kernel) close() {
	k.rules.close()
	k.socket.close()
	k.handle.Close()
	_ = k.ns.Close()
}

// inside runs f on a thread that is in a network namespace for as long as f takes.
func inside(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		was, err := netns.Get()
		if err == nil {
			defer was.Close()
			err = netns.Set(ns)
		}
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		if back := netns.Set(was); back == nil {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
		done <- err
	}()
	return <-done
}

// forwarding tells whether packets are forwarded.
func (k *kernel) forwarding() (is bool, err error) {
	err = inside(k.ns, func() error {
		data, err := os.ReadFile(forwardingFile)
		is = strings.TrimSpace(string(data)) == "1"
		return err
	})
	return is, err
}

// look sees how things are.
func (k *kernel) look(n names) (*seen, error) {
	s := &seen{}
	var err error
	if s.forwarding, err = k.forwarding(); err != nil {
		return nil, err
	}
	links, err := k.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	byIndex := map[int]string{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		s.links = append(s.links, link{
			name: a.Name, kind: l.Type(), alias: a.Alias, master: byIndex[a.MasterIndex],
			up: a.Flags&net.FlagUp != 0, mtu: a.MTU,
		})
	}
	addresses, err := k.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if p, ok := prefixOf(a.IPNet); ok {
			s.addresses = append(s.addresses, address{byIndex[a.LinkIndex], p})
		}
	}
	routes, err := k.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		p, ok := prefixOf(r.Dst)
		if r.Dst == nil {
			p, ok = netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
		}
		if !ok || r.Type != unix.RTN_UNICAST {
			continue
		}
		via, _ := netip.AddrFromSlice(r.Gw.To4())
		out := r.LinkIndex
		if len(r.MultiPath) > 0 {
			via, _ = netip.AddrFromSlice(r.MultiPath[0].Gw.To4())
			out = r.MultiPath[0].LinkIndex
		}
		s.routes = append(s.routes, route{
			net: p, via: via, link: byIndex[out], ours: r.Protocol == protocol && r.Priority == n.metric,
		})
	}
	if s.table, err = k.rules.look(n.table); err != nil {
		return nil, fmt.Errorf("read table %s: %w", n.table, err)
	}
	return s, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP.To4())
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(ip, bits), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// act does one step.
func (k *kernel) act(w *wanted, st step) error {
	switch st.do {
	case forward:
		return inside(k.ns, func() error { return os.WriteFile(forwardingFile, []byte("1\n"), 0) })
	case setRules:
		return k.rules.set(w.table, w.rules())
	case addBridge:
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = st.link, w.mac[:]
		if err := k.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	}
	l, err := k.handle.LinkByName(st.link)
	if err != nil {
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) && (st.do == deleteLink || st.do == deleteRoute) {
			return nil
		}
		return fmt.Errorf("link %s: %w", st.link, err)
	}
	switch st.do {
	case setMTU:
		return k.handle.LinkSetMTU(l, st.mtu)
	case setUp:
		return k.handle.LinkSetUp(l)
	case addAddress:
		return k.handle.AddrReplace(l, &netlink.Addr{IPNet: ipNet(st.net)})
	case removeAddress:
		return k.handle.AddrDel(l, &netlink.Addr{IPNet: ipNet(st.net)})
	case enslave:
		bridge, err := k.socket.index(w.bridge)
		if err != nil {
			return err
		}
		return k.port(l, int(bridge))
	case deleteLink:
		return k.handle.LinkDel(l)
	case setRoute, deleteRoute:
		r := &netlink.Route{
			Dst: ipNet(st.net), Gw: st.via.AsSlice(), LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_MAIN,
			Protocol: protocol, Priority: w.metric,
		}
		if st.do == setRoute {
			return k.handle.RouteReplace(r)
		}
		if err := k.handle.RouteDel(r); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}
	return fmt.Errorf("step %q is unknown", st.do)
}

// port makes a link a port of the bridge. Frames may leave through the port they came by: where the kernel filters
// bridged frames too, a pod that comes back to itself through a port of the node is not routed but bridged.
func (k *kernel) port(l netlink.Link, bridge int) error {
	if err := k.handle.LinkSetMasterByIndex(l, bridge); err != nil {
		return err
	}
	return k.handle.LinkSetHairpin(l, true)
}
