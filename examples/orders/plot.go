package main

import (
	"fmt"
	"image/color"
	"io"
	"net/http"
	"time"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/rampmeter/rampmeter/inventory/inventorytest"

	"github.com/rampmeter/rampmeter/examples/internal/picture"
)

// A Timeline has the requests that the API received in one pass.
type Timeline struct {
	Title    string
	Arrivals []inventorytest.Arrival
}

// kinds are the answers that the picture distinguishes, from the bottom of a bar
// to its top.
var kinds = [...]struct {
	name string
	fill color.Color
	of   func(status int) bool
}{
	{"answered", color.RGBA{R: 0x2a, G: 0x9d, B: 0x8f, A: 0xff}, func(int) bool { return true }},
	{"503, outage", color.RGBA{R: 0xf4, G: 0xa2, B: 0x3c, A: 0xff}, func(status int) bool { return status == http.StatusServiceUnavailable }},
	{"429, over a limit", color.RGBA{R: 0xd6, G: 0x28, B: 0x28, A: 0xff}, func(status int) bool { return status == http.StatusTooManyRequests }},
}

var (
	ink   = color.RGBA{R: 0x26, G: 0x2b, B: 0x33, A: 0xff}
	pale  = color.RGBA{R: 0x8a, G: 0x93, B: 0x9e, A: 0xff}
	shade = color.RGBA{R: 0xea, G: 0xec, B: 0xef, A: 0xff}
)

const (
	pictureWidth  = 9 * vg.Inch
	pictureHeight = 5.6 * vg.Inch
	maxBins       = 600
)

// WriteSVG draws the requests that the API received over time, one panel for each
// pass, all to the same scale.
func WriteSVG(w io.Writer, s Settings, sp Spike, passes ...Timeline) error {
	c := vgsvg.New(pictureWidth, pictureHeight)
	paint(draw.New(c), s, sp, passes)
	return picture.Write(w, c)
}

func paint(c draw.Canvas, s Settings, sp Spike, passes []Timeline) {
	end := sp.Length
	for _, pass := range passes {
		if n := len(pass.Arrivals); n > 0 {
			end = max(end, pass.Arrivals[n-1].At)
		}
	}
	// 100 ms each, or the multiple of that which makes few enough.
	bin := 100 * time.Millisecond
	bin *= 1 + end/(maxBins*bin)
	count := int(end/bin) + 1

	placed := make([]float64, count)
	for _, a := range sp.Arrivals {
		placed[a.At/bin]++
	}
	limit := s.Rate * bin.Seconds()
	top := 1.5 * limit
	panels := make([]*panel, len(passes))
	for i, pass := range passes {
		p := &panel{bin: bin.Seconds(), placed: placed, limit: limit}
		from, to := sp.Outage(s)
		p.outage = [2]float64{from.Seconds(), min(to, time.Duration(count)*bin).Seconds()}
		for k := range p.bars {
			p.bars[k] = make([]float64, count)
		}
		for _, a := range pass.Arrivals {
			p.bars[kindOf(a.Status)][a.At/bin]++
		}
		for j := range count {
			sum := placed[j]
			top = max(top, sum, p.bars[0][j]+p.bars[1][j]+p.bars[2][j])
		}
		panels[i] = p
	}

	plots := make([][]*plot.Plot, len(passes))
	for i, p := range panels {
		plots[i] = []*plot.Plot{p.plot(passes[i].Title, bin, float64(count)*bin.Seconds(), top)}
	}
	legend(plots[0][0], s)
	plots[len(plots)-1][0].X.Label.Text = "seconds since the first order"

	c.SetColor(color.White)
	c.Fill(c.Path())
	tiles := draw.Tiles{
		Rows: len(passes), Cols: 1, PadY: vg.Points(14),
		PadTop: vg.Points(10), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(12),
	}
	for i, row := range plot.Align(plots, tiles, c) {
		plots[i][0].Draw(row[0])
	}
}

func kindOf(status int) int {
	for k := len(kinds) - 1; k > 0; k-- {
		if kinds[k].of(status) {
			return k
		}
	}
	return 0
}

// A panel draws one pass. Times are in seconds, heights in requests per bin.
type panel struct {
	bin    float64
	bars   [len(kinds)][]float64
	placed []float64
	limit  float64
	outage [2]float64
}

