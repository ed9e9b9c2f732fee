package report

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dongne/maelstrom/history"
)

// The colours of what became of an operation, in plots, and of faults.
var (
	outcomeColours = map[history.Type]string{history.OK: "#81BFFC", history.Info: "#FFA400", history.Fail: "#FF1E90"}
	faultColours   = map[string]string{"partition": "#E9DCA0", "kill": "#E9A4A0", "pause": "#A0B1E9"}
)

func faultColour(name string) string {
	if colour := faultColours[name]; colour != "" {
		return colour
	}
	return "#CFCFCF"
}

const ink = "#333"

// canvas writes SVG. Its background is white whatever the page's, for the colours are upstream's.
type canvas struct{ *bufio.Writer }

// begin writes the head; style is CSS.
func (c canvas) begin(width, height int, title, style string) {
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img">
<title>%s</title>
<style>text{font:11px system-ui,sans-serif;fill:%s}%s</style>
<rect width="100%%" height="100%%" fill="#fff"/>
`, width, height, escape(title), ink, style)
}

func (c canvas) end() { c.WriteString("</svg>\n") }

// band shades a rectangle.
func (c canvas) band(x, y, width, height float64, fault string) {
	fmt.Fprintf(c, `<rect class="fault" x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" fill-opacity=".4"/>`+"\n",
		x, y, width, height, faultColour(fault))
}

// text writes a line; anchor is start, middle or end.
func (c canvas) text(x, y float64, anchor, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escape(s))
}

func (c canvas) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(c, `<path d="M%.1f %.1fL%.1f %.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, colour)
}

// escape makes any text one of XML and HTML, element or attribute; what XML cannot say becomes U+FFFD.
func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}

// cut returns at most so many characters, the last an ellipsis if there were more.
func cut[T ~string | ~[]byte](text T, charactersMax int) string {
	s := string(text[:min(len(text), 4*charactersMax+4)])
	n, last := 0, 0
	for i := range s {
		switch n++; n {
		case charactersMax:
			last = i
		case charactersMax + 1:
			return s[:last] + "…"
		}
	}
	return s
}

// seconds is a time for people.
func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// millis is a latency for people.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// count writes thousands with commas.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
