package leader

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

func TestTheTaintThatIsOverFirstSaysHowLongAPodMayStay(t *testing.T) {
	a, b := spec.Taint{Key: "a", Effect: spec.NoExecute}, spec.Taint{Key: "b", Effect: spec.NoExecute}
	all := func(key string, seconds ...int64) spec.Toleration {
		out := spec.Toleration{Key: key, Operator: spec.TolerationExists}
		for _, s := range seconds {
			out.Seconds = &s
		}
		return out
	}
	for name, tc := range map[string]struct {
		tolerations []spec.Toleration
		taints      []spec.Taint
		taint       spec.Taint
		left        time.Duration
		forEver     bool
	}{
		"no taint":                       {forEver: true},
		"another effect":                 {taints: []spec.Taint{{Key: "a", Effect: spec.NoSchedule}}, forEver: true},
		"not tolerated":                  {taints: []spec.Taint{a}, taint: a},
		"tolerated":                      {tolerations: []spec.Toleration{all("a")}, taints: []spec.Taint{a}, forEver: true},
		"for a while":                    {tolerations: []spec.Toleration{all("a", 30)}, taints: []spec.Taint{a}, taint: a, left: 30 * time.Second},
		"less than nothing":              {tolerations: []spec.Toleration{all("a", -5)}, taints: []spec.Taint{a}, taint: a},
		"as good as for ever":            {tolerations: []spec.Toleration{all("a", 1<<62)}, taints: []spec.Taint{a}, taint: a, left: longest},
		"one for ever, one for a while":  {tolerations: []spec.Toleration{all("a"), all("b", 9)}, taints: []spec.Taint{a, b}, taint: b, left: 9 * time.Second},
		"one for a while, one not":       {tolerations: []spec.Toleration{all("a", 30)}, taints: []spec.Taint{a, b}, taint: b},
		"the first toleration that fits": {tolerations: []spec.Toleration{all("", 4), all("a")}, taints: []spec.Taint{a}, taint: a, left: 4 * time.Second},
	} {
		taint, left, forEver := tolerance(tc.tolerations, tc.taints)
		if forEver != tc.forEver || !forEver && (taint != tc.taint || left != tc.left) {
			t.Errorf("%s: %v for %v, for ever %v", name, taint, left, forEver)
		}
	}
}

// taint gives a node taints; none takes them away.
func (w *world) taint(node string, taints ...spec.Taint) {
	w.put(store.Key{Family: store.Nodes, Name: node}, &spec.Node{Meta: spec.Meta{Name: node}, Taints: taints})
	time.Sleep(time.Second)
}

func (w *world) tolerant(name string, tolerations ...spec.Toleration) {
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: name, UID: name}}
	p.Spec.Containers, p.Spec.Tolerations = []spec.Container{{Name: "c", Command: []string{"x"}}}, tolerations
	w.put(store.PodKey(p.Key()), p)
	time.Sleep(time.Second)
}

func TestATaintKeepsPodsOffUntilItIsGone(t *testing.T) {
	lead(t, 1, func(w *world) {
		gpu := spec.Taint{Key: "gpu", Value: "yes", Effect: spec.NoSchedule}
		w.taint("n0", gpu)
		w.tolerant("web")
		w.tolerant("trainer", spec.Toleration{Key: "gpu", Operator: spec.TolerationExists})
		if w.look("web").Node() != "" || w.look("trainer").Node() != "n0" {
			t.Fatalf("web on %q, trainer on %q; want nowhere and n0", w.look("web").Node(), w.look("trainer").Node())
		}
		if want := "FailedScheduling: 0/1 nodes fit: 1 untolerated taint {gpu=yes:NoSchedule}"; !slices.Contains(w.told(), want) {
			t.Errorf("told %q, want %q among it", w.told(), want)
		}
		w.taint("n0")
		if got := w.look("web").Node(); got != "n0" {
			t.Errorf("web on %q once the taint is gone", got)
		}
		w.taint("n0", gpu)
		time.Sleep(10 * time.Second)
		if p := w.look("web"); p.Node() != "n0" || p.Stop != nil {
			t.Errorf("web on %q, stop %v; want it left alone by NoSchedule", p.Node(), p.Stop)
		}
	})
}

