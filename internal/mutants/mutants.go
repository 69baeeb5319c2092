// Package mutants asks whether the tests of the probe rules can fail: it seeds faults into the sources, one at a time and only for
// the compiler (go test -overlay), and runs the tests that should notice. It also holds that every rule of docs/probes.md has a test
// that names it.
package mutants
