package wire

import (
	"bytes"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/spec/spectest"
)

// records draw a record of each family.
var records = map[string]func(*rapid.T) any{
	"pods":       func(t *rapid.T) any { return spectest.Draw[spec.Pod](t) },
	"bindings":   func(t *rapid.T) any { return spectest.Draw[spec.Binding](t) },
	"stops":      func(t *rapid.T) any { return spectest.Draw[spec.Stop](t) },
	"podstatus":  func(t *rapid.T) any { return spectest.Draw[spec.HeldStatus](t) },
	"nodes":      func(t *rapid.T) any { return spectest.Draw[spec.Node](t) },
	"nodefacts":  func(t *rapid.T) any { return spectest.Draw[spec.NodeFacts](t) },
	"nodestatus": func(t *rapid.T) any { return spectest.Draw[spec.NodeStatus](t) },
	"nodelease":  func(t *rapid.T) any { return spectest.Draw[spec.NodeLease](t) },
	"nodenetwork": func(t *rapid.T) any {
		ip := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip")))
		return &spec.NodeNetwork{PodCIDR: netip.PrefixFrom(ip, rapid.IntRange(0, 32).Draw(t, "bits"))}
	},
	"services":   func(t *rapid.T) any { return spectest.Draw[spec.Service](t) },
	"configmaps": func(t *rapid.T) any { return spectest.Draw[spec.ConfigMap](t) },
	"secrets": func(t *rapid.T) any {
		s := spectest.Draw[spec.Secret](t)
		s.Unreadable = ""
		return s
	},
	"deployments":     func(t *rapid.T) any { return spectest.Draw[spec.Deployment](t) },
	"deploystate":     func(t *rapid.T) any { return spectest.Draw[spec.DeploymentStatus](t) },
	"deployrevisions": func(t *rapid.T) any { return spectest.Draw[spec.DeploymentRevision](t) },
	"budgets":         func(t *rapid.T) any { return spectest.Draw[spec.PodDisruptionBudget](t) },
	"budgetstate":     func(t *rapid.T) any { return spectest.Draw[spec.BudgetState](t) },
	"events":          func(t *rapid.T) any { return spectest.Draw[spec.Event](t) },
	"failovers":       func(t *rapid.T) any { return spectest.Draw[spec.Failover](t) },
	"leader":          func(t *rapid.T) any { return spectest.Draw[spec.Leadership](t) },
	"config":          func(t *rapid.T) any { return spectest.Draw[spec.Blob](t) },
}

func TestEveryRecordComesBackAsItWas(t *testing.T) {
	for family, draw := range records {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				want := draw(t)
				codec := Codec{Secrets: clear{}}
				data, err := codec.Encode(want)
				if err != nil {
					t.Fatal(err)
				}
				got, err := codec.Decode(family, data)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
					t.Fatal(diff)
				}
				again, err := codec.Encode(got)
				if err != nil || !bytes.Equal(data, again) || !Equal(want, got) {
					t.Fatalf("equal records have other bytes: %v", err)
				}
			})
		})
	}
}

// clear encrypts nothing.
type clear struct{}

func (clear) Seal(path string, plain []byte) ([]byte, string, error) {
	return append([]byte(path+"\x00"), plain...), "key", nil
}

func (clear) Open(path, _ string, sealed []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(sealed, []byte(path+"\x00"))
	if !ok {
		return nil, errors.New("sealed for another path")
	}
	return plain, nil
}

