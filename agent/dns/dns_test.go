package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

func endpoint(ip, host string, ports ...string) spec.Endpoint {
	e := spec.Endpoint{IP: ip, Ready: true, Hostname: host}
	for _, p := range ports {
		var port spec.EndpointPort
		if _, err := fmt.Sscanf(p, "%s %s %d", &port.Name, &port.Protocol, &port.Port); err != nil {
			panic(err)
		}
		e.Ports = append(e.Ports, port)
	}
	return e
}

func shop() Update {
	return Update{Full: true, Services: map[spec.ObjectName][]spec.Endpoint{
		{Namespace: "shop", Name: "web"}:   {endpoint("10.77.1.3", "web-a", "http TCP 8080"), endpoint("10.77.2.3", "web-b", "http TCP 8081", "stats UDP 9")},
		{Namespace: "shop", Name: "empty"}: nil,
		{Namespace: "six", Name: "six"}:    {endpoint("fd00::1", "six.a")},
	}}
}

func unmoved(int, func(i, j int)) {}

// said is what an answer says, one line for each record.
func said(m *dns.Msg) string {
	lines := []string{dns.RcodeToString[m.Rcode]}
	for _, section := range [][]dns.RR{m.Answer, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				lines = append(lines, strings.Join(strings.Fields(rr.String()), " "))
			}
		}
	}
	return strings.Join(lines, "; ")
}

func TestANameOfTheClusterLeadsToReadyPods(t *testing.T) {
	names := NewNames()
	names.Update(shop())
	for question, want := range map[string]string{
		"web.shop.svc.cluster.local. A":               "NOERROR; web.shop.svc.cluster.local. 1 IN A 10.77.1.3; web.shop.svc.cluster.local. 1 IN A 10.77.2.3",
		"WEB.Shop.svc.Cluster.Local. A":               "NOERROR; WEB.Shop.svc.Cluster.Local. 1 IN A 10.77.1.3; WEB.Shop.svc.Cluster.Local. 1 IN A 10.77.2.3",
		"web.shop.svc.cluster.local. AAAA":            "NOERROR",
		"six.six.svc.cluster.local. AAAA":             "NOERROR; six.six.svc.cluster.local. 1 IN AAAA fd00::1",
		"six-a.six.six.svc.cluster.local. AAAA":       "NOERROR; six-a.six.six.svc.cluster.local. 1 IN AAAA fd00::1",
		"web-b.web.shop.svc.cluster.local. A":         "NOERROR; web-b.web.shop.svc.cluster.local. 1 IN A 10.77.2.3",
		"web-c.web.shop.svc.cluster.local. A":         "NXDOMAIN",
		"empty.shop.svc.cluster.local. A":             "NOERROR",
		"gone.shop.svc.cluster.local. A":              "NXDOMAIN",
		"web.other.svc.cluster.local. A":              "NXDOMAIN",
		"shop.svc.cluster.local. A":                   "NOERROR",
		"other.svc.cluster.local. A":                  "NXDOMAIN",
		"svc.cluster.local. A":                        "NOERROR",
		"cluster.local. A":                            "NOERROR",
		"pod.cluster.local. A":                        "NXDOMAIN",
		"a.b.c.web.shop.svc.cluster.local. A":         "NXDOMAIN",
		"_http._tcp.web.shop.svc.cluster.local. SRV":  "NOERROR; _http._tcp.web.shop.svc.cluster.local. 1 IN SRV 0 100 8080 web-a.web.shop.svc.cluster.local.; _http._tcp.web.shop.svc.cluster.local. 1 IN SRV 0 100 8081 web-b.web.shop.svc.cluster.local.; web-a.web.shop.svc.cluster.local. 1 IN A 10.77.1.3; web-b.web.shop.svc.cluster.local. 1 IN A 10.77.2.3",
		"_stats._udp.web.shop.svc.cluster.local. SRV": "NOERROR; _stats._udp.web.shop.svc.cluster.local. 1 IN SRV 0 100 9 web-b.web.shop.svc.cluster.local.; web-b.web.shop.svc.cluster.local. 1 IN A 10.77.2.3",
		"_stats._tcp.web.shop.svc.cluster.local. SRV": "NXDOMAIN",
		"_http._tcp.web.shop.svc.cluster.local. A":    "NOERROR",
		"_tcp.web.shop.svc.cluster.local. SRV":        "NOERROR",
		"_sctp.web.shop.svc.cluster.local. SRV":       "NXDOMAIN",
		"web.shop.svc.cluster.local. TXT":             "NOERROR",
	} {
		name, kind, _ := strings.Cut(question, " ")
		reply := new(dns.Msg)
		names.answer(dns.Question{Name: name, Qtype: dns.StringToType[kind], Qclass: dns.ClassINET}, reply, unmoved)
		if got := said(reply); got != want {
			t.Errorf("%s\n got %s\nwant %s", question, got, want)
		}
		if soa := len(reply.Ns) == 1; soa != (len(reply.Answer) == 0) {
			t.Errorf("%s: with SOA is %v, with %d answers", question, soa, len(reply.Answer))
		}
	}
}

