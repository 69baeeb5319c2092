package loadtest

import (
	"embed"
	"html/template"
	"io"
)

// assets has the pages and uPlot 1.6.32 (https://github.com/leeoniya/uPlot, MIT, from the npm package of that version), unchanged.
//
//go:embed assets
var assets embed.FS

func embedded(name string) string {
	b, _ := assets.ReadFile("assets/" + name) // it is embedded: it can't fail
	return string(b)
}

// Report writes the result as one HTML page with plots, which needs nothing from elsewhere.
func Report(w io.Writer, r *Result) error {
	return writePage(w, "report.html", map[string]any{"Result": r, "Table": r.Table(), "Series": r.Series, "Curves": r.Curves})
}

// ReportIngest writes a result of ingest as Report writes another's.
func ReportIngest(w io.Writer, r *IngestResult) error {
	return writePage(w, "ingest.html", map[string]any{"Result": r, "Table": r.Table(), "Series": r.Series, "Curve": r.Curve})
}

// ReportFleet writes a fleet's result as Report writes another's.
func ReportFleet(w io.Writer, r *FleetResult) error {
	return writePage(w, "ingest.html", map[string]any{"Result": r, "Table": r.Table(), "Series": r.Series, "Curve": r.Curve})
}

// writePage writes a page that has plots.
func writePage(w io.Writer, name string, facts map[string]any) error {
	page, err := template.ParseFS(assets, "assets/"+name, "assets/parts.html")
	if err != nil {
		return err
	}
	facts["Licence"] = embedded("uplot-LICENSE.txt")
	facts["Script"] = template.JS(embedded("uplot-1.6.32.iife.min.js")) //nolint:gosec // it is ours
	facts["Style"] = template.CSS(embedded("uplot-1.6.32.min.css"))     //nolint:gosec // it is ours
	return page.Execute(w, facts)
}
