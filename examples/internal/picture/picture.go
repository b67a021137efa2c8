// Package picture writes the pictures of the example programs.
package picture

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"regexp"
	"strconv"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Write writes the drawing as SVG that looks the same on every system: without
// Liberation Sans, another font gets as much room for each text as that would
// have.
func Write(w io.Writer, c *vgsvg.Canvas) error {
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return err
	}
	_, err := w.Write(fit(b.Bytes()))
	return err
}

// text matches a text as vgsvg writes it: its attributes, weight, size and content.
var text = regexp.MustCompile(`<text ([^>]*font-weight:(\w+);[^>]*font-size:([\d.]+)px[^>]*)>([^<]*)</text>`)

func fit(svg []byte) []byte {
	svg = bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return text.ReplaceAllFunc(svg, func(element []byte) []byte {
		m := text.FindSubmatch(element)
		f := plot.DefaultFont
		f.Variant = "Sans"
		if string(m[2]) == "bold" {
			f.Weight = xfont.WeightBold
		}
		size, err := strconv.ParseFloat(string(m[3]), 64)
		if err != nil {
			return element
		}
		face := font.DefaultCache.Lookup(f, vg.Points(size))
		width := face.Width(html.UnescapeString(string(m[4]))).Points()
		return fmt.Appendf(nil, `<text textLength="%.4g" lengthAdjust="spacingAndGlyphs" %s>%s</text>`, width, m[1], m[4])
	})
}