func TestWhatHasNotBeenSaidIsNotDenied(t *testing.T) {
	names := NewNames()
	reply := new(dns.Msg)
	names.answer(dns.Question{Name: "web.shop.svc.cluster.local.", Qtype: dns.TypeA}, reply, unmoved)
	if reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("answered %s before anything was said", dns.RcodeToString[reply.Rcode])
	}
}

func TestAnAddressHasTheNameOfItsPodWhileItIsBehindAService(t *testing.T) {
	names := NewNames()
	names.Update(shop())
	ip := netip.MustParseAddr("10.77.2.3")
	if got := names.host(ip); got != "web-b.web.shop.svc.cluster.local." {
		t.Errorf("%s is %q", ip, got)
	}
	web := spec.ObjectName{Namespace: "shop", Name: "web"}
	names.Update(Update{Services: map[spec.ObjectName][]spec.Endpoint{web: {endpoint("10.77.1.3", "web-a")}}})
	if got := names.host(ip); got != "" {
		t.Errorf("%s is still %q", ip, got)
	}
	names.Update(Update{Removed: []spec.ObjectName{web}})
	if got := names.host(netip.MustParseAddr("10.77.1.3")); got != "" {
		t.Errorf("after the Service was removed: %q", got)
	}
	for name, want := range map[string]string{"3.2.77.10.in-addr.arpa.": "10.77.2.3", "2.77.10.in-addr.arpa.": "invalid IP", "x.in-addr.arpa.": "invalid IP", "example.org.": "invalid IP"} {
		if got := reverse(name).String(); got != want {
			t.Errorf("%s asks for %s, want %s", name, got, want)
		}
	}
}

// TestNamesAreWhatWasSaidLast holds that changes, in whatever order, leave what a full set would.
func TestNamesAreWhatWasSaidLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names, want := NewNames(), map[spec.ObjectName][]spec.Endpoint{}
		names.Update(Update{Full: true})
		name := rapid.Custom(func(t *rapid.T) spec.ObjectName {
			return spec.ObjectName{Namespace: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "namespace"), Name: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "name")}
		})
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			n := name.Draw(t, "service")
			if rapid.Bool().Draw(t, "removed") {
				delete(want, n)
				names.Update(Update{Removed: []spec.ObjectName{n}})
				continue
			}
			var all []spec.Endpoint
			for _, last := range rapid.SliceOfNDistinct(rapid.IntRange(1, 5), 0, 3, rapid.ID[int]).Draw(t, "pods") {
				all = append(all, endpoint(fmt.Sprintf("10.0.0.%d", last), fmt.Sprintf("pod-%d", last)))
			}
			want[n] = all
			names.Update(Update{Services: map[spec.ObjectName][]spec.Endpoint{n: all}})
		}
		full := NewNames()
		full.Update(Update{Full: true, Services: want})
		for _, namespace := range []string{"a", "b"} {
			for _, service := range []string{"x", "y", "z"} {
				q := dns.Question{Name: service + "." + namespace + ".svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
				is, should := new(dns.Msg), new(dns.Msg)
				names.answer(q, is, unmoved)
				full.answer(q, should, unmoved)
				if said(is) != said(should) {
					t.Fatalf("%s: %s, want %s", q.Name, said(is), said(should))
				}
			}
		}
	})
}

