package oracle

import (
	"regexp"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/spec"
)

// difference is a judgement that one side makes and the other does not, on purpose.
type difference struct {
	// ours is set where it is muster that finds something.
	ours bool
	// path is general, or the end of a general one after a *, or its beginning before a *.
	path string
	kind spec.FindingKind
	why  string
}

var differences = []difference{
	{false, "*.image", spec.Required, "the process runtime has no use for an image"},
	{true, "*.command", spec.Required, "the process runtime runs commands of the node"},
	{true, "*.command", spec.NotBuilt, "the process runtime can't know an image's entry point"},
	{true, "spec.terminationGracePeriodSeconds", spec.Invalid, "a negative one means 1 s to Kubernetes; it can only be a mistake"},
	{true, "*.volumeMounts.mountPath", spec.Invalid, "a relative path, one with .. and / itself are refused before anything is mounted there"},
	{true, "*.resources.requests[cpu]", spec.NotBuilt, "a request of 0 beside a limit"},
	{true, "*.resources.requests[memory]", spec.NotBuilt, "a request of 0 beside a limit"},
	{true, "*.defaultMode", spec.NotBuilt, "files that nobody may read"},
	{true, "*.fieldRef.apiVersion", spec.NotSupported, "Kubernetes finds the path wrong, not the version"},
	{false, "*.fieldRef.fieldPath", spec.Invalid, "the same"},
	{true, "*.downwardAPI", spec.Required, "besides the finding about its fieldRef"},
	{true, "spec.dnsConfig.options", spec.Required, "Kubernetes stops at the first finding of dnsConfig"},
	{true, "spec.dnsConfig.searches", spec.Invalid, "the same"},
	{true, "*.items.key", spec.Invalid, "no ConfigMap or Secret can have such a key"},
	{true, "spec.volumes.configMap.name", spec.Invalid, "no object can have such a name"},
	{true, "spec.volumes.secret.secretName", spec.Invalid, "no object can have such a name"},
	{true, "spec.volumes.projected.sources.configMap.name", spec.Invalid, "no object can have such a name"},
	{true, "spec.volumes.projected.sources.secret.name", spec.Invalid, "no object can have such a name"},
}

// Where muster names an element of a list, Kubernetes names the list, or something else.
var exacter = []struct {
	ours *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`(\.envFrom)\[[0-9]+\]$`), "$1"},
	{regexp.MustCompile(`(\.volumeMounts)\[[0-9]+\](\.subPath)$`), "$1$2"},
	{regexp.MustCompile(`(\.namespace)s\[[0-9]+\]$`), "$1"},
	{regexp.MustCompile(`(\.downwardAPI)\.items\[[0-9]+\]`), "$1"},
	{regexp.MustCompile(`(spec\.volumes\[[0-9]+\])\.downwardAPI$`), "$1.downwarAPI"},
	{regexp.MustCompile(`(spec\.initContainers)\[[0-9]+\](\.ports\[[0-9]+\]\.hostPort)$`), "$1[0]$2"},
}

// theirs is muster's finding with Kubernetes' path.
func theirs(f Finding) Finding {
	for _, e := range exacter {
		if e.as == "$1.downwarAPI" && f.Kind != spec.Forbidden || strings.HasSuffix(e.as, "[0]$2") && f.Kind != spec.Duplicate {
			continue
		}
		f.Path = e.ours.ReplaceAllString(f.Path, e.as)
	}
	if at, _, ok := strings.Cut(f.Path, ".projected.sources["); ok && strings.Contains(f.text, doubled) {
		f.Path = at + ".projected"
	}
	return f
}

const doubled = "conflicting duplicate paths"

// meant tells whether a difference is on the list.
func meant(ours bool, f Finding) bool {
	path := general(f.Path)
	for i := range differences {
		d := &differences[i]
		if d.ours != ours || d.kind != f.Kind {
			continue
		}
		end, open := strings.CutPrefix(d.path, "*")
		if path == d.path || open && strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

var (
	volume = regexp.MustCompile(`^spec\.volumes\[[0-9]+\]`)
	owner  = regexp.MustCompile(`^(spec\.volumes\[[0-9]+\]|.*\.env\[[0-9]+\]\.valueFrom|.*\.envFrom)`)
)

// Compare is what muster does not find, and what it finds besides, but for what is meant. Where both agree that something is
// wrong as a whole, its parts are not compared: each side looks into them as far as it likes.
func Compare(wanted, got []Finding) (missed, extra []Finding) {
	for i := range got {
		got[i] = theirs(got[i])
	}
	got = tidy(got)
	both := func(match func(Finding) bool) bool {
		return slices.ContainsFunc(wanted, match) && slices.ContainsFunc(got, match)
	}
	skip := func(f Finding) bool {
		if at := owner.FindString(f.Path); at != "" && both(func(g Finding) bool {
			return g.Path == at && g.Kind == spec.Invalid ||
				owner.FindString(g.Path) == at && g.Kind == spec.Forbidden && strings.Contains(g.text, "may not specify more")
		}) {
			return true
		}
		switch {
		case f.Path == "" && f.Kind == spec.TooLong, strings.HasSuffix(f.text, `Unsupported value: "": supported values: "HTTP1", "HTTP2"`),
			strings.HasSuffix(f.text, `Unsupported value: "": supported values: "Plaintext", "TLS"`):
			return true // more findings than muster lists; and an empty text is to muster one that was left out
		case f.Kind == spec.NotFound, f.Kind == spec.Duplicate && volume.MatchString(f.Path):
			// Kubernetes forgets volumes that are wrong.
			return both(func(g Finding) bool { return volume.MatchString(g.Path) })
		case strings.Contains(f.Path, ".resources.requests"):
			// Of a wrong limit Kubernetes says it again for the request that follows from it.
			limits := strings.Split(f.Path, ".requests")[0] + ".limits["
			return both(func(g Finding) bool { return strings.HasPrefix(g.Path, limits) })
		case strings.HasSuffix(f.Path, ".sleep"):
			return slices.ContainsFunc(got, func(g Finding) bool { return g.Path == "spec.terminationGracePeriodSeconds" })
		case strings.Contains(f.text, doubled):
			// Kubernetes lets the last one win, but in a projected volume; there muster looks at what else is wrong of the path first.
			return !strings.HasSuffix(f.Path, ".projected") || both(func(g Finding) bool { return strings.HasPrefix(g.Path, f.Path+".") })
		}
		return false
	}
	if slices.ContainsFunc(got, func(f Finding) bool { return f.Path == "" && f.Kind == spec.TooLong }) {
		return nil, nil
	}
	missed = slices.DeleteFunc(slices.Clone(wanted), func(f Finding) bool { return slices.ContainsFunc(got, f.same) || meant(false, f) || skip(f) })
	extra = slices.DeleteFunc(slices.Clone(got), func(f Finding) bool { return slices.ContainsFunc(wanted, f.same) || meant(true, f) || skip(f) })
	return missed, extra
}
