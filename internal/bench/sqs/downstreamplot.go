//go:build unix

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// drawDownstream draws what the API of a run counted, second by second, as an SVG:
// the loop's above, rampmeter's below, to one scale.
func drawDownstream(w io.Writer, d downstream, r downstreamRun, span time.Duration) error {
	const (
		width, left, right = 900, 56, 16
		panel, top, gap    = 170, 64, 52
	)
	height := top + 2*panel + gap + 44
	clients := []struct{ name, title string }{
		{handWritten, "A hand-written loop that obeys Retry-After"},
		{rampmeter, "rampmeter, with its defaults"},
	}
	highest := 2 * d.api.Rate
	for _, c := range clients {
		for i, s := range r.Clients[c.name].seconds {
			if i > 0 { // the first may hold far more refusals than all others
				highest = max(highest, float64(s.Accepted+s.Refused))
			}
		}
	}
	n := max(1, int(span/time.Second))
	x := func(second int) float64 {
		return left + float64(second)*(width-left-right)/float64(n)
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	text := func(x, y float64, size int, anchor, fill, s string) {
		p(`<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="%s">%s</text>`, x, y, size, anchor, fill, s)
	}
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Helvetica, Arial, sans-serif">`, width, height)
	p(`<title>%s</title>`, "Requests that an API accepted and refused, second by second")
	p(`<rect width="%d" height="%d" fill="#ffffff"/>`, width, height)
	text(left, 26, 17, "start", "#262b33", fmt.Sprintf("An API that takes %.0f requests a second, and clients that do not know it", d.api.Rate))
	p(`<rect x="%d" y="40" width="11" height="11" fill="#2a9d8f"/>`, left)
	text(left+17, 50, 13, "start", "#262b33", "accepted")
	p(`<rect x="%d" y="40" width="11" height="11" fill="#d62828"/>`, left+100)
	text(left+117, 50, 13, "start", "#262b33", "refused with 429, Retry-After 1")
	for k, c := range clients {
		run := r.Clients[c.name]
		base := float64(top + k*(panel+gap) + panel)
		y := func(v float64) float64 { return base - min(v, highest)*(panel-26)/highest }
		total, refused := 0, 0
		for i, s := range run.seconds {
			total, refused = total+s.Accepted, refused+s.Refused
			if i >= n {
				break
			}
			for _, bar := range []struct {
				from, to float64
				fill     string
			}{{0, float64(s.Accepted), "#2a9d8f"}, {float64(s.Accepted), float64(s.Accepted + s.Refused), "#d62828"}} {
				if bar.to > bar.from {
					p(`<rect x="%.2f" y="%.2f" width="%.2f" height="%.2f" fill="%s"/>`, x(i), y(bar.to), x(i+1)-x(i)-0.4, y(bar.from)-y(bar.to), bar.fill)
				}
			}
		}
		p(`<line x1="%d" y1="%.2f" x2="%d" y2="%.2f" stroke="#262b33" stroke-dasharray="5 3"/>`, left, y(d.api.Rate), width-right, y(d.api.Rate))
		p(`<line x1="%d" y1="%.2f" x2="%d" y2="%.2f" stroke="#8a939e"/>`, left, base, width-right, base)
		text(left-8, y(d.api.Rate)+4, 12, "end", "#262b33", fmt.Sprintf("%.0f/s", d.api.Rate))
		text(left-8, base+4, 12, "end", "#8a939e", "0")
		text(left, base-panel+16, 14, "start", "#262b33",
			fmt.Sprintf("%s: %s done, %s refused", c.title, thousands(total), thousands(refused)))
	}
	for s := 0; s <= n; s += max(1, n/6) {
		text(x(s), float64(top+2*panel+gap+20), 12, "middle", "#8a939e", fmt.Sprintf("%d s", s))
	}
	p(`</svg>`)
	_, err := io.WriteString(w, b.String())
	return err
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
