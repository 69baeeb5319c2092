package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

func statusCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the cluster is doing", Args: cobra.NoArgs,
		Example: "  muster status\n  muster status -o jsonpath='{.nodes}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := newPrinter(o.world.Stdout, o.output)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				s, err := c.cluster.GetStatus(ctx, &musterv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				if p.format != "table" {
					return p.value(statusValue(s))
				}
				return printStatus(o.world.Stdout, c.target.Server, s)
			})
		},
	}
	o.connectFlags(cmd)
	o.outputFlag(cmd, "json", "yaml", "jsonpath=…")
	return cmd
}

func printStatus(out io.Writer, server string, s *musterv1.GetStatusResponse) error {
	leader := s.GetLeader()
	if leader == "" {
		leader = "none: nothing is placed or moved until there is one"
	}
	store := fmt.Sprintf("writable, revision %d", s.GetRevision())
	if !s.GetWritable() {
		store = fmt.Sprintf("READ-ONLY, revision %d", s.GetRevision())
	}
	failover := "on"
	if s.GetFrozen() {
		failover = fmt.Sprintf(`FROZEN: %s ("muster resume" lets it go on)`, s.GetFrozenReason())
	}
	rows := [][2]string{
		{"cluster", fmt.Sprintf("%s at %s, muster %s", s.GetClusterId(), server, s.GetVersion())},
		{"leader", leader},
		{"nodes", counts(s.GetNodes())},
		{"pods", counts(s.GetPods())},
		{"failover", failover},
		{"lease", s.GetLeaseTtl().AsDuration().String()},
		{"store", store},
	}
	for _, w := range s.GetWarnings() {
		rows = append(rows, [2]string{"warning", w})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(out, "%-10s%s\n", r[0]+":", oneLine(r[1])); err != nil {
			return err
		}
	}
	return nil
}

// counts is "5: 3 Ready, 2 Lost".
func counts(by map[string]int32) string {
	total, parts := int32(0), []string{}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		if by[name] > 0 {
			total += by[name]
			parts = append(parts, fmt.Sprintf("%d %s", by[name], name))
		}
	}
	if total == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func resumeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "resume [deployment/NAME]", Short: "Let a frozen failover, or held restarts, go on", Args: cobra.MaximumNArgs(1),
		Example: "  muster status     # says why failover is frozen\n  muster resume\n" +
			"  muster describe deployment/site     # says whether restarts are held\n  muster resume deployment/site",
		Long: "Let a frozen failover go on; or, for a Deployment of which too many pods fail liveness at once, let the held restarts\n" +
			"go on one at a time, each once the one before is live, or has had a window's time.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return resumeRestarts(cmd.Context(), o, args)
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				if _, err := c.cluster.Resume(ctx, &musterv1.ResumeRequest{}); err != nil {
					return err
				}
				fmt.Fprintln(o.world.Stdout, "failover resumed")
				return nil
			})
		},
	}
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// resumeRestarts lets the held restarts of Deployments go on.
func resumeRestarts(ctx context.Context, o *options, args []string) error {
	names, err := deploymentNames("resume", args)
	if err != nil {
		return err
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		for _, name := range names {
			if _, err := c.cluster.Resume(ctx, &musterv1.ResumeRequest{Target: "deployment/" + name, Namespace: o.namespace}); err != nil {
				return doomed{deploymentKind, o.namespace, name}.named(err)
			}
			fmt.Fprintf(o.world.Stdout, "deployment/%s: restarts go on, one at a time\n", name)
		}
		return nil
	})
}

func moveCommand(o *options) *cobra.Command {
	risk := false
	cmd := &cobra.Command{
		Use: "move POD", Short: "Move a pod to another node", Args: cobra.ExactArgs(1),
		Example: "  muster move web\n  muster move web --accept-risk     # its node is lost, and its class is stay",
		Long: "Ask a pod's holder to stop it, then run it on another node. Returns at once; \"muster get failovers\" shows how it goes.\n\n" +
			"--accept-risk moves a pod of the class stay off a lost node, though its old instance may still run.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := podName(args[0])
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				if _, err := c.pods.MovePod(ctx, &musterv1.MovePodRequest{Namespace: o.namespace, Name: name, AcceptRisk: risk}); err != nil {
					return doomed{podKind, o.namespace, name}.named(err)
				}
				fmt.Fprintf(o.world.Stdout, "pod/%s moving\n", name)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&risk, "accept-risk", false, "a second instance may run, and both may write to the same data")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

// podName understands NAME and pod/NAME.
func podName(word string) (string, error) {
	if !strings.Contains(word, "/") {
		return word, nil
	}
	objects, err := parseObjects([]string{word})
	if err != nil {
		return "", err
	}
	if objects[0].kind != podKind {
		return "", usagef("%s: want a pod", word)
	}
	return objects[0].name, nil
}

func completePod(o *options) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return o.completeNames(cmd.Context(), podKind), cobra.ShellCompDirectiveNoFileComp
	}
}

