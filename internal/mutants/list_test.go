package mutants

const (
	healthGo  = "agent/health/health.go"
	machineGo = "agent/pod/machine.go"
	restartGo = "agent/pod/restart.go"
	initGo    = "agent/pod/init.go"
	statusGo  = "agent/pod/status.go"
	proberGo  = "agent/prober/prober.go"
	probeGo   = "agent/probe/probe.go"
	httpGo    = "agent/probe/http.go"
	quickGo   = "agent/probe/quick.go"
	checkGo   = "internal/spec/validate.go"
)

var mutants = []mutant{
	// Fields.
	{"2.1", checkGo, `n := p.SuccessThreshold; kind != Readiness && n != 1 {`, `n := p.SuccessThreshold; kind == Liveness && n != 1 {`},
	{"2.2", "internal/spec/default.go", `p.FailureThreshold = DefaultFailureThreshold`, `p.FailureThreshold = 1`},
	{"2.3", checkGo, `} else if *g <= 0 {`, `} else if *g < 0 {`},
	{"2.4", checkGo, `if *n > 1 {`, `if *n > 2 {`},
	{"2.6", checkGo, "if k.Probe(kind) != nil {\n\t\t\t\tc.add(p", "if false {\n\t\t\t\tc.add(p"},
	// Handlers.
	{"3.1.2", probeGo, `if given != "" {`, `if given == "0" {`},
	{"3.1.3", probeGo, `if n < 1 || n > 65535 {`, `if n < 1 {`},
	{"3.2.2", probeGo, `if res.ExitCode != 0 {`, `if res.ExitCode == 1 {`},
	{"3.2.3", probeGo, `string(res.Stdout) + string(res.Stderr)`, `string(res.Stderr) + string(res.Stdout)`},
	{"3.2.4", probeGo, "case err != nil:\n\t\treturn errored(err)\n\t}\n\tanswer", "case err != nil:\n\t\treturn failed(err.Error())\n\t}\n\tanswer"},
	{"3.3.2", httpGo, `req.Header.Set("Accept", "*/*")`, `req.Header.Set("Accept", "text/html")`},
	{"3.3.3", httpGo, `InsecureSkipVerify: true}`, `InsecureSkipVerify: false}`},
	{"3.3.4", httpGo, `if a.Protocol == spec.ProtocolHTTP2 {`, `if false {`},
	{"3.3.6", httpGo, `const maxRequests = 10`, `const maxRequests = 11`},
	{"3.3.7", httpGo, `if req.URL.Hostname() != via[0].URL.Hostname() {`, `if false {`},
	{"3.3.8", quickGo, `case head.status >= 200 && head.status < 300:`, `case head.status >= 200:`},
	{"3.3.10", httpGo, `return failed(fmt.Sprintf("Get %q: the body stalled: %v", u, err))`, `return errored(err)`},
	{"3.3.10", quickGo, `c.answer = failed(fmt.Sprintf("Get %q: %s%v", `, `c.answer = errored(fmt.Errorf("Get %q: %s%v", `},
	{"3.4.1", quickGo, `c.answer = failed(err.Error())`, `c.answer = errored(err)`},
	{"3.5", "agent/probe/grpc.go", `answer.GetStatus() == healthpb.HealthCheckResponse_SERVING:`, `answer.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING:`},
	// Runs.
	{"4.1", proberGo, `attempts = 3`, `attempts = 2`},
	{"4.3", healthGo, `if r == spec.ResultUnknown || t.held {`, `if t.held {`},
	// Steps.
	{"5.1.3", proberGo, "if w.running {\n\t\tw.again = true", "if false {\n\t\tw.again = true"},
	{"5.1.4", machineGo, ` || (!c.running() && !c.again(w, sc)) {`, ` {`},
	{"5.1.5", proberGo, `if r := recover(); r != nil {`, `if r := any(nil); r != nil {`},
	{"5.2.4", healthGo, `t.last, t.run, t.held, t.hasValue = spec.ResultUnknown, 0, false, false`, `t.last, t.run, t.hasValue = spec.ResultUnknown, 0, false`},
	{"5.2.5", healthGo, `if t.held || !t.facts.Running`, `if !t.facts.Running`},
	{"5.2.6", healthGo, `if f.Instance != "" && !f.Running && !t.held {`, `if false {`},
	{"5.2.8", healthGo, `now.Sub(t.facts.StartedAt) >= t.delay`, `now.Sub(t.facts.StartedAt) >= 0`},
	{"5.2.9", healthGo, `return t.facts.Started != (t.kind == spec.Startup)`, `return true`},
	{"5.2.12", healthGo, `if t.run < threshold {`, `if t.run+1 < threshold {`},
	{"5.2.13", healthGo, `t.kind == spec.Liveness && r == spec.ResultFailure && !t.facts.Held {`, `false {`},
	{"5.3", healthGo, "case spec.Readiness:\n\t\treturn spec.ResultFailure", "case spec.Readiness:\n\t\treturn spec.ResultSuccess"},
	{"5.3.4", machineGo, `c.waitsForHook(sc) || (w.stopping()`, `(w.stopping()`},
	{"5.4.1", healthGo, `t.last, t.run = r, 0`, `t.last = r`},
	{"5.4.2", healthGo, `t.last, t.run, t.held, t.hasValue = spec.ResultUnknown, 0, false, false`, `t.held, t.hasValue = false, false`},
	{"5.5.1", machineGo, `if kind != spec.Readiness || !row.Started || c.ready(sc) {`, `if kind != spec.Readiness || !row.Started {`},
	{"5.6.1", proberGo, "if changed {\n\t\tp.cfg.Believe(w.state())", "if true {\n\t\tp.cfg.Believe(w.state())"},
	// Standing.
	{"7.1.1", machineGo, `case c.kept.ID == c.Instance.ID && c.kept.Started:`, `case c.kept.Started:`},
	{"7.2", machineGo, "case !c.running() || !c.started(sc):\n\t\treturn false\n\tcase sc.Readiness", "case !c.running():\n\t\treturn false\n\tcase sc.Readiness"},
	{"7.4", statusGo, `case c.Status != spec.ConditionTrue:`, `case false:`},
	{"7.6", statusGo, `old != nil && old.Status == status {`, `old != nil && false {`},
	{"7.7", statusGo, "c.Instance == nil {\n\t\t\treturn spec.PhasePending", "c.Instance == nil {\n\t\t\treturn spec.PhaseRunning"},
	{"7.8", statusGo, "if m.status.Phase.Final() {\n\t\treturn m.status.Phase", "if false {\n\t\treturn m.status.Phase"},
	// Consequences.
	{"8.1", machineGo, `c.Owed = c.Instance.ID
		}
		m.stop(now, w, k.sc`, `}
		m.stop(now, w, k.sc`},
	{"8.2", machineGo, ` && (!w.Pod.Deleting() || w.Pod.DeleteGrace > 0)`, ``},
	{"8.3", restartGo, `return max(g, MinGrace)`, `return g`},
	{"8.3", restartGo, `g = *probe.TerminationGrace`, `g = max(g, *probe.TerminationGrace)`},
	{"8.3.1", machineGo, `grace(w, k.sc, 0), "Stopping container "+k.sc.Name`, `grace(w, k.sc, k.kind), "Stopping container "+k.sc.Name`},
	{"8.4", restartGo, `return exitCode != 0`, `return true`},
	{"8.4", restartGo, `if slices.Contains(r.ExitCodes, exitCode) == r.In {`, `if slices.Contains(r.ExitCodes, exitCode) {`},
	{"8.4", initGo, `c.in(s) && !c.reset()
}`, `c.in(s)
}`},
	{"8.5", restartGo, `b.Delay = min(2*b.Delay, BackoffMax)`, `b.Delay = 2 * b.Delay`},
	{"8.5", restartGo, `case b.Delay == 0 || ended.Sub(b.Stamp) > BackoffReset:`, `case b.Delay == 0:`},
	// Init containers and sidecars.
	{"9.1", initGo, `if !begun && !c.started(sc) {`, `if false {`},
	{"9.3", machineGo, `if m.over(w) {`, `if false {`},
	{"9.4", initGo, `c.Instance.ExitCode != 0 && !c.again(w, sc) {`, `false {`},
	// Deletion.
	{"10.1", machineGo, `(w.stopping() && kind != spec.Readiness)`, `(w.stopping() && kind == spec.Startup)`},
	{"10.4", initGo, `slices.Backward(w.Pod.Spec.AllContainers())`, `slices.All(w.Pod.Spec.AllContainers())`},
	// The agent's restart.
	{"11.2", healthGo, `if f.Instance != "" && !f.Adopted {`, `if f.Instance != "" {`},
	{"11.3", machineGo, `return c.kept.ID == c.Instance.ID && c.kept.Ready`, `return false`},
	// Events and metrics.
	{"12", machineGo, `why += ", will be restarted"`, `why += ", to be restarted"`},
	{"12.2", "internal/event/event.go", `SimilarMax    = 10`, `SimilarMax    = 11`},
	{"13", "agent/metrics.go", "if r == spec.ResultSuccess {\n\t\tp.took", "if true {\n\t\tp.took"},
	{"13", proberGo, "if result != spec.ResultUnknown {\n\t\tp.cfg.Metrics", "if true {\n\t\tp.cfg.Metrics"},
	{"13.1", "agent/metrics.go", `m.series.LoadAndDelete(id)`, `m.series.Load(id)`},
}
