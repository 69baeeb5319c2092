// Package workload says which pods a Deployment needs: how many to make, which to delete, which templates to remember, and
// how it stands. It is pure. A Deployment's pods carry the hash of the template they were made from; its strategy says how
// those of a new template replace them.
package workload

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// minLife is how long after its making a pod that has finished is replaced at the earliest.
const minLife = 10 * time.Second

// Pod is a pod of a Deployment as it stands.
type Pod struct {
	*spec.Pod
	// Ready is whether it is shown ready, Bound whether it has a node.
	Ready, Bound bool
	// ReadySince is when it became ready, by the clock of its node.
	ReadySince time.Time
	// Phase is what is shown.
	Phase spec.Phase
}

// Decision is what a Deployment needs next.
type Decision struct {
	// Create has new pods, without uid and creation time.
	Create []*spec.Pod
	// Delete has the pods to delete.
	Delete []*spec.Pod
	// Remove is set when the Deployment is being deleted and its last pod has gone.
	Remove bool
	// Record is a revision to write before anything else, nil when all are as they should be. Forget has those that are
	// over the limit.
	Record *spec.DeploymentRevision
	Forget []*spec.DeploymentRevision
	Status spec.DeploymentStatus
	// Recheck is when time alone changes the decision; zero when it does not.
	Recheck time.Time
}

// Input is a Deployment as it stands.
type Input struct {
	*spec.Deployment
	// Pods are those whose owner it is, also those that are being deleted.
	Pods []Pod
	// History has its revisions, in any order.
	History []*spec.DeploymentRevision
	// Held says why restarts of its pods are held; empty when they are not.
	Held string
	// HeldUnknown leaves what is said of that as it was.
	HeldUnknown bool
	// Suffix returns a new random suffix for each call.
	Suffix func() string
	Now    time.Time
}

// Decide says what a Deployment needs next.
func Decide(in Input) Decision {
	r := &rollout{Input: in, hash: spec.TemplateHash(&in.Spec.Template), gone: map[*spec.Pod]bool{}}
	surge, unavailable := in.Spec.Bounds()
	r.surge, r.unavailable = int(surge), int(unavailable)
	if in.Deleting() {
		r.take()
		r.status()
		for _, p := range r.live {
			r.delete(p)
		}
		r.out.Remove = len(in.Pods) == 0
		return r.out
	}
	r.remember()
	r.take()
	r.status()
	switch {
	case in.Spec.Paused:
		r.hold()
	case in.Spec.Strategy.Type == spec.Recreate:
		r.recreate()
	default:
		r.roll()
	}
	return r.out
}

// rollout is one decision in the making.
type rollout struct {
	Input
	hash               string
	surge, unavailable int
	// live are the pods that are not being deleted and have not finished. Those that this decision deletes are gone.
	live []Pod
	gone map[*spec.Pod]bool
	// newest is the revision that pods are made from while paused, nil before there is one.
	newest *spec.DeploymentRevision
	out    Decision
}

func (r *rollout) want() int { return int(r.Spec.Replicas) }

// fresh tells whether a pod is of the present template.
func (r *rollout) fresh(p Pod) bool { return p.Labels[spec.LabelTemplateHash] == r.hash }

// available tells whether a pod has been ready for long enough, and notes when it will have been.
func (r *rollout) available(p Pod) bool {
	if !p.Ready {
		return false
	}
	since := p.ReadySince.Add(r.Spec.MinReady)
	if r.Spec.MinReady == 0 || !since.After(r.Now) {
		return true
	}
	r.recheck(since)
	return false
}

func (r *rollout) recheck(at time.Time) {
	if r.out.Recheck.IsZero() || at.Before(r.out.Recheck) {
		r.out.Recheck = at
	}
}

// finished tells whether a pod has ended and is to be replaced. One that was made a moment ago keeps its place for a while, so
// that pods that can't live are not made by the hundred.
func (r *rollout) finished(p Pod) bool {
	if !p.Phase.Final() {
		return false
	}
	if due := p.CreateTime.Add(minLife); due.After(r.Now) {
		r.recheck(due)
		return false
	}
	return true
}

