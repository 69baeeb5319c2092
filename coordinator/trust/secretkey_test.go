package trust

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestTheKeyOfSecretsIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadSecretKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, SecretKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want it for its owner alone", info, err)
	}
	sealed, id, err := first.Seal("secrets/default/db", []byte("hunter2"))
	if err != nil || bytes.Contains(sealed, []byte("hunter2")) {
		t.Fatalf("sealed as %q, %v", sealed, err)
	}
	second, err := LoadSecretKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := second.Open("secrets/default/db", id, sealed); err != nil || string(plain) != "hunter2" {
		t.Errorf("opened as %q, %v", plain, err)
	}
}

func TestWhatIsSealedOpensOnlyWithItsKeyAtItsPlaceAndUnchanged(t *testing.T) {
	key, err := LoadSecretKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other, err := LoadSecretKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sealed, id, err := key.Seal("secrets/default/db", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Open("secrets/default/other", id, sealed); err == nil {
		t.Error("it opens at another path")
	}
	if _, err := other.Open("secrets/default/db", id, sealed); err == nil {
		t.Error("it opens with another key")
	}
	if _, err := other.Open("secrets/default/db", other.id, sealed); err == nil {
		t.Error("it opens with another key under the same name")
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := key.Open("secrets/default/db", id, bad); err == nil {
			t.Errorf("it opens with byte %d changed", i)
		}
	}
	if _, err := key.Open("secrets/default/db", id, sealed[:5]); err == nil {
		t.Error("a part of it opens")
	}
}

func TestAFileThatIsNoKeyOfSecretsIsRefusedAndStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SecretKeyFile)
	for _, text := range []string{"", "xyz", "00ff"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSecretKey(dir); err == nil {
			t.Errorf("%q is taken for a key", text)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("the file %q became %q, %v", text, got, err)
		}
	}
}
