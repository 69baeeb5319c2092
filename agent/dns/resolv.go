package dns

import (
	"os"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/spec"
)

// The most search domains that a file may have, and the most characters of all of them: what resolvers take.
const (
	maxSearches   = 32
	maxSearchText = 2048
	maxServers    = 3
)

// ResolvConf is what a pod's /etc/resolv.conf has to say; empty where it is to be what the node's own says. server is where the
// cluster's names are answered, on port 53; empty where they are not, or on another port, which the file can't say. node is the
// node's own file.
func ResolvConf(p *spec.Pod, server, node string) string {
	s := &p.Spec
	cluster := s.ClusterDNS() && server != ""
	if !cluster && s.DNS == nil && s.DNSPolicy != spec.DNSNone {
		return ""
	}
	var servers, searches []string
	var options []spec.DNSOption
	if s.DNSPolicy != spec.DNSNone {
		own := read(node)
		if cluster {
			searches = []string{p.Namespace + ".svc." + strings.TrimSuffix(Domain, "."), "svc." + strings.TrimSuffix(Domain, "."), strings.TrimSuffix(Domain, ".")}
			servers, options = []string{server}, []spec.DNSOption{{Name: "ndots", Value: "5"}}
		} else if own != nil {
			servers = own.Servers
		}
		if own != nil {
			searches = append(searches, own.Search...)
		}
	}
	if d := s.DNS; d != nil {
		servers, searches = append(servers, d.Nameservers...), append(searches, d.Searches...)
		for _, o := range d.Options {
			options = slices.DeleteFunc(options, func(had spec.DNSOption) bool { return had.Name == o.Name })
			options = append(options, o)
		}
	}
	return text(unique(servers), unique(searches), options)
}

func read(path string) *dns.ClientConfig {
	data, err := os.ReadFile(path)
	if err != nil || len(data) > maxResolv {
		return nil
	}
	conf, err := dns.ClientConfigFromReader(strings.NewReader(string(data)))
	if err != nil {
		return nil
	}
	return conf
}

func unique(all []string) (out []string) {
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func text(servers, searches []string, options []spec.DNSOption) string {
	var b strings.Builder
	for _, s := range servers[:min(len(servers), maxServers)] {
		b.WriteString("nameserver " + s + "\n")
	}
	line, n := "", 0
	for _, s := range searches[:min(len(searches), maxSearches)] {
		if n += len(s) + 1; n > maxSearchText {
			break
		}
		line += " " + s
	}
	if line != "" {
		b.WriteString("search" + line + "\n")
	}
	line = ""
	for _, o := range options {
		line += " " + o.Name
		if o.Value != "" {
			line += ":" + o.Value
		}
	}
	if line != "" {
		b.WriteString("options" + line + "\n")
	}
	return b.String()
}
