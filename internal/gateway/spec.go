package gateway

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The specifications are our own, so they are read by lines and not by a YAML
// parser, which the standard library does not have: block mappings indented by
// two spaces, sections at column 0, paths and kinds of components at 2, methods
// and names of components at 4, the fields of an operation at 6; no tabs, no
// anchors, no quotes around keys.

// mergedSections are the sections of a service's specification that go into
// the combined one; droppedSections speak of the service alone.
var (
	mergedSections  = []string{"paths", "components", "security"}
	droppedSections = []string{"openapi", "info", "servers", "tags"}
	methods         = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}
)

var (
	keyLine     = regexp.MustCompile(`^( *)([^\s#"'-][^\s"']*):(?: .*)?$`)
	reference   = regexp.MustCompile(`(#/components/[a-zA-Z]+/)([a-zA-Z0-9._-]+)`)
	operationID = regexp.MustCompile(`^( {6}operationId: )(\S+)$`)
	outOfSubset = regexp.MustCompile(`^\s*\t|:\s+[&*]\w`)
	named       = regexp.MustCompile(`^(  |    )[^\s#]`)         // where paths and components have their names
	required    = regexp.MustCompile(`([a-zA-Z0-9._-]+)(: *\[)`) // a name in a security requirement
)

const securityKey = "      security:" // of an operation

// spec is a specification cut into its sections.
type spec struct {
	order    []string            // names of the sections as they come
	sections map[string][]string // their lines, the key's own first
}

func parseSpec(text []byte) (spec, error) {
	s := spec{sections: map[string][]string{}}
	section := ""
	for i, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		line = strings.TrimRight(line, " \r")
		if outOfSubset.MatchString(line) {
			return s, fmt.Errorf("line %d: a tab, an anchor or an alias, which the combined specification cannot take: %q", i+1, line)
		}
		if indent, key := keyOf(line); indent == 0 {
			if s.sections[key] != nil {
				return s, fmt.Errorf("line %d: %q stands here a second time", i+1, key)
			}
			section = key
			s.order = append(s.order, key)
		}
		if section != "" {
			s.sections[section] = append(s.sections[section], line)
		} else if line != "" && !strings.HasPrefix(line, "#") {
			return s, fmt.Errorf("line %d: %q stands in no section", i+1, line)
		}
	}
	return s, nil
}

// keyOf returns the key that a line begins and how far it is indented, or -1.
func keyOf(line string) (int, string) {
	m := keyLine.FindStringSubmatch(line)
	if m == nil {
		return -1, ""
	}
	return len(m[1]), m[2]
}

// MergeSpecs returns root's specification with the paths of every service
// under /<name>/ and its components, operation ids and security schemes
// renamed to <name>_…, so that none meets another. What the subset does not
// hold is an error that names the service and the line.
func MergeSpecs(root []byte, backends []*Backend) ([]byte, error) {
	all, err := parseSpec(root)
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	kinds := kindsOf(all.sections["components"])
	for _, b := range backends {
		s, err := parseSpec(b.Spec)
		if err == nil {
			err = s.fits(all)
		}
		if err != nil {
			return nil, fmt.Errorf("%s/openapi.yaml: %w", b.Name, err)
		}
		s.rename(b.Name)
		all.sections["paths"] = append(all.sections["paths"], s.sections["paths"][1:]...)
		for kind, lines := range kindsOf(s.sections["components"]) {
			kinds[kind] = append(kinds[kind], lines...)
		}
	}
	text := all.text(kinds)
	if err := checkSpec(text); err != nil {
		return nil, fmt.Errorf("combined specification: %w", err)
	}
	return text, nil
}

// checkSpec reports a path, a component or an operation id that is there twice,
// and a reference to a component that is not there at all.
func checkSpec(text []byte) error {
	s, err := parseSpec(text)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	once := func(kind, name string) {
		if seen[kind+name] {
			err = fmt.Errorf("%s%s stands there twice", kind, name)
		}
		seen[kind+name] = true
	}
	for _, line := range s.sections["paths"] {
		if indent, key := keyOf(line); indent == 2 {
			once("path ", key)
		}
		if m := operationID.FindStringSubmatch(line); m != nil {
			once("operationId ", m[2])
		}
	}
	for kind, lines := range kindsOf(s.sections["components"]) {
		for _, line := range lines {
			if indent, key := keyOf(line); indent == 4 {
				once("#/components/"+kind+"/", key)
			}
		}
	}
	for _, m := range reference.FindAllString(string(text), -1) {
		if !seen[m] {
			return fmt.Errorf("%s is referred to and not there", m)
		}
	}
	return err
}

