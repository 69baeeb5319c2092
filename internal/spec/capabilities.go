package spec

import (
	"fmt"
	"slices"
	"strings"
)

// capabilityNames are the capabilities of Linux without CAP_, each at its number (linux/capability.h).
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// allCapabilities stands for every capability in what a container adds or drops.
const allCapabilities = "ALL"

// CapabilitySet are capabilities, one a bit: 1 << number.
type CapabilitySet uint64

// capabilitySet is the set of those names; unknown ones are passed over, validation refuses them.
func capabilitySet(names []string) (set CapabilitySet) {
	for _, name := range names {
		if name == allCapabilities {
			return 1<<len(capabilityNames) - 1
		}
		if i := slices.Index(capabilityNames, name); i >= 0 {
			set |= 1 << i
		}
	}
	return set
}

// EffectiveCapabilities are what a container may have at most: the usual Capabilities, with ALL added or dropped first, then
// with the rest that it adds, less the rest that it drops.
func EffectiveCapabilities(add, drop []string) CapabilitySet {
	set := capabilitySet(Capabilities)
	if slices.Contains(add, allCapabilities) {
		set = capabilitySet(add)
	}
	named := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == allCapabilities })
	}
	if slices.Contains(drop, allCapabilities) {
		set = 0
	}
	return (set | capabilitySet(named(add))) &^ capabilitySet(named(drop))
}

// capabilities checks the names that a container adds or drops.
func (c *checker) capabilities(at string, names []string) {
	c.atMost(at, len(names), 2*len(capabilityNames))
	for i, name := range names {
		if name != allCapabilities && !slices.Contains(capabilityNames, name) {
			c.add(fmt.Sprintf("%s[%d]", at, i), NotSupported, name,
				`must be "ALL" or the name of a capability without CAP_, such as "`+strings.Join(capabilityNames[10:14], `", "`)+`"`)
		}
	}
}

// Names are the capabilities as a container names them, without CAP_.
func (s CapabilitySet) Names() []string {
	var names []string
	for i, n := range capabilityNames {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}
