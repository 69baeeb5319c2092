package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// maxRequests is how many requests redirects may make of one attempt (3.3.6).
const maxRequests = 10

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 1 << 20

// tlsSessions bounds the TLS sessions that are kept to go on with, by address: some KiB each.
const tlsSessions = 1024

// httpClient makes GETs as the kubelet does: a connection each, no proxy, no verification of certificates.
type httpClient struct {
	client *http.Client
	// h2c speaks HTTP/2 without TLS, which no server is asked to agree to first (3.3.4).
	h2c    *http.Client
	dialer *net.Dialer
}

func newHTTPClient(d *net.Dialer) *httpClient {
	c := &httpClient{dialer: d}
	c.client = &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true, ForceAttemptHTTP2: true, Proxy: nil,
			// A session that goes on needs no certificate. None is verified: by rule 3.3.3 whether it answers is the question, not who.
			TLSClientConfig:        &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessions), InsecureSkipVerify: true}, //nolint:gosec // as it says above
			TLSHandshakeTimeout:    10 * time.Second,
			DialContext:            c.dialContext,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: follow,
	}
	h2c := &http.Transport{DisableKeepAlives: true, DisableCompression: true, Proxy: nil, DialContext: d.DialContext,
		MaxResponseHeaderBytes: maxHeader, Protocols: &http.Protocols{}}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	c.h2c = &http.Client{Transport: h2c, CheckRedirect: follow}
	return c
}

// speaking is the client of an action's protocol.
func (c *httpClient) speaking(a *spec.HTTPAction) *http.Client {
	if a.Protocol == spec.ProtocolHTTP2 {
		return c.h2c
	}
	return c.client
}

// follow follows a redirect to the same host name (3.3.6); another one is an answer in itself (3.3.7).
func follow(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRequests {
		return fmt.Errorf("stopped after %d redirects", maxRequests)
	}
	return nil
}

// target is the URL of an attempt (3.3.1).
func target(a *spec.HTTPAction, host string, port int) *url.URL {
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme, u.Host, u.User = strings.ToLower(a.Scheme), net.JoinHostPort(host, strconv.Itoa(port)), nil
	if u.Opaque != "" {
		u.Path, u.Opaque = u.Opaque, ""
	}
	return u
}

// headers are what is sent besides what every request has (3.3.2).
func headers(req *http.Request, given []spec.Header, agent string) {
	hostSet := false
	for _, h := range given {
		if strings.EqualFold(h.Name, "Host") {
			if !hostSet {
				req.Host, hostSet = h.Value, true
			}
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	switch values, ok := req.Header["Accept"]; {
	case !ok:
		req.Header.Set("Accept", "*/*")
	case len(values) > 0 && values[0] == "":
		req.Header.Del("Accept")
	}
}

// request is what an attempt asks.
func request(ctx context.Context, a *spec.HTTPAction, host string, port int) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target(a, host, port).String(), nil)
	if err != nil {
		return nil, err
	}
	headers(req, a.Headers, UserAgent)
	return req, nil
}

// get makes an attempt through net/http alone.
func (c *httpClient) get(ctx context.Context, a *spec.HTTPAction, host string, port int) Answer {
	req, err := request(ctx, a, host, port)
	if err != nil {
		return errored(err)
	}
	return do(c.speaking(a), req)
}

// do makes the GET through net/http.
func do(client *http.Client, req *http.Request) Answer {
	u := req.URL
	resp, err := client.Do(req)
	if err != nil {
		return failed(err.Error())
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// What follows is no body: net/http hands out the connection, which no deadline ends any more.
		return failed(fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxOutput))
	switch {
	case err != nil && errors.Is(err, context.DeadlineExceeded):
		return failed(fmt.Sprintf("Get %q: the body stalled: %v", u, err))
	case err != nil:
		return failed(fmt.Sprintf("Get %q: reading the body: %v", u, err))
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return Answer{Outcome: spec.OutcomeSuccess, Output: string(body), CPU: -1}
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return Answer{Outcome: spec.OutcomeWarning, Output: clip("Probe terminated redirects, Response body: " + string(body)), CPU: -1}
	}
	return failed(fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode))
}

// Notify makes the GET of a container's hook at the pod's address: whatever is answered will do, only that nothing is is an
// error. ports are the container's. It lasts as long as ctx at most.
func (a *Attempter) Notify(ctx context.Context, action *spec.HTTPAction, address string, ports []spec.Port) error {
	port, err := resolve(action.Port, ports)
	if err != nil {
		return err
	}
	u := target(action, hostOf(action.Host, address), port)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	headers(req, action.Headers, HookUserAgent)
	resp, err := a.http.speaking(action).Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols { // as above
		_, _ = io.CopyN(io.Discard, resp.Body, MaxOutput)
	}
	return resp.Body.Close()
}