// serve runs a server on a loopback address of its own.
func serve(t *testing.T, cfg Config, change func(*Server)) (*Server, string) {
	t.Helper()
	names := NewNames()
	names.Update(shop())
	if cfg.Resolv == "" {
		cfg.Resolv = filepath.Join(t.TempDir(), "none")
	}
	s := New(cfg, names, slog.New(slog.DiscardHandler))
	if change != nil {
		change(s)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	s.Listen(Address{IP: netip.MustParseAddr("127.77.250.53"), AnyPort: true})
	<-s.Tried()
	if !s.Bound().IsValid() {
		t.Fatal("it listens nowhere")
	}
	return s, s.Bound().String()
}

func ask(t *testing.T, network, at, name string, kind uint16, change func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	if change != nil {
		change(m)
	}
	client := dns.Client{Net: network, Timeout: 5 * time.Second}
	answer, _, err := client.Exchange(m, at)
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return answer
}

func TestQuestionsAreAnsweredOverUDPAndTCP(t *testing.T) {
	_, at := serve(t, Config{}, nil)
	for _, network := range []string{"udp", "tcp"} {
		m := ask(t, network, at, "web-a.web.shop.svc.cluster.local.", dns.TypeA, nil)
		if said(m) != "NOERROR; web-a.web.shop.svc.cluster.local. 1 IN A 10.77.1.3" || !m.Authoritative || !m.RecursionAvailable {
			t.Errorf("%s: %v", network, m)
		}
		if m := ask(t, network, at, "3.2.77.10.in-addr.arpa.", dns.TypePTR, nil); said(m) != "NOERROR; 3.2.77.10.in-addr.arpa. 1 IN PTR web-b.web.shop.svc.cluster.local." {
			t.Errorf("%s: %v", network, m)
		}
		if m := ask(t, network, at, "example.org.", dns.TypeA, nil); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: with nobody to ask: %v", network, m)
		}
		if m := ask(t, network, at, "x.", dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }); m.Rcode != dns.RcodeRefused {
			t.Errorf("%s: another class: %v", network, m)
		}
		if m := ask(t, network, at, "x.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }); m.Rcode != dns.RcodeNotImplemented {
			t.Errorf("%s: another operation: %v", network, m)
		}
	}
}

func TestAnAnswerIsCutToWhatIsTakenAndWholeOverTCP(t *testing.T) {
	var many []spec.Endpoint
	for i := range 250 {
		many = append(many, endpoint(fmt.Sprintf("10.77.9.%d", i), fmt.Sprintf("pod-%d", i)))
	}
	_, at := serve(t, Config{}, func(s *Server) {
		s.names.Update(Update{Services: map[spec.ObjectName][]spec.Endpoint{{Namespace: "shop", Name: "many"}: many}})
	})
	const name = "many.shop.svc.cluster.local."
	if m := ask(t, "udp", at, name, dns.TypeA, nil); !m.Truncated || size(m) > dns.MinMsgSize || len(m.Answer) == 0 {
		t.Errorf("over UDP: truncated is %v, %d bytes, %d answers", m.Truncated, size(m), len(m.Answer))
	}
	if m := ask(t, "udp", at, name, dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false) }); size(m) > maxUDP || len(m.Answer) < 50 {
		t.Errorf("over UDP with room: %d bytes, %d answers", size(m), len(m.Answer))
	}
	if m := ask(t, "tcp", at, name, dns.TypeA, nil); m.Truncated || len(m.Answer) != 250 {
		t.Errorf("over TCP: truncated is %v, %d answers", m.Truncated, len(m.Answer))
	}
}

// size is that of the message as it was sent.
func size(m *dns.Msg) int {
	m.Compress = true
	return m.Len()
}

func TestOnlyWhoMayAskIsAnswered(t *testing.T) {
	_, at := serve(t, Config{Allow: func(netip.Addr) bool { return false }}, nil)
	client := dns.Client{Timeout: 200 * time.Millisecond}
	if m, _, err := client.Exchange(new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA), at); err == nil {
		t.Errorf("a stranger is answered: %v", m)
	}
}

