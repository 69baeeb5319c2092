package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func rolloutCommand(o *options) *cobra.Command {
	verb := func(use, short string, run func(cmd *cobra.Command, name string) error) *cobra.Command {
		cmd := &cobra.Command{
			Use: use + " deployment/NAME", Short: short, Args: needsType,
			Example: "  muster rollout " + use + " deployment/site",
			RunE: func(cmd *cobra.Command, args []string) error {
				names, err := deploymentNames("rollout "+use, args)
				if err != nil {
					return err
				}
				for _, name := range names {
					if err := run(cmd, name); err != nil {
						return err
					}
				}
				return nil
			},
		}
		o.connectFlags(cmd)
		o.namespaceFlag(cmd)
		cmd.ValidArgsFunction = completeObjects(o)
		return cmd
	}
	// simple is a verb that changes one thing of a Deployment.
	simple := func(use, short, done string, change func(*musterv1.Deployment) error) *cobra.Command {
		return verb(use, short, func(cmd *cobra.Command, name string) error {
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				changed, err := changeDeployment(ctx, o, c, name, change)
				if err != nil {
					return err
				}
				if !changed {
					return fmt.Errorf("deployment/%s was changed so within this second already: wait before trying again", name)
				}
				fmt.Fprintf(o.world.Stdout, "deployment/%s %s\n", name, done)
				return nil
			})
		})
	}
	watch, pinned, shown, to := true, int64(0), int64(0), int64(0)
	status := verb("status", "Follow a rollout to its end; exit 1 when its deadline is exceeded", func(cmd *cobra.Command, name string) error {
		return rolloutStatus(cmd.Context(), o, name, watch, pinned)
	})
	status.Flags().BoolVarP(&watch, "watch", "w", true, "follow it to its end; false: say how it stands")
	status.Flags().Int64Var(&pinned, "revision", 0, "fail when another revision than this one rolls; 0: follow whichever is newest")
	history := verb("history", "List the revisions of a Deployment's template", func(cmd *cobra.Command, name string) error {
		return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return rolloutHistory(ctx, o, c, name, shown) })
	})
	history.Flags().Int64Var(&shown, "revision", 0, "show the template of this revision")
	undo := verb("undo", "Go back to an earlier template", func(cmd *cobra.Command, name string) error {
		return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return rolloutUndo(ctx, o, c, name, to) })
	})
	undo.Flags().Int64Var(&to, "to-revision", 0, "the revision to go back to; 0: the one before")
	return parent("rollout", "Follow and undo changes of a Deployment",
		status, history, undo,
		simple("restart", "Replace every pod by a new one, step by step", "restarted", func(d *musterv1.Deployment) error {
			if d.GetSpec().GetPaused() {
				return fmt.Errorf(`can't restart paused deployment/%s: "muster rollout resume" first`, d.GetMeta().GetName())
			}
			t := d.GetSpec().GetTemplate()
			if t.GetAnnotations() == nil {
				t.Annotations = map[string]string{}
			}
			t.Annotations[spec.AnnotationRestartedAt] = now().Format(time.RFC3339)
			return nil
		}),
		simple("pause", "Let a new template wait", "paused", setPaused(true)),
		simple("resume", "Let a new template roll again", "resumed", setPaused(false)),
	)
}

func setPaused(paused bool) func(*musterv1.Deployment) error {
	return func(d *musterv1.Deployment) error {
		name := d.GetMeta().GetName()
		switch {
		case d.GetSpec().GetPaused() == paused && paused:
			return fmt.Errorf("deployment/%s is already paused", name)
		case d.GetSpec().GetPaused() == paused:
			return fmt.Errorf("deployment/%s is not paused", name)
		}
		d.Spec.Paused = paused
		return nil
	}
}

// rolloutStanding is how a rollout stands, in kubectl's words, and whether it is over.
func rolloutStanding(d *musterv1.Deployment) (text string, done bool, err error) {
	name, s, want := d.GetMeta().GetName(), d.GetStatus(), replicas(d)
	if d.GetMeta().GetGeneration() > s.GetObservedGeneration() {
		return "Waiting for deployment spec update to be observed...", false, nil
	}
	for _, c := range s.GetConditions() {
		if c.GetType() == "Progressing" && c.GetReason() == "ProgressDeadlineExceeded" {
			return "", false, fmt.Errorf(`deployment %q exceeded its progress deadline: "muster describe deployment %s" and its pods say more`, name, name)
		}
	}
	const waiting = "Waiting for deployment %q rollout to finish: "
	switch {
	case s.GetUpdatedReplicas() < want:
		return fmt.Sprintf(waiting+"%d out of %d new replicas have been updated...", name, s.GetUpdatedReplicas(), want), false, nil
	case s.GetReplicas() > s.GetUpdatedReplicas():
		return fmt.Sprintf(waiting+"%d old replicas are pending termination...", name, s.GetReplicas()-s.GetUpdatedReplicas()), false, nil
	case s.GetAvailableReplicas() < s.GetUpdatedReplicas():
		return fmt.Sprintf(waiting+"%d of %d updated replicas are available...", name, s.GetAvailableReplicas(), s.GetUpdatedReplicas()), false, nil
	}
	return fmt.Sprintf("deployment %q successfully rolled out", name), true, nil
}

