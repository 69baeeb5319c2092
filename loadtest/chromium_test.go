package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The browser's window, in which the whole of a page has place, and how long it may take from its start to its end.
const (
	windowWidth, windowHeight = 1200, 2600
	browserLimit              = 90 * time.Second
)

// browser is Chromium's program; the test is skipped where there is none.
func browser(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(`chromium is missing: run "make tools-ci"`)
		}
		t.Skip("no chromium here")
	}
	return program
}

// drawn is a part of a page, by what it is meant for, and where it is, in pixels.
type drawn struct {
	ID  string
	Box box
	// Canvases are the plots in it.
	Canvases []box
}

type box struct{ X, Y, Width, Height float64 }

func (b box) rectangle() image.Rectangle {
	return image.Rect(int(b.X), int(b.Y), int(b.X+b.Width), int(b.Y+b.Height))
}

// opened is what a browser made of a page.
type opened struct {
	// said are the lines of its console: a page says nothing unless something is wrong.
	said []string
	// parts are its plots and meters, in the page's order.
	parts []drawn
	// wide is how wide all of it is.
	wide  float64
	image image.Image
}

// ruler is added to a page's end: it writes down where its parts are. What is wrong before it does not keep it from running.
const ruler = `<script>
addEventListener("load", () => setTimeout(() => {
  const box = e => { const b = e.getBoundingClientRect(); return {X: b.x, Y: b.y, Width: b.width, Height: b.height}; };
  const parts = [...document.querySelectorAll(".plot, meter")].map(e => ({ID: e.id || e.localName, Box: box(e), Canvases: [...e.querySelectorAll(".uplot canvas")].map(box)}));
  document.documentElement.setAttribute("data-parts", JSON.stringify({Parts: parts, Wide: document.documentElement.scrollWidth}));
}, 100));
</script>
</body>`

var (
	console  = regexp.MustCompile(`CONSOLE[^"]*"(.*)`)
	measured = regexp.MustCompile(`data-parts="([^"]*)"`)
)

// open shows a page to a browser as a file, and returns what it made of it. Nothing of the browser is left then.
func open(t *testing.T, page string) *opened {
	t.Helper()
	program := browser(t)
	dir, err := os.MkdirTemp("", "muster-page-") // not t.TempDir: its long names do not fit into the address of a unix socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// A page that has no script may have none, but for this one.
	page = strings.Replace(page, `style-src 'unsafe-inline'">`, `style-src 'unsafe-inline'; script-src 'unsafe-inline'">`, 1)
	page = strings.Replace(page, "</body>", ruler, 1)
	file, shot := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), browserLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage", "--disable-breakpad",
		"--disable-extensions", "--disable-background-networking", "--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=1", "--force-color-profile=srgb",
		"--enable-logging=stderr", "--user-data-dir="+filepath.Join(dir, "profile"), fmt.Sprintf("--window-size=%d,%d", windowWidth, windowHeight),
		"--virtual-time-budget=2000", "--screenshot="+shot, "--dump-dom", "file://"+file)
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its helpers, where some are left: the directory is theirs too
	}
	for end := time.Now().Add(5 * time.Second); len(mentioning(t, dir)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("processes of the browser are left: %v", mentioning(t, dir))
		}
	}
	if err != nil {
		t.Fatalf("chromium: %v, %v\n%s", err, ctx.Err(), tailOf(&stderr))
	}
	o := &opened{}
	for line := range strings.Lines(stderr.String()) {
		if m := console.FindStringSubmatch(line); m != nil {
			o.said = append(o.said, strings.TrimSpace(m[1]))
		}
	}
	m := measured.FindStringSubmatch(stdout.String())
	if m == nil {
		t.Fatalf("chromium has not shown the page: %d bytes of it\n%s", stdout.Len(), tailOf(&stderr))
	}
	var all struct {
		Parts []drawn
		Wide  float64
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(m[1])), &all); err != nil {
		t.Fatal(err)
	}
	o.parts, o.wide = all.Parts, all.Wide
	b, err := os.ReadFile(shot)
	if err == nil {
		o.image, err = png.Decode(bytes.NewReader(b))
	}
	if keep := os.Getenv("MUSTER_SCREENSHOTS"); keep != "" && err == nil {
		err = os.WriteFile(filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "-")+".png"), b, 0o644)
	}
	if err != nil {
		t.Fatalf("the screenshot: %v", err)
	}
	return o
}

func tailOf(b *bytes.Buffer) []byte { return b.Bytes()[max(0, b.Len()-4096):] }

