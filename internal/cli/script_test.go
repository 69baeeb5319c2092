package cli

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/musterhq/muster/internal/clientconfig"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // what is compared with files does not depend on where it runs
	testscript.Main(m, map[string]func(){
		"muster": func() { os.Exit(Main(context.Background(), os.Args[1:], Process())) },
	})
}

// TestScripts runs the program itself, as a process, against a fake coordinator of each script's own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			tb := e.T().(testing.TB)
			conf := clientconfig.Config{Contexts: []clientconfig.Context{aCluster().start(tb)}}
			path := filepath.Join(e.WorkDir, "client.yaml")
			e.Setenv("MUSTER_CONFIG", path)
			e.Setenv("HOME", "/nowhere")
			return conf.Save(path)
		},
	})
}
