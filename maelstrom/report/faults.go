package report

import (
	"encoding/json"
	"slices"
	"strings"

	"dongne/maelstrom/history"
)

const faultCharactersMax = 160 // of a description

// Describe says in words what the nemesis did: a fault's name, and the value of its operation.
func Describe(name string, value json.RawMessage, nodes []string) string {
	return describe(history.Fault{Name: name, Value: value}, nodes)
}

// describe says in words whom a fault hit: "n1, n2 | n3" for a partition or, if it is no such clean cut, who does not hear
// whom; "n1, n2" for what hits nodes; "all nodes" for what the network does to everybody.
func describe(f history.Fault, nodes []string) string {
	var parts []json.RawMessage
	if json.Unmarshal(f.Value, &parts) != nil || len(parts) != 2 {
		return cut(f.Value, faultCharactersMax)
	}
	var everywhere string
	if json.Unmarshal(parts[1], &everywhere) == nil && everywhere == f.Name {
		return "all nodes"
	}
	var hit []string
	if json.Unmarshal(parts[1], &hit) == nil {
		if len(hit) == 0 {
			return "nobody" // all were down
		}
		return cut(join(hit), faultCharactersMax)
	}
	var blocked map[string][]string // receiver → senders that it does not hear
	if json.Unmarshal(parts[1], &blocked) != nil {
		return cut(f.Value, faultCharactersMax)
	}
	return cut(describeCut(blocked, nodes), faultCharactersMax)
}

func describeCut(blocked map[string][]string, nodes []string) string {
	nodes = slices.SortedFunc(slices.Values(nodes), compareNames)
	hears := func(a, b string) bool { return !slices.Contains(blocked[a], b) }
	linked := func(a, b string) bool { return hears(a, b) && hears(b, a) }
	parts := components(nodes, linked)
	part := map[string]int{}
	var names, deaf []string
	for i, members := range parts {
		names = append(names, join(members))
		for _, name := range members {
			part[name] = i
		}
	}
	clean := true // parts that do not hear each other at all, and within which everybody does
	for _, a := range nodes {
		var lost []string
		for _, b := range nodes {
			if a == b {
				continue
			}
			if !hears(a, b) {
				lost = append(lost, b)
			}
			clean = clean && hears(a, b) == (part[a] == part[b])
		}
		if len(lost) > 0 {
			deaf = append(deaf, a+" does not hear "+join(lost))
		}
	}
	switch {
	case len(deaf) == 0:
		return "no link cut"
	case clean:
		return strings.Join(names, " | ")
	}
	return strings.Join(deaf, "; ")
}

// components are the sets of nodes that are linked, directly or through others.
func components(nodes []string, linked func(a, b string) bool) [][]string {
	var parts [][]string
	rest := slices.Clone(nodes)
	for len(rest) > 0 {
		part := []string{rest[0]}
		rest = rest[1:]
		for i := 0; i < len(part); i++ {
			rest = slices.DeleteFunc(rest, func(name string) bool {
				near := linked(part[i], name)
				if near {
					part = append(part, name)
				}
				return near
			})
		}
		slices.SortFunc(part, compareNames)
		parts = append(parts, part)
	}
	return parts
}

func join(names []string) string { return strings.Join(names, ", ") }
