package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"dongne/internal/gossip"
)

// A Mutant is a program that is wrong on purpose: a checker must say so, and a learner can see how it says it.
type Mutant struct {
	Name     string
	Workload string
	Wrong    string // what it does wrong, in a few words
	Nemesis  string // what it takes to notice: "partition", "kill", or "lost-reply", which only a simulation has; "": nothing
	// Rule is what is noticed:
	//	wrong-echo      an echo is not what was sent
	//	unanswered      a request has no answer
	//	failed          a request is answered with an error
	//	bad-reply       a reply is none that the request allows
	//	duplicate       an id is given twice, a value is in one read twice
	//	phantom         a read has a value that nobody sent
	//	lost            a value that was acknowledged or read is in no final read
	//	missing-final   it is in some final reads only
	//	wrong-sum       a final read of a counter is not what was added
	//	impossible      a read of a counter is not what can have been added by then
	//	backwards       a counter that only grows shrinks
	//	torn            a read of a bank shows more or less money than there is
	//	overdrawn       a read shows an account with less than nothing
	//	ended-twice     a hold is captured and voided, or refunded twice
	//	wrong-effect    a final read of a bank is not what was acknowledged
	//	no-order        no order of a bank's operations explains its answers
	//	bad-line        a line on stdout is no message
	//	bad-address     a message from somebody else, or to nobody
	//	exited          the process ends by itself
	Rule string
	Spec Spec
	Twin Spec // right where this is wrong, and otherwise the same
}

// Mutants returns all, those of a workload together.
func Mutants() []Mutant {
	all := slices.Concat(echoMutants(), uniqueMutants(), broadcastMutants(), outlaws(), counterMutants(), bankMutants())
	for i := range all {
		m := &all[i]
		m.Spec.Name, m.Spec.Help = m.Name, m.Wrong
	}
	return all
}

func echoMutants() []Mutant {
	mutant := func(name, wrong, rule string, change func(count int, reply body) bool) Mutant {
		return Mutant{name, "echo", wrong, "", rule, onReply(echoSpec(), "echo_ok", change), echoSpec()}
	}
	return []Mutant{
		mutant("echo-other", "answers another text", "wrong-echo", func(_ int, reply body) bool {
			reply["echo"] = "something else"
			return true
		}),
		mutant("echo-silent", "never answers one request in five", "unanswered", func(count int, _ body) bool {
			return count%5 != 0
		}),
		mutant("echo-unavailable", "answers one request in five with error 11", "failed", func(count int, reply body) bool {
			if count%5 == 0 {
				delete(reply, "echo")
				reply["type"], reply["code"], reply["text"] = "error", codeUnavailable, "come back later"
			}
			return true
		}),
		mutant("echo-chatty", "answers with a member too many", "bad-reply", func(_ int, reply body) bool {
			reply["debug"] = "all is well"
			return true
		}),
	}
}

func uniqueMutants() []Mutant {
	mutant := func(name, wrong, nemesis string, answer func(Start) func(time.Duration, request) body) Mutant {
		spec := uniqueSpec()
		spec.New = newResponder(answer)
		return Mutant{name, "unique-ids", wrong, nemesis, "duplicate", spec, uniqueSpec()}
	}
	return []Mutant{
		mutant("ids-clock", "takes the time for an id, in milliseconds", "", func(Start) func(time.Duration, request) body {
			return generator(func(now time.Duration) any { return now.Milliseconds() })
		}),
		mutant("ids-restart", "counts from one again after a kill", "kill", func(s Start) func(time.Duration, request) body {
			return counter(s.ID + ".")
		}),
		mutant("ids-nameless", "counts without its name", "", func(Start) func(time.Duration, request) body {
			return counter("")
		}),
	}
}

