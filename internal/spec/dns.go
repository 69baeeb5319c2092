package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	maxNameservers = 3
	maxSearches    = 32
	maxDNSOptions  = 32
)

// dns checks whom the pod's programs ask for names.
func (c *checker) dns(at string, s *PodSpec) {
	switch s.DNSPolicy {
	case "", DNSClusterFirst, DNSClusterFirstWithHostNet, DNSDefault:
	case DNSNone:
		if s.DNS == nil || len(s.DNS.Nameservers) == 0 {
			c.add(at+".dnsConfig.nameservers", Required, nil, `must provide at least one DNS nameserver when dnsPolicy is "None"`)
		}
	default:
		c.add(at+".dnsPolicy", NotSupported, s.DNSPolicy, `supported values: "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"`)
	}
	if s.DNS == nil {
		return
	}
	at += ".dnsConfig"
	c.atMost(at+".nameservers", len(s.DNS.Nameservers), maxNameservers)
	for i, n := range s.DNS.Nameservers {
		if _, err := netip.ParseAddr(n); err != nil {
			c.add(fmt.Sprintf("%s.nameservers[%d]", at, i), Invalid, n, "must be a valid IP address")
		}
	}
	c.atMost(at+".searches", len(s.DNS.Searches), maxSearches)
	for i, n := range s.DNS.Searches {
		if why := subdomain(strings.TrimSuffix(strings.ReplaceAll(n, "_", "-"), ".")); n != "." && why != "" {
			c.add(fmt.Sprintf("%s.searches[%d]", at, i), Invalid, n, why)
		}
	}
	c.atMost(at+".options", len(s.DNS.Options), maxDNSOptions)
	for i, o := range s.DNS.Options {
		at := fmt.Sprintf("%s.options[%d]", at, i)
		if o.Name == "" {
			c.add(at, Required, nil, "must not be empty")
		}
		if strings.ContainsAny(o.Name+o.Value, " \t\n\r\x00") || len(o.Name)+len(o.Value) > 255 {
			c.add(at, Invalid, o.Name, "must be at most 255 characters without blanks")
		}
	}
}

// The policies of whom a pod's programs ask for names.
const (
	DNSClusterFirst            = "ClusterFirst"
	DNSClusterFirstWithHostNet = "ClusterFirstWithHostNet"
	DNSDefault                 = "Default"
	DNSNone                    = "None"
)

// DNSConfig is added to what a pod's /etc/resolv.conf says.
type DNSConfig struct {
	// Nameservers are IP addresses, at most 3; Searches and Options are at most 32.
	Nameservers, Searches []string
	Options               []DNSOption
}

// DNSOption is an option of a resolver; its value may be empty.
type DNSOption struct{ Name, Value string }

func (d *DNSConfig) clone() *DNSConfig {
	d = clonePtr(d)
	if d != nil {
		d.Nameservers, d.Searches, d.Options = slices.Clone(d.Nameservers), slices.Clone(d.Searches), slices.Clone(d.Options)
	}
	return d
}

// ClusterDNS tells whether the pod's programs ask the cluster for names.
func (s *PodSpec) ClusterDNS() bool {
	switch s.DNSPolicy {
	case DNSClusterFirstWithHostNet:
		return true
	case "", DNSClusterFirst:
		return !s.HostNetwork
	}
	return false
}
