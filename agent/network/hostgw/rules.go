package hostgw

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	insideSet, portsMap = "inside", "ports"
	// chunk bounds the elements of one message: an attribute holds 64 KiB.
	chunk = 500
	// socketBytes are enough for a table of some 65,000 elements in one transaction.
	socketBytes = 8 << 20
)

// The registers of a concatenation's first and second part: the kernel's 4-byte registers begin at 8.
const (
	first  = 1
	second = 9
)

// ruler reads and writes one table of nftables.
type ruler struct {
	ns   netns.NsHandle
	conn *nftables.Conn
}

// open returns the lasting connection. After an error it is closed: answers to what failed may still be in it.
func (r *ruler) open() (*nftables.Conn, error) {
	if r.conn != nil {
		return r.conn, nil
	}
	var err error
	r.conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(r.ns)), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBytes), c.SetWriteBuffer(socketBytes))
	}))
	return r.conn, err
}

func (r *ruler) close() {
	if r.conn != nil {
		_ = r.conn.CloseLasting()
		r.conn = nil
	}
}

// look reads the table; nil when there is none, or when it is not of our making.
func (r *ruler) look(name string) (*table, error) {
	t, err := r.read(name)
	if err != nil {
		r.close()
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return t, err
}

func (r *ruler) read(name string) (*table, error) {
	c, err := r.open()
	if err != nil {
		return nil, err
	}
	t, err := find(c, name)
	if t == nil {
		return nil, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, err
	}
	out := &table{}
	ours := 0
	for _, want := range chainsOf(t) {
		for _, ch := range chains {
			if ch.Table.Name == name && ch.Name == want.Name && ch.Type == want.Type && ch.Hooknum != nil && *ch.Hooknum == *want.Hooknum &&
				ch.Priority != nil && *ch.Priority == *want.Priority {
				ours++
			}
		}
		rules, err := c.GetRules(t, want)
		if err != nil {
			return nil, err
		}
		for _, rule := range rules {
			tag, _ := userdata.GetString(rule.UserData, userdata.TypeComment)
			out.tags = append(out.tags, tag)
		}
	}
	if ours != len(chainsOf(t)) {
		return nil, nil
	}
	elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: insideSet})
	if err != nil {
		return nil, err
	}
	out.inside = spansOf(elements)
	if elements, err = c.GetSetElements(&nftables.Set{Table: t, Name: portsMap}); err != nil {
		return nil, err
	}
	for _, e := range elements {
		if p, ok := publishedOf(e); ok {
			out.ports = append(out.ports, p)
		}
	}
	slices.SortFunc(out.ports, comparePorts)
	return out, nil
}

// find returns the table, nil when there is none.
func find(c *nftables.Conn, name string) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if at := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == name }); at >= 0 {
		return tables[at], nil
	}
	return nil, err
}

