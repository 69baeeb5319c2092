// Package clientconfig is the file that tells a client which cluster to speak to and as whom: contexts with a server's
// address and the certificates, as PEM, in the file itself. The coordinator writes one for its admin, the command line
// reads it. Where the file is looked for is the command line's business.
package clientconfig

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/internal/identity"
)

// maxSize bounds a file that is read.
const maxSize = 1 << 20

// Config is the content of a file.
type Config struct {
	// CurrentContext is used where no context is named; empty: the only one there is.
	CurrentContext string    `json:"current-context,omitempty"`
	Contexts       []Context `json:"contexts"`
}

// Context is one cluster, and who the client is there.
type Context struct {
	// Name is unique in the file.
	Name string `json:"name"`
	// Server is HOST:PORT of a coordinator's API.
	Server string `json:"server"`
	// Namespace is used where none is given; empty: "default".
	Namespace string `json:"namespace,omitempty"`
	// CA signs the server's certificate; Certificate and Key are the client's. All three are PEM.
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Load reads a file strictly: an unknown or doubled field is an error, as is a file of more than 1 MiB.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("%s has more than %d bytes: that is no client config", path, maxSize)
	}
	c := &Config{}
	if err := yaml.UnmarshalStrict(b, c); err != nil {
		// The decoder repeats its steps in front and may use several lines.
		return nil, fmt.Errorf("%s: %s", path, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: "), "\n", " "))
	}
	seen := map[string]bool{}
	for i, ctx := range c.Contexts {
		switch {
		case ctx.Name == "":
			return nil, fmt.Errorf("%s: contexts[%d].name: required", path, i)
		case seen[ctx.Name]:
			return nil, fmt.Errorf("%s: contexts[%d].name: %q is there twice", path, i, ctx.Name)
		case ctx.Server == "":
			return nil, fmt.Errorf("%s: contexts[%d].server: required", path, i)
		}
		seen[ctx.Name] = true
	}
	return c, nil
}

// Save replaces the file as a whole, readable by its owner only, and makes its directory where it is missing.
func (c *Config) Save(path string) error {
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".client-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed, as it should
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// Names lists the contexts in the order of the file.
func (c *Config) Names() []string {
	names := make([]string, len(c.Contexts))
	for i := range c.Contexts {
		names[i] = c.Contexts[i].Name
	}
	return names
}

// Context returns the named context, or where name is empty the current one, or the only one there is.
func (c *Config) Context(name string) (Context, error) {
	if name == "" {
		name = c.CurrentContext
	}
	if name == "" && len(c.Contexts) == 1 {
		return c.Contexts[0], nil
	}
	if name == "" {
		return Context{}, fmt.Errorf("no current context: pass --context, one of: %s", strings.Join(c.Names(), ", "))
	}
	if i := slices.Index(c.Names(), name); i >= 0 {
		return c.Contexts[i], nil
	}
	return Context{}, fmt.Errorf("no context %q: there is %s", name, strings.Join(c.Names(), ", "))
}

// Set adds the context, or replaces the one of its name.
func (c *Config) Set(ctx Context) {
	if i := slices.Index(c.Names(), ctx.Name); i >= 0 {
		c.Contexts[i] = ctx
		return
	}
	c.Contexts = append(c.Contexts, ctx)
}

// Remove takes the context away and, where it was the current one, leaves none current.
func (c *Config) Remove(name string) {
	c.Contexts = slices.DeleteFunc(c.Contexts, func(x Context) bool { return x.Name == name })
	if c.CurrentContext == name {
		c.CurrentContext = ""
	}
}

// TLS is how a client of this context speaks: TLS 1.3, its own certificate shown, and the other side a coordinator of the
// cluster with this CA, at whatever address.
func (c *Context) TLS() (*tls.Config, error) {
	block, _ := pem.Decode([]byte(c.CA))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("context %q: ca: no certificate in it", c.Name)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("context %q: ca: %w", c.Name, err)
	}
	pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("context %q: certificate and key: %w", c.Name, err)
	}
	holder := &identity.Holder{}
	holder.Set(&pair)
	return identity.ClientTLS(ca, holder), nil
}

// Dial prepares a connection to the context's server; it connects with the first call. Messages of up to 64 MiB are
// taken in. The caller closes it.
func (c *Context) Dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	conf, err := c.TLS()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+c.Server, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
	}, opts...)...)
}
