package hostgw

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestWhatFailsIsNamedAndTheRestIsDone(t *testing.T) {
	s := newSpace(t)
	loopback := netip.MustParsePrefix("10.9.8.7/24")
	if err := inside(s.ns, func() error {
		to, err := openSocket()
		if err != nil {
			return err
		}
		defer to.close()
		if _, err := to.index("none"); !errors.Is(err, unix.ENODEV) {
			t.Errorf("index of no link: %v", err)
		}
		failing := ask("give nobody an address", unix.RTM_NEWADDR, unix.NLM_F_CREATE, address4(999, loopback)...)
		rest := ask("set lo up", unix.RTM_SETLINK, 0, up(loopbackIndex))
		err = to.do(failing, ask("the same", unix.RTM_NEWADDR, unix.NLM_F_CREATE, address4(998, loopback)...), rest)
		if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "give nobody an address") {
			t.Errorf("the first of two failures: %v", err)
		}
		if err := to.do(failing.ifPossible(), rest); err != nil {
			t.Errorf("a failure that nobody minds: %v", err)
		}
		return to.do(ask("give lo an address", unix.RTM_NEWADDR, unix.NLM_F_CREATE, address4(loopbackIndex, loopback)...))
	}); err != nil {
		t.Fatal(err)
	}
	lo, err := s.handle.LinkByName("lo")
	if err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("lo %v, %v; want it up", lo, err)
	}
	all, err := s.handle.AddrList(lo, netlink.FAMILY_V4)
	found := false
	for _, a := range all {
		found = found || a.IPNet.String() == loopback.String() && a.Broadcast.String() == "10.9.8.255"
	}
	if err != nil || !found {
		t.Errorf("lo has %v, %v; want %s", all, err, loopback)
	}
}

func TestAPodsLinkIsAPortOfTheBridgeWithoutWhatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	hosts, _ := segment(t, 1)
	tell(t, hosts)
	h := hosts[0]
	eventually(t, 5*time.Second, h.settled)
	a := h.pod("a")
	outer := h.link(h.net.names.link("a 1"))
	port, err := h.handle.LinkGetProtinfo(outer)
	if err != nil || !port.Hairpin {
		t.Errorf("port %+v, %v; want frames to leave by it that came by it", port, err)
	}
	if v6, err := h.handle.AddrList(outer, netlink.FAMILY_V6); err != nil || len(v6) > 0 {
		t.Errorf("the node's end has %v, %v; want no IPv6 address", v6, err)
	}
	eth, err := a.handle.LinkByName(podLink)
	if err != nil {
		t.Fatal(err)
	}
	mtu := h.link(h.net.names.bridge).Attrs().MTU
	for _, l := range []netlink.Link{outer, eth} {
		if at := l.Attrs(); at.NumTxQueues != 1 || at.NumRxQueues != 1 || at.MTU != mtu || at.Flags&net.FlagUp == 0 {
			t.Errorf("link %+v; want it up, with one queue each way and MTU %d", at, mtu)
		}
	}
	if mac := append([]byte{0x0a, 0x78}, netip.MustParseAddr(a.ip).AsSlice()...); !bytes.Equal(eth.Attrs().HardwareAddr, mac) {
		t.Errorf("hardware address %s, want % x", eth.Attrs().HardwareAddr, mac)
	}
}
