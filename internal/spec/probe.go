package spec

import "time"

// ProbeKind is what a probe's verdict is for.
type ProbeKind uint8

// The kinds of probes.
const (
	Liveness ProbeKind = iota + 1
	Readiness
	Startup
)

// ProbeKinds lists the kinds in the order they are shown.
var ProbeKinds = [...]ProbeKind{Liveness, Readiness, Startup}

// String is the lower-case name: liveness, readiness, startup.
func (k ProbeKind) String() string {
	switch k {
	case Liveness:
		return "liveness"
	case Readiness:
		return "readiness"
	case Startup:
		return "startup"
	}
	return "unknown"
}

// Title is the capitalised name that event texts and metric labels use.
func (k ProbeKind) Title() string {
	switch k {
	case Liveness:
		return "Liveness"
	case Readiness:
		return "Readiness"
	case Startup:
		return "Startup"
	}
	return "Unknown"
}

// Probe asks one question of one container, again and again.
type Probe struct {
	Handler
	// InitialDelay counts from the container's start; default 0.
	InitialDelay time.Duration
	// Period is from the start of one attempt to the start of the next; default 10 s, at least 100 ms.
	Period time.Duration
	// Timeout bounds one attempt; default 1 s, at least 1 ms.
	Timeout time.Duration
	// SuccessThreshold is how many successes in a row make a success; default 1, and 1 for liveness and startup.
	SuccessThreshold int32
	// FailureThreshold is how many failures in a row make a failure; default 3.
	FailureThreshold int32
	// TerminationGrace replaces the pod's grace period when this probe kills the container; nil means the pod's.
	// Not for readiness.
	TerminationGrace *time.Duration
}

// Handler is the question a probe asks; exactly one is set.
type Handler struct {
	Exec *ExecAction
	HTTP *HTTPAction
	TCP  *TCPAction
	GRPC *GRPCAction
}

// HandlerName is exec, httpGet, tcpSocket, grpc, or empty without a handler.
func (h *Handler) HandlerName() string {
	switch {
	case h.Exec != nil:
		return "exec"
	case h.HTTP != nil:
		return "httpGet"
	case h.TCP != nil:
		return "tcpSocket"
	case h.GRPC != nil:
		return "grpc"
	}
	return ""
}

// ExecAction runs a command inside the container, without a shell.
type ExecAction struct {
	Command []string
}

// HTTPAction sends a GET.
type HTTPAction struct {
	// Scheme is HTTP (default) or HTTPS.
	Scheme string
	// Host is the pod's address when empty.
	Host string
	Port PortRef
	// Path is "/" by default.
	Path    string
	Headers []Header
	// Protocol is HTTP2 for HTTP/2 without TLS from the first byte on; HTTP1, the default, becomes empty.
	Protocol string
}

// Header is one header of a request.
type Header struct{ Name, Value string }

// TCPAction opens a connection.
type TCPAction struct {
	// Host is the pod's address when empty.
	Host string
	Port PortRef
}

// GRPCAction calls grpc.health.v1.Health/Check at the pod's address.
type GRPCAction struct {
	// Port is 1 to 65535; it has no name.
	Port int32
	// Service is what the server is asked about; empty: the whole server.
	Service string
	// Mode is TLS, where certificates are not verified; Plaintext, the default, becomes empty.
	Mode string
}

// The values of HTTPAction.Protocol and GRPCAction.Mode.
const (
	ProtocolHTTP1, ProtocolHTTP2 = "HTTP1", "HTTP2"
	ModePlaintext, ModeTLS       = "Plaintext", "TLS"
)

// PortRef is a port by number, or by a name that the container's ports declare. Name wins where it is set.
type PortRef struct {
	Number int32
	Name   string
}

// Outcome is the answer of one attempt.
type Outcome uint8

// The outcomes of an attempt.
const (
	// OutcomeSuccess is a good answer.
	OutcomeSuccess Outcome = iota + 1
	// OutcomeWarning counts as success and is told in an event.
	OutcomeWarning
	// OutcomeFailure is a bad answer or none in time.
	OutcomeFailure
	// OutcomeErrored means that the attempt itself could not be made: it says nothing about the container.
	OutcomeErrored
	// OutcomeInconclusive means that the agent was too late to judge.
	OutcomeInconclusive
)

// String is the word that the API and the CLI show.
func (o Outcome) String() string {
	switch o {
	case OutcomeSuccess:
		return "success"
	case OutcomeWarning:
		return "warning"
	case OutcomeFailure:
		return "failure"
	case OutcomeErrored:
		return "errored"
	case OutcomeInconclusive:
		return "inconclusive"
	}
	return "unspecified"
}

// Result is what a run of attempts counts as, and what is believed of a probe (its verdict).
type Result uint8

// The results.
const (
	// ResultUnknown is the belief before anything is known.
	ResultUnknown Result = iota
	ResultSuccess
	ResultFailure
)

// String is the word that the API and the CLI show.
func (r Result) String() string {
	switch r {
	case ResultSuccess:
		return "success"
	case ResultFailure:
		return "failure"
	}
	return "unknown"
}

// ProbeID names one probe of one pod.
type ProbeID struct {
	PodUID    string
	Container string
	Kind      ProbeKind
}

// Attempt is the record of one attempt.
type Attempt struct {
	// Start is when it began, by the agent's clock.
	Start   time.Time
	Outcome Outcome
	// Result is what the run counts as; ResultUnknown when it was discarded.
	Result Result
	// Duration is the wall time of the attempt.
	Duration time.Duration
	// CPU is the processor time spent, children included; negative when it was not measured.
	CPU time.Duration
	// Lag is how late the attempt began; negative when it was not measured.
	Lag time.Duration
	// Instance is the container instance's id.
	Instance string
	// Output is at most 1 KiB.
	Output string
}

// ProbeAttempt is an attempt, and whose it is.
type ProbeAttempt struct {
	ID ProbeID
	Attempt
}

// ProbeState is what is believed of a probe and why.
type ProbeState struct {
	ID      ProbeID
	Pod     ObjectName
	Handler string
	Period  time.Duration
	// Verdict is the cached result after thresholds.
	Verdict Result
	// Since is when the verdict was reached.
	Since time.Time
	// RunLength counts the equal results in a row.
	RunLength int32
	// Last is the newest attempt; nil before the first.
	Last *Attempt
	// ErroredReason says why attempts could not be made; empty when the last one could.
	ErroredReason string
}
