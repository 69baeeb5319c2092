package dns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"
)

const (
	// askTimeout is how long one resolver may take to answer.
	askTimeout = 2 * time.Second
	// maxCache bounds the answers that are kept.
	maxCache = 4096
	// maxTTL and maxNegative bound how long an answer is kept, and that there is none.
	maxTTL, maxNegative = 5 * time.Minute, 30 * time.Second
	// reread is how often the file that names the resolvers is looked at.
	reread = 5 * time.Second
	// maxResolv bounds that file, in bytes.
	maxResolv = 64 << 10
)

// errNobody means that this node has nobody to ask.
var errNobody = errors.New("no resolver to ask")

// forwarder asks whom the node asks, and keeps what they say for as long as it may be kept.
type forwarder struct {
	path  string
	cache *lru.Cache[cacheKey, cached]
	now   func() time.Time
	// exchange asks one resolver; a test's may be another.
	exchange func(m *dns.Msg, network, server string) (*dns.Msg, error)

	mu      sync.Mutex
	own     netip.AddrPort
	servers []string
	looked  time.Time
	same    time.Time // the file's time when it was read
}

type cacheKey struct {
	name  string
	qtype uint16
	// secure asks for signatures, checked does not want them checked.
	secure, checked bool
}

type cached struct {
	msg   *dns.Msg
	at    time.Time
	until time.Time
}

func newForwarder(path string) *forwarder {
	c, err := lru.New[cacheKey, cached](maxCache)
	if err != nil {
		panic(err) // the size is positive
	}
	return &forwarder{path: path, cache: c, now: time.Now, exchange: func(m *dns.Msg, network, server string) (*dns.Msg, error) {
		client := dns.Client{Net: network, Timeout: askTimeout}
		answer, _, err := client.Exchange(m, server)
		return answer, err
	}}
}

// exclude names this server's own address, which must not be asked.
func (f *forwarder) exclude(own netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own, f.looked, f.same = own, time.Time{}, time.Time{}
}

// resolvers are whom the node asks now.
func (f *forwarder) resolvers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if !f.looked.IsZero() && now.Sub(f.looked) < reread {
		return f.servers
	}
	f.looked = now
	info, err := os.Stat(f.path)
	if err != nil {
		f.servers = nil
		return nil
	}
	if info.ModTime().Equal(f.same) {
		return f.servers
	}
	f.same, f.servers = info.ModTime(), nil
	text, err := os.ReadFile(f.path)
	if err != nil || len(text) > maxResolv {
		return nil
	}
	conf, err := dns.ClientConfigFromReader(strings.NewReader(string(text)))
	if err != nil {
		return nil
	}
	for _, s := range conf.Servers {
		if ip, err := netip.ParseAddr(s); err == nil && netip.AddrPortFrom(ip.Unmap(), Port) != f.own {
			f.servers = append(f.servers, net.JoinHostPort(s, conf.Port))
		}
	}
	return f.servers
}

// ask answers a question from the cache, or asks one resolver after the other.
func (f *forwarder) ask(question *dns.Msg) (*dns.Msg, error) {
	q := question.Question[0]
	key := cacheKey{name: strings.ToLower(q.Name), qtype: q.Qtype, checked: question.CheckingDisabled}
	if opt := question.IsEdns0(); opt != nil {
		key.secure = opt.Do()
	}
	now := f.now()
	if c, ok := f.cache.Get(key); ok && now.Before(c.until) {
		return aged(c.msg, now.Sub(c.at)), nil
	}
	servers := f.resolvers()
	if len(servers) == 0 {
		return nil, errNobody
	}
	m := question.Copy()
	m.Id = dns.Id()
	m.RecursionDesired = true
	var last error
	for _, server := range servers {
		answer, err := f.exchange(m, "udp", server)
		if err == nil && answer.Truncated {
			answer, err = f.exchange(m, "tcp", server)
		}
		if err != nil {
			last = err
			continue
		}
		if answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused {
			last = errors.New(server + ": " + dns.RcodeToString[answer.Rcode])
			continue
		}
		if keep := lifetime(answer); keep > 0 {
			f.cache.Add(key, cached{msg: answer.Copy(), at: now, until: now.Add(keep)})
		}
		return answer, nil
	}
	return nil, last
}

// lifetime is how long an answer may be kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError || m.Truncated {
		return 0
	}
	if len(m.Answer) > 0 && m.Rcode == dns.RcodeSuccess {
		least := uint32(maxTTL / time.Second)
		for _, rr := range m.Answer {
			least = min(least, rr.Header().Ttl)
		}
		return time.Duration(least) * time.Second
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second, maxNegative)
		}
	}
	return 0
}

// aged is an answer that was kept for a while.
func aged(m *dns.Msg, by time.Duration) *dns.Msg {
	m = m.Copy()
	s := uint32(by / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(s, h.Ttl)
			}
		}
	}
	return m
}
