package cli

import (
	"fmt"
	"strings"

	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/wire"
)

// decodeFiles reads what files ask for, in their order. A file that cannot be read at all is told on stderr, and bad is
// true; the others are read all the same.
func (o *options) decodeFiles(files []string, opts manifest.Options) (found []manifest.Object, bad bool, err error) {
	sources, err := o.readSources(files)
	if err != nil {
		return nil, false, err
	}
	for _, s := range sources {
		objects, err := manifest.Decode(s.text, s.name, opts)
		if err != nil {
			fmt.Fprintln(o.world.Stderr, err)
			bad = true
			continue
		}
		found = append(found, objects...)
	}
	return found, bad, nil
}

// readManifests reads the objects to store. bad is true when some of them cannot be stored, which has been told.
func (o *options) readManifests(files []string, opts manifest.Options) (objects []object, bad bool, err error) {
	found, bad, err := o.decodeFiles(files, opts)
	if err != nil {
		return nil, false, err
	}
	for _, f := range found {
		ref := f.Source
		if f.Name != "" {
			ref += ": " + strings.ToLower(f.Kind) + "/" + f.Name
		}
		for i := range f.Findings {
			line := f.Findings[i].String()
			if f.Findings[i].Warning {
				line = "warning: " + strings.TrimPrefix(f.Findings[i].Path+": ", ": ") + f.Findings[i].Message
			}
			fmt.Fprintf(o.world.Stderr, "%s: %s\n", ref, oneLine(line))
		}
		namespace, err := o.inNamespace(f.Namespace)
		if err != nil {
			fmt.Fprintf(o.world.Stderr, "%s: %v\n", ref, err)
		}
		if f.Failed() || err != nil {
			bad = true
			continue
		}
		x := object{source: f.Source, namespace: namespace, name: f.Name, claims: f.Claims, lenient: opts.IgnoreUnsupported}
		switch {
		case f.Pod != nil:
			f.Pod.Namespace = namespace
			x.kind, x.value = podKind, wire.PodToProto(f.Pod)
		case f.Deployment != nil:
			f.Deployment.Namespace = namespace
			x.kind, x.value = deploymentKind, wire.DeploymentToProto(f.Deployment)
		case f.Service != nil:
			f.Service.Namespace = namespace
			x.kind, x.value = serviceKind, wire.ServiceToProto(f.Service)
		case f.ConfigMap != nil:
			f.ConfigMap.Namespace = namespace
			x.kind, x.value = configMapKind, wire.ConfigMapToProto(f.ConfigMap)
		case f.Secret != nil:
			f.Secret.Namespace = namespace
			x.kind, x.value = secretKind, wire.SecretToProto(f.Secret)
		case f.Budget != nil:
			f.Budget.Namespace = namespace
			x.kind, x.value = budgetKind, wire.PodDisruptionBudgetToProto(f.Budget, nil)
		default:
			continue // a warning has said that there is nothing to store
		}
		objects = append(objects, x)
	}
	return objects, bad, nil
}

// readNames reads which objects manifests name, whether they could be stored or not. bad is true when a name could not
// be read, which has been told.
func (o *options) readNames(files []string) (targets []doomed, bad bool, err error) {
	found, bad, err := o.decodeFiles(files, manifest.Options{IgnoreUnsupported: true})
	if err != nil {
		return nil, false, err
	}
	for _, f := range found {
		namespace, nerr := o.inNamespace(f.Namespace)
		k, kerr := kindOf(f.Kind)
		switch {
		case f.Kind == "Namespace" && f.Name != "":
			continue // namespaces come and go with their objects
		case f.Name == "" || kerr != nil || k.writes == nil:
			fmt.Fprintf(o.world.Stderr, "%s: no object of a known kind with a name: nothing to delete\n", f.Source)
			bad = true
		case nerr != nil:
			fmt.Fprintf(o.world.Stderr, "%s: %s/%s: %v\n", f.Source, k.singular, f.Name, nerr)
			bad = true
		default:
			targets = append(targets, doomed{k, namespace, f.Name})
		}
	}
	return targets, bad, nil
}