// rolloutStatus says how a rollout stands, and with watch each change until it is over.
func rolloutStatus(ctx context.Context, o *options, name string, watch bool, pinned int64) error {
	var latest *musterv1.Deployment
	k := *deploymentKind
	k.watches = func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.deployments.WatchDeployments(ctx, &musterv1.WatchDeploymentsRequest{Filter: deploymentFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchDeploymentsResponse) item {
			latest = m.GetDeployment()
			return deploymentItem(latest)
		})
	}
	said := ""
	return o.with(ctx, func(ctx context.Context, c *client) error {
		err := follow(ctx, c, &k, query{namespace: o.namespace, name: name}, func(ch change) (bool, error) {
			switch ch.what {
			case musterv1.ChangeType_CHANGE_TYPE_DELETED:
				return false, fmt.Errorf("deployment/%s was deleted meanwhile", name)
			case musterv1.ChangeType_CHANGE_TYPE_SYNCED:
				if latest == nil {
					return false, deploymentKind.missing(o.namespace, name)
				}
				return false, nil
			}
			if is := latest.GetStatus().GetRevision(); pinned > 0 && is != pinned {
				return false, fmt.Errorf("desired revision (%d) is different from the running revision (%d)", pinned, is)
			}
			text, done, err := rolloutStanding(latest)
			if err != nil {
				return false, err
			}
			if text != said {
				said = text
				fmt.Fprintln(o.world.Stdout, text)
			}
			return done || !watch, nil
		})
		if errors.Is(err, context.DeadlineExceeded) && o.timeout > 0 {
			return fmt.Errorf("timed out after %v waiting for deployment %q; its rollout goes on", o.timeout, name)
		}
		return err
	})
}

func revisionsOf(ctx context.Context, o *options, c *client, name string) ([]*musterv1.DeploymentRevision, error) {
	r, err := c.deployments.ListDeploymentRevisions(ctx, &musterv1.ListDeploymentRevisionsRequest{Namespace: o.namespace, Name: name})
	if err != nil {
		return nil, doomed{deploymentKind, o.namespace, name}.named(err)
	}
	if len(r.GetRevisions()) == 0 {
		return nil, fmt.Errorf("no rollout history found for deployment %q", name)
	}
	return r.GetRevisions(), nil
}

// revision finds one by its number.
func revision(all []*musterv1.DeploymentRevision, number int64) (*musterv1.DeploymentRevision, error) {
	i := slices.IndexFunc(all, func(r *musterv1.DeploymentRevision) bool { return r.GetRevision() == number })
	if i < 0 {
		return nil, fmt.Errorf(`unable to find specified revision %d in history: "muster rollout history" lists them`, number)
	}
	return all[i], nil
}

func rolloutHistory(ctx context.Context, o *options, c *client, name string, number int64) error {
	all, err := revisionsOf(ctx, o, c, name)
	if err != nil {
		return err
	}
	if number != 0 {
		r, err := revision(all, number)
		if err != nil {
			return err
		}
		var d description
		fmt.Fprintf(&d.b, "deployment/%s with revision #%d\n", name, number)
		d.template(r.GetTemplate())
		_, err = io.WriteString(o.world.Stdout, d.b.String())
		return err
	}
	fmt.Fprintf(o.world.Stdout, "deployment/%s\n", name)
	var rows [][]string
	for _, r := range all {
		rows = append(rows, []string{fmt.Sprint(r.GetRevision()), orNone(oneLine(r.GetChangeCause()))})
	}
	return table(o.world.Stdout, []string{"REVISION", "CHANGE-CAUSE"}, rows)
}

// setAnnotation sets an annotation, or takes it away where it is empty.
func setAnnotation(m *musterv1.ObjectMeta, key, value string) {
	if value == "" {
		delete(m.GetAnnotations(), key)
		return
	}
	if m.GetAnnotations() == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[key] = value
}

func rolloutUndo(ctx context.Context, o *options, c *client, name string, number int64) error {
	all, err := revisionsOf(ctx, o, c, name)
	if err != nil {
		return err
	}
	if number == 0 {
		if len(all) < 2 {
			return fmt.Errorf("no rollout history found for deployment %q", name)
		}
		number = all[len(all)-2].GetRevision()
	}
	to, err := revision(all, number)
	if err != nil {
		return err
	}
	same := false
	_, err = changeDeployment(ctx, o, c, name, func(d *musterv1.Deployment) error {
		if d.GetSpec().GetPaused() {
			return fmt.Errorf(`cannot rollback paused deployment/%s: "muster rollout resume" first, then try again`, name)
		}
		same = proto.Equal(d.GetSpec().GetTemplate(), to.GetTemplate())
		if same {
			return nil
		}
		d.Spec.Template = to.GetTemplate()
		setAnnotation(d.GetMeta(), spec.AnnotationChangeCause, to.GetChangeCause())
		return nil
	})
	switch {
	case err != nil:
		return err
	case same:
		fmt.Fprintf(o.world.Stdout, "deployment/%s skipped rollback (current template already matches revision %d)\n", name, number)
	default:
		fmt.Fprintf(o.world.Stdout, "deployment/%s rolled back\n", name)
	}
	return nil
}
