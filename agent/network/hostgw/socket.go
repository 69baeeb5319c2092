package hostgw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket speaks to the kernel of links, addresses and routes in one network namespace. Unlike the library's handle it asks for
// several things at once, and reads no more of the answers than whether they failed.
type socket struct {
	fd  int
	seq uint32
}

// answerLimit is how long an answer may take, in seconds: it is there when the kernel has taken the request.
const answerLimit = 10

// openSocket works in the network namespace of the calling thread.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerLimit}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &socket{fd: fd}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// index is a link's number, mtu what it carries. ENODEV where there is no such link.
func (s *socket) index(name string) (int32, error) { return s.ask(unix.SIOCGIFINDEX, name) }
func (s *socket) mtu(name string) (int32, error)   { return s.ask(unix.SIOCGIFMTU, name) }

func (s *socket) ask(what uint, name string) (int32, error) {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(s.fd, what, r)
	}
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	return int32(r.Uint32()), nil
}

// request is one thing to ask of the kernel, and what it is called in an error.
type request struct {
	*nl.NetlinkRequest
	what     string
	optional bool
}

// ifPossible has do keep silent about its failure.
func (r request) ifPossible() request {
	r.optional = true
	return r
}

func ask(what string, kind, flags int, data ...nl.NetlinkRequestData) request {
	r := request{NetlinkRequest: nl.NewNetlinkRequest(kind, flags), what: what}
	for _, d := range data {
		r.AddData(d)
	}
	return r
}

// do has the kernel carry out all requests, one after the other. None is left out because one before it fails; the first failure is
// told.
func (s *socket) do(all ...request) error {
	var out []byte
	first := s.seq + 1
	for _, r := range all {
		s.seq++
		r.Seq = s.seq
		if int(s.seq-first) == len(all)-1 {
			r.Flags |= unix.NLM_F_ACK // failures are answered anyway
		}
		out = append(out, r.Serialize()...)
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var failed error
	in := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(s.fd, in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != nl.PidKernel {
			continue
		}
		answers, err := syscall.ParseNetlinkMessage(in[:n])
		if err != nil {
			return fmt.Errorf("answer of the kernel: %w", err)
		}
		for _, a := range answers {
			at := int(int32(a.Header.Seq - first))
			if a.Header.Type != unix.NLMSG_ERROR || len(a.Data) < 4 || at < 0 || at >= len(all) {
				continue // of what was given up before
			}
			if errno := -int32(binary.NativeEndian.Uint32(a.Data)); errno != 0 && failed == nil && !all[at].optional {
				failed = fmt.Errorf("%s: %w", all[at].what, unix.Errno(errno))
			}
			if at == len(all)-1 {
				return failed
			}
		}
	}
}

// up asks for a link to be up: the one with that number, or for 0 the one of a name that follows.
func up(index int32) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = index, unix.IFF_UP, unix.IFF_UP
	return m
}

func text(kind int, value string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(value)) }

func number(kind int, value uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(value)) }

// nested is an attribute that is made of others.
func nested(kind int, parts ...nl.NetlinkRequestData) *nl.RtAttr {
	var data []byte
	for _, p := range parts {
		data = append(data, p.Serialize()...)
	}
	return nl.NewRtAttr(kind, data)
}

// address4 is an address with the length of its network, for the link of that number.
func address4(index int32, p netip.Prefix) []nl.NetlinkRequestData {
	m := nl.NewIfAddrmsg(unix.AF_INET)
	m.Index, m.Prefixlen = uint32(index), uint8(p.Bits())
	ip, last := p.Addr().AsSlice(), p.Addr().As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|^uint32(0)>>p.Bits())
	return []nl.NetlinkRequestData{m, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip), nl.NewRtAttr(unix.IFA_BROADCAST, last[:])}
}
