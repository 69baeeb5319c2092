package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func whyCommand(o *options) *cobra.Command {
	container := ""
	cmd := &cobra.Command{
		Use: "why POD", Short: "Tell what led to a pod's last restart, unreadiness or move", Args: cobra.ExactArgs(1),
		Example: "  muster why web\n  muster why web -c main -o json",
		Long: "Tell what led to a pod's last restart, unreadiness or move, step by step: what its probes answered, what was done about\n" +
			"that, how its containers ended and what comes next; of a pending pod, why it fits nowhere. The agent of its node is\n" +
			"asked; where it can't be, the story is told from what the coordinator last had, and says so.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := podName(args[0])
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.pods.GetPodStory(ctx, &musterv1.GetPodStoryRequest{Namespace: o.namespace, Name: name, Container: container})
				if err != nil {
					return doomed{podKind, o.namespace, name}.named(err)
				}
				return printStory(o.world.Stdout, o.output, r.GetStory())
			})
		},
	}
	cmd.Flags().StringVarP(&container, "container", "c", "", "only what is about this container")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.outputFlag(cmd, "table", "json", "yaml")
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

func printStory(out io.Writer, format string, s *musterv1.PodStory) error {
	if format == "json" || format == "yaml" {
		return (&printer{out: out, format: format}).value(storyValue(s))
	}
	where := ""
	if s.GetNode() != "" {
		where = " on " + s.GetNode()
	}
	when := ""
	if s.GetSince() != nil {
		when = fmt.Sprintf(" (%s, %s ago)", storyTime(s.GetSince(), s), ageText(s.GetTime().AsTime().Sub(s.GetSince().AsTime())))
	}
	fmt.Fprintf(out, "pod %s/%s%s: %s%s\n", s.GetPod().GetNamespace(), s.GetPod().GetName(), where, oneLine(s.GetSummary()), when)
	if len(s.GetSteps()) > 0 {
		fmt.Fprintln(out)
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	for _, step := range s.GetSteps() {
		at, ago := "", ""
		if step.GetTime() != nil {
			at, ago = storyTime(step.GetTime(), s), agoText(s.GetTime().AsTime().Sub(step.GetTime().AsTime()))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", at, ago, cmp.Or(step.GetContainer(), "-"), oneLine(step.GetText()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.GetNotes()) > 0 {
		_, err := fmt.Fprintf(out, "\nnote: %s\n", strings.Join(s.GetNotes(), "\nnote: "))
		return err
	}
	return nil
}

// storyTime is a time of day, with its day where that is not the story's.
func storyTime(t *timestamppb.Timestamp, s *musterv1.PodStory) string {
	at, told := t.AsTime().Local(), s.GetTime().AsTime().Local()
	if at.Format(time.DateOnly) == told.Format(time.DateOnly) {
		return at.Format("15:04:05.000")
	}
	return at.Format("2006-01-02 15:04:05.000")
}

func agoText(d time.Duration) string {
	if d < 0 {
		return "in " + ageText(-d+time.Second-1)
	}
	return ageText(d) + " ago"
}

// storyValue is a story as JSON shows it; an absent figure or time is null.
func storyValue(s *musterv1.PodStory) any {
	steps := []fields{}
	for _, step := range s.GetSteps() {
		f := fields{"time": nullTime(step.GetTime()), "kind": enumWord(step.GetKind().String(), "STORY_STEP_KIND_"), "text": step.GetText()}.
			put("container", step.GetContainer()).put("phase", step.GetPhase())
		if step.GetAttempt() != nil {
			f.set("attempt", attemptValue(step.GetAttempt()))
		}
		if t := step.GetTerminated(); t != nil {
			state := &musterv1.ContainerState{State: &musterv1.ContainerState_Terminated{Terminated: t}}
			f.set("terminated", stateFields(state, false)["terminated"])
		}
		if step.GetDuration() != nil {
			f.set("duration_ms", step.GetDuration().AsDuration().Milliseconds())
		}
		steps = append(steps, f)
	}
	return fields{
		"pod":  podRefJSON{s.GetPod().GetNamespace(), s.GetPod().GetName(), s.GetPod().GetUid()},
		"node": s.GetNode(), "kind": enumWord(s.GetKind().String(), "STORY_KIND_"), "summary": s.GetSummary(), "since": nullTime(s.GetSince()),
		"time": nullTime(s.GetTime()), "from_agent": s.GetFromAgent(), "steps": steps, "notes": append([]string{}, s.GetNotes()...),
	}
}

func nullTime(t *timestamppb.Timestamp) any {
	if t == nil {
		return nil
	}
	return timeText(t)
}
