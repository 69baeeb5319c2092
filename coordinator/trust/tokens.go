package trust

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/spec"
)

// The bounds and defaults of tokens.
const (
	MinTTL, MaxTTL, DefaultTTL = time.Minute, 30 * 24 * time.Hour, time.Hour
	MaxUses, DefaultUses       = 1000, 1
	// MaxTokens bounds the tokens that have not expired.
	MaxTokens = 1000
)

// The errors of tokens. None of them says more to somebody who has no valid secret than that the token is unknown.
var (
	// ErrTokenUnknown means that there is no such token, or that the secret is wrong.
	ErrTokenUnknown = errors.New("token is not known here")
	// ErrTokenUsed means that a token has no use left.
	ErrTokenUsed = errors.New("token has been used already")
	// ErrTokenExpired means that a token's time is over.
	ErrTokenExpired = errors.New("token has expired")
	// ErrTokenRevoked means that somebody has ended a token.
	ErrTokenRevoked = errors.New("token was revoked")
	// ErrTokenRole means that a token gives something else than what was asked for.
	ErrTokenRole = errors.New("token is for another role")
	// ErrTokenBounds means that a token was asked for outside the bounds.
	ErrTokenBounds = errors.New("bad token")
	// ErrTooManyTokens means that MaxTokens tokens are there.
	ErrTooManyTokens = errors.New("too many tokens")
)

// attempts bounds how often a token's record is read again after somebody else has changed it.
const attempts = 50

// Token is a join token without its secret.
type Token struct {
	ID         string
	Role       identity.Role
	CreateTime time.Time
	ExpireTime time.Time
	UsesLeft   int
}

// tokenRecord is what a "token.ID" record has.
type tokenRecord struct {
	Role    identity.Role `json:"role"`
	Created time.Time     `json:"created"`
	Expires time.Time     `json:"expires"`
	Uses    int           `json:"uses"`
	// SecretHash is SHA-256 of the secret.
	SecretHash []byte `json:"secret_hash"`
	Revoked    bool   `json:"revoked,omitempty"`
	// Users are who has used it, one entry a use: whoever has lost the answer may ask again with the same key.
	Users []string `json:"users,omitempty"`
}

func (r *tokenRecord) left() int { return r.Uses - len(r.Users) }

const tokenPrefix = "token."

func tokenKey(id string) store.Key { return store.Key{Family: store.Config, Name: tokenPrefix + id} }

// Create makes a token and returns it with its secret, which is kept nowhere. ttl is MinTTL to MaxTTL and uses 1 to
// MaxUses; 0 means the default: one hour, one use. Tokens that have expired are cleared away.
func (a *Authority) Create(ctx context.Context, role identity.Role, ttl time.Duration, uses int) (string, error) {
	ttl, uses = cmp.Or(ttl, DefaultTTL), cmp.Or(uses, DefaultUses)
	switch {
	case !role.Valid():
		return "", fmt.Errorf("%w: role %q: want node, viewer, editor or admin", ErrTokenBounds, role)
	case ttl < MinTTL || ttl > MaxTTL:
		return "", fmt.Errorf("%w: ttl %v: want %v to %v", ErrTokenBounds, ttl, MinTTL, MaxTTL)
	case uses < 1 || uses > MaxUses:
		return "", fmt.Errorf("%w: uses %d: want 1 to %d", ErrTokenBounds, uses, MaxUses)
	}
	there, err := a.sweep(ctx)
	if err != nil {
		return "", err
	}
	if there >= MaxTokens {
		return "", fmt.Errorf("create token: %w: %d are there: revoke some, or let them expire", ErrTooManyTokens, there)
	}
	var random [6 + identity.SecretBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	t := identity.Token{
		CAHash: identity.CAHash(a.ca),
		ID:     strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random[:6])),
		Secret: base64.RawURLEncoding.EncodeToString(random[6:]),
	}
	now := a.now()
	hash := sha256.Sum256([]byte(t.Secret))
	r := &tokenRecord{Role: role, Created: now, Expires: now.Add(ttl), Uses: uses, SecretHash: hash[:]}
	if err := a.put(ctx, t.ID, 0, r); err != nil {
		return "", fmt.Errorf("create token: %w", err)
	}
	return t.String(), nil
}

