package loadtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxScrapes is how many requests to the exporter are under way at most: as many as muster's attempts.
	maxScrapes = 256
	// scrapeTimeout bounds one, the exporter's own time-out of a probe among it.
	scrapeTimeout = 3 * time.Second
	// scrapeEvery is how often what is due is asked for.
	scrapeEvery = time.Millisecond
	// exporterStart bounds how long the exporter may take to answer at all.
	exporterStart = 10 * time.Second
)

// exporterConfig has the modules by kind. Its time-out is that of all probers.
const exporterConfig = `modules:
  http:
    prober: http
    timeout: 1s
    http:
      preferred_ip_protocol: ip4
  tcp:
    prober: tcp
    timeout: 1s
    tcp:
      preferred_ip_protocol: ip4
`

// scrapeJob is what a scraper is told.
type scrapeJob struct {
	peerJob
	// Exporter is the program, CPU the processor that it is pinned to.
	Exporter string
	CPU      int
}

// Scrape is the process that starts a blackbox_exporter and asks it for probes, each once a period, evenly spread: it reads its job from
// in, says the exporter's process id, answers each further line of in by what came of the probes, and ends with in, and the
// exporter with it. It does what a Prometheus would, but asks for no compression, which is to the exporter's favour. The
// calling goroutine has to be locked to the process's first thread: whichever way that ends, the kernel ends the exporter. It is not
// for people to call.
func Scrape(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var j scrapeJob
	if err := json.Unmarshal(line, &j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	e, err := startExporter(ctx, &j)
	if err != nil {
		return err
	}
	defer e.stop()
	ctx, cancel := context.WithCancel(ctx)
	s := &scraper{job: &j, client: e.client, base: e.base}
	scraped := make(chan struct{})
	go func() {
		defer close(scraped)
		s.run(ctx)
	}()
	defer func() { cancel(); <-scraped }()
	enc := json.NewEncoder(out)
	if err := enc.Encode(map[string]int{"pid": e.cmd.Process.Pid}); err != nil {
		return err
	}
	for {
		switch _, err := lines.ReadBytes('\n'); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := enc.Encode(map[string]int64{"successful": s.successful.Load(), "failed": s.failed.Load()}); err != nil {
			return err
		}
	}
}

// exporter is a blackbox_exporter that runs.
type exporter struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	base   string
	client *http.Client
}

func startExporter(ctx context.Context, j *scrapeJob) (*exporter, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	e := &exporter{ended: make(chan struct{}), base: "http://" + address, client: &http.Client{
		Timeout: scrapeTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: maxScrapes, DisableCompression: true},
	}}
	said := &tail{}
	e.cmd = exec.Command(j.Exporter, "--config.file", "/dev/stdin", "--web.listen-address", address, "--log.level", "error") //nolint:gosec // the user has named it
	e.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	e.cmd.Stdin, e.cmd.Stderr, e.cmd.WaitDelay = strings.NewReader(exporterConfig), said, time.Second
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startOn([]int{j.CPU}, e.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", j.Exporter, err)
	}
	go func() {
		defer close(e.ended)
		_ = e.cmd.Wait()
	}()
	for limit := time.Now().Add(exporterStart); ; {
		resp, err := e.client.Get(e.base + "/-/healthy")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return e, nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-e.ended:
			return nil, fmt.Errorf("%s has ended: %v: %s", j.Exporter, e.cmd.ProcessState, said.last)
		default:
		}
		if time.Now().After(limit) || !sleep(ctx, 20*time.Millisecond) {
			e.stop() // what it said is whole then
			return nil, fmt.Errorf("%s does not answer: %w: %s", j.Exporter, err, said.last)
		}
	}
}

func (e *exporter) stop() {
	_ = e.cmd.Process.Kill() // it has nothing to put away
	<-e.ended
}

// freeAddress is one that nothing listens at. The host is this process's own: a port that was free a moment ago is taken by others at
// 127.0.0.1, and what answered would be theirs.
func freeAddress() (string, error) {
	pid := os.Getpid()
	l, err := net.Listen("tcp4", fmt.Sprintf("127.98.%d.%d:0", pid>>8&0xff, pid&0xff))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// scraper asks an exporter for probes.
type scraper struct {
	job                *scrapeJob
	client             *http.Client
	base               string
	successful, failed atomic.Int64
}

// run asks until ctx ends. What is due while maxScrapes are under way is left out, as whoever scrapes leaves out what would overlap.
func (s *scraper) run(ctx context.Context) {
	work := make(chan int)
	var all sync.WaitGroup
	urls := s.urls()
	for range maxScrapes {
		all.Go(func() {
			for i := range work {
				s.scrape(ctx, urls[i])
			}
		})
	}
	interval := float64(s.job.Period) / float64(len(urls))
	start := time.Now()
	for asked := 0; sleep(ctx, scrapeEvery); {
		for due := int(float64(time.Since(start)) / interval); asked < due; asked++ {
			select {
			case work <- asked % len(urls):
			default:
			}
		}
	}
	close(work)
	all.Wait()
}

// urls are what the exporter is asked for, one for each probe.
func (s *scraper) urls() []string {
	urls := make([]string, s.job.Targets)
	address := s.job.Base
	for i := range urls {
		target := netip.AddrPortFrom(address, uint16(s.job.Port)).String() //nolint:gosec // it is a port
		if s.job.Kind == KindHTTP {
			target = "http://" + target + "/ready/" + strconv.Itoa(i)
		}
		urls[i] = s.base + "/probe?" + url.Values{"module": {s.job.Kind}, "target": {target}}.Encode()
		address = address.Next()
	}
	return urls
}

// succeeded is the line by which the exporter says so.
var succeeded = []byte("\nprobe_success 1\n")

func (s *scraper) scrape(ctx context.Context, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		s.failed.Add(1)
		return
	}
	var body []byte
	resp, err := s.client.Do(req)
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
	}
	switch {
	case ctx.Err() != nil:
	case err == nil && bytes.Contains(body, succeeded):
		s.successful.Add(1)
	default:
		s.failed.Add(1)
	}
}
