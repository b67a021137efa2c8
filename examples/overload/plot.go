package main

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"time"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/rampmeter/rampmeter/examples/internal/picture"
)

const (
	pictureWidth  = 9 * vg.Inch
	pictureHeight = 7.6 * vg.Inch
	headingHeight = 0.6 * vg.Inch
	legendHeight  = 0.5 * vg.Inch
)

var (
	ink    = color.RGBA{R: 0x26, G: 0x2b, B: 0x33, A: 0xff}
	pale   = color.RGBA{R: 0x8a, G: 0x93, B: 0x9e, A: 0xff}
	shade  = color.RGBA{R: 0xf0, G: 0xf2, B: 0xf4, A: 0xff}
	teal   = color.RGBA{R: 0x2a, G: 0x9d, B: 0x8f, A: 0xff}
	red    = color.RGBA{R: 0xd6, G: 0x28, B: 0x28, A: 0xff}
	amber  = color.RGBA{R: 0xf4, G: 0xa2, B: 0x3c, A: 0xff}
	blue   = color.RGBA{R: 0x5b, G: 0x8d, B: 0xc9, A: 0xff}
	violet = color.RGBA{R: 0x6a, G: 0x4c, B: 0x93, A: 0xff}
	lilac  = color.RGBA{R: 0xcd, G: 0xbf, B: 0xe3, A: 0xff}

	capacityLine = draw.LineStyle{Color: ink, Width: vg.Points(1.25), Dashes: []vg.Length{vg.Points(4), vg.Points(2)}}
	offeredLine  = draw.LineStyle{Color: pale, Width: vg.Points(0.75)}
	medianLine   = draw.LineStyle{Color: violet, Width: vg.Points(1.25)}
)

// WriteSVG draws the passes over time: a column for each pass, a row for each
// measurement, and each row to one scale.
func WriteSVG(w io.Writer, s Settings, passes []Pass) error {
	c := vgsvg.New(pictureWidth, pictureHeight)
	paint(draw.New(c), s, passes)
	return picture.Write(w, c)
}

// An area is a filled part of a panel, on top of the one before.
type area struct {
	fill   color.Color
	values []float64
}

// A panel shows one measurement of one pass. It does not draw NaN.
type panel struct {
	s     Settings
	of    *Summary // what the column shows, in its first panel
	areas []area
	lines []line
}

// A line goes over the areas, in steps.
type line struct {
	style  draw.LineStyle
	values []float64
}

func (p panel) top() (top float64) {
	sums := make([]float64, bins)
	for _, a := range p.areas {
		for i, v := range a.values {
			sums[i] += max(v, 0) // not NaN
			top = max(top, sums[i])
		}
	}
	for _, l := range p.lines {
		for _, v := range l.values {
			if !math.IsNaN(v) {
				top = max(top, v)
			}
		}
	}
	return top
}

// rows are the measurements of a pass.
var rows = [...]struct {
	label string
	panel func(s Settings, all []Bin) panel
}{
	{"operations a second", func(s Settings, all []Bin) panel {
		return panel{
			areas: []area{{teal, perSecond(s, all, func(b Bin) int { return b.Done })}},
			lines: []line{
				{offeredLine, constant(s.Load * s.Best())},
				{capacityLine, byPhase(s, s.Rate)},
			},
		}
	}},
	{"turned away a second", func(s Settings, all []Bin) panel {
		return panel{areas: []area{
			{red, perSecond(s, all, func(b Bin) int { return b.Refused })},
			{amber, perSecond(s, all, func(b Bin) int { return b.Failed })},
		}}
	}},
	{"calls in flight", func(s Settings, all []Bin) panel {
		values := make([]float64, bins)
		for i, b := range all {
			values[i] = b.InFlight
		}
		return panel{
			areas: []area{{blue, values}},
			lines: []line{{capacityLine, byPhase(s, func(p Phase) float64 { return float64(s.Places(p)) })}},
		}
	}},
	{"milliseconds", func(_ Settings, all []Bin) panel {
		median, late := make([]float64, bins), make([]float64, bins)
		for i, b := range all {
			took := slices.Sorted(slices.Values(b.Took))
			median[i], late[i] = millis(quantile(took, 0.5)), millis(quantile(took, 0.99))
			if len(took) == 0 {
				median[i] = math.NaN()
			}
		}
		return panel{areas: []area{{lilac, late}}, lines: []line{{medianLine, median}}}
	}},
}