// List returns the tokens that can still be used, by id.
func (a *Authority) List(ctx context.Context) ([]Token, error) {
	recs, _, err := a.store.List(ctx, store.Config)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	var tokens []Token
	for _, rec := range recs {
		id, r, err := parse(rec)
		if err != nil {
			return nil, err
		}
		if r != nil && !r.Revoked && r.left() > 0 && a.now().Before(r.Expires) {
			tokens = append(tokens, Token{ID: id, Role: r.Role, CreateTime: r.Created, ExpireTime: r.Expires, UsesLeft: r.left()})
		}
	}
	slices.SortFunc(tokens, func(x, y Token) int { return strings.Compare(x.ID, y.ID) })
	return tokens, nil
}

// Revoke ends a token. store.ErrNotFound when there is none of that id; one that has ended already is no error.
// Certificates that were given for it stay valid.
func (a *Authority) Revoke(ctx context.Context, id string) error {
	err := a.change(ctx, id, func(r *tokenRecord) (bool, error) {
		changed := !r.Revoked
		r.Revoked = true
		return changed, nil
	})
	if errors.Is(err, ErrTokenUnknown) {
		return fmt.Errorf("token %q: %w", id, store.ErrNotFound)
	}
	return err
}

// Join gives a node its certificate for a token of role node; cert and ca are DER. The use is counted before the
// certificate is signed: of two who redeem the last use, one gets ErrTokenUsed. The same key may ask again.
func (a *Authority) Join(ctx context.Context, tokenID, secret, node string, csr []byte) (cert, ca []byte, err error) {
	if err := nodeName(node); err != nil {
		return nil, nil, err
	}
	req, err := request(csr)
	if err != nil {
		return nil, nil, err
	}
	if _, err := a.redeem(ctx, tokenID, secret, "node/"+node, req, func(r identity.Role) bool { return r == identity.RoleNode }); err != nil {
		return nil, nil, err
	}
	cert, err = a.signNode(node, req)
	return cert, a.ca.Raw, err
}

// Login gives a person a certificate with a token's role; the request's common name is the person's name.
func (a *Authority) Login(ctx context.Context, tokenID, secret string, csr []byte) (cert, ca []byte, err error) {
	req, err := request(csr)
	if err != nil {
		return nil, nil, err
	}
	name := req.Subject.CommonName
	if err := userName(name); err != nil {
		return nil, nil, err
	}
	role, err := a.redeem(ctx, tokenID, secret, "user/"+name, req, func(r identity.Role) bool { return r != identity.RoleNode })
	if err != nil {
		return nil, nil, err
	}
	cert, err = a.sign(identity.Principal{Kind: identity.KindUser, Name: name, Role: role}, userTemplate(), req.PublicKey, userLife)
	return cert, a.ca.Raw, err
}

// Rotate signs a request for a node that has shown its certificate.
func (a *Authority) Rotate(node string, csr []byte) (cert []byte, err error) {
	if err := nodeName(node); err != nil {
		return nil, err
	}
	req, err := request(csr)
	if err != nil {
		return nil, err
	}
	return a.signNode(node, req)
}

// Bearer says who a token stands for when it is shown as it is, with an HTTPS request: no use is counted. Tokens of
// nodes stand for nobody.
func (a *Authority) Bearer(ctx context.Context, token string) (identity.Principal, error) {
	t, err := identity.ParseToken(token)
	if err != nil {
		return identity.Principal{}, err
	}
	if t.CAHash != identity.CAHash(a.ca) {
		return identity.Principal{}, fmt.Errorf("bearer token: %w", identity.ErrWrongCA)
	}
	rec, err := a.store.Get(ctx, tokenKey(t.ID))
	if errors.Is(err, store.ErrNotFound) {
		return identity.Principal{}, fmt.Errorf("token %s: %w", t.ID, ErrTokenUnknown)
	}
	if err != nil {
		return identity.Principal{}, fmt.Errorf("token %s: %w", t.ID, err)
	}
	_, r, err := parse(rec)
	if err != nil {
		return identity.Principal{}, err
	}
	if err := a.check(r, t.Secret); err != nil {
		return identity.Principal{}, fmt.Errorf("token %s: %w", t.ID, err)
	}
	if r.left() <= 0 {
		return identity.Principal{}, fmt.Errorf("token %s: %w", t.ID, ErrTokenUsed)
	}
	if r.Role == identity.RoleNode {
		return identity.Principal{}, fmt.Errorf("token %s: %w: it lets a node join", t.ID, ErrTokenRole)
	}
	return identity.Principal{Kind: identity.KindUser, Name: "token-" + t.ID, Role: r.Role}, nil
}