// chainsOf are the chains of the table, in the order of tags.
func chainsOf(t *nftables.Table) []*nftables.Chain {
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Table: t, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority}
	}
	return []*nftables.Chain{
		chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		chain("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
		chain("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
	}
}

// set puts the table in place of what is there, in one transaction: no packet sees half of it.
func (r *ruler) set(name string, want *rules) error {
	err := r.write(name, want)
	if err != nil {
		r.close()
	}
	return err
}

func (r *ruler) write(name string, want *rules) error {
	c, err := r.open()
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	// Numbers of the transaction's own: those the library would give come from a counter that knows no other goroutine.
	within := &nftables.Set{Table: t, ID: 1, Name: insideSet, KeyType: nftables.TypeIPAddr, Interval: true}
	ports := &nftables.Set{
		Table: t, ID: 2, Name: portsMap, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
	for _, s := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{{within, intervals(want.inside)}, {ports, portElements(want.ports)}} {
		if err := c.AddSet(s.set, nil); err != nil {
			return err
		}
		for part := range slices.Chunk(s.elements, chunk) {
			if err := c.SetAddElements(s.set, part); err != nil {
				return err
			}
		}
	}
	chains := chainsOf(t)
	for _, ch := range chains {
		c.AddChain(ch)
	}
	tags := want.tags()
	own := want.own
	add := func(tag int, chain *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{
			Table: t, Chain: chain, Exprs: slices.Concat(parts...), UserData: userdata.AppendString(nil, userdata.TypeComment, tags[tag]),
		})
	}
	// fib daddr type local dnat to meta l4proto . th dport map @ports
	add(0, chains[0], toThisNode, dnat(ports))
	// The node's own programs reach the ports too, but not through 127.0.0.0/8, whose source could not be answered.
	add(1, chains[1], toThisNode, inNet(16, netip.MustParsePrefix("127.0.0.0/8"), expr.CmpOpNeq), dnat(ports))
	// A pod that comes back to its own node's pods through a port must be answered through the node.
	add(2, chains[2], translated, inNet(12, own, expr.CmpOpEq), inNet(16, own, expr.CmpOpEq), masquerade)
	// ip saddr OWN ip daddr != @inside masquerade
	add(3, chains[2], inNet(12, own, expr.CmpOpEq), []expr.Any{
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Lookup{SourceRegister: first, SetName: within.Name, SetID: within.ID, Invert: true},
	}, masquerade)
	return c.Flush()
}

var (
	toThisNode = []expr.Any{
		&expr.Fib{Register: first, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	// translated is whether the connection's destination has been translated: IPS_DST_NAT of the kernel.
	translated = []expr.Any{
		&expr.Ct{Register: first, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(1 << 5), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: first, Data: make([]byte, 4)},
	}
	masquerade = []expr.Any{&expr.Masq{}}
)

// inNet compares the address at an offset of the IPv4 header, 12 for the source and 16 for the destination.
func inNet(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: first, Data: p.Addr().AsSlice()},
	}
}

// dnat looks the protocol and the port up, and goes to what the map says; without an entry the rule does not hold.
func dnat(ports *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: first},
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: first, DestRegister: first, IsDestRegSet: true, SetName: ports.Name, SetID: ports.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: first, RegProtoMin: second, Specified: true},
	}
}

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

func portElements(ports []published) (out []nftables.SetElement) {
	for _, p := range ports {
		key := binary.BigEndian.AppendUint16([]byte{protocols[p.protocol], 0, 0, 0}, p.host)
		to := binary.BigEndian.AppendUint16(p.to.Addr().AsSlice(), p.to.Port())
		out = append(out, nftables.SetElement{Key: append(key, 0, 0), Val: append(to, 0, 0)})
	}
	return out
}

// publishedOf is the inverse of portElements.
func publishedOf(e nftables.SetElement) (published, bool) {
	if len(e.Key) != 8 || len(e.Val) != 8 {
		return published{}, false
	}
	p := published{
		host: binary.BigEndian.Uint16(e.Key[4:]),
		to:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(e.Val)), binary.BigEndian.Uint16(e.Val[4:])),
	}
	for name, number := range protocols {
		if number == e.Key[0] {
			p.protocol = name
		}
	}
	return p, true
}

// intervals are the elements of a set of ranges: each begins at one and ends before the other.
func intervals(spans []span) (out []nftables.SetElement) {
	for _, s := range spans {
		out = append(out, nftables.SetElement{Key: s.from.AsSlice()})
		if end := s.to.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// spansOf is the inverse of intervals, in whatever order the elements come.
func spansOf(elements []nftables.SetElement) (out []span) {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	for _, e := range elements {
		at, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok:
		case !e.IntervalEnd:
			out = append(out, span{at, netip.AddrFrom4([4]byte{255, 255, 255, 255})})
		case len(out) > 0:
			out[len(out)-1].to = at.Prev()
		}
	}
	return out
}

// remove deletes the table, if there is one.
func (r *ruler) remove(name string) error {
	c, err := r.open()
	if err != nil {
		return err
	}
	t, err := find(c, name)
	if t != nil {
		c.DelTable(t)
		err = c.Flush()
	}
	if err != nil {
		r.close()
	}
	return err
}
