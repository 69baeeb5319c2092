package trust

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/musterhq/muster/internal/atomicfile"
)

// SecretKeyFile is the name of the file in a coordinator's data directory that has the key of Secrets: 64 hex digits.
const SecretKeyFile = "secrets.key"

// SecretKey encrypts Secrets for the store with AES-256-GCM. The key is beside the store, not in it: whoever has a copy of the
// store alone, a snapshot or a disk of etcd, does not have the Secrets.
type SecretKey struct {
	id   string
	aead cipher.AEAD
}

// LoadSecretKey reads the key from a data directory, and makes it where there is none.
func LoadSecretKey(dir string) (*SecretKey, error) {
	path := filepath.Join(dir, SecretKeyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeSecretKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key of secrets: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("key of secrets: %s: want 64 hex digits", path)
	}
	return newSecretKey(key)
}

func newSecretKey(key []byte) (*SecretKey, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(key)
	return &SecretKey{id: hex.EncodeToString(sum[:4]), aead: aead}, nil
}

// makeSecretKey makes a key that is on disk for good before anything is encrypted with it.
func makeSecretKey(path string) ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	text := []byte(hex.EncodeToString(key) + "\n")
	return text, atomicfile.WriteDurable(path, text, 0o600)
}

// Seal encrypts what is to be stored under a path; it opens for no other.
func (k *SecretKey) Seal(path string, plain []byte) (sealed []byte, keyID string, err error) {
	nonce := make([]byte, k.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, "", err
	}
	return k.aead.Seal(nonce, nonce, plain, []byte(path)), k.id, nil
}

// Open is the inverse of Seal.
func (k *SecretKey) Open(path, keyID string, sealed []byte) ([]byte, error) {
	if keyID != k.id {
		return nil, fmt.Errorf("it is encrypted with the key %s, and %s of this coordinator has the key %s", keyID, SecretKeyFile, k.id)
	}
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("it is damaged")
	}
	plain, err := k.aead.Open(nil, sealed[:n], sealed[n:], []byte(path))
	if err != nil {
		return nil, errors.New("it is damaged, or was moved from another place of the store")
	}
	return plain, nil
}
