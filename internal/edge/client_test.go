package edge

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestClient(t *testing.T) {
	trusted, err := ParsePrefixes("10.0.0.0/8, 2001:db8::/32")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:1", nil, "192.0.2.1"},
		{"192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1"},
		{"[::ffff:192.0.2.1]:1", nil, "192.0.2.1"},
		{"[fe80::1%eth0]:1", nil, "fe80::1"},
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::ffff:10.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"203.0.113.9,198.51.100.1 , 10.1.1.1,\t2001:db8::5"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"198.51.100.1", "10.1.1.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"203.0.113.9", "198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"10.2.2.2, 10.1.1.1"}, "10.2.2.2"},
		{"10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.1, unknown, 10.1.1.1"}, "10.1.1.1"},
		{"10.0.0.1:1", []string{"198.51.100.1,, 10.1.1.1"}, "10.1.1.1"},
		{"10.0.0.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"[2001:db9::1]:4711"}, "2001:db9::1"},
		{"10.0.0.1:1", []string{"[2001:db9::1]"}, "2001:db9::1"},
		{"10.0.0.1:1", []string{"2001:db9::1"}, "2001:db9::1"},
		{"10.0.0.1:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"10.0.0.1:1", []string{"010.0.0.1"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{strings.Repeat("1", 1000)}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"[198.51.100.1]"}, "10.0.0.1"},
	} {
		if got := Client(netip.MustParseAddrPort(c.peer), c.forwarded, trusted); got.String() != c.want {
			t.Errorf("Client(%s, %q) = %v, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
	long := strings.Repeat("10.1.1.1, ", 100_000) + "10.2.2.2"
	got := Client(netip.MustParseAddrPort("10.0.0.1:1"), []string{"198.51.100.1", long}, trusted)
	if got.String() != "10.1.1.1" {
		t.Errorf("Client of 100000 trusted hops = %v, want one of them", got)
	}
}

// Nothing that a client writes changes what the proxies in front of us wrote behind it.
func TestClientPropertyHearsayDoesNotCount(t *testing.T) {
	trusted, err := ParsePrefixes("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		lie := rapid.SampledFrom([]string{"10.0.0.9", "8.8.8.8", "unknown", "", ",", "::1", "a, b"})
		lies := rapid.SliceOf(lie).Draw(t, "lies")
		hops := rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.1", "10.9.9.9"}), 0, hopsMax-2).Draw(t, "hops")
		honest := append([]string{"192.0.2.7"}, hops...)
		forwarded := append(lies, strings.Join(honest, ", "))
		if rapid.Bool().Draw(t, "one line") {
			forwarded = []string{strings.Join(forwarded, ",")}
		}
		if got := Client(netip.MustParseAddrPort("10.0.0.2:1"), forwarded, trusted); got.String() != "192.0.2.7" {
			t.Fatalf("Client(%q) = %v, want 192.0.2.7", forwarded, got)
		}
	})
}

func TestParsePrefixes(t *testing.T) {
	got, err := ParsePrefixes(" 10.0.0.0/8,::1 , 192.0.2.1,fd00::/8")
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, p := range got {
		text = append(text, p.String())
	}
	if diff := cmp.Diff([]string{"10.0.0.0/8", "::1/128", "192.0.2.1/32", "fd00::/8"}, text); diff != "" {
		t.Errorf("ParsePrefixes mismatch (-want +got):\n%s", diff)
	}
	if got, err := ParsePrefixes(" "); len(got) != 0 || err != nil {
		t.Errorf("ParsePrefixes of nothing = %v, %v", got, err)
	}
	for _, list := range []string{"x", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8,", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1",
		"fe80::1%eth0", "10.0.0.0/8 fd00::/8"} {
		if got, err := ParsePrefixes(list); err == nil {
			t.Errorf("ParsePrefixes(%q) = %v, want an error", list, got)
		}
	}
}
