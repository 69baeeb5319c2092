package manifest

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/musterhq/muster/internal/spec"
)

// use is what becomes of a field.
type use uint8

const (
	// converted fields reach the object.
	converted use = iota + 1
	// harmless fields are left out with a warning.
	harmless
	// parts are structs that are looked into, field by field.
	parts
)

// fieldUses says what becomes of fields, by their paths without indices and keys.
type fieldUses map[string]use

const (
	metaConverted = "name namespace labels annotations"
	metaHarmless  = "creationTimestamp deletionGracePeriodSeconds deletionTimestamp generation managedFields resourceVersion selfLink uid"

	podConverted = "restartPolicy terminationGracePeriodSeconds nodeSelector readinessGates.conditionType hostname " +
		"volumes.name volumes.hostPath.path volumes.hostPath.type volumes.emptyDir.medium volumes.emptyDir.sizeLimit " +
		"volumes.configMap.name volumes.configMap.defaultMode volumes.configMap.optional volumes.configMap.items.key volumes.configMap.items.path volumes.configMap.items.mode " +
		"volumes.secret.secretName volumes.secret.defaultMode volumes.secret.optional volumes.secret.items.key volumes.secret.items.path volumes.secret.items.mode " +
		"volumes.downwardAPI.defaultMode " + "volumes.projected.defaultMode " +
		"volumes.projected.sources.configMap.name volumes.projected.sources.configMap.optional volumes.projected.sources.configMap.items.key " +
		"volumes.projected.sources.configMap.items.path volumes.projected.sources.configMap.items.mode " +
		"volumes.projected.sources.secret.name volumes.projected.sources.secret.optional volumes.projected.sources.secret.items.key " +
		"volumes.projected.sources.secret.items.path volumes.projected.sources.secret.items.mode " +
		"dnsPolicy dnsConfig.nameservers dnsConfig.searches dnsConfig.options.name dnsConfig.options.value " +
		"hostNetwork hostPID hostIPC shareProcessNamespace securityContext.runAsUser securityContext.runAsGroup securityContext.runAsNonRoot " +
		"securityContext.supplementalGroups securityContext.fsGroup securityContext.seccompProfile.type"
	podHarmless = "automountServiceAccountToken enableServiceLinks imagePullSecrets preemptionPolicy priorityClassName " +
		"schedulerName serviceAccount serviceAccountName"

	containerConverted = "name image command args workingDir restartPolicy " +
		"restartPolicyRules.action restartPolicyRules.exitCodes.operator restartPolicyRules.exitCodes.values " +
		"env.name env.value env.valueFrom.fieldRef.apiVersion env.valueFrom.fieldRef.fieldPath " +
		"env.valueFrom.configMapKeyRef.name env.valueFrom.configMapKeyRef.key env.valueFrom.configMapKeyRef.optional " +
		"env.valueFrom.secretKeyRef.name env.valueFrom.secretKeyRef.key env.valueFrom.secretKeyRef.optional " +
		"env.valueFrom.resourceFieldRef.containerName env.valueFrom.resourceFieldRef.resource env.valueFrom.resourceFieldRef.divisor " +
		"envFrom.prefix envFrom.configMapRef.name envFrom.configMapRef.optional envFrom.secretRef.name envFrom.secretRef.optional " +
		"ports.name ports.containerPort ports.hostPort ports.protocol resources.requests resources.limits " +
		"volumeMounts.name volumeMounts.mountPath volumeMounts.readOnly volumeMounts.subPath " +
		"securityContext.runAsUser securityContext.runAsGroup securityContext.runAsNonRoot " +
		"securityContext.readOnlyRootFilesystem securityContext.allowPrivilegeEscalation " +
		"securityContext.capabilities.add securityContext.capabilities.drop securityContext.seccompProfile.type"
	containerHarmless = "imagePullPolicy terminationMessagePath terminationMessagePolicy"

	probeConverted = "initialDelaySeconds periodSeconds timeoutSeconds successThreshold failureThreshold terminationGracePeriodSeconds " +
		"exec.command tcpSocket.host tcpSocket.port grpc.port grpc.service grpc.mode " +
		"httpGet.path httpGet.port httpGet.host httpGet.scheme httpGet.protocol httpGet.httpHeaders.name httpGet.httpHeaders.value"
	hookConverted = "exec.command httpGet.path httpGet.port httpGet.host httpGet.scheme httpGet.protocol httpGet.httpHeaders.name httpGet.httpHeaders.value sleep.seconds"

	deploymentConverted = "replicas selector.matchLabels selector.matchExpressions.key selector.matchExpressions.operator selector.matchExpressions.values"
)

var podFields, deploymentFields = func() (pod, deployment fieldUses) {
	pod, deployment = fieldUses{}, fieldUses{}
	for _, f := range []fieldUses{pod, deployment} {
		f.set("", "apiVersion kind", converted)
		f.set("", "status", harmless)
		f.set("metadata", metaConverted, converted)
		f.set("metadata", metaHarmless, harmless)
	}
	pod.podSpec("spec")
	deployment.set("spec", deploymentConverted, converted)
	deployment.set("spec", rolloutConverted, converted)
	deployment.set("spec.template.metadata", "labels annotations", converted)
	// A template's pods get names and namespace of their own.
	deployment.set("spec.template.metadata", metaHarmless+" name namespace", harmless)
	deployment.podSpec("spec.template.spec")
	return pod, deployment
}()

