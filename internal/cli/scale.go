package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

func scaleCommand(o *options) *cobra.Command {
	wanted, current := int32(0), int32(-1)
	cmd := &cobra.Command{
		Use: "scale deployment/NAME… --replicas N", Short: "Change how many pods a Deployment has", Args: needsType,
		Example: "  muster scale deployment/site --replicas 5\n  muster scale deployment/site --replicas 5 --current-replicas 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !cmd.Flags().Changed("replicas"):
				return usagef("--replicas is required")
			case wanted < 0:
				return usagef("--replicas %d: must be at least 0", wanted)
			case current < -1:
				return usagef("--current-replicas %d: must be at least 0, or -1 for any", current)
			}
			names, err := deploymentNames("scale", args)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				for _, name := range names {
					_, err := changeDeployment(ctx, o, c, name, func(d *musterv1.Deployment) error {
						if is := replicas(d); current >= 0 && is != current {
							return fmt.Errorf("deployment/%s: expected replicas to be %d, was %d: look again, or leave out --current-replicas", name, current, is)
						}
						d.Spec.Replicas = &wanted
						return nil
					})
					if err != nil {
						return err
					}
					fmt.Fprintf(o.world.Stdout, "deployment/%s scaled\n", name)
				}
				return nil
			})
		},
	}
	cmd.Flags().Int32Var(&wanted, "replicas", 0, "how many pods, 0 to 10,000 (required)")
	cmd.Flags().Int32Var(&current, "current-replicas", -1, "change it only if it is this now; -1: whatever it is")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// deploymentNames are the Deployments that arguments name.
func deploymentNames(verb string, args []string) ([]string, error) {
	objects, err := parseObjects(args)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, obj := range objects {
		if obj.kind != deploymentKind || obj.name == "" {
			return nil, usagef("%s: want deployment/NAME", verb)
		}
		names = append(names, obj.name)
	}
	return names, nil
}

// changeTries is how often a change is made anew when somebody else's came in between.
const changeTries = 5

// changeDeployment reads a Deployment, changes it and stores it, unless somebody else has changed it meanwhile: then all of that
// again. changed is false where the change comes to nothing.
func changeDeployment(ctx context.Context, o *options, c *client, name string, change func(*musterv1.Deployment) error) (changed bool, err error) {
	for tries := 1; ; tries++ {
		r, err := c.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Namespace: o.namespace, Name: name})
		if err != nil {
			return false, doomed{deploymentKind, o.namespace, name}.named(err)
		}
		d := r.GetDeployment()
		before := proto.CloneOf(d)
		if err := change(d); err != nil {
			return false, err
		}
		if proto.Equal(before, d) {
			return false, nil
		}
		u, err := c.deployments.UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{Deployment: d})
		if err != nil && reason.Of(err) == "REVISION_CONFLICT" && tries < changeTries {
			continue
		}
		return u.GetResult() == musterv1.WriteResult_WRITE_RESULT_CONFIGURED, err
	}
}
