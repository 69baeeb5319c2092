package spec

import "strings"

func lowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func alphanumeric(c byte) bool { return lowerOrDigit(c) || c >= 'A' && c <= 'Z' }

// label says why s is no DNS-1123 label; empty when it is one.
func label(s string) string {
	if len(s) > 63 {
		return "must be no more than 63 characters"
	}
	if !dns(s) {
		return "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"
	}
	return ""
}

func dns(s string) bool {
	if s == "" || !lowerOrDigit(s[0]) || !lowerOrDigit(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !lowerOrDigit(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// subdomain says why s is no DNS-1123 subdomain.
func subdomain(s string) string {
	if len(s) > 253 {
		return "must be no more than 253 characters"
	}
	for part := range strings.SplitSeq(s, ".") {
		if !dns(part) {
			return "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
		}
	}
	return ""
}

// NodeName says why s is no name of a node, which is a DNS-1123 subdomain; empty when it is one.
func NodeName(s string) string { return subdomain(s) }

// qualified tells whether s is what the name part of a label's key, or a label's value, may be.
func qualified(s string) bool {
	if s == "" || len(s) > 63 || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return false
		}
	}
	return true
}

// LabelKey says why s is no key of a label; empty when it is one. An annotation's key is one in lower case.
func LabelKey(s string) string { return labelKey(s) }

// LabelValue says why s is no value of a label; empty when it is one.
func LabelValue(s string) string { return labelValue(s) }

// labelKey says why s is no key of a label.
func labelKey(s string) string {
	name := s
	if prefix, rest, ok := strings.Cut(s, "/"); ok {
		if why := subdomain(prefix); why != "" {
			return "prefix part " + why
		}
		name = rest
	}
	if !qualified(name) {
		return "name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
	}
	return ""
}

// labelValue says why s is no value of a label.
func labelValue(s string) string {
	if s == "" || qualified(s) {
		return ""
	}
	return "a valid label must be an empty string or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
}

// portName says why s is no name of a port (rule 2.4).
func portName(s string) string {
	letter := false
	for i := range len(s) {
		if !lowerOrDigit(s[i]) && s[i] != '-' {
			return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
		}
		letter = letter || s[i] >= 'a' && s[i] <= 'z'
	}
	switch {
	case len(s) > 15:
		return "must be no more than 15 characters"
	case !letter:
		return "must contain at least one letter (a-z)"
	case strings.Contains(s, "--"):
		return "must not contain consecutive hyphens"
	case s[0] == '-' || s[len(s)-1] == '-':
		return "must not begin or end with a hyphen"
	}
	return ""
}

// envName says why s is no name of an environment variable: printable ASCII without '='.
func envName(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '=' {
			return "a valid environment variable name must consist only of printable ASCII characters other than '='"
		}
	}
	return ""
}

func headerName(s string) bool {
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '-' {
			return false
		}
	}
	return s != ""
}