// cordonCommand is cordon, and uncordon where off is false.
func cordonCommand(o *options, off bool) *cobra.Command {
	verb, short := "uncordon", "Let pods be placed on a node again"
	if off {
		verb, short = "cordon", "Place no new pods on a node"
	}
	cmd := &cobra.Command{
		Use: verb + " NODE…", Short: short, Args: cobra.MinimumNArgs(1),
		Example: "  muster " + verb + " node-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				for _, arg := range args {
					if err := setCordon(ctx, o, c, strings.TrimPrefix(arg, "node/"), verb, off); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	o.connectFlags(cmd)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return o.completeNames(cmd.Context(), nodeKind), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func setCordon(ctx context.Context, o *options, c *client, name, verb string, off bool) error {
	r, err := c.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: name})
	if err != nil {
		return doomed{nodeKind, "", name}.named(err)
	}
	n := r.GetNode()
	if n.GetUnschedulable() == off {
		fmt.Fprintf(o.world.Stdout, "node/%s already %sed\n", name, verb)
		return nil
	}
	// The whole of what a user may set is sent back; a change by somebody else in between is refused.
	n.Unschedulable = off
	if _, err := c.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: n}); err != nil {
		return err
	}
	fmt.Fprintf(o.world.Stdout, "node/%s %sed\n", name, verb)
	return nil
}

func tokenCommand(o *options) *cobra.Command {
	role, ttl, uses := "node", time.Hour, int32(1)
	create := &cobra.Command{
		Use: "create", Short: "Make a token and print it alone on stdout", Args: cobra.NoArgs,
		Example: "  muster token create                                 # lets one agent in, within an hour\n  muster token create --role viewer --ttl 24h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, ok := musterv1.Role_value["ROLE_"+strings.ToUpper(role)]
			if !ok || n == 0 {
				return usagef("--role %s: want node, viewer, editor or admin", role)
			}
			if uses < 1 || uses > 1000 {
				return usagef("--uses %d: want 1 to 1000", uses)
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.cluster.CreateToken(ctx, &musterv1.CreateTokenRequest{Role: musterv1.Role(n), Ttl: durationpb.New(ttl), Uses: uses})
				if err != nil {
					return err
				}
				fmt.Fprintln(o.world.Stdout, r.GetToken())
				return nil
			})
		},
	}
	create.Flags().StringVar(&role, "role", role, "what it gives: node, viewer, editor or admin")
	create.Flags().DurationVar(&ttl, "ttl", ttl, "how long it lasts, 1m to 720h")
	create.Flags().Int32Var(&uses, "uses", uses, "how often it can be used, 1 to 1000")
	list := &cobra.Command{
		Use: "list", Short: "List the tokens without their secrets", Args: cobra.NoArgs,
		Example: "  muster token list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := newPrinter(o.world.Stdout, o.output)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return listTokens(ctx, c, p) })
		},
	}
	o.outputFlag(list, "table", "json", "yaml", "jsonpath=…")
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "End a token", Args: cobra.ExactArgs(1),
		Example: "  muster token revoke ID     # \"muster token list\" shows the ids",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				_, err := c.cluster.RevokeToken(ctx, &musterv1.RevokeTokenRequest{Id: args[0]})
				if reason.Of(err) == reason.NotFound {
					return fmt.Errorf(`no token %q: "muster token list" shows the ids`, args[0])
				}
				if err == nil {
					fmt.Fprintf(o.world.Stdout, "token %s revoked\n", args[0])
				}
				return err
			})
		},
	}
	for _, c := range []*cobra.Command{create, list, revoke} {
		o.connectFlags(c)
	}
	return parent("token", "Let agents and people in", create, list, revoke)
}

func listTokens(ctx context.Context, c *client, p *printer) error {
	r, err := c.cluster.ListTokens(ctx, &musterv1.ListTokensRequest{})
	if err != nil {
		return err
	}
	if p.format != "table" {
		values := []any{}
		for _, t := range r.GetTokens() {
			values = append(values, tokenValue(t))
		}
		return p.value(listValue(values, 0))
	}
	rows := [][]string{}
	for _, t := range r.GetTokens() {
		left := "expired"
		if d := t.GetExpireTime().AsTime().Sub(now()); d > 0 {
			left = ageText(d)
		}
		rows = append(rows, []string{t.GetId(), enumWord(t.GetRole().String(), "ROLE_"), fmt.Sprint(t.GetUsesLeft()), left, age(t.GetCreateTime())})
	}
	return table(p.out, []string{"ID", "ROLE", "USES LEFT", "EXPIRES IN", "AGE"}, rows)
}

func runVersion(ctx context.Context, o *options, clientOnly bool) error {
	p, err := newPrinter(o.world.Stdout, o.output)
	if err != nil {
		return err
	}
	server := ""
	if !clientOnly {
		if o.timeout == 0 {
			o.timeout = 5 * time.Second
		}
		err = o.with(ctx, func(ctx context.Context, c *client) error {
			s, err := c.cluster.GetStatus(ctx, &musterv1.GetStatusRequest{})
			server = s.GetVersion()
			return err
		})
	}
	if p.format != "table" {
		v := map[string]any{"client": map[string]string{"version": binaryVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}}
		if server != "" {
			v["server"] = map[string]string{"version": server}
		}
		if perr := p.value(v); perr != nil {
			return perr
		}
	} else {
		fmt.Fprintf(o.world.Stdout, "client %s (%s, %s/%s)\n", binaryVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		if server != "" {
			fmt.Fprintf(o.world.Stdout, "server %s\n", server)
		}
	}
	if err != nil {
		// The client's own version is told either way.
		fmt.Fprintln(o.world.Stderr, "server: "+explain(err))
	}
	return nil
}