// fits says whether the sections of s can be taken over into all.
func (s spec) fits(all spec) error {
	for _, section := range s.order {
		if !slices.Contains(mergedSections, section) && !slices.Contains(droppedSections, section) {
			return fmt.Errorf("section %q cannot be combined", section)
		}
	}
	if !slices.Equal(s.sections["openapi"], all.sections["openapi"]) {
		return fmt.Errorf("%q differs from the gateway's %q", s.sections["openapi"], all.sections["openapi"])
	}
	if s.sections["paths"] == nil || all.sections["paths"] == nil {
		return fmt.Errorf("no paths")
	}
	for _, line := range slices.Concat(s.sections["paths"], s.sections["components"]) {
		if named.MatchString(line) && !keyLine.MatchString(line) {
			return fmt.Errorf("not a plain key: %q", line)
		}
	}
	return nil
}

// rename gives everything in s that has a name the service's prefix.
func (s spec) rename(service string) {
	prefix := service + "_"
	s.requireEverywhere()
	asked := false // in the lines of an operation's security
	for i, line := range s.sections["paths"] {
		indent, _ := keyOf(line)
		if indent == 2 {
			line = strings.Replace(line, "/", "/"+service+"/", 1)
		}
		if indent >= 0 && indent <= 6 {
			asked = strings.HasPrefix(line, securityKey)
		}
		if asked {
			names := strings.TrimPrefix(line, securityKey) // not the key itself
			line = line[:len(line)-len(names)] + required.ReplaceAllString(names, prefix+"${1}${2}")
		}
		line = reference.ReplaceAllString(line, "${1}"+prefix+"${2}")
		s.sections["paths"][i] = operationID.ReplaceAllString(line, "${1}"+prefix+"${2}")
	}
	for i, line := range s.sections["components"] {
		if indent, _ := keyOf(line); indent == 4 {
			line = "    " + prefix + line[4:]
		}
		s.sections["components"][i] = reference.ReplaceAllString(line, "${1}"+prefix+"${2}")
	}
}

// requireEverywhere writes the security that the service asks for as a whole
// into each operation that does not say its own.
func (s spec) requireEverywhere() {
	whole := s.sections["security"]
	if whole == nil {
		return
	}
	var lines []string
	for _, op := range operations(s.sections["paths"]) {
		lines = append(lines, op.lines[0])
		own := slices.ContainsFunc(op.lines, func(line string) bool { return strings.HasPrefix(line, securityKey) })
		if op.operation && !own {
			for _, line := range whole {
				lines = append(lines, "      "+line)
			}
		}
		lines = append(lines, op.lines[1:]...)
	}
	s.sections["paths"] = lines
}

// A block is a run of lines of a paths section: one operation, or what stands
// between operations.
type block struct {
	operation bool
	lines     []string
}

// operations cuts a paths section into blocks that hold all its lines.
func operations(paths []string) []block {
	var blocks []block
	for _, line := range paths {
		if indent, key := keyOf(line); indent >= 0 && indent <= 4 || len(blocks) == 0 {
			blocks = append(blocks, block{operation: indent == 4 && slices.Contains(methods, key)})
		}
		last := &blocks[len(blocks)-1]
		last.lines = append(last.lines, line)
	}
	return blocks
}

// kindsOf cuts a components section into its kinds: "schemas", "responses", …
func kindsOf(components []string) map[string][]string {
	kinds := map[string][]string{}
	kind := ""
	for _, line := range components {
		if indent, key := keyOf(line); indent == 2 {
			kind = key
		} else if kind != "" {
			kinds[kind] = append(kinds[kind], line)
		}
	}
	return kinds
}

// text writes the specification out, with kinds for its components.
func (s spec) text(kinds map[string][]string) []byte {
	var b bytes.Buffer
	for _, section := range s.order {
		if section != "components" {
			writeLines(&b, s.sections[section])
		}
	}
	if len(kinds) > 0 {
		b.WriteString("components:\n")
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(&b, "  %s:\n", kind)
		writeLines(&b, kinds[kind])
	}
	return b.Bytes()
}

func writeLines(b *bytes.Buffer, lines []string) {
	for _, line := range lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
}

// title returns the title of a specification.
func title(text []byte) string {
	s, _ := parseSpec(text) // MergeSpecs reports what is wrong with it
	for _, line := range s.sections["info"] {
		if rest, ok := strings.CutPrefix(line, "  title: "); ok {
			return strings.Trim(rest, `"'`)
		}
	}
	return ""
}
