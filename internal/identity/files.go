package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFile bounds a file of certificates that is read.
const maxFile = 64 << 10

// Credentials are a process's key and certificate, and the CA of its cluster.
type Credentials struct {
	Key *ecdsa.PrivateKey
	// Certificate and CA are parsed and belong together.
	Certificate, CA *x509.Certificate
}

// NewCredentials puts together what a coordinator has answered to a request; cert and ca are DER. The certificate must
// be for the key and signed by the CA.
func NewCredentials(key *ecdsa.PrivateKey, cert, ca []byte) (*Credentials, error) {
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	root, err := x509.ParseCertificate(ca)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	cr := &Credentials{Key: key, Certificate: c, CA: root}
	return cr, cr.check()
}

func (c *Credentials) check() error {
	if !c.Key.PublicKey.Equal(c.Certificate.PublicKey) {
		return errors.New("the certificate is for another key")
	}
	if err := c.Certificate.CheckSignatureFrom(c.CA); err != nil {
		return fmt.Errorf("the certificate: %w", ErrWrongCA)
	}
	_, err := FromCertificate(c.Certificate)
	return err
}

// Principal is who they speak for.
func (c *Credentials) Principal() Principal {
	p, _ := FromCertificate(c.Certificate) // checked when they were made
	return p
}

// TLS is the certificate in the form that TLS takes, with the CA behind it, for newcomers who know only its hash.
func (c *Credentials) TLS() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.Certificate.Raw, c.CA.Raw}, PrivateKey: c.Key, Leaf: c.Certificate}
}

// PEM returns the CA, the certificate and the key, each as PEM.
func (c *Credentials) PEM() (ca, cert, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		return nil, nil, nil, err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", c.CA.Raw), block("CERTIFICATE", c.Certificate.Raw), block("PRIVATE KEY", der), nil
}

// Save replaces the file whole, readable by its owner only: the key, the certificate, the CA, as PEM.
func (c *Credentials) Save(path string) error {
	ca, cert, key, err := c.PEM()
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".credentials-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed, as it should
	for _, b := range [][]byte{key, cert, ca} {
		if _, err = f.Write(b); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// Load reads what Save wrote. fs.ErrNotExist where there is nothing yet.
func Load(path string) (*Credentials, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rest, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(rest) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes: no credentials", path, maxFile)
	}
	var ders [3][]byte
	for i, kind := range []string{"PRIVATE KEY", "CERTIFICATE", "CERTIFICATE"} {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil || b.Type != kind {
			return nil, fmt.Errorf("%s is damaged: want a key, its certificate and the CA; remove it and join anew", path)
		}
		ders[i] = b.Bytes
	}
	parsed, err := x509.ParsePKCS8PrivateKey(ders[0])
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s is damaged: its key cannot be read; remove it and join anew", path)
	}
	c, err := NewCredentials(key, ders[1], ders[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}
