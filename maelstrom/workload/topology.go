package workload

import (
	"fmt"
	"strings"
)

// Topologies are the names that Topology knows.
func Topologies() []string {
	return []string{"line", "grid", "tree", "tree2", "tree3", "tree4", "total"}
}

// Topology returns each node's neighbours, as Maelstrom's: a line; a grid of side ⌈√n⌉ row by row; a tree in the order of
// a heap, with two to four children each; or everybody.
func Topology(name string, nodes []string) (map[string][]string, error) {
	t := map[string][]string{}
	if name == "line" && len(nodes) == 1 {
		return t, nil
	}
	for i, node := range nodes {
		t[node] = []string{}
		var near []int
		switch name {
		case "line":
			near = []int{i - 1, i + 1}
		case "grid":
			near = gridNeighbours(i, len(nodes))
		case "tree", "tree2":
			near = treeNeighbours(i, 2)
		case "tree3":
			near = treeNeighbours(i, 3)
		case "tree4":
			near = treeNeighbours(i, 4)
		case "total":
			for j := range nodes {
				if j != i {
					near = append(near, j)
				}
			}
		default:
			return nil, fmt.Errorf("no topology %q; there are %s", name, strings.Join(Topologies(), ", "))
		}
		for _, j := range near {
			if j >= 0 && j < len(nodes) {
				t[node] = append(t[node], nodes[j])
			}
		}
	}
	return t, nil
}

// gridNeighbours returns down, up, right, left.
func gridNeighbours(i, n int) []int {
	side := 1
	for side*side < n {
		side++
	}
	near := []int{i + side, i - side}
	if i%side < side-1 {
		near = append(near, i+1)
	}
	if i%side > 0 {
		near = append(near, i-1)
	}
	return near
}

// treeNeighbours returns the parent, then the children.
func treeNeighbours(i, children int) []int {
	near := []int{}
	if i > 0 {
		near = append(near, (i-1)/children)
	}
	for c := range children {
		near = append(near, i*children+1+c)
	}
	return near
}