// take sorts out which pods count. Those that have ended count for nothing: they are deleted.
func (r *rollout) take() {
	for _, p := range r.Pods {
		switch {
		case p.Deleting():
		case !r.Deleting() && r.finished(p):
			r.delete(p)
		default:
			r.live = append(r.live, p)
		}
	}
}

func (r *rollout) delete(p Pod) {
	if !r.gone[p.Pod] {
		r.gone[p.Pod] = true
		r.out.Delete = append(r.out.Delete, p.Pod)
	}
}

// left counts the live pods that are not gone, those of a kind where which is not nil.
func (r *rollout) left(which func(Pod) bool) int {
	return count(r.live, func(p Pod) bool { return !r.gone[p.Pod] && (which == nil || which(p)) })
}

// parts returns the live pods of the present template and those of others, each with the most expendable first.
func (r *rollout) parts() (fresh, stale []Pod) {
	for _, p := range r.live {
		if r.fresh(p) {
			fresh = append(fresh, p)
		} else {
			stale = append(stale, p)
		}
	}
	slices.SortFunc(fresh, r.expendable)
	slices.SortFunc(stale, r.expendable)
	return fresh, stale
}

// surplus deletes the pods of the present template that are more than wanted, and returns the others.
func (r *rollout) surplus(fresh []Pod) []Pod {
	most := max(0, len(fresh)-r.want())
	for _, p := range fresh[:most] {
		r.delete(p)
	}
	return fresh[most:]
}

// roll replaces pods of old templates within the strategy's bounds.
func (r *rollout) roll() {
	fresh, stale := r.parts()
	fresh = r.surplus(fresh)
	// As in Kubernetes old pods go only as far as enough would stay if no new one came to be available: those that are not
	// available first, for they are missed least, and yet not all of them, for they may come back.
	least, most := r.want()-r.unavailable, r.want()+r.surge
	available := r.left(r.available)
	room := r.left(nil) - least - count(fresh, func(p Pod) bool { return !r.available(p) })
	for _, p := range stale {
		switch {
		case room <= 0:
		case !r.available(p):
			room--
			r.delete(p)
		case available > least:
			available--
			room--
			r.delete(p)
		}
	}
	// More than most is left only where the number was lowered half way, and then of those that are not available.
	r.shrink(most, slices.Concat(stale, fresh), func(p Pod) bool { return !r.available(p) })
	for range min(r.want()-r.left(r.fresh), most-r.left(nil)) {
		r.make(r.hash, &r.Spec.Template)
	}
}

// shrink deletes pods of a kind, those in front first, until no more than most are left.
func (r *rollout) shrink(most int, pods []Pod, which func(Pod) bool) {
	over := r.left(nil) - most
	for _, p := range pods {
		if over > 0 && !r.gone[p.Pod] && which(p) {
			over--
			r.delete(p)
		}
	}
}

// recreate makes the first new pod when the last old one has gone.
func (r *rollout) recreate() {
	fresh, stale := r.parts()
	for _, p := range stale {
		r.delete(p)
	}
	fresh = r.surplus(fresh)
	if slices.ContainsFunc(r.Pods, func(p Pod) bool { return !r.fresh(p) && !p.Phase.Final() }) {
		return
	}
	for range r.want() - len(fresh) {
		r.make(r.hash, &r.Spec.Template)
	}
}

// hold keeps the number of pods while paused, whatever template they are of. Missing ones are made from the newest template
// that had begun to roll.
func (r *rollout) hold() {
	fresh, stale := r.parts()
	all := slices.Concat(stale, fresh)
	shrink := func(most int) {
		r.shrink(most, all, func(p Pod) bool { return !r.available(p) })
		r.shrink(most, all, func(Pod) bool { return true })
	}
	shrink(r.want() + r.surge) // it may have been paused half way
	hashes := map[string]bool{}
	for _, p := range r.live {
		if !r.gone[p.Pod] {
			hashes[p.Labels[spec.LabelTemplateHash]] = true
		}
	}
	if len(hashes) == 1 {
		shrink(r.want())
	}
	if r.newest == nil {
		return
	}
	for range r.want() - r.left(nil) {
		r.make(r.newest.Hash, &r.newest.Template)
	}
}

