package load

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Get reads an URL to its end, over a connection of its own: an idle one would be memory of the server's.
func Get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, answer.Status, body)
	}
	return body, err
}

// Metrics reads metrics from /metrics of addr in the order of their names, each the sum over its labels.
func Metrics(ctx context.Context, addr string, names ...string) ([]float64, error) {
	values, found := make([]float64, len(names)), make([]bool, len(names))
	text, err := Get(ctx, "http://"+addr+"/metrics")
	if err != nil {
		return values, err
	}
	for line := range strings.Lines(string(text)) {
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		series, _, _ := strings.Cut(line[:at], "{")
		for i, name := range names {
			if series != name {
				continue
			}
			value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
			if err != nil {
				return values, fmt.Errorf("metrics: %q: %w", line, err)
			}
			values[i] += value
			found[i] = true
		}
	}
	for i, name := range names {
		if !found[i] {
			return values, fmt.Errorf("metrics: no %q", name)
		}
	}
	return values, nil
}