func TestItAnswersWhereItIsToldTo(t *testing.T) {
	s, first := serve(t, Config{}, nil)
	s.Listen(Address{IP: netip.MustParseAddr("127.77.251.53"), AnyPort: true})
	for end := time.Now().Add(10 * time.Second); s.Bound().Addr().String() != "127.77.251.53"; {
		if time.Now().After(end) {
			t.Fatalf("it still answers at %s, not at another address than %s", s.Bound(), first)
		}
		<-time.After(time.Millisecond)
	}
	ask(t, "udp", s.Bound().String(), "web.shop.svc.cluster.local.", dns.TypeA, nil)
	// One that is not the machine's yet is taken all the same; a port that another holds is not waited for.
	other, at := serve(t, Config{}, nil)
	other.Listen(Address{IP: s.Bound().Addr(), AnyPort: true})
	_ = at
	for end := time.Now().Add(10 * time.Second); other.Bound().Addr() != s.Bound().Addr(); {
		if time.Now().After(end) {
			t.Fatalf("the second answers at %s", other.Bound())
		}
		<-time.After(time.Millisecond)
	}
	if other.Bound().Port() == s.Bound().Port() {
		t.Errorf("both answer at %s", s.Bound())
	}
}

// world is a forwarder whose resolvers are functions.
func resolvers(t *testing.T, file string, answers map[string]func(*dns.Msg, string) (*dns.Msg, error)) (*forwarder, *[]string, *time.Time) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newForwarder(path)
	now := time.Unix(1_700_000_000, 0)
	f.now = func() time.Time { return now }
	var asked []string
	f.exchange = func(m *dns.Msg, network, server string) (*dns.Msg, error) {
		asked = append(asked, network+" "+server)
		return answers[server](m, network)
	}
	return f, &asked, &now
}

func address(ttl uint32) func(*dns.Msg, string) (*dns.Msg, error) {
	return func(m *dns.Msg, _ string) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: []byte{192, 0, 2, 1}}}
		return r, nil
	}
}

func TestTheRestIsAskedOfTheNodesResolversInTheirOrder(t *testing.T) {
	f, asked, _ := resolvers(t, "nameserver 127.77.1.53\nnameserver 192.0.2.10\nnameserver 192.0.2.11\nnameserver 192.0.2.12\n", map[string]func(*dns.Msg, string) (*dns.Msg, error){
		"192.0.2.10:53": func(*dns.Msg, string) (*dns.Msg, error) { return nil, errors.New("no answer") },
		"192.0.2.11:53": func(m *dns.Msg, _ string) (*dns.Msg, error) {
			return new(dns.Msg).SetRcode(m, dns.RcodeServerFailure), nil
		},
		"192.0.2.12:53": func(m *dns.Msg, network string) (*dns.Msg, error) {
			r, err := address(60)(m, network)
			r.Truncated = network == "udp"
			return r, err
		},
	})
	f.exclude(netip.MustParseAddrPort("127.77.1.53:53")) // itself
	m, err := f.ask(new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	if err != nil || len(m.Answer) != 1 || m.Truncated {
		t.Fatalf("%v, %v", m, err)
	}
	if want := []string{"udp 192.0.2.10:53", "udp 192.0.2.11:53", "udp 192.0.2.12:53", "tcp 192.0.2.12:53"}; !slices.Equal(*asked, want) {
		t.Errorf("asked %v, want %v", *asked, want)
	}
}

func TestAnAnswerIsKeptForAsLongAsItSays(t *testing.T) {
	f, asked, now := resolvers(t, "nameserver 192.0.2.10\n", map[string]func(*dns.Msg, string) (*dns.Msg, error){"192.0.2.10:53": address(60)})
	q := func() uint32 {
		t.Helper()
		m, err := f.ask(new(dns.Msg).SetQuestion("Example.org.", dns.TypeA))
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%v, %v", m, err)
		}
		return m.Answer[0].Header().Ttl
	}
	if got := q(); got != 60 {
		t.Errorf("the first may be kept for %d s", got)
	}
	*now = now.Add(50 * time.Second)
	if got := q(); got != 10 || len(*asked) != 1 {
		t.Errorf("after 50 s it may be kept for %d s, asked %d times", got, len(*asked))
	}
	*now = now.Add(11 * time.Second)
	if got := q(); got != 60 || len(*asked) != 2 {
		t.Errorf("when it is over it may be kept for %d s, asked %d times", got, len(*asked))
	}
}