func TestASecretThatCannotBeDecryptedIsThereWithoutItsData(t *testing.T) {
	secret := &spec.Secret{Meta: spec.Meta{Namespace: "default", Name: "db"}, Type: "Opaque", Data: map[string][]byte{"password": []byte("hunter2")}}
	sealed, err := Codec{Secrets: clear{}}.Encode(secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Codec{}.Decode("secrets", sealed)
	if err != nil {
		t.Fatal(err)
	}
	if s := got.(*spec.Secret); s.Name != "db" || s.Type != "Opaque" || s.Data != nil || s.Unreadable == "" {
		t.Errorf("decoded without a key as %+v", s)
	}
	if _, err := (Codec{}).Encode(secret); err == nil {
		t.Error("a secret is encoded in the clear")
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	if _, err := (Codec{}).Encode(3); err == nil || err.Error() != "a int is no record" {
		t.Errorf("Encode(3): %v", err)
	}
	if _, err := (Codec{}).Encode(spec.Pod{}); err == nil {
		t.Error("a pod that is no pointer is encoded")
	}
	if _, err := (Codec{}).Decode("toasters", nil); err == nil || err.Error() != `unknown family "toasters"` {
		t.Errorf("Decode toasters: %v", err)
	}
	for family := range records {
		if _, err := (Codec{}).Decode(family, []byte{0xff}); err == nil {
			t.Errorf("%s: half a message is decoded", family)
		}
	}
	if Equal(3, 3) {
		t.Error("what is no record is equal")
	}
}

func TestABadValueIsRefusedByItsField(t *testing.T) {
	pod := func(change func(*musterv1.Pod)) error {
		pb := PodToProto(&spec.Pod{Spec: spec.PodSpec{Containers: []spec.Container{{Liveness: &spec.Probe{}}}}})
		change(pb)
		_, err := PodFromProto(pb)
		return err
	}
	liveness := func(pb *musterv1.Pod) *musterv1.Probe { return pb.GetSpec().GetContainers()[0].GetLiveness() }
	tooLong := &durationpb.Duration{Seconds: math.MaxInt64 / int64(time.Second)}
	for _, c := range []struct {
		want string
		err  error
	}{
		{"spec.restart_policy: restart_policy: unknown value 9", pod(func(pb *musterv1.Pod) { pb.Spec.RestartPolicy = 9 })},
		{"spec.containers[0].restart_policy: ", pod(func(pb *musterv1.Pod) { pb.Spec.Containers[0].RestartPolicy = -1 })},
		{"spec.containers[0].liveness.period: ", pod(func(pb *musterv1.Pod) { liveness(pb).Period = &durationpb.Duration{Seconds: 1, Nanos: -1} })},
		{"spec.containers[0].liveness.timeout: 9223372036 s is out of range", pod(func(pb *musterv1.Pod) { liveness(pb).Timeout = tooLong })},
		{"spec.containers[0].liveness.termination_grace: ", pod(func(pb *musterv1.Pod) { liveness(pb).TerminationGrace = tooLong })},
		{"spec.termination_grace: ", pod(func(pb *musterv1.Pod) { pb.Spec.TerminationGrace = &durationpb.Duration{Seconds: -tooLong.Seconds} })},
		{"meta.create_time: ", pod(func(pb *musterv1.Pod) { pb.Meta.CreateTime = &timestamppb.Timestamp{Nanos: -1} })},
		{"status.phase: ", func() error { _, err := PodStatusFromProto(&musterv1.PodStatus{Phase: 77}); return err }()},
		{"spec.selector.match_expressions[0].operator: ", func() error {
			_, err := DeploymentFromProto(&musterv1.Deployment{Spec: &musterv1.DeploymentSpec{
				Selector: &musterv1.LabelSelector{MatchExpressions: []*musterv1.LabelExpression{{Key: "a"}}},
			}})
			return err
		}()},
		{"class: ", func() error { _, err := FailoverFromProto(&musterv1.Failover{}); return err }()},
		{"probe kind: unknown value 0", func() error { _, err := ProbeKindFromProto(0); return err }()},
		{"result: unknown value 0", func() error { _, err := ProbeResultFromProto(0); return err }()},
		{"failover class: unknown value 0", func() error { _, err := FailoverClassFromProto(0); return err }()},
	} {
		if c.err == nil || !strings.HasPrefix(c.err.Error(), c.want) {
			t.Errorf("%v, want %s…", c.err, c.want)
		}
	}
}

func TestAnEmptyMessageIsNoPanic(t *testing.T) {
	p, err := PodFromProto(nil)
	if err != nil || p.Spec.TerminationGrace != spec.UnsetGrace {
		t.Errorf("%+v, %v: what is left out has to stay unset", p, err)
	}
	if d, err := DeploymentFromProto(nil); err != nil || d.Spec.Replicas != 1 {
		t.Errorf("%+v, %v: replicas left out are 1", d, err)
	}
	zero := int32(0)
	if d, err := DeploymentFromProto(&musterv1.Deployment{Spec: &musterv1.DeploymentSpec{Replicas: &zero}}); err != nil || d.Spec.Replicas != 0 {
		t.Errorf("%+v, %v: 0 replicas are 0", d, err)
	}
}

// TestEveryEnumValueHasAPlainOne holds the tables to the proto: a value that is added there has to be added here.
func TestEveryEnumValueHasAPlainOne(t *testing.T) {
	for _, c := range []struct {
		d     protoreflect.EnumDescriptor
		known func(int32) bool
	}{
		{musterv1.FailoverClass(0).Descriptor(), func(n int32) bool { _, ok := failoverClasses.from[musterv1.FailoverClass(n)]; return ok }},
		{musterv1.RestartPolicy(0).Descriptor(), func(n int32) bool { _, ok := restartPolicies.from[musterv1.RestartPolicy(n)]; return ok }},
		{musterv1.PodPhase(0).Descriptor(), func(n int32) bool { _, ok := phases.from[musterv1.PodPhase(n)]; return ok }},
		{musterv1.ProbeKind(0).Descriptor(), func(n int32) bool { _, ok := probeKinds.from[musterv1.ProbeKind(n)]; return ok }},
		{musterv1.ProbeOutcome(0).Descriptor(), func(n int32) bool { _, ok := outcomes.from[musterv1.ProbeOutcome(n)]; return ok }},
		{musterv1.ProbeResult(0).Descriptor(), func(n int32) bool { _, ok := results.from[musterv1.ProbeResult(n)]; return ok }},
		{musterv1.NodeVerdict(0).Descriptor(), func(n int32) bool { _, ok := verdicts.from[musterv1.NodeVerdict(n)]; return ok }},
		{musterv1.LeaseState(0).Descriptor(), func(n int32) bool { _, ok := leaseStates.from[musterv1.LeaseState(n)]; return ok }},
		{musterv1.LabelExpression_Operator(0).Descriptor(), func(n int32) bool { _, ok := operators.from[musterv1.LabelExpression_Operator(n)]; return ok }},
	} {
		for i := range c.d.Values().Len() {
			if n := c.d.Values().Get(i).Number(); n != 0 && !c.known(int32(n)) {
				t.Errorf("%s %d has no plain value", c.d.FullName(), n)
			}
		}
	}
}

// attempt is what a column can hold: microseconds, no instance, no output.
func attempt(t *rapid.T, base time.Time) spec.Attempt {
	us := func(name string, most int64) time.Duration {
		return time.Duration(rapid.Int64Range(0, most).Draw(t, name)) * time.Microsecond
	}
	measured := func(name string) time.Duration {
		if rapid.Bool().Draw(t, name+" not measured") {
			return -1
		}
		return us(name, math.MaxUint32-2)
	}
	d := spectest.Draw[spec.Attempt](t)
	return spec.Attempt{
		Start: base.Add(us("start", 1e12)), Outcome: d.Outcome, Result: d.Result, Duration: us("duration", math.MaxUint32-1),
		CPU: measured("cpu"), Lag: measured("lag"),
	}
}

func TestABatchOfResultsComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := time.Unix(1_700_000_000, 123_456_000).UTC()
		want := &Results{Dropped: rapid.Uint64().Draw(t, "dropped"), Results: []HandleAttempt{}}
		for range rapid.IntRange(0, 20).Draw(t, "results") {
			want.Results = append(want.Results, HandleAttempt{Handle: rapid.Uint32().Draw(t, "handle"), Attempt: attempt(t, base)})
		}
		for range rapid.IntRange(0, 5).Draw(t, "changes") {
			s := spectest.Draw[spec.ProbeState](t)
			// The handle stands for these.
			s.ID, s.Pod, s.Handler, s.Period = spec.ProbeID{}, spec.ObjectName{}, "", 0
			want.Changes = append(want.Changes, HandleState{Handle: rapid.Uint32().Draw(t, "handle"), State: *s})
		}
		data, err := proto.Marshal(ResultsToProto(want))
		if err != nil {
			t.Fatal(err)
		}
		var pb agentv1.ResultBatch
		if err := proto.Unmarshal(data, &pb); err != nil {
			t.Fatal(err)
		}
		got, err := ResultsFromProto(&pb)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &Results{Results: received(got), Changes: got.Changes, Dropped: got.Dropped}); diff != "" {
			t.Fatal(diff)
		}
	})
}