func broadcastMutants() []Mutant {
	mutant := func(name, wrong, nemesis, rule string, spec Spec) Mutant {
		return Mutant{name, "broadcast", wrong, nemesis, rule, spec, broadcastSpec()}
	}
	naive := func(name, wrong, nemesis string, tries int, deaf bool) Mutant {
		return Mutant{name, "broadcast", wrong, nemesis, "missing-final", naiveSpec(tries, deaf), naiveSpec(triesEnough, false)}
	}
	return []Mutant{
		mutant("broadcast-hasty", "acknowledges a second before it stores", "kill", "lost",
			wrap(broadcastSpec(), func(p Program, _ Start) Program { return &hasty{Program: p, acknowledges: true} })),
		mutant("broadcast-early", "shows a second before it stores", "kill", "lost",
			wrap(broadcastSpec(), func(p Program, _ Start) Program { return &hasty{Program: p, shows: true} })),
		mutant("broadcast-forgetful", "forgets the value 7 once it has more than 20", "", "lost",
			onRead(func(messages []json.RawMessage) []json.RawMessage {
				if len(messages) <= 20 {
					return messages
				}
				return slices.DeleteFunc(messages, func(value json.RawMessage) bool { return string(value) == "7" })
			})),
		mutant("broadcast-twice", "shows its first value twice", "", "duplicate",
			onRead(func(messages []json.RawMessage) []json.RawMessage {
				return append(messages, messages[:min(1, len(messages))]...)
			})),
		mutant("broadcast-phantom", "shows a value that nobody sent", "", "phantom",
			onRead(func(messages []json.RawMessage) []json.RawMessage {
				return append(messages, json.RawMessage("-1000"))
			})),
		naive("broadcast-island", "tells the others nothing", "", 0, false),
		naive("broadcast-once", "tells its neighbours of a value once, and never again", "partition", 1, false),
		naive("broadcast-four-tries", "tells its neighbours, tries three times more, and gives up", "partition", 4, false),
		naive("broadcast-deaf-at-first", "confirms and forgets the first value that a node tells after a second of silence", "partition",
			triesEnough, true),
		mutant("broadcast-no-repair", "never compares what it has with the others", "partition", "missing-final",
			withProfile(func(p *gossip.Profile) { p.Tick = time.Hour })),
		mutant("broadcast-only-when-busy", "repairs only while values are coming in", "partition", "missing-final",
			wrap(broadcastSpec(), func(p Program, _ Start) Program { return &lazy{Program: p} })),
	}
}

// outlaws break the protocol rather than their workload's promise.
func outlaws() []Mutant {
	const patience = 20 // replies until they do
	mutant := func(name, wrong, rule string, offend func(s Start, out *Output)) Mutant {
		spec := wrap(broadcastSpec(), func(p Program, s Start) Program {
			count := 0
			return altered{p, func(out *Output) {
				before := count
				for range replies(*out) {
					count++
				}
				if before < patience && count >= patience {
					offend(s, out)
				}
			}}
		})
		return Mutant{name, "broadcast", wrong, "", rule, spec, broadcastSpec()}
	}
	return []Mutant{
		mutant("broadcast-babbler", "prints a line that is not JSON", "bad-line", func(_ Start, out *Output) {
			out.Print = append(out.Print, "all is well so far")
		}),
		mutant("broadcast-astray", "sends to a node that does not exist", "bad-address", func(_ Start, out *Output) {
			out.Send = append(out.Send, Message{To: "nobody", Body: body{"type": "gossip"}})
		}),
		mutant("broadcast-impostor", "sends in the name of another node", "bad-address", func(s Start, out *Output) {
			other := s.Nodes[(slices.Index(s.Nodes, s.ID)+1)%len(s.Nodes)]
			out.Print = append(out.Print, fmt.Sprintf(`{"src":%q,"dest":%q,"body":{"type":"gossip"}}`, other, s.ID))
		}),
		mutant("broadcast-quitter", "ends after its twentieth answer", "exited", func(_ Start, out *Output) { out.Exit = true }),
	}
}

func counterMutants() []Mutant {
	cas := func(name, workload, wrong, nemesis string, m mistakes) Mutant {
		return Mutant{name, workload, wrong, nemesis, "wrong-sum", casCounterSpec(m), casCounterSpec(mistakes{})}
	}
	log := func(name, wrong, nemesis, rule string, spec Spec) Mutant {
		return Mutant{name, "g-counter", wrong, nemesis, rule, spec, gCounterSpec()}
	}
	seventh := func(change func(sum int64) int64) Spec {
		return onReply(gCounterSpec(), "read_ok", func(count int, reply body) bool {
			if count%7 == 0 {
				reply["value"] = change(reply["value"].(int64))
			}
			return true
		})
	}
	return []Mutant{
		cas("counter-read-then-write", "g-counter", "reads the sum and writes the new one, whatever came in between", "", mistakes{writes: true}),
		cas("counter-retries", "g-counter", "adds again when its cas was not answered", "lost-reply", mistakes{retries: true}),
		cas("counter-stale", "g-counter", "reads from seq-kv without writing first", "", mistakes{stale: true}),
		cas("counter-narrow", "g-counter", "keeps its sum in 6 bits, as others keep it in 32", "", mistakes{narrow: true}),
		cas("counter-only-up", "pn-counter", "acknowledges negative deltas, and adds nothing", "", mistakes{grows: true}),
		log("counter-hasty", "acknowledges a second before it adds", "kill", "wrong-sum",
			wrap(gCounterSpec(), func(p Program, _ Start) Program { return &hasty{Program: p, acknowledges: true} })),
		log("counter-no-ids", "does not know an add again that another node has proposed too", "partition", "wrong-sum",
			counterSpec("g-counter", "", false)),
		log("counter-back", "shows half the sum every seventh time", "", "backwards", seventh(func(sum int64) int64 { return sum / 2 })),
		log("counter-generous", "shows a thousand more every seventh time", "", "impossible", seventh(func(sum int64) int64 { return sum + 1000 })),
	}
}
