package wire

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
)

// MaxGuarded bounds the pods in one message about restart guards.
const MaxGuarded = 5000

// RestartGuardsToProto makes the message.
func RestartGuardsToProto(all []spec.PodGuard) *agentv1.RestartGuards {
	pb := &agentv1.RestartGuards{}
	for i := range all {
		g := &all[i]
		pb.Pods = append(pb.Pods, &agentv1.RestartGuard{
			Uid: g.UID, Epoch: g.Epoch, Allowed: g.Allowed, Version: g.Version, Holding: g.Holding, ReleaseAfter: durationpb.New(g.ReleaseAfter),
		})
	}
	return pb
}

// RestartGuardsFromProto reads the message; it fails when it is too long, or a time is out of bounds.
func RestartGuardsFromProto(pb *agentv1.RestartGuards) ([]spec.PodGuard, error) {
	if n := len(pb.GetPods()); n > MaxGuarded {
		return nil, fmt.Errorf("pods: %d, at most %d", n, MaxGuarded)
	}
	all := make([]spec.PodGuard, 0, len(pb.GetPods()))
	for _, g := range pb.GetPods() {
		after := spec.DefaultRestartGuard().ReleaseAfter
		if g.GetReleaseAfter() != nil {
			after = g.GetReleaseAfter().AsDuration()
		}
		if after < time.Second || after > 24*time.Hour {
			return nil, fmt.Errorf("release_after: %v, must be 1s to 24h", after)
		}
		all = append(all, spec.PodGuard{
			UID: g.GetUid(), Epoch: g.GetEpoch(), Allowed: g.GetAllowed(), Version: g.GetVersion(), Holding: g.GetHolding(), ReleaseAfter: after,
		})
	}
	return all, nil
}

// RestartsToProto makes the message.
func RestartsToProto(words []spec.RestartWord) *agentv1.RestartBatch {
	pb := &agentv1.RestartBatch{}
	for i := range words {
		w := &words[i]
		word := &agentv1.RestartWord{Uid: w.UID, Epoch: w.Epoch, Version: w.Version, Allowed: w.Allowed, Held: w.Held, Live: w.Live}
		if w.Restarted {
			word.RestartedAgo = durationpb.New(w.Ago)
		}
		pb.Words = append(pb.Words, word)
	}
	return pb
}

// RestartsFromProto reads the message; it fails when it is too long, or a time is negative.
func RestartsFromProto(pb *agentv1.RestartBatch) ([]spec.RestartWord, error) {
	if n := len(pb.GetWords()); n > MaxGuarded {
		return nil, fmt.Errorf("words: %d, at most %d", n, MaxGuarded)
	}
	words := make([]spec.RestartWord, 0, len(pb.GetWords()))
	for _, w := range pb.GetWords() {
		word := spec.RestartWord{UID: w.GetUid(), Epoch: w.GetEpoch(), Version: w.GetVersion(), Allowed: w.GetAllowed(), Held: w.GetHeld(), Live: w.GetLive()}
		if w.GetRestartedAgo() != nil {
			if word.Restarted, word.Ago = true, w.GetRestartedAgo().AsDuration(); word.Ago < 0 {
				return nil, fmt.Errorf("restarted_ago: %v, must not be negative", word.Ago)
			}
		}
		words = append(words, word)
	}
	return words, nil
}
