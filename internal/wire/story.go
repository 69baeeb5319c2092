package wire

import (
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/story"
)

var storyKinds = newEnum("story kind", map[story.Kind]musterv1.StoryKind{
	story.Healthy: musterv1.StoryKind_STORY_KIND_HEALTHY, story.Pending: musterv1.StoryKind_STORY_KIND_PENDING,
	story.Starting: musterv1.StoryKind_STORY_KIND_STARTING, story.Liveness: musterv1.StoryKind_STORY_KIND_LIVENESS,
	story.Startup: musterv1.StoryKind_STORY_KIND_STARTUP, story.OOMKilled: musterv1.StoryKind_STORY_KIND_OOM_KILLED,
	story.Crashed: musterv1.StoryKind_STORY_KIND_CRASHED, story.Hook: musterv1.StoryKind_STORY_KIND_HOOK,
	story.Stopped: musterv1.StoryKind_STORY_KIND_STOPPED, story.Moved: musterv1.StoryKind_STORY_KIND_MOVED,
	story.Unready: musterv1.StoryKind_STORY_KIND_UNREADY, story.Node: musterv1.StoryKind_STORY_KIND_NODE,
	story.Deleting: musterv1.StoryKind_STORY_KIND_DELETING, story.Finished: musterv1.StoryKind_STORY_KIND_FINISHED,
})

var storySteps = newEnum("story step kind", map[story.StepKind]musterv1.StoryStepKind{
	story.Started: musterv1.StoryStepKind_STORY_STEP_KIND_STARTED, story.Attempt: musterv1.StoryStepKind_STORY_STEP_KIND_ATTEMPT,
	story.Kill: musterv1.StoryStepKind_STORY_STEP_KIND_KILL, story.Ended: musterv1.StoryStepKind_STORY_STEP_KIND_ENDED,
	story.Output: musterv1.StoryStepKind_STORY_STEP_KIND_OUTPUT, story.Backoff: musterv1.StoryStepKind_STORY_STEP_KIND_BACKOFF,
	story.Phase: musterv1.StoryStepKind_STORY_STEP_KIND_PHASE, story.Standing: musterv1.StoryStepKind_STORY_STEP_KIND_STANDING,
	story.Asked: musterv1.StoryStepKind_STORY_STEP_KIND_ASKED,
})

// StoryToProto converts a story.
func StoryToProto(s *story.Story) *musterv1.PodStory {
	pb := &musterv1.PodStory{
		Pod:  &musterv1.ObjectReference{Kind: "Pod", Namespace: s.Pod.Namespace, Name: s.Pod.Name, Uid: s.UID},
		Node: s.Node, Kind: storyKinds.to[s.Kind], Summary: s.Summary, Notes: s.Notes, FromAgent: s.FromAgent, Time: stamp(s.Time), Since: stamp(s.Since),
	}
	for i := range s.Steps {
		step := &s.Steps[i]
		one := &musterv1.StoryStep{Time: stamp(step.Time), Kind: storySteps.to[step.Kind], Container: step.Container, Text: step.Text, Phase: step.Phase}
		if step.Attempt != nil {
			one.Attempt = ProbeAttemptToProto(step.Attempt.ID, &step.Attempt.Attempt)
		}
		if step.Terminated != nil {
			one.Terminated = terminatedToProto(step.Terminated)
		}
		if step.Duration > 0 || step.Kind == story.Phase {
			one.Duration = durationpb.New(step.Duration)
		}
		pb.Steps = append(pb.Steps, one)
	}
	return pb
}