// remember keeps the history: the present template has the highest number, and of those that no pod is of any more the
// newest few stay. While paused a new template is not known yet.
func (r *rollout) remember() {
	history := slices.Clone(r.History)
	slices.SortFunc(history, func(a, b *spec.DeploymentRevision) int {
		return cmp.Or(cmp.Compare(b.Revision, a.Revision), cmp.Compare(a.Hash, b.Hash))
	})
	if len(history) > 0 {
		r.newest = history[0]
	}
	at := slices.IndexFunc(history, func(h *spec.DeploymentRevision) bool { return h.Hash == r.hash })
	if at < 0 {
		// Another version of muster may have hashed the same template otherwise: its pods stay.
		at = slices.IndexFunc(history, func(h *spec.DeploymentRevision) bool { return spec.TemplateHash(&h.Template) == r.hash })
		if at >= 0 {
			r.hash = history[at].Hash
		}
	}
	cause := r.ChangeCause()
	switch {
	case r.Spec.Paused:
	case at < 0:
		template := spec.PodTemplate{
			Labels: maps.Clone(r.Spec.Template.Labels), Annotations: maps.Clone(r.Spec.Template.Annotations), Spec: r.Spec.Template.Spec.Clone(),
		}
		r.out.Record = &spec.DeploymentRevision{
			Deployment: r.UID, Revision: 1, Hash: r.hash, Template: template, CreateTime: r.Now, ChangeCause: cause,
		}
	case at > 0 || history[0].ChangeCause != cause:
		again := *history[at]
		again.ChangeCause = cause
		r.out.Record = &again
	}
	if rec := r.out.Record; rec != nil {
		if at != 0 && r.newest != nil {
			rec.Revision = r.newest.Revision + 1
		}
		r.newest = rec
	}
	used := map[string]bool{r.hash: true}
	if r.newest != nil {
		used[r.newest.Hash] = true
	}
	for _, p := range r.Pods {
		used[p.Labels[spec.LabelTemplateHash]] = true
	}
	kept := 0
	for _, h := range history {
		if used[h.Hash] {
			continue
		}
		if kept++; kept > r.Spec.HistoryLimit() {
			r.out.Forget = append(r.out.Forget, h)
		}
	}
}

func count(pods []Pod, which func(Pod) bool) int {
	n := 0
	for _, p := range pods {
		if which(p) {
			n++
		}
	}
	return n
}

// expendable orders pods by whom to miss least: those that are not available, then those without a node, those that are not
// ready, the newest.
func (r *rollout) expendable(a, b Pod) int {
	bit := func(v bool) int {
		if v {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(bit(r.available(a)), bit(r.available(b))), cmp.Compare(bit(a.Bound), bit(b.Bound)), cmp.Compare(bit(a.Ready), bit(b.Ready)),
		b.CreateTime.Compare(a.CreateTime), cmp.Compare(a.Name, b.Name),
	)
}

// make makes one pod from a template.
func (r *rollout) make(hash string, t *spec.PodTemplate) {
	labels := maps.Clone(t.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[spec.LabelTemplateHash] = hash
	p := &spec.Pod{
		Meta: spec.Meta{
			Namespace: r.Namespace, Name: podName(r.Name, hash, r.Suffix()),
			Labels: labels, Annotations: maps.Clone(t.Annotations),
			Owner: &spec.OwnerRef{Kind: "Deployment", Name: r.Name, UID: r.UID}, Generation: 1,
		},
		Spec: t.Spec.Clone(),
	}
	r.out.Create = append(r.out.Create, p)
}

// maxPodName keeps a pod's name within what a hostname may have.
const maxPodName = 63

func podName(deployment, hash, suffix string) string {
	tail := "-" + hash + "-" + suffix
	if room := maxPodName - len(tail); len(deployment) > room {
		deployment = strings.TrimRight(deployment[:room], "-.")
	}
	return deployment + tail
}