func TestANoExecuteTaintMakesPodsLeaveWhenTheyNoLongerTolerateIt(t *testing.T) {
	lead(t, 2, func(w *world) {
		exists := spec.Toleration{Key: "gone", Operator: spec.TolerationExists}
		while := exists
		while.Effect, while.Seconds = spec.NoExecute, new(int64(20))
		// n1 is closed at first, so that all are on n0.
		w.taint("n1", spec.Taint{Key: "closed", Effect: spec.NoSchedule})
		w.tolerant("web")
		w.tolerant("waits", while)
		w.tolerant("stays", exists)
		w.taint("n1")
		w.taint("n0", spec.Taint{Key: "gone", Effect: spec.NoExecute})
		if p := w.look("web"); p.Stop == nil || p.Stop.Reason != "taint" {
			t.Fatalf("web: stop %v, want its holder asked at once", p.Stop)
		}
		for _, name := range []string{"waits", "stays"} {
			if p := w.look(name); p.Stop != nil {
				t.Fatalf("%s: stop %v, want none yet", name, p.Stop)
			}
		}
		w.say("web", true)
		time.Sleep(time.Second)
		if got := w.look("web").Node(); got != "n1" {
			t.Errorf("web went to %q, want n1", got)
		}
		time.Sleep(15 * time.Second)
		if p := w.look("waits"); p.Stop != nil {
			t.Errorf("waits: asked to stop after 17 s, want 20")
		}
		time.Sleep(5 * time.Second)
		if p := w.look("waits"); p.Stop == nil {
			t.Error("waits: not asked to stop after 22 s")
		}
		w.say("waits", true)
		time.Sleep(time.Second)
		if got := w.look("waits").Node(); got != "n1" {
			t.Errorf("waits went to %q, though it would be sent away again", got)
		}
		time.Sleep(time.Minute)
		if p := w.look("stays"); p.Stop != nil || p.Node() != "n0" {
			t.Errorf("stays: on %q, stop %v", p.Node(), p.Stop)
		}
		if !slices.ContainsFunc(w.told(), func(s string) bool {
			return strings.HasPrefix(s, "TaintEviction: Leaves n0 for its taint {gone:NoExecute}")
		}) {
			t.Errorf("told %q", w.told())
		}
	})
}

func TestAPodComesBackAsSoonAsTheTaintThatSentItAwayIsGone(t *testing.T) {
	lead(t, 1, func(w *world) {
		w.tolerant("web")
		w.taint("n0", spec.Taint{Key: "gone", Effect: spec.NoExecute})
		w.say("web", true)
		time.Sleep(time.Second)
		if got := w.look("web").Node(); got != "" {
			t.Fatalf("on %q", got)
		}
		w.taint("n0")
		if got := w.look("web").Node(); got != "n0" {
			t.Errorf("on %q; told %q", got, w.told())
		}
	})
}

func TestATaintThatGoesInTimeSendsNobodyAway(t *testing.T) {
	lead(t, 1, func(w *world) {
		w.tolerant("waits", spec.Toleration{Operator: spec.TolerationExists, Effect: spec.NoExecute, Seconds: new(int64(10))})
		gone := spec.Taint{Key: "gone", Effect: spec.NoExecute}
		w.taint("n0", gone)
		time.Sleep(7 * time.Second)
		w.taint("n0")
		w.taint("n0", gone)
		time.Sleep(7 * time.Second)
		if p := w.look("waits"); p.Stop != nil {
			t.Error("asked to stop, though its time has begun anew")
		}
	})
}

func TestAPodThatComesOffALostNodeDoesNotKeepItselfAway(t *testing.T) {
	lead(t, 2, func(w *world) {
		labels := map[string]string{"app": "web"}
		for _, n := range []string{"n0", "n1"} {
			w.put(store.Key{Family: store.Nodes, Name: n}, &spec.Node{Meta: spec.Meta{Name: n, Labels: map[string]string{"zone": "a"}}})
		}
		p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "web", Labels: labels, Annotations: map[string]string{spec.AnnotationFailover: "fast"}}}
		p.Spec.Containers = []spec.Container{{Name: "c", Command: []string{"x"}}}
		p.Spec.Affinity.PodAnti.Required = []spec.PodTerm{{TopologyKey: "zone", Selector: &spec.Selector{Labels: labels}}}
		w.put(store.PodKey(p.Key()), p)
		time.Sleep(time.Second)
		from := w.look("web").Node()
		w.kill(from)
		time.Sleep(20 * time.Second)
		if to := w.look("web").Node(); to == from || to == "" {
			t.Errorf("on %q, came from %q; told %q", to, from, w.told())
		}
		if why := w.leader.Explain(p); why != "" {
			t.Errorf("applied again: %s", why)
		}
	})
}
