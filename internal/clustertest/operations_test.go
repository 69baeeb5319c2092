package clustertest

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/telemetry/collectortest"
)

var (
	metricInText = regexp.MustCompile("`((?:muster|prober|process|go)_[a-z_]+)`")
	metricServed = regexp.MustCompile(`(?m)^# TYPE ([a-z_]+) `)
)

// scrape reads what a server of this cluster, which serves its metrics to everybody, shows.
func (c *Cluster) scrape(name string) string {
	c.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // on loopback
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("https://" + c.Address(name, "http") + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("metrics of %s: %v %s", name, err, resp.Status)
	}
	return string(b)
}

func TestTheOperationsPageNamesTheMetricsThatAreServedAndNoOthers(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range metricInText.FindAllStringSubmatch(string(page), -1) {
		named[m[1]] = true
	}
	if len(named) < 20 {
		t.Fatalf("the page names %d metrics, %v: is it read?", len(named), slices.Sorted(maps.Keys(named)))
	}

	c := Start(t, 2, WithEnv(
		"MUSTER_COORDINATOR_METRICS_AUTH=none", "MUSTER_AGENT_METRICS_AUTH=none",
		"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_ENDPOINT="+collectortest.New(t).GRPC,
	))
	c.Apply(sleepers("web", 2))
	c.Eventually(30*time.Second, "the pods are ready", func() bool { return c.running("app=web", 2) })
	c.KillMachine("node-2")
	served := map[string]bool{}
	var missing []string
	// The histograms of failovers come with the first one.
	defer func() {
		if len(missing) > 0 {
			t.Errorf("named by docs/operations.md and not served: %v", missing)
		}
	}()
	c.Eventually(30*time.Second, "what the page names is served", func() bool {
		for _, name := range []string{"coordinator", "node-1"} {
			for _, m := range metricServed.FindAllStringSubmatch(c.scrape(name), -1) {
				served[m[1]] = true
			}
		}
		missing = nil
		for name := range named {
			if !served[name] {
				missing = append(missing, name)
			}
		}
		return len(missing) == 0
	})
	for name := range served {
		if (strings.HasPrefix(name, "muster_") || strings.HasPrefix(name, "prober_")) && !named[name] {
			t.Errorf("%s is served, and docs/operations.md does not say what it is for", name)
		}
	}
	for server, lines := range map[string][]string{
		"coordinator": {"muster_failover_frozen 0", `muster_nodes{verdict="Ready"} 1`, `muster_nodes{verdict="Lost"} 1`, `muster_pods{phase="Running"} 2`},
		"node-1":      {"muster_session_up 1"},
	} {
		got := c.scrape(server)
		for _, line := range lines {
			if !strings.Contains(got, line) {
				t.Errorf("%s does not show %s", server, line)
			}
		}
		until := regexp.MustCompile(`muster_certificate_not_after_timestamp_seconds ([0-9.e+]+)`).FindStringSubmatch(got)
		seconds := 0.0
		if until != nil {
			_, _ = fmt.Sscan(until[1], &seconds)
		}
		if days := time.Until(time.Unix(int64(seconds), 0)).Hours() / 24; days < 29 || days > 91 {
			t.Errorf("the certificate of %s ends in %.0f days (%v)", server, days, until)
		}
	}
}
