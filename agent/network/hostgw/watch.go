package hostgw

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// signs is what is known of changes without looking.
type signs struct {
	mu sync.Mutex
	// changed is whether anything may have changed since the last look began. It is, until the kernel is heard.
	changed bool
	// urgent is signalled when a look should not wait.
	urgent chan struct{}
}

func newSigns() *signs { return &signs{changed: true, urgent: make(chan struct{}, 1)} }

func (s *signs) see(urgent bool) {
	s.mu.Lock()
	s.changed = true
	s.mu.Unlock()
	if !urgent {
		return
	}
	select {
	case s.urgent <- struct{}{}:
	default:
	}
}

// take tells whether anything may have changed, and begins anew.
func (s *signs) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.changed
	s.changed = false
	return was
}

// watch hears of changes from the kernel until ctx ends. Those of pods' own links come with every pod, and those of
// rules with everybody's: they are no reason to hurry.
func (n *Network) watch(ctx context.Context) {
	var hearing sync.WaitGroup
	defer hearing.Wait()
	hearing.Go(func() {
		n.hear(ctx, unix.NETLINK_ROUTE, func(m *syscall.NetlinkMessage) bool {
			return m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK || !strings.HasPrefix(linkName(m.Data), n.names.pods)
		}, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
	})
	hearing.Go(func() {
		n.hear(ctx, unix.NETLINK_NETFILTER, func(*syscall.NetlinkMessage) bool { return false }, unix.NFNLGRP_NFTABLES)
	})
}

// linkName is the name that a message about a link has, empty for none.
func linkName(data []byte) string {
	if len(data) < unix.SizeofIfInfomsg {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return strings.TrimRight(string(a.Value), "\x00")
		}
	}
	return ""
}

// hear listens to groups of one netlink protocol.
func (n *Network) hear(ctx context.Context, protocol int, urgent func(*syscall.NetlinkMessage) bool, groups ...uint) {
	for ctx.Err() == nil {
		s, err := nl.SubscribeAt(n.kernel.ns, netns.None(), protocol, groups...)
		if err == nil {
			stop := context.AfterFunc(ctx, s.Close)
			err = n.listen(s, urgent)
			if stop() {
				s.Close()
			}
		}
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("kernel's changes not heard of", "protocol", protocol, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(every):
			n.signs.see(true)
		}
	}
}

func (n *Network) listen(s *nl.NetlinkSocket, urgent func(*syscall.NetlinkMessage) bool) error {
	n.signs.see(true) // what changed before
	for {
		messages, _, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			n.signs.see(true) // some were lost
		case err != nil:
			return err
		}
		for i := range messages {
			n.signs.see(urgent(&messages[i]))
		}
	}
}
