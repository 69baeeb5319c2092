package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/internal/clientconfig"
)

func configCommand(o *options) *cobra.Command {
	view := &cobra.Command{
		Use: "view", Short: "Show the client config without its keys", Args: cobra.NoArgs,
		Example: "  muster config view",
		RunE: func(*cobra.Command, []string) error {
			conf, _, err := o.loadConfig()
			if err != nil {
				return err
			}
			for i := range conf.Contexts {
				conf.Contexts[i].Key = "REDACTED"
			}
			b, err := yaml.Marshal(conf)
			if err == nil {
				_, err = o.world.Stdout.Write(b)
			}
			return err
		},
	}
	contexts := &cobra.Command{
		Use: "get-contexts", Short: "List the contexts; * marks the current one", Args: cobra.NoArgs,
		Example: "  muster config get-contexts",
		RunE: func(*cobra.Command, []string) error {
			conf, _, err := o.loadConfig()
			if err != nil {
				return err
			}
			current, err := conf.Context(o.contextName())
			if err != nil {
				current = clientconfig.Context{} // none is current, which is no obstacle to listing them
			}
			rows := [][]string{}
			for _, c := range conf.Contexts {
				mark := ""
				if c.Name == current.Name {
					mark = "*"
				}
				rows = append(rows, []string{mark, c.Name, c.Server, orDefault(c.Namespace)})
			}
			return table(o.world.Stdout, []string{"CURRENT", "NAME", "SERVER", "NAMESPACE"}, rows)
		},
	}
	use := &cobra.Command{
		Use: "use-context NAME", Short: "Make a context the current one", Args: cobra.ExactArgs(1),
		Example: "  muster config use-context dev",
		RunE: func(_ *cobra.Command, args []string) error {
			conf, path, err := o.loadConfig()
			if err != nil {
				return err
			}
			if _, err := conf.Context(args[0]); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			conf.CurrentContext = args[0]
			if err := conf.Save(path); err != nil {
				return err
			}
			fmt.Fprintf(o.world.Stdout, "current context is now %q\n", args[0])
			return nil
		},
	}
	export := &cobra.Command{
		Use: "export DIR", Short: "Write ca.pem, cert.pem and key.pem, for grpcurl and programs of your own", Args: cobra.ExactArgs(1),
		Example: "  muster config export pem\n  grpcurl -cacert pem/ca.pem -cert pem/cert.pem -key pem/key.pem HOST:PORT list",
		RunE:    func(_ *cobra.Command, args []string) error { return o.export(args[0]) },
	}
	for _, c := range []*cobra.Command{view, contexts, use, export} {
		c.Flags().StringVar(&o.config, "config", "", "client config file (default: $MUSTER_CONFIG, else ~/.config/muster/config.yaml)")
		c.Flags().StringVar(&o.context, "context", "", "context of the config file (default: $MUSTER_CONTEXT, else the file's current one)")
	}
	return parent("config", "Show and change which cluster is meant", view, contexts, use, export)
}

func orDefault(namespace string) string {
	if namespace == "" {
		return "default"
	}
	return namespace
}

func (o *options) loadConfig() (*clientconfig.Config, string, error) {
	path, _ := o.configPath()
	conf, err := clientconfig.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, path, fmt.Errorf(`no client config %s: start a cluster with "muster dev", or pass --config FILE`, path)
	}
	return conf, path, err
}

func (o *options) export(dir string) error {
	target, err := o.target()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{{"ca.pem", target.CA}, {"cert.pem", target.Certificate}, {"key.pem", target.Key}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.text), 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o600); err != nil { // where it was there before
			return err
		}
	}
	fmt.Fprintf(o.world.Stdout, "grpcurl -cacert %s -cert %s -key %s %s list\n",
		filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), target.Server)
	return nil
}