func received(r *ReceivedResults) []HandleAttempt {
	all := []HandleAttempt{}
	for h, a := range r.Attempts() {
		all = append(all, HandleAttempt{Handle: h, Attempt: *a})
	}
	return all
}

func TestABatchOutOfBoundsIsRefused(t *testing.T) {
	batch := func(n int) *agentv1.ResultBatch {
		r := &Results{Results: make([]HandleAttempt, n)}
		for i := range r.Results {
			r.Results[i].Attempt = spec.Attempt{Start: time.Unix(1, 0), Outcome: spec.OutcomeSuccess, Result: spec.ResultSuccess}
		}
		return ResultsToProto(r)
	}
	if _, err := ResultsFromProto(batch(MaxResults)); err != nil {
		t.Errorf("%d results: %v", MaxResults, err)
	}
	for want, spoil := range map[string]func(*agentv1.ResultBatch){
		"outcome: 1 entries, handle has 2":     func(b *agentv1.ResultBatch) { b.Outcome = b.Outcome[:1] },
		"start_us: 3 entries, handle has 2":    func(b *agentv1.ResultBatch) { b.StartUs = append(b.StartUs, 1) },
		"duration_us: 0 entries, handle has 2": func(b *agentv1.ResultBatch) { b.DurationUs = nil },
		"cpu_us: 1 entries, handle has 2":      func(b *agentv1.ResultBatch) { b.CpuUs = b.CpuUs[:1] },
		"lag_us: 1 entries, handle has 2":      func(b *agentv1.ResultBatch) { b.LagUs = b.LagUs[:1] },
		"outcome: outcome: unknown value 15":   func(b *agentv1.ResultBatch) { b.Outcome[1] = 0x2f },
		"outcome: result: unknown value 9":     func(b *agentv1.ResultBatch) { b.Outcome[1] = 0x91 },
		"base: ":                               func(b *agentv1.ResultBatch) { b.Base = &timestamppb.Timestamp{Nanos: -1} },
		"changes[0].verdict: ":                 func(b *agentv1.ResultBatch) { b.Changes = []*agentv1.ProbeChange{{}} },
		"2 results and 20001 changes, at most 20000 each": func(b *agentv1.ResultBatch) {
			b.Changes = make([]*agentv1.ProbeChange, MaxResults+1)
		},
	} {
		b := batch(2)
		spoil(b)
		if _, err := ResultsFromProto(b); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s…", err, want)
		}
	}
	b := batch(MaxResults + 1)
	if _, err := ResultsFromProto(b); err == nil || !strings.Contains(err.Error(), "20001 results") {
		t.Errorf("%d results: %v", MaxResults+1, err)
	}
}

// FuzzDecode holds that no bytes make a decoder panic, and that what it takes is kept.
func FuzzDecode(f *testing.F) {
	families := make([]string, 0, len(records))
	for family := range records {
		families = append(families, family)
	}
	f.Add([]byte{})
	f.Add([]byte("\x0a\x04\x0a\x02ns"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, family := range families {
			codec := Codec{Secrets: clear{}}
			v, err := codec.Decode(family, data)
			if s, ok := v.(*spec.Secret); err != nil || ok && s.Unreadable != "" {
				continue
			}
			kept, err := codec.Encode(v)
			if err != nil {
				t.Fatalf("%s: %v", family, err)
			}
			if again, err := codec.Decode(family, kept); err != nil || !Equal(v, again) {
				t.Fatalf("%s: decoded again it differs: %v", family, err)
			}
		}
		var b agentv1.ResultBatch
		if proto.Unmarshal(data, &b) == nil {
			_, _ = ResultsFromProto(&b)
		}
	})
}
