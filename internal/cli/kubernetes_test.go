package cli

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// everything sets each field of a pod that manifests may set.
const everything = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}, annotations: {note: x}}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 7
  nodeSelector: {disk: ssd}
  hostname: www
  readinessGates: [{conditionType: example.com/gate}]
  hostNetwork: true
  hostIPC: true
  securityContext: {runAsUser: 7, runAsGroup: 8, runAsNonRoot: true, supplementalGroups: [9], fsGroup: 10, seccompProfile: {type: RuntimeDefault}}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: host, hostPath: {path: /srv, type: Directory}}
  initContainers:
  - {name: init, command: [setup], restartPolicy: OnFailure, resources: {requests: {cpu: 10m}, limits: {memory: 1Mi}}}
  - {name: side, command: [serve], restartPolicy: Always, startupProbe: {tcpSocket: {port: 80}}, livenessProbe: {grpc: {port: 9000, service: health}}, lifecycle: {preStop: {sleep: {seconds: 3}}}}
  containers:
  - name: web
    image: example
    command: [serve]
    args: [all]
    workingDir: /srv
    env: [{name: A, value: b}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    ports: [{name: http, containerPort: 80, hostPort: 80, protocol: TCP}]
    volumeMounts: [{name: disk, mountPath: /a, subPath: b/c, readOnly: true}, {name: memory, mountPath: /m}, {name: host, mountPath: /h}]
    restartPolicy: Never
    restartPolicyRules: [{action: Restart, exitCodes: {operator: NotIn, values: [1, 2]}}]
    securityContext: {runAsUser: 0, runAsGroup: 2, runAsNonRoot: false, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {add: [NET_RAW], drop: [ALL]}}
    lifecycle: {postStart: {exec: {command: [warm, up]}}, preStop: {httpGet: {port: http, path: /bye, httpHeaders: [{name: X, value: why}]}}}
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 3, terminationGracePeriodSeconds: 4}
    readinessProbe: {httpGet: {port: http, path: /r, scheme: HTTPS, httpHeaders: [{name: X, value: why}]}, successThreshold: 2}
    startupProbe: {tcpSocket: {port: 80}, initialDelaySeconds: 1, timeoutSeconds: 5, failureThreshold: 6}
`

// rolling sets each field of a Deployment that says how it rolls.
const rolling = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 3
  minReadySeconds: 5
  revisionHistoryLimit: 0
  progressDeadlineSeconds: 60
  paused: true
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 30%}}
  selector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [web]}]}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, command: [x]}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, command: [x]}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: default}
spec: {minAvailable: 0, selector: {}, unhealthyPodEvictionPolicy: AlwaysAllow}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: default}
spec: {maxUnavailable: 20%}
`

func TestPrintedDeploymentsAndBudgetsAreThoseThatWereApplied(t *testing.T) {
	decode := func(text []byte) []manifest.Object {
		t.Helper()
		objects, err := manifest.Decode(text, "test", manifest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.Failed() {
				t.Fatalf("%+v", o)
			}
			if o.Budget != nil {
				spec.DefaultPodDisruptionBudget(o.Budget)
			} else {
				spec.DefaultDeployment(o.Deployment)
			}
		}
		return objects
	}
	for i, o := range decode([]byte(rolling)) {
		var printed fields
		if o.Budget != nil {
			printed = budgetValue(wire.PodDisruptionBudgetToProto(o.Budget, nil)).(fields)
		} else {
			printed = deploymentValue(wire.DeploymentToProto(o.Deployment)).(fields)
		}
		text, err := json.Marshal(printed)
		if err != nil {
			t.Fatal(err)
		}
		again := decode(text)[0]
		if diff := cmp.Diff([]any{o.Budget, o.Deployment}, []any{again.Budget, again.Deployment}); diff != "" {
			t.Errorf("document %d printed and applied again (-first +again):\n%s\n%s", i+1, diff, text)
		}
	}
}

// What "get -o yaml" prints can be applied again, and means the same.
func TestPrintedManifestIsTheOneThatWasApplied(t *testing.T) {
	decode := func(text []byte) *spec.Pod {
		t.Helper()
		objects, err := manifest.Decode(text, "test", manifest.Options{KeepClaims: true})
		if err != nil || len(objects) != 1 || len(objects[0].Findings) > 0 || objects[0].Pod == nil {
			t.Fatalf("manifest: %v, %+v", err, objects)
		}
		p := objects[0].Pod
		spec.DefaultPod(p)
		return p
	}
	applied := decode([]byte(everything))
	text, err := json.Marshal(podValue(wire.PodToProto(applied)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(applied.Spec, decode(text).Spec); diff != "" {
		t.Errorf("printed and applied again (-first +again):\n%s\n%s", diff, text)
	}
}
