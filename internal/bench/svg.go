package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
)

// Measures of the picture, in pixels.
const (
	svgLabel = 170 // width of the labels
	svgPanel = 400 // width of each of the two panels
	svgInset = 30  // of a panel, for the numbers of the longest bars
	svgGap   = 40
	svgRow   = 12 // height of a bar
	svgTop   = 76
	svgMost  = 8.0 // bars end at this ratio, either way
)

// svgColours can also be distinguished by people who don't distinguish red from
// green.
var svgColours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"}

// WriteSVG draws how the first target compares with each other one. The left panel
// shows how many times as fast it is, the right one what part of the other's
// processor time it needs. The scale is logarithmic, so that twice and half have the
// same length.
func (r *Report) WriteSVG(w io.Writer) error {
	p := &picture{}
	rows := r.ratioRows()
	if len(rows) == 0 {
		return fmt.Errorf("a picture needs two targets: it shows ratios")
	}
	first := r.Rows[0].Targets[0].Target
	height := svgTop + 30
	for _, row := range rows {
		height += len(row.bars)*svgRow + 8
	}
	width := svgLabel + 2*svgPanel + 2*svgGap
	p.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11">`, width, height, width, height)
	p.put(`<rect width="100%%" height="100%%" fill="white"/>`)
	p.text(svgLabel, 18, "start", 14, first+" compared")
	left, right := float64(svgLabel), float64(svgLabel+svgPanel+svgGap)
	p.text(left, 60, "start", 11, "speed: right of the line is faster")
	p.text(right, 60, "start", 11, "CPU per operation: left of the line is less")
	r.legend(p)
	p.text(float64(width-4), 18, "end", 11, r.marks(rows))
	p.axis(left, height)
	p.axis(right, height)
	y := float64(svgTop)
	for _, row := range rows {
		p.text(svgLabel-8, y+float64(len(row.bars)*svgRow)/2+4, "end", 11, row.label)
		for _, b := range row.bars {
			p.bar(left, y, b.speed, b.colour)
			p.bar(right, y, b.cpu, b.colour)
			y += svgRow
		}
		y += 8
	}
	p.put("</svg>")
	_, err := io.WriteString(w, p.String())
	return err
}

// marks explains the marks in a picture, and says how many rounds were left
// out.
func (r *Report) marks(rows []ratioRow) string {
	var list []string
	some := func(ok func(Ratio) bool) bool {
		return slices.ContainsFunc(rows, func(row ratioRow) bool {
			return slices.ContainsFunc(row.bars, func(b ratioBar) bool { return ok(b.speed) || ok(b.cpu) })
		})
	}
	if some(func(x Ratio) bool { return x.Noise }) {
		list = append(list, "dashed: noise")
	}
	if some(func(x Ratio) bool { return !x.Noise && x.Value > 0 && clipped(x.Value) }) {
		list = append(list, "arrow: longer than the scale")
	}
	if n := r.dropped(); n > 0 {
		list = append(list, fmt.Sprintf("%d disturbed round(s) dropped", n))
	}
	return strings.Join(list, "; ")
}

// ratioRow is a workload at a depth with a bar for each other target.
type ratioRow struct {
	label string
	bars  []ratioBar
}

type ratioBar struct {
	speed, cpu Ratio
	colour     string
}

func (r *Report) ratioRows() (rows []ratioRow) {
	for _, res := range r.Rows {
		row := ratioRow{label: fmt.Sprintf("%s, depth %d", res.Workload, res.Depth)}
		for i, f := range res.Targets {
			if i > 0 && f.Target != floorName {
				row.bars = append(row.bars, ratioBar{f.Ratio, f.CPURatio, colour(i, &f)})
			}
		}
		if len(row.bars) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// colour is that of the i-th target; the first one has none.
func colour(i int, f *Figures) string {
	if f.Self {
		return "#999"
	}
	return svgColours[(i-1)%len(svgColours)]
}

// legend names the other targets.
func (r *Report) legend(p *picture) {
	x := float64(svgLabel)
	for i, t := range r.Rows[0].Targets[1:] {
		if t.Target == floorName {
			continue
		}
		p.put(`<rect x="%.0f" y="28" width="10" height="10" fill="%s"/>`, x, colour(i+1, &t))
		p.text(x+14, 37, "start", 11, "against "+t.Target)
		x += float64(90 + 7*len(t.Target))
	}
}

// picture is an SVG file being written.
type picture struct{ strings.Builder }

func (p *picture) put(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *picture) text(x, y float64, anchor string, size int, s string) {
	p.put(`<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d">%s</text>`, x, y, anchor, size, html.EscapeString(s))
}

// position is where a ratio is in a panel; 1 is in the middle.
func position(ratio float64) float64 {
	if ratio <= 0 {
		return svgPanel / 2
	}
	x := math.Log2(ratio) / math.Log2(svgMost)
	return svgPanel/2 + (svgPanel/2-svgInset)*max(-1, min(1, x))
}

func (p *picture) axis(left float64, height int) {
	for _, v := range []struct {
		at    float64
		label string
	}{{1.0 / 8, "⅛"}, {0.25, "¼"}, {0.5, "½"}, {1, "1"}, {2, "2"}, {4, "4"}, {8, "8"}} {
		x := left + position(v.at)
		colour := "#ddd"
		if v.at == 1 {
			colour = "#444"
		}
		p.put(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s"/>`, x, svgTop-8, x, height-24, colour)
		p.text(x, float64(height-10), "middle", 11, v.label)
	}
}

// bar draws a bar from 1 to the ratio, with the number after it. A bar that is longer than
// the scale ends in an arrow. A ratio that is noise has a line over its range instead.
func (p *picture) bar(left, y float64, r Ratio, colour string) {
	switch {
	case r.Value <= 0: // not measured
	case r.Noise:
		from, to := position(r.Low), position(r.High)
		p.put(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="3 2"/>`,
			left+from, y+svgRow/2-1, left+max(to, from+1), y+svgRow/2-1, colour)
		p.text(left+to+3, y+svgRow-3, "start", 9, "noise")
	default:
		p.solid(left, y, r.Value, colour)
	}
}

func (p *picture) solid(left, y, ratio float64, colour string) {
	from, to := position(1), position(ratio)
	anchor, at, sign := "start", to+3, 1.0
	if to < from {
		from, to = to, from
		anchor, at, sign = "end", from-3, -1
	}
	p.put(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`, left+from, y, max(to-from, 1), svgRow-2, colour)
	if clipped(ratio) {
		p.put(`<path d="M%.1f %.1f l%.1f %.1f l%.1f %.1f z" fill="%s"><title>longer than the scale</title></path>`,
			left+at-3*sign, y-1, 6*sign, svgRow/2.0, -6*sign, svgRow/2.0, colour)
		at += 5 * sign
	}
	p.text(left+at, y+svgRow-3, anchor, 9, fmt.Sprintf("%.2f", ratio))
}

// clipped says whether a bar is longer than the scale.
func clipped(ratio float64) bool { return ratio > svgMost || ratio < 1/svgMost }