func (p *panel) plot(title string, bin time.Duration, right, top float64) *plot.Plot {
	pl := plot.New()
	pl.Title.Text = title
	pl.Title.Padding = vg.Points(5)
	write(&pl.Title.TextStyle, 12)
	pl.Title.TextStyle.Font.Weight = xfont.WeightBold
	pl.Y.Label.Text = fmt.Sprintf("requests per %d ms", bin.Milliseconds())
	for _, axis := range []*plot.Axis{&pl.X, &pl.Y} {
		axis.Color, axis.Tick.Color = pale, pale
		write(&axis.Label.TextStyle, 10)
		write(&axis.Tick.Label, 9)
		axis.Padding = 0
	}
	pl.Add(p)
	pl.X.Min, pl.X.Max = 0, right
	pl.Y.Min, pl.Y.Max = 0, 1.05*top
	return pl
}

// write sets how a text is written.
func write(style *draw.TextStyle, points float64) {
	style.Color = ink
	style.Font.Variant = "Sans"
	style.Font.Size = vg.Points(points)
}

// Plot implements [plot.Plotter].
func (p *panel) Plot(c draw.Canvas, pl *plot.Plot) {
	x, y := pl.Transforms(&c)
	box := func(x0, y0, x1, y1 float64, fill color.Color) {
		c.FillPolygon(fill, []vg.Point{{X: x(x0), Y: y(y0)}, {X: x(x1), Y: y(y0)}, {X: x(x1), Y: y(y1)}, {X: x(x0), Y: y(y1)}})
	}
	if p.outage[1] > p.outage[0] {
		box(p.outage[0], 0, p.outage[1], pl.Y.Max, shade)
		style := pl.X.Tick.Label
		style.XAlign, style.YAlign = draw.XCenter, draw.YTop
		c.FillText(style, vg.Point{X: x((p.outage[0] + p.outage[1]) / 2), Y: y(pl.Y.Max) - vg.Points(3)}, "API down")
	}
	gap := p.bin / 12 // on either side of a bar
	for i := range p.placed {
		at, bottom := float64(i)*p.bin, 0.0
		for k, kind := range kinds {
			if n := p.bars[k][i]; n > 0 {
				box(at+gap, bottom, at+p.bin-gap, bottom+n, kind.fill)
				bottom += n
			}
		}
	}
	steps := make([]vg.Point, 0, 2*len(p.placed))
	for i, n := range p.placed {
		steps = append(steps,
			vg.Point{X: x(float64(i) * p.bin), Y: y(n)},
			vg.Point{X: x(float64(i+1) * p.bin), Y: y(n)})
	}
	c.StrokeLines(placedLine, c.ClipLinesXY(steps)...)
	c.StrokeLines(limitLine, []vg.Point{{X: c.Min.X, Y: y(p.limit)}, {X: c.Max.X, Y: y(p.limit)}})
}

var (
	placedLine = draw.LineStyle{Color: pale, Width: vg.Points(1)}
	limitLine  = draw.LineStyle{Color: ink, Width: vg.Points(1.5), Dashes: []vg.Length{vg.Points(6), vg.Points(3)}}
)

// legend explains the colours and lines.
func legend(pl *plot.Plot, s Settings) {
	l := &pl.Legend
	// Thumbnails come first, so that the texts have room to be wider in
	// another font.
	l.Top, l.Left = true, true
	l.Padding = vg.Points(3)
	l.XOffs, l.YOffs = 0.6*pictureWidth, vg.Points(-4)
	write(&l.TextStyle, 10)
	l.ThumbnailWidth = vg.Points(22)
	for k := len(kinds) - 1; k >= 0; k-- {
		l.Add(kinds[k].name, patch{kinds[k].fill})
	}
	l.Add(fmt.Sprintf("limit: %v/s, bursts of %d", s.Rate, s.APIBurst()), stroke{limitLine})
	l.Add("orders placed by customers", stroke{placedLine})
}

type patch struct{ fill color.Color }

// Thumbnail implements [plot.Thumbnailer].
func (p patch) Thumbnail(c *draw.Canvas) {
	inset := vg.Points(1.5)
	c.FillPolygon(p.fill, []vg.Point{
		{X: c.Min.X, Y: c.Min.Y + inset},
		{X: c.Max.X, Y: c.Min.Y + inset},
		{X: c.Max.X, Y: c.Max.Y - inset},
		{X: c.Min.X, Y: c.Max.Y - inset},
	})
}

type stroke struct{ line draw.LineStyle }

// Thumbnail implements [plot.Thumbnailer].
func (s stroke) Thumbnail(c *draw.Canvas) {
	y := c.Center().Y
	c.StrokeLine2(s.line, c.Min.X, y, c.Max.X, y)
}