func perSecond(s Settings, all []Bin, of func(Bin) int) []float64 {
	values := make([]float64, bins)
	for i, b := range all {
		values[i] = float64(of(b)) * bins / s.Length.Seconds()
	}
	return values
}

func constant(v float64) []float64 { return slices.Repeat([]float64{v}, bins) }

func byPhase(s Settings, of func(Phase) float64) []float64 {
	values := make([]float64, bins)
	for i := range values {
		values[i] = of(s.PhaseAt(s.Length * time.Duration(i) / bins))
	}
	return values
}

func paint(c draw.Canvas, s Settings, passes []Pass) {
	report := NewReport(s, passes)
	plots := make([][]*plot.Plot, len(rows))
	for i, row := range rows {
		plots[i] = make([]*plot.Plot, len(passes))
		top := 1.0 // an empty panel has a scale, too
		panels := make([]panel, len(passes))
		for j, pass := range passes {
			panels[j] = row.panel(s, pass.Bins())
			panels[j].s = s
			if i == 0 {
				panels[j].of = &report.Limiters[j]
			}
			top = max(top, panels[j].top())
		}
		for j, p := range panels {
			plots[i][j] = p.plot(top)
			if j == 0 {
				plots[i][j].Y.Label.Text = row.label
			}
			// The scales are the same in each row and in each column.
			plots[i][j].Y.Tick.Marker = ticks{few: 4, bare: j > 0}
			plots[i][j].X.Tick.Marker = ticks{few: 5, bare: i < len(rows)-1}
		}
	}
	for _, p := range plots[len(rows)-1] {
		p.X.Label.Text = "seconds"
	}

	c.SetColor(color.White)
	c.Fill(c.Path())
	tiles := draw.Tiles{
		Rows: len(rows), Cols: len(passes), PadX: vg.Points(10), PadY: vg.Points(2),
		PadTop: headingHeight, PadLeft: vg.Points(6), PadRight: vg.Points(10),
	}
	for i, row := range plot.Align(plots, tiles, draw.Crop(c, 0, 0, legendHeight, 0)) {
		for j, canvas := range row {
			plots[i][j].Draw(canvas)
		}
	}
	legend(draw.Crop(c, 0, 0, 0, legendHeight-pictureHeight))
}

// heading names a column and its result.
func (p panel) heading(c draw.Canvas, style draw.TextStyle) {
	style.XAlign, style.YAlign = draw.XCenter, draw.YBottom
	at := vg.Point{X: c.Center().X, Y: c.Max.Y + vg.Points(14)}
	c.FillText(style, at, fmt.Sprintf("%.0f %% done, %s refused", 100*p.of.Goodput, thousands(p.of.Refused)))
	style.Font.Size, style.Font.Weight = vg.Points(12), xfont.WeightBold
	at.Y += vg.Points(12)
	c.FillText(style, at, p.of.Limiter)
}

// thousands writes 12345 as 12,345.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// ticks are few round numbers, from 0 on.
type ticks struct {
	few  int
	bare bool // without labels
}

// Ticks implements [plot.Ticker].
func (t ticks) Ticks(_, top float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10(top)))
	for _, share := range []float64{0.1, 0.2, 0.5, 1} {
		if top/(share*step) <= float64(t.few) {
			step *= share
			break
		}
	}
	var all []plot.Tick
	for v := 0.0; v <= top; v += step {
		label := " " // without any label there would be no tick
		if !t.bare {
			label = thousands(int(math.Round(v)))
		}
		all = append(all, plot.Tick{Value: v, Label: label})
	}
	return all
}

func (p panel) plot(top float64) *plot.Plot {
	pl := plot.New()
	for _, axis := range []*plot.Axis{&pl.X, &pl.Y} {
		axis.Color, axis.Tick.Color = pale, pale
		axis.Tick.Length = vg.Points(3)
		write(&axis.Label.TextStyle, 9.5)
		write(&axis.Tick.Label, 8)
		axis.Padding = 0
	}
	pl.Add(p)
	pl.X.Min, pl.X.Max = 0, p.s.Length.Seconds()
	pl.Y.Min, pl.Y.Max = 0, 1.06*top
	return pl
}

