package picture_test

import (
	"bytes"
	"encoding/xml"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/rampmeter/rampmeter/examples/internal/picture"
)

type textElement struct {
	X      float64 `xml:"x,attr"`
	Length float64 `xml:"textLength,attr"`
	Adjust string  `xml:"lengthAdjust,attr"`
	Style  string  `xml:"style,attr"`
	Text   string  `xml:",chardata"`
}

// texts returns all texts of a picture, in any group, and how wide it is.
func texts(t *testing.T, svg []byte) (all []textElement, width float64) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	rotated := 0
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch e := token.(type) {
		case xml.StartElement:
			switch {
			case e.Name.Local == "svg":
				for _, a := range e.Attr {
					if a.Name.Local == "width" {
						width, err = strconv.ParseFloat(strings.TrimSuffix(a.Value, "pt"), 64)
						require.NoError(t, err)
					}
				}
			case e.Name.Local == "text":
				var text textElement
				require.NoError(t, d.DecodeElement(&text, &e))
				if rotated == 0 {
					all = append(all, text)
				}
			case e.Name.Local == "g" && len(e.Attr) > 0 && strings.HasPrefix(e.Attr[0].Value, "rotate"):
				rotated++
			}
		case xml.EndElement:
			if e.Name.Local == "g" && rotated > 0 {
				rotated--
			}
		}
	}
	require.NotEmpty(t, all)
	return all, width
}

func TestWrite(t *testing.T) {
	c := vgsvg.New(4*vg.Inch, vg.Inch)
	style := plot.New().Legend.TextStyle
	style.Font.Variant, style.Font.Size = "Sans", vg.Points(9)
	canvas := draw.New(c)
	canvas.FillText(style, vg.Point{X: 10, Y: 10}, "a < b & median")
	plain := style.Width("a < b & median").Points()
	style.Font.Weight, style.Font.Size = xfont.WeightBold, vg.Points(12)
	canvas.FillText(style, vg.Point{X: 10, Y: 30}, "median")
	bold := style.Width("median").Points()
	var b bytes.Buffer
	require.NoError(t, picture.Write(&b, c))
	all, _ := texts(t, b.Bytes())
	require.Len(t, all, 2)
	require.Equal(t, "a < b & median", all[0].Text)
	require.InDelta(t, plain, all[0].Length, 0.1)
	require.Equal(t, "median", all[1].Text)
	require.InDelta(t, bold, all[1].Length, 0.1)
	for _, e := range all {
		require.Equal(t, "spacingAndGlyphs", e.Adjust)
		require.Contains(t, e.Style, "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	}
}

// No text of the pictures in the documentation is cut off, in any font: each states
// its length, and ends within the picture.
func TestPicturesOfTheDocumentation(t *testing.T) {
	for _, name := range []string{"../../orders/orders.svg", "../../overload/overload.svg"} {
		svg, err := os.ReadFile(name)
		require.NoError(t, err)
		all, width := texts(t, svg)
		for _, e := range all {
			require.Positive(t, e.Length, "%s: %q", name, e.Text)
			require.Equal(t, "spacingAndGlyphs", e.Adjust, "%s: %q", name, e.Text)
			require.GreaterOrEqual(t, e.X, 0.0, "%s: %q", name, e.Text)
			require.Less(t, e.X+e.Length, width, "%s: %q", name, e.Text)
		}
	}
}
