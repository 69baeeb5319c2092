package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// reason is why a pod does not fit a node.
type reason int

// The reasons, in the order in which they are looked at: what lasts before what may pass.
const (
	fits reason = iota
	notReady
	cordoned
	noNetwork
	noImages
	noMounts
	notRoot
	noPrivilege
	noHostPath
	noHostPorts
	notSelected
	notMatched
	tainted
	leftBy
	full
	portTaken
	noCPU
	noMemory
	apart
	avoided
	alone
	noDomain
	skewed
	reasons
)

var texts = [reasons]string{
	notReady: "not ready", cordoned: "cordoned", leftBy: "left by this pod", noNetwork: "without a pod CIDR yet", noImages: "runs no images (--images=refuse)",
	noMounts: "without mount namespaces", notRoot: "whose agent is not root", noPrivilege: "without --allow-privileged-pods",
	noHostPath: "without --host-path-allow for what is mounted", noHostPorts: "without a pod network, so without host ports",
	portTaken: "host port taken", notSelected: "without the labels of nodeSelector", notMatched: "not matched by node affinity",
	full: "full of pods", noCPU: "insufficient cpu", noMemory: "insufficient memory",
	apart: "near pods of its anti-affinity", avoided: "near pods whose anti-affinity means it", alone: "not near pods of its affinity",
	noDomain: "without the labels of topologySpreadConstraints", skewed: "beyond maxSkew of topologySpreadConstraints",
}

// missing are the reasons for a need that a node lacks, in the order of the needs.
var missing = [...]reason{noImages, noMounts, notRoot, noPrivilege}

// maxTaint bounds the text of a taint in an explanation, in bytes; maxParts how many reasons are told.
const (
	maxTaint = 80
	maxParts = 6
)

// text is the reason in a few words, with the taint that it is about.
func (r reason) text(n *node, p *Pod) string {
	if r != tainted {
		return texts[r]
	}
	taint := n.untolerated(p).String()
	if len(taint) > maxTaint {
		taint = taint[:maxTaint] + "…"
	}
	return "untolerated taint {" + taint + "}"
}

// tally counts nodes by why they do not take a pod.
type tally struct {
	counts [reasons]int
	taints map[string]int
}

func (t *tally) add(r reason, n *node, p *Pod) {
	if r != tainted {
		t.counts[r]++
		return
	}
	if t.taints == nil {
		t.taints = map[string]int{}
	}
	t.taints[r.text(n, p)]++
}

// explain tells what keeps most nodes out first, and at most maxParts of it.
func (t *tally) explain(nodes int) string {
	if nodes == 0 {
		return "0/0 nodes fit: there are no nodes"
	}
	type part struct {
		nodes  int
		reason reason
		text   string
	}
	var parts []part
	for r, n := range t.counts {
		if n > 0 {
			parts = append(parts, part{n, reason(r), texts[r]})
		}
	}
	for text, n := range t.taints {
		parts = append(parts, part{n, tainted, text})
	}
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(b.nodes, a.nodes), cmp.Compare(a.reason, b.reason), cmp.Compare(a.text, b.text))
	})
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes fit", nodes)
	separator, rest := ": ", 0
	for i, p := range parts {
		if i >= maxParts {
			rest += p.nodes
			continue
		}
		fmt.Fprintf(&b, "%s%d %s", separator, p.nodes, p.text)
		separator = ", "
	}
	if rest > 0 {
		fmt.Fprintf(&b, ", %d for other reasons", rest)
	}
	return b.String()
}