// write sets how a text is written.
func write(style *draw.TextStyle, points float64) {
	style.Color = ink
	style.Font.Variant = "Sans"
	style.Font.Size = vg.Points(points)
}

// Plot implements [plot.Plotter].
func (p panel) Plot(c draw.Canvas, pl *plot.Plot) {
	x, y := pl.Transforms(&c)
	length := p.s.Length.Seconds()
	for i, phase := range story {
		from, to := x(phase.From*length), x(phase.To*length)
		if i%2 == 1 {
			c.FillPolygon(shade, []vg.Point{{X: from, Y: c.Min.Y}, {X: to, Y: c.Min.Y}, {X: to, Y: c.Max.Y}, {X: from, Y: c.Max.Y}})
		}
		if p.of != nil {
			style := pl.X.Tick.Label
			style.XAlign, style.YAlign = draw.XCenter, draw.YBottom
			c.FillText(style, vg.Point{X: (from + to) / 2, Y: c.Max.Y + vg.Points(2)}, phase.Name)
		}
	}
	if p.of != nil {
		p.heading(c, pl.X.Label.TextStyle)
	}
	at := func(i int) vg.Length { return x(float64(i) * length / bins) }
	bottom := make([]float64, bins)
	for _, a := range p.areas {
		top := slices.Clone(bottom)
		for i, v := range a.values {
			top[i] += v
		}
		outline, back := steps(top, at, y), steps(bottom, at, y)
		slices.Reverse(back)
		c.FillPolygon(a.fill, append(outline, back...))
		bottom = top
	}
	for _, l := range p.lines {
		for from := 0; from < bins; from++ {
			to := from
			for to < bins && !math.IsNaN(l.values[to]) {
				to++
			}
			if to > from {
				c.StrokeLines(l.style, steps(l.values[from:to], func(i int) vg.Length { return at(from + i) }, y))
			}
			from = to
		}
	}
}

// steps are the points of a line that has each of these values for the length of
// one bin.
func steps(values []float64, x func(int) vg.Length, y func(float64) vg.Length) (points []vg.Point) {
	for i, v := range values {
		if i == 0 || v != values[i-1] {
			points = append(points, vg.Point{X: x(i), Y: y(v)})
		}
		if i == len(values)-1 || v != values[i+1] {
			points = append(points, vg.Point{X: x(i + 1), Y: y(v)})
		}
	}
	return points
}

// legend explains colours and lines.
func legend(c draw.Canvas) {
	style := plot.New().Legend.TextStyle
	write(&style, 9)
	style.YAlign = draw.YCenter
	entries := [...]struct {
		text  string
		fill  color.Color
		style draw.LineStyle
	}{
		{text: "operations done", fill: teal},
		{text: "calls refused with 429", fill: red},
		{text: "calls in flight", fill: blue},
		{text: "median of how long calls took", style: medianLine},
		{text: "operations offered", style: offeredLine},
		{text: "calls without a connection", fill: amber},
		{text: "what the downstream can do", style: capacityLine},
		{text: "99th percentile", fill: lilac},
	}
	const columns, width = len(entries) / 2, 14
	for i, e := range entries {
		at := c.Min.X + vg.Points(44) + vg.Length(i%columns)*(c.Max.X-c.Min.X-vg.Points(44))/vg.Length(columns)
		y := c.Max.Y - vg.Points(10)
		if i >= columns {
			y -= vg.Points(14)
		}
		if e.fill != nil {
			h := vg.Points(4)
			c.FillPolygon(e.fill, []vg.Point{{X: at, Y: y - h}, {X: at + width, Y: y - h}, {X: at + width, Y: y + h}, {X: at, Y: y + h}})
		} else {
			c.StrokeLine2(e.style, at, y, at+width, y)
		}
		c.FillText(style, vg.Point{X: at + width + vg.Points(4), Y: y}, e.text)
	}
}
