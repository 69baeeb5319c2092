package identity

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// tokenPrefix leads every token, with its version.
const tokenPrefix = "muster:v1:"

// SecretBytes is how many random bytes a token's secret has.
const SecretBytes = 32

// Token is what a newcomer shows once: which cluster to trust, and the proof that it was let in.
type Token struct {
	// CAHash is of the cluster's CA, as CAHash makes it.
	CAHash string
	// ID names the token; it is no secret. Lower case letters and digits, at most 32.
	ID string
	// Secret is base64 (URL alphabet, no padding) of SecretBytes bytes.
	Secret string
}

// String is muster:v1:CA-HASH:ID:SECRET.
func (t Token) String() string { return tokenPrefix + t.CAHash + ":" + t.ID + ":" + t.Secret }

// ParseToken reads a token strictly; spaces around it do no harm. The error never repeats the text, which may hold a
// secret.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		if strings.HasPrefix(text, "muster:") {
			return Token{}, fmt.Errorf("%w of a version that is known: want %s…", ErrToken, tokenPrefix)
		}
		return Token{}, fmt.Errorf("%w: want %sCA-HASH:ID:SECRET", ErrToken, tokenPrefix)
	}
	parts := strings.Split(rest, ":")
	if len(parts) != 3 {
		return Token{}, fmt.Errorf("%w: want %sCA-HASH:ID:SECRET; was it cut off?", ErrToken, tokenPrefix)
	}
	t := Token{CAHash: parts[0], ID: parts[1], Secret: parts[2]}
	if b, err := hex.DecodeString(t.CAHash); err != nil || len(b) != 32 || strings.ToLower(t.CAHash) != t.CAHash {
		return Token{}, fmt.Errorf("%w: the CA's hash is not 64 hex digits", ErrToken)
	}
	if !ValidTokenID(t.ID) {
		return Token{}, fmt.Errorf("%w: its id is not of lower case letters and digits", ErrToken)
	}
	if b, err := base64.RawURLEncoding.DecodeString(t.Secret); err != nil || len(b) != SecretBytes {
		return Token{}, fmt.Errorf("%w: its secret is not whole; was it cut off?", ErrToken)
	}
	return t, nil
}

// ValidTokenID tells whether a text may be a token's id.
func ValidTokenID(id string) bool {
	return id != "" && len(id) <= 32 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}