const (
	serviceConverted = "selector clusterIP publishNotReadyAddresses type ports.name ports.protocol ports.port ports.targetPort ports.nodePort"
	// What only matters to virtual addresses, to load balancers and to ports of nodes.
	serviceHarmless = "clusterIPs ports.appProtocol internalTrafficPolicy externalTrafficPolicy ipFamilies ipFamilyPolicy sessionAffinity " +
		"sessionAffinityConfig allocateLoadBalancerNodePorts loadBalancerClass loadBalancerIP loadBalancerSourceRanges healthCheckNodePort trafficDistribution"
)

var serviceFields, configMapFields, secretFields = func() (service, configMap, secret fieldUses) {
	service, configMap, secret = fieldUses{}, fieldUses{}, fieldUses{}
	for _, f := range []fieldUses{service, configMap, secret} {
		f.set("", "apiVersion kind", converted)
		f.set("metadata", metaConverted, converted)
		f.set("metadata", metaHarmless, harmless)
	}
	service.set("", "status", harmless)
	service.set("spec", serviceConverted, converted)
	service.set("spec", serviceHarmless, harmless)
	configMap.set("", "data binaryData immutable", converted)
	secret.set("", "data stringData type immutable", converted)
	return service, configMap, secret
}()

var listFields = fieldUses{"apiVersion": converted, "kind": converted, "items": converted, "metadata": harmless}

func (f fieldUses) podSpec(at string) {
	f.set(at, podConverted, converted)
	f.set(at, placementConverted, converted)
	f.set(at, podHarmless, harmless)
	for _, items := range []string{".volumes.downwardAPI.items", ".volumes.projected.sources.downwardAPI.items"} {
		f.set(at+items, "path mode fieldRef.apiVersion fieldRef.fieldPath resourceFieldRef.containerName resourceFieldRef.resource resourceFieldRef.divisor", converted)
	}
	for _, c := range []string{at + ".containers", at + ".initContainers"} {
		f.set(c, containerConverted, converted)
		f.set(c, containerHarmless, harmless)
		for _, k := range spec.ProbeKinds {
			f.set(c+"."+k.String()+"Probe", probeConverted, converted)
		}
		for _, hook := range []string{"postStart", "preStop"} {
			f.set(c+".lifecycle."+hook, hookConverted, converted)
		}
	}
}

// set gives fields their use, and makes what they are in parts.
func (f fieldUses) set(at, names string, u use) {
	for name := range strings.FieldsSeq(names) {
		path := join(at, name)
		f[path] = u
		for i := strings.LastIndexByte(path, '.'); i > 0; i = strings.LastIndexByte(path, '.') {
			path = path[:i]
			f[path] = parts
		}
	}
}

// unset are values that say the same as leaving the field out, by the last names of the path.
var unset = map[string]string{
	"spec.shareProcessNamespace": "false", "spec.setHostnameAsFQDN": "false", "spec.hostUsers": "true", "spec.priority": "0",
	"spec.securityContext": "{}", "containers.securityContext": "{}", "initContainers.securityContext": "{}",
}

var index = regexp.MustCompile(`\[[0-9]+\]$`)

// unsupported finds every field that is set in the object, a Kubernetes value, and that is not converted.
func (d *decoder) unsupported(object any, uses fieldUses) {
	d.walk("", "", reflect.ValueOf(object).Elem(), uses)
}

// walk looks at the fields of a struct. pattern is path without indices.
func (d *decoder) walk(path, pattern string, v reflect.Value, uses fieldUses) {
	for f := range visible(v.Type()) {
		fv := v.FieldByIndex(f.index)
		if absent(fv) {
			continue
		}
		at, shape := join(path, f.name), join(pattern, f.name)
		switch uses[shape] {
		case converted:
		case harmless:
			d.warn(at, "ignored: it has no meaning here")
		case parts:
			d.each(at, shape, fv, uses)
		default:
			if saysNothing(shape, fv) {
				continue
			}
			if strings.Contains(shape, "spec.volumes.") {
				d.add(at, spec.NotBuilt, nil, "")
			} else {
				d.notBuilt(at)
			}
		}
	}
}

// each walks a struct, what a pointer leads to, and the items of a list.
func (d *decoder) each(at, shape string, v reflect.Value, uses fieldUses) {
	switch v.Kind() {
	case reflect.Pointer:
		d.each(at, shape, v.Elem(), uses)
	case reflect.Slice:
		for i := range v.Len() {
			d.each(fmt.Sprintf("%s[%d]", at, i), shape, v.Index(i), uses)
		}
	default:
		d.walk(at, shape, v, uses)
	}
}

// absent tells whether a field was left out, or is a list of nothing. A pointer was set.
func absent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	default:
		return v.IsZero()
	}
}

func saysNothing(shape string, v reflect.Value) bool {
	for suffix, value := range unset {
		if !strings.HasSuffix(shape, suffix) || v.Kind() != reflect.Pointer {
			continue
		}
		if value == "{}" {
			return v.Elem().IsZero()
		}
		return fmt.Sprint(v.Elem().Interface()) == value
	}
	return false
}

// isVolumeSource tells whether found, of a volume, is another source than the hostPath that validation misses.
func isVolumeSource(found, missed string) bool {
	volume, ok := strings.CutSuffix(missed, ".hostPath.path")
	rest, of := strings.CutPrefix(found, volume+".")
	return ok && of && index.MatchString(volume) && !strings.HasPrefix(rest, "hostPath") && rest != "name"
}
