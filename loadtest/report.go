package loadtest

import (
	"embed"
	"html/template"
	"io"
)

// assets has the page and uPlot 1.6.32 (https://github.com/leeoniya/uPlot, MIT, from the npm package of that version), unchanged.
//
//go:embed assets
var assets embed.FS

// ReportFleet writes a fleet's result as Report writes another's.
func ReportFleet(w io.Writer, r *FleetResult) error {
	page, err := template.ParseFS(assets, "assets/fleet.html")
	if err != nil {
		return err
	}
	return page.Execute(w, map[string]any{
		"Result": r, "Table": r.Table(), "Licence": embedded("uplot-LICENSE.txt"), "Series": r.Series, "Curve": r.Curve,
		"Script": template.JS(embedded("uplot-1.6.32.iife.min.js")), //nolint:gosec // it is ours
		"Style":  template.CSS(embedded("uplot-1.6.32.min.css")),    //nolint:gosec // it is ours
	})
}

func embedded(name string) string {
	b, _ := assets.ReadFile("assets/" + name) // it is embedded: it can't fail
	return string(b)
}

// Report writes the result as one HTML page with plots, which needs nothing from elsewhere.
func Report(w io.Writer, r *Result) error {
	page, err := template.ParseFS(assets, "assets/report.html")
	if err != nil {
		return err
	}
	return page.Execute(w, map[string]any{
		"Result": r, "Table": r.Table(), "Licence": embedded("uplot-LICENSE.txt"),
		"Script": template.JS(embedded("uplot-1.6.32.iife.min.js")), //nolint:gosec // it is ours
		"Style":  template.CSS(embedded("uplot-1.6.32.min.css")),    //nolint:gosec // it is ours
		"Series": r.Series, "Curves": r.Curves,
	})
}