func TestThatThereIsNoneIsKeptAShortWhileAndAFailureNotAtAll(t *testing.T) {
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: "org.", Rrtype: dns.TypeSOA, Ttl: 900}, Minttl: 3600}
	fails := true
	f, asked, now := resolvers(t, "nameserver 192.0.2.10\n", map[string]func(*dns.Msg, string) (*dns.Msg, error){
		"192.0.2.10:53": func(m *dns.Msg, _ string) (*dns.Msg, error) {
			r := new(dns.Msg).SetRcode(m, dns.RcodeNameError)
			if fails {
				r.Rcode = dns.RcodeRefused
			}
			r.Ns = []dns.RR{soa}
			return r, nil
		},
	})
	q := new(dns.Msg).SetQuestion("gone.org.", dns.TypeA)
	if _, err := f.ask(q); err == nil {
		t.Error("a refusal is an answer")
	}
	fails = false
	for range 3 {
		if m, err := f.ask(q); err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%v, %v", m, err)
		}
	}
	*now = now.Add(maxNegative)
	if _, err := f.ask(q); err != nil {
		t.Error(err)
	}
	if len(*asked) != 3 {
		t.Errorf("asked %d times, want once for the failure and twice for what is not there", len(*asked))
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	f, _, _ := resolvers(t, "nameserver 192.0.2.10\n", map[string]func(*dns.Msg, string) (*dns.Msg, error){"192.0.2.10:53": address(60)})
	for i := range maxCache + 100 {
		if _, err := f.ask(new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.org.", i), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.cache.Len(); n != maxCache {
		t.Errorf("%d answers are kept, want %d", n, maxCache)
	}
}

func TestResolvConfFollowsThePodsPolicy(t *testing.T) {
	node := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(node, []byte("nameserver 192.0.2.1\nsearch example.org\noptions timeout:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const cluster = "nameserver 10.77.1.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local example.org\noptions ndots:5\n"
	for name, c := range map[string]struct {
		spec   spec.PodSpec
		server string
		want   string
	}{
		"the default":                           {spec.PodSpec{}, "10.77.1.1", cluster},
		"the default, names not answered":       {spec.PodSpec{}, "", ""},
		"the node's network":                    {spec.PodSpec{HostNetwork: true}, "10.77.1.1", ""},
		"the node's network, the cluster first": {spec.PodSpec{HostNetwork: true, DNSPolicy: spec.DNSClusterFirstWithHostNet}, "10.77.1.1", cluster},
		"as the node":                           {spec.PodSpec{DNSPolicy: spec.DNSDefault}, "10.77.1.1", ""},
		"as the node and more": {
			spec.PodSpec{DNSPolicy: spec.DNSDefault, DNS: &spec.DNSConfig{Nameservers: []string{"192.0.2.9"}}}, "10.77.1.1",
			"nameserver 192.0.2.1\nnameserver 192.0.2.9\nsearch example.org\n",
		},
		"none": {
			spec.PodSpec{DNSPolicy: spec.DNSNone, DNS: &spec.DNSConfig{Nameservers: []string{"192.0.2.9"}, Searches: []string{"a.b"}, Options: []spec.DNSOption{{Name: "edns0"}}}},
			"10.77.1.1", "nameserver 192.0.2.9\nsearch a.b\noptions edns0\n",
		},
		"the cluster, with more": {
			spec.PodSpec{DNS: &spec.DNSConfig{Nameservers: []string{"10.77.1.1", "192.0.2.9"}, Searches: []string{"a.b", "cluster.local"}, Options: []spec.DNSOption{{Name: "ndots", Value: "2"}, {Name: "edns0"}}}},
			"10.77.1.1",
			"nameserver 10.77.1.1\nnameserver 192.0.2.9\nsearch shop.svc.cluster.local svc.cluster.local cluster.local example.org a.b\noptions ndots:2 edns0\n",
		},
	} {
		p := &spec.Pod{Meta: spec.Meta{Namespace: "shop", Name: "p"}, Spec: c.spec}
		if got := ResolvConf(p, c.server, node); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}