// wrong is what is not as it has to be on a page: these are its plots, and so many meters.
func (o *opened) wrong(plots []string, meters int) error {
	var all []error
	add := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	for _, line := range o.said {
		add("the console says %s", line)
	}
	if o.wide > windowWidth {
		add("it is %v pixels wide", o.wide)
	}
	found := map[string]int{}
	for _, p := range o.parts {
		found[p.ID]++
		if p.ID == "meter" {
			if ink := o.ink(p.Box.rectangle()); ink.coloured == 0 {
				add("a meter shows nothing: %+v", ink)
			}
			continue
		}
		if len(p.Canvases) != 1 {
			add("%s has %d plots", p.ID, len(p.Canvases))
			continue
		}
		// An axis and its numbers are grey. A line across the plot has a pixel in each column at least.
		if ink := o.ink(p.Canvases[0].rectangle()); ink.outside || ink.coloured < int(p.Canvases[0].Width)/2 || ink.share < 0.005 || ink.colours < 16 {
			add("%s is all but blank: %+v", p.ID, ink)
		}
	}
	for _, id := range plots {
		if found[id] != 1 {
			add("there are %d of plot %s", found[id], id)
		}
	}
	if found["meter"] != meters || len(found) > len(plots)+1 {
		add("there are %v, want %v and %d meters", found, plots, meters)
	}
	return errors.Join(all...)
}

// ink is what is drawn in a part of the picture.
type ink struct {
	// outside is whether the part is not all in the picture.
	outside bool
	// colours are how many different ones there are, share is how much is not white, coloured the pixels that are neither that nor grey.
	colours  int
	share    float64
	coloured int
}

func (o *opened) ink(at image.Rectangle) ink {
	i := ink{outside: at.Empty() || !at.In(o.image.Bounds())}
	colours, drawn := map[color.RGBA]bool{}, 0
	at = at.Intersect(o.image.Bounds())
	for y := at.Min.Y; y < at.Max.Y; y++ {
		for x := at.Min.X; x < at.Max.X; x++ {
			c := color.RGBAModel.Convert(o.image.At(x, y)).(color.RGBA)
			colours[c] = true
			if c.R != 255 || c.G != 255 || c.B != 255 {
				drawn++
			}
			if max(c.R, c.G, c.B)-min(c.R, c.G, c.B) > 64 {
				i.coloured++
			}
		}
	}
	i.colours, i.share = len(colours), float64(drawn)/float64(max(1, at.Dx()*at.Dy()))
	return i
}

// reports are the pages of all kinds of tests, as the product writes them, with the plots that each has.
var reports = []struct {
	name   string
	write  func(io.Writer) error
	plots  []string
	meters int
}{
	{"probes", func(w io.Writer) error { return Report(w, aResult()) }, []string{"curve", "rate", "lag", "cpu", "memory"}, 0},
	{"closed loop", func(w io.Writer) error { return Report(w, aClosedLoop()) }, []string{"curve", "rate", "cpu", "memory"}, 0},
	{"failover", func(w io.Writer) error { return FailoverReport(w, aFailoverResult()) }, nil, 5},
	{"ingest", func(w io.Writer) error { return ReportIngest(w, anIngestResult()) }, []string{"rate", "curve", "watcher", "cpu", "memory"}, 0},
	{"given", func(w io.Writer) error { return ReportIngest(w, aGivenIngestResult()) }, []string{"rate", "curve", "watcher"}, 0},
	{"fleet", func(w io.Writer) error { return ReportFleet(w, aFleetResult()) }, []string{"rate", "curve", "watcher", "cpu", "memory"}, 0},
}

func TestABrowserShowsEveryReport(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts browsers")
	}
	for _, r := range reports {
		t.Run(r.name, func(t *testing.T) {
			var page strings.Builder
			if err := r.write(&page); err != nil {
				t.Fatal(err)
			}
			if err := open(t, page.String()).wrong(r.plots, r.meters); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestABrokenReportIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts browsers")
	}
	empty := aResult()
	empty.Series, empty.Curves = [][]Sample{{}}, [][]Point{{}}
	for name, c := range map[string]struct {
		result   *Result
		old, new string
		want     []string
	}{
		"a script that throws": {aResult(), `plot("lag"`, `throw new Error("no luck"); plot("lag"`, []string{"the console says Uncaught Error: no luck", "lag has 0 plots"}},
		"plots without data":   {empty, "", "", []string{"curve is all but blank", "memory is all but blank"}},
		"hidden plots, a picture from elsewhere, a wide table": {
			aResult(), "</head>", `<style>canvas { visibility: hidden } table { width: 2000px }</style></head><img src="https://127.0.0.1:1/x.png">`,
			[]string{"rate is all but blank", "x.png", "pixels wide"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var page strings.Builder
			if err := Report(&page, c.result); err != nil {
				t.Fatal(err)
			}
			wrong := open(t, strings.Replace(page.String(), c.old, c.new, 1)).wrong(reports[0].plots, 0)
			for _, want := range c.want {
				if wrong == nil || !strings.Contains(wrong.Error(), want) {
					t.Errorf("%v, want %q", wrong, want)
				}
			}
		})
	}
}
