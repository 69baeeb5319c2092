// Package trust is the cluster's certificate authority: it makes the CA once and keeps it in the store, signs the
// certificates of coordinators, nodes and people, keeps join tokens, and says what each role may call. Who somebody is,
// as a certificate says it, is internal/identity's.
//
// Its records are in the store's config family: "ca" (the CA's certificate and key, and the key of the gossip) and one
// "token.ID" a token, with the secret's hash only. Whoever can read the store's files can speak for the cluster.
package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/spec"
)

// The lives of certificates. Those of coordinators and nodes are replaced at two thirds of theirs.
const (
	caLife          = 10 * 365 * 24 * time.Hour
	coordinatorLife = 90 * 24 * time.Hour
	nodeLife        = 30 * 24 * time.Hour
	userLife        = 365 * 24 * time.Hour
	// backdate lets machines in whose clock is an hour behind, and a little.
	backdate = time.Hour + 5*time.Minute
)

// gossipKeyBytes is the length of the gossip's key: AES-256.
const gossipKeyBytes = 32

// maxName bounds a user's name, in bytes.
const maxName = 64

// ErrRequest means that a request for a certificate is not acceptable: its name, or the signing request.
var ErrRequest = errors.New("bad certificate request")

// Store is what this package needs of a store: any store.Store will do.
type Store interface {
	Get(ctx context.Context, k store.Key) (store.Record, error)
	List(ctx context.Context, families ...store.Family) ([]store.Record, int64, error)
	Commit(ctx context.Context, t store.Txn) (int64, error)
}

// Authority is the cluster's CA and its tokens. It is safe for concurrent use.
type Authority struct {
	store  Store
	now    func() time.Time
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	gossip []byte
}

var caKey = store.Key{Family: store.Config, Name: "ca"}

// caRecord is what the "ca" record has; certificate and key are DER.
type caRecord struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
	Gossip      []byte `json:"gossip"`
}

// Open reads the cluster's CA from the store, and makes it where there is none: of several coordinators that do so at
// once, one wins. now is the wall clock; nil means time.Now.
func Open(ctx context.Context, s Store, now func() time.Time) (*Authority, error) {
	if now == nil {
		now = time.Now
	}
	a := &Authority{store: s, now: now}
	rec, err := s.Get(ctx, caKey)
	if errors.Is(err, store.ErrNotFound) {
		if err := a.create(ctx); err != nil {
			return nil, fmt.Errorf("make the cluster's CA: %w", err)
		}
		rec, err = s.Get(ctx, caKey)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	if err := a.load(rec); err != nil {
		return nil, fmt.Errorf("the cluster's CA in the store is damaged: %w", err)
	}
	return a, nil
}

func (a *Authority) create(ctx context.Context) error {
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "muster cluster CA"},
		NotBefore: a.now().Add(-backdate), NotAfter: a.now().Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	gossip := make([]byte, gossipKeyBytes)
	_, _ = rand.Read(gossip) // never fails
	data, err := json.Marshal(caRecord{der, keyDER, gossip})
	if err != nil {
		return err
	}
	_, err = a.store.Commit(ctx, store.Txn{
		If:   []store.Cond{{Key: caKey}},
		Then: []store.Write{{Key: caKey, Value: &spec.Blob{Data: data}}},
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnknown) {
		return nil // what is there now counts
	}
	return err
}

func (a *Authority) load(rec store.Record) error {
	blob, ok := rec.Value.(*spec.Blob)
	if !ok {
		return fmt.Errorf("a record of type %T", rec.Value)
	}
	var r caRecord
	if err := json.Unmarshal(blob.Data, &r); err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(r.Key)
	if err != nil {
		return err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(ca.PublicKey) {
		return errors.New("key and certificate do not belong together")
	}
	if len(r.Gossip) != gossipKeyBytes {
		return errors.New("the gossip's key is not whole")
	}
	a.ca, a.key, a.gossip = ca, ec, r.Gossip
	return nil
}

// CA is the cluster's CA certificate.
func (a *Authority) CA() *x509.Certificate { return a.ca }

// GossipKey is the key that the cluster's gossip is encrypted with: 32 bytes.
func (a *Authority) GossipKey() []byte { return slices.Clone(a.gossip) }

// ClusterID names the cluster: 16 hex digits of the CA's hash.
func (a *Authority) ClusterID() string { return identity.CAHash(a.ca)[:16] }

// IssueCoordinator makes a key and a certificate for a coordinator that clients reach under hosts (names or addresses);
// loopback addresses and "localhost" are always among them. It lasts for 90 days.
func (a *Authority) IssueCoordinator(name string, hosts []string) (*identity.Credentials, error) {
	if err := nodeName(name); err != nil {
		return nil, fmt.Errorf("coordinator %q: %w", name, err)
	}
	template := &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != "" && h != "localhost" {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return a.issue(identity.Principal{Kind: identity.KindCoordinator, Name: name}, template, coordinatorLife)
}

// IssueUser makes a key and a certificate for a person: for the admin's client config. It lasts for a year.
func (a *Authority) IssueUser(name string, role identity.Role) (*identity.Credentials, error) {
	if err := userName(name); err != nil {
		return nil, err
	}
	if !role.Valid() || role == identity.RoleNode {
		return nil, fmt.Errorf("%w: role %q: want viewer, editor or admin", ErrRequest, role)
	}
	return a.issue(identity.Principal{Kind: identity.KindUser, Name: name, Role: role}, userTemplate(), userLife)
}

func (a *Authority) issue(p identity.Principal, template *x509.Certificate, life time.Duration) (*identity.Credentials, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	der, err := a.sign(p, template, key.Public(), life)
	if err != nil {
		return nil, err
	}
	return identity.NewCredentials(key, der, a.ca.Raw)
}

// signNode signs a node's request. The certificate speaks for that node, and for its HTTPS under no name but its own.
func (a *Authority) signNode(node string, csr *x509.CertificateRequest) ([]byte, error) {
	template := &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		// Not the bare name, nor an address: a node could be called like a coordinator's host.
		DNSNames: []string{node + ".node.muster.internal"},
	}
	return a.sign(identity.Principal{Kind: identity.KindNode, Name: node, Role: identity.RoleNode}, template, csr.PublicKey, nodeLife)
}

func userTemplate() *x509.Certificate {
	return &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// sign makes a certificate for a principal; life never exceeds the CA's.
func (a *Authority) sign(p identity.Principal, t *x509.Certificate, public any, life time.Duration) ([]byte, error) {
	t.SerialNumber = serial()
	t.Subject = pkix.Name{CommonName: p.Name}
	t.NotBefore, t.NotAfter = a.now().Add(-backdate), a.now().Add(life)
	if t.NotAfter.After(a.ca.NotAfter) {
		t.NotAfter = a.ca.NotAfter
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	t.URIs = []*url.URL{p.URI()}
	return x509.CreateCertificate(rand.Reader, t, a.ca, public, a.key)
}

// nodeName holds the name of a node or coordinator to DNS-1123 (a subdomain, at most 253 bytes).
func nodeName(name string) error {
	if why := spec.NodeName(name); why != "" {
		return fmt.Errorf("%w: the name %.80q: %s", ErrRequest, name, why)
	}
	return nil
}

// userName holds a person's name to something that can be shown and logged.
func userName(name string) error {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.@+", r)
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !ok(r) }) {
		return fmt.Errorf("%w: the name %.80q: want 1 to %d letters, digits and -_.@+", ErrRequest, name, maxName)
	}
	return nil
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
