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

// Report writes the result as one HTML page with plots, which needs nothing from elsewhere.
func Report(w io.Writer, r *Result) error {
	page, err := template.ParseFS(assets, "assets/report.html")
	if err != nil {
		return err
	}
	read := func(name string) string {
		b, _ := assets.ReadFile("assets/" + name) // it is embedded: it can't fail
		return string(b)
	}
	return page.Execute(w, map[string]any{
		"Result": r, "Table": r.Table(), "Licence": read("uplot-LICENSE.txt"),
		"Script": template.JS(read("uplot-1.6.32.iife.min.js")), //nolint:gosec // it is ours
		"Style":  template.CSS(read("uplot-1.6.32.min.css")),    //nolint:gosec // it is ours
		"Series": r.Series, "Curves": r.Curves,
	})
}
