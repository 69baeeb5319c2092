package process

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAPodIsToldOfResolversThatItCanReach(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const stubText, realText = "# by hand\nnameserver 127.0.0.53\nsearch lan\n", "nameserver 192.0.2.1\nsearch lan\n"
	stub, real, none := write("stub", stubText), write("real", realText), filepath.Join(dir, "none")
	huge := write("huge", realText+string(make([]byte, maxResolv)))
	for name, c := range map[string]struct {
		files []string
		own   bool
		want  string
	}{
		"the node's network":                     {[]string{stub, real}, false, stubText},
		"its own network, resolver on loopback":  {[]string{stub, real}, true, realText},
		"its own network, nobody behind that":    {[]string{stub, none}, true, stubText},
		"its own network, resolver elsewhere":    {[]string{real, stub}, true, realText},
		"no such file":                           {[]string{none, none}, true, ""},
		"a file too large":                       {[]string{huge, none}, false, ""},
		"its own network, only the second there": {[]string{none, real}, true, realText},
	} {
		if got := resolvConf(c.files, c.own); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
