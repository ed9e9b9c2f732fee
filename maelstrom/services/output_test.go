package services

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOutput(t *testing.T) {
	var file strings.Builder
	o := newOutput(&file)
	var told []string
	o.expect(func(addr string) { told = append(told, addr) })
	printed := `{"msg":"starting"}` + "\n" + `{"msg":"listening","addr":"127.0.0.1:1"}` + "\n" + `{"msg":"listening","addr":"twice"}` + "\ncut o"
	for i := range printed {
		fmt.Fprint(o, printed[i:i+1])
	}
	o.Close()
	if diff := cmp.Diff([]string{"127.0.0.1:1"}, told); diff != "" {
		t.Errorf("told where it listens (-want +got):\n%s", diff)
	}
	if file.String() != printed {
		t.Errorf("the file has %q, want %q", file.String(), printed)
	}
	if diff := cmp.Diff(append(strings.Split(printed, "\n")[:3], "cut o"), o.last()); diff != "" {
		t.Errorf("last lines (-want +got):\n%s", diff)
	}
	long := strings.Repeat("x", 2*outputLineMax)
	for i := range 2 * tailLinesMax {
		fmt.Fprintf(o, "%d%s\n", i, long)
	}
	tail := o.last()
	if len(tail) != tailLinesMax || !strings.HasPrefix(tail[0], fmt.Sprint(tailLinesMax, "x")) || len(tail[0]) != tailLineMax {
		t.Errorf("%d lines of %d bytes, the first of them %.9q…", len(tail), len(tail[0]), tail[0])
	}
	o.room = 2
	file.Reset()
	fmt.Fprint(o, "abc")
	if file.String() != "ab" {
		t.Errorf("a full file got %q, want ab", file.String())
	}
}