func request(csr []byte) (*x509.CertificateRequest, error) {
	r, err := identity.ParseRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: csr: %w", ErrRequest, err)
	}
	return r, nil
}

// redeem takes one use of a token for whoever holds the request's key.
func (a *Authority) redeem(ctx context.Context, id, secret, who string, csr *x509.CertificateRequest, fits func(identity.Role) bool) (identity.Role, error) {
	sum := sha256.Sum256(append([]byte(who+"\x00"), csr.RawSubjectPublicKeyInfo...))
	user := base64.RawURLEncoding.EncodeToString(sum[:16])
	var role identity.Role
	err := a.change(ctx, id, func(r *tokenRecord) (bool, error) {
		if err := a.check(r, secret); err != nil {
			return false, err
		}
		if !fits(r.Role) {
			return false, fmt.Errorf("%w: it is for the role %s", ErrTokenRole, r.Role)
		}
		role = r.Role
		if slices.Contains(r.Users, user) {
			return false, nil
		}
		if r.left() <= 0 {
			return false, ErrTokenUsed
		}
		r.Users = append(r.Users, user)
		return true, nil
	})
	return role, err
}

// check holds a secret to a token. Without the right secret nobody learns more than that.
func (a *Authority) check(r *tokenRecord, secret string) error {
	sum := sha256.Sum256([]byte(secret))
	switch {
	case subtle.ConstantTimeCompare(sum[:], r.SecretHash) != 1:
		return ErrTokenUnknown
	case r.Revoked:
		return ErrTokenRevoked
	case !a.now().Before(r.Expires):
		return fmt.Errorf("%w: at %s", ErrTokenExpired, r.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// change reads a token, lets f decide and writes under the condition that nobody was faster; else f decides anew. An
// outcome that is not known is read again like a lost race: f sees its own change.
func (a *Authority) change(ctx context.Context, id string, f func(*tokenRecord) (write bool, err error)) error {
	if !identity.ValidTokenID(id) {
		return ErrTokenUnknown
	}
	for range attempts {
		rec, err := a.store.Get(ctx, tokenKey(id))
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("token %s: %w", id, ErrTokenUnknown)
		}
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		_, r, err := parse(rec)
		if err != nil {
			return err
		}
		write, err := f(r)
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		if !write {
			return nil
		}
		err = a.put(ctx, id, rec.Revision, r)
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnknown) {
			return fmt.Errorf("token %s: %w", id, err)
		}
	}
	return fmt.Errorf("token %s: %w %d times", id, store.ErrConflict, attempts)
}

func (a *Authority) put(ctx context.Context, id string, revision int64, r *tokenRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = a.store.Commit(ctx, store.Txn{
		If:   []store.Cond{{Key: tokenKey(id), Revision: revision}},
		Then: []store.Write{{Key: tokenKey(id), Value: &spec.Blob{Data: data}}},
	})
	return err
}

// sweep deletes the tokens that have expired and returns how many are left.
func (a *Authority) sweep(ctx context.Context) (left int, err error) {
	recs, _, err := a.store.List(ctx, store.Config)
	if err != nil {
		return 0, fmt.Errorf("list tokens: %w", err)
	}
	for _, rec := range recs {
		_, r, err := parse(rec)
		if err != nil {
			return 0, err
		}
		switch {
		case r == nil:
		case a.now().Before(r.Expires):
			left++
		default:
			_, err := a.store.Commit(ctx, store.Txn{If: []store.Cond{{Key: rec.Key, Revision: rec.Revision}}, Then: []store.Write{{Key: rec.Key}}})
			if err != nil && !errors.Is(err, store.ErrConflict) {
				return 0, fmt.Errorf("clear away %s: %w", rec.Key, err)
			}
		}
	}
	return left, nil
}

// parse reads a record of the config family; nil when it is no token.
func parse(rec store.Record) (id string, r *tokenRecord, err error) {
	id, ok := strings.CutPrefix(rec.Key.Name, tokenPrefix)
	if !ok {
		return "", nil, nil
	}
	blob, ok := rec.Value.(*spec.Blob)
	if !ok {
		return "", nil, fmt.Errorf("%s is damaged: a record of type %T", rec.Key, rec.Value)
	}
	r = &tokenRecord{}
	if err := json.Unmarshal(blob.Data, r); err != nil {
		return "", nil, fmt.Errorf("%s is damaged: %w", rec.Key, err)
	}
	return id, r, nil
}
