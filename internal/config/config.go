// Package config fills a server's flags from four places, each stronger than the one before: the default, a YAML file
// (--config-file), the environment (MUSTER_AGENT_DATA_DIR for agent's --data-dir), the command line. Every setting is
// declared once, as a flag; the file and the environment use its name. Nothing that is misspelt is passed over.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// maxFile bounds a config file, in bytes.
const maxFile = 1 << 20

// The flags that are not settings.
const (
	fileFlag  = "config-file"
	printFlag = "print-config"
)

const secretAnnotation = "muster_secret"

// Settings are the flags of one command, with where each value came from.
type Settings struct {
	command string
	flags   *pflag.FlagSet
	file    string
	print   bool
	source  map[string]string
}

// Add gives a command's flags the two flags --config-file and --print-config. command is the word in the environment's
// names: agent, coordinator.
func Add(command string, flags *pflag.FlagSet) *Settings {
	s := &Settings{command: command, flags: flags, source: map[string]string{}}
	flags.StringVar(&s.file, fileFlag, "", "YAML file with settings, each under its flag's name")
	flags.BoolVar(&s.print, printFlag, false, "print every setting and where it comes from, and end")
	return s
}

// Secret marks flags whose values are not to be printed.
func Secret(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		// It fails only where there is no such flag.
		if err := flags.SetAnnotation(name, secretAnnotation, []string{"true"}); err != nil {
			panic(err)
		}
	}
}

// Resolve sets every flag that the command line has not set: from the environment (as os.Environ has it), else from the
// file. It is to be called once, after the command line was parsed. Each error is one line that names the setting and
// where it stands.
func (s *Settings) Resolve(environ []string) error {
	env, err := s.environment(environ)
	if err != nil {
		return err
	}
	s.flags.Visit(func(f *pflag.Flag) { s.source[f.Name] = "flag" })
	if from, ok := env[fileFlag]; ok && s.source[fileFlag] == "" {
		s.file = from
	}
	if s.file != "" {
		if err := s.fromFile(env); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if s.source[name] == "flag" {
			continue
		}
		if err := s.flags.Set(name, env[name]); err != nil {
			return fmt.Errorf("%s: %w", s.variable(name), s.cause(name, err))
		}
		s.source[name] = "environment " + s.variable(name)
	}
	return nil
}

// variable is a flag's name in the environment.
func (s *Settings) variable(flag string) string {
	return s.prefix() + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func (s *Settings) prefix() string { return "MUSTER_" + strings.ToUpper(s.command) + "_" }

// environment picks this command's variables, by flag.
func (s *Settings) environment(environ []string) (map[string]string, error) {
	values := map[string]string{}
	for _, e := range environ {
		variable, value, _ := strings.Cut(e, "=")
		rest, ok := strings.CutPrefix(variable, s.prefix())
		if !ok {
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if f := s.flags.Lookup(name); f == nil || name == printFlag || s.variable(name) != variable {
			return nil, fmt.Errorf("environment variable %s: no such setting%s", variable, s.nearest(name, s.variable))
		}
		values[name] = value
	}
	return values, nil
}

// fromFile sets what is in the file and neither in env nor on the command line, and checks the rest all the same.
func (s *Settings) fromFile(env map[string]string) error {
	f, err := os.Open(s.file)
	if err != nil {
		return fmt.Errorf("--%s: %w", fileFlag, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("%s: %w", s.file, err)
	}
	if len(b) > maxFile {
		return fmt.Errorf("%s has more than %d bytes", s.file, maxFile)
	}
	values, err := decode(b)
	if err != nil {
		return fmt.Errorf("%s: %s", s.file, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		flag := s.flags.Lookup(name)
		if flag == nil || name == fileFlag || name == printFlag || name == "help" {
			return fmt.Errorf("%s: %s: no such setting%s", s.file, name, s.nearest(name, func(n string) string { return n }))
		}
		list, err := texts(values[name], flag.Value.Type())
		if err != nil {
			return fmt.Errorf("%s: %s: %w", s.file, name, err)
		}
		_, inEnv := env[name]
		if inEnv || s.source[name] == "flag" {
			continue
		}
		if many, ok := flag.Value.(pflag.SliceValue); ok {
			err = many.Replace(list)
			flag.Changed = true
		} else {
			err = s.flags.Set(name, list[0])
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", s.file, name, s.cause(name, err))
		}
		s.source[name] = "file " + s.file
	}
	return nil
}

// cause strips what pflag puts in front of an error, and the value of a secret with it.
func (s *Settings) cause(name string, err error) error {
	if s.secret(name) {
		return errors.New("the value is not valid")
	}
	if bad := (*pflag.InvalidValueError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("%q is not valid: %w", bad.GetValue(), bad.Unwrap())
	}
	return err
}

func (s *Settings) secret(name string) bool {
	f := s.flags.Lookup(name)
	return f != nil && f.Annotations[secretAnnotation] != nil
}

// decode reads a file: one flat map, each name once.
func decode(b []byte) (map[string]any, error) {
	j, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return nil, errors.New("want a map from settings to values")
	}
	return values, nil
}

// texts is a value of the file as a flag of that type takes it: lists only for lists, and nothing that YAML may have
// read differently from how it was written.
func texts(value any, kind string) ([]string, error) {
	isList := strings.HasSuffix(kind, "Slice") || strings.HasSuffix(kind, "Array")
	if many, ok := value.([]any); ok {
		if !isList {
			return nil, fmt.Errorf("a list, want a %s", kind)
		}
		list := []string{}
		for _, v := range many {
			one, err := text(v, strings.TrimSuffix(strings.TrimSuffix(kind, "Slice"), "Array"))
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, nil
	}
	one, err := text(value, kind)
	if err != nil {
		return nil, err
	}
	if isList {
		return strings.Split(one, ","), nil
	}
	return []string{one}, nil
}

func text(value any, kind string) (string, error) {
	numeric := strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint") || strings.HasPrefix(kind, "float") || kind == "count"
	switch v := value.(type) {
	case string:
		return v, nil
	case bool:
		if kind == "bool" {
			return fmt.Sprint(v), nil
		}
	case json.Number:
		if numeric {
			return v.String(), nil
		}
	case nil:
		return "", errors.New("no value")
	case map[string]any:
		return "", errors.New("a map: settings are flat")
	}
	return "", fmt.Errorf("%v is not a %s: put it in quotes if it is meant", value, kind)
}

// nearest suggests the setting with the most like name.
func (s *Settings) nearest(name string, show func(string) string) string {
	best, distance := "", 4 // further away is no misspelling
	s.flags.VisitAll(func(f *pflag.Flag) {
		if d := edits(name, f.Name); d < distance {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", show(best))
}

// edits counts the letters to change, add or take away between a and b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			before, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, before+cost)
		}
	}
	return row[len(b)]
}

// Print tells whether --print-config was given; the caller then writes the settings and ends.
func (s *Settings) Print() bool { return s.print }

// Source says where a flag's value came from: default, flag, "file PATH" or "environment NAME".
func (s *Settings) Source(flag string) string {
	if from := s.source[flag]; from != "" {
		return from
	}
	return "default"
}

// Write lists every setting, its value and its source, by name. Values of secrets are left out.
func (s *Settings) Write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == printFlag || f.Name == "help" {
			return
		}
		value := f.Value.String()
		switch {
		case s.secret(f.Name) && value != "":
			value = "(secret)"
		case f.Name == fileFlag:
			value = s.file
		}
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Name, value, s.Source(f.Name))
	})
	return table.Flush()
}
