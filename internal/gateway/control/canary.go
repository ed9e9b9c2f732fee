package control

import (
	"fmt"
	"slices"
	"strconv"
)

// A Phase is where a canary release stands.
type Phase string

// The phases.
const (
	Idle      Phase = "idle"   // no release
	Locked    Phase = "locked" // somebody has the route for a release
	Staged    Phase = "staged" // the candidate is known, and gets nothing
	Releasing Phase = "canary" // the candidate gets its weight
	All       Phase = "all"    // the candidate gets everything
)

// An Action is what a step of a release does.
type Action string

// The actions, and from which phases each may be done. All but Lock, Rollback and Reset are the lock holder's alone.
const (
	Lock     Action = "lock"     // idle → locked
	Stage    Action = "stage"    // locked, staged → staged
	Weigh    Action = "canary"   // staged, canary, all → canary, with a weight
	Complete Action = "all"      // canary → all
	Unlock   Action = "unlock"   // all → idle, the candidate is the primary now; locked, staged → idle, nothing has changed
	Rollback Action = "rollback" // any but idle → idle; idle after a release → idle, the primary is the one before it
	Reset    Action = "reset"    // idle → idle, the primary is the one that the route is configured with
)

// A Canary is a route's release. The zero value is idle.
type Canary struct {
	Phase  Phase  `json:"phase"`
	Holder string `json:"holder,omitempty"` // of the lock
	// Primary is the upstream that the last release left; empty: the one that the route is configured with.
	Primary   string  `json:"primary,omitempty"`
	Candidate string  `json:"candidate,omitempty"`
	Weight    float64 `json:"weight"` // percent, to the hundredth, of requests that go to the candidate
	// Release is new for every candidate staged. It salts the choice of who goes to the candidate.
	Release uint64 `json:"release,omitempty,string"`
	Guard   Guard  `json:"guard"`
	// Released says that a rollback in Idle goes back to Previous.
	Released bool   `json:"released,omitempty"`
	Previous string `json:"previous,omitempty"`
	// RolledBack is why the last release ended; empty if it ended well.
	RolledBack string `json:"rolled_back,omitempty"`
}

// A Step moves a release on.
type Step struct {
	Do        Action  `json:"do"`
	Candidate string  `json:"candidate,omitempty"` // of Stage: http://host:port/path
	Guard     *Guard  `json:"guard,omitempty"`     // of Stage, or of Weigh to change it; nil: the default, or as it is
	Weight    float64 `json:"weight,omitempty"`    // of Weigh: 0 to 100
	Reason    string  `json:"reason,omitempty"`    // of Rollback
}

// Next returns where the release is after the step that by takes, or ErrInvalid, ErrStep or ErrLocked. luck is random.
func (c Canary) Next(by string, s Step, luck uint64) (Canary, error) {
	if c.Phase == "" {
		c.Phase = Idle
	}
	if err := s.check(); err != nil {
		return c, err
	}
	from, ok := begins[s.Do]
	if !ok {
		return c, fmt.Errorf("%w: %.40q is no step", ErrInvalid, s.Do)
	}
	if s.Do == Lock && c.Phase != Idle {
		return c, fmt.Errorf("%w by %q, who is at %s", ErrLocked, c.Holder, c.Phase)
	}
	if !slices.Contains(from, c.Phase) || s.Do == Rollback && c.Phase == Idle && !c.Released {
		return c, fmt.Errorf("%w: no %s from %s", ErrStep, s.Do, c.Phase)
	}
	if s.Do.holders() && by != c.Holder {
		return c, fmt.Errorf("%w: %s is for %q, who has the lock", ErrStep, s.Do, c.Holder)
	}
	return c.take(by, s, luck), nil
}

// take is a legal step.
func (c Canary) take(by string, s Step, luck uint64) Canary {
	switch s.Do {
	case Lock:
		c.Phase, c.Holder = Locked, by
	case Stage:
		c.Phase, c.Candidate, c.Release, c.Guard = Staged, s.Candidate, max(luck, 1), Guard{}
		if s.Guard != nil {
			c.Guard = *s.Guard
		}
		c.RolledBack = ""
	case Weigh:
		c.Phase, c.Weight = Releasing, roundWeight(s.Weight)
		if s.Guard != nil {
			c.Guard = *s.Guard
		}
	case Complete:
		c.Phase, c.Weight = All, percentMax
	case Unlock:
		if c.Phase == All {
			return Canary{Phase: Idle, Primary: c.Candidate, Released: true, Previous: c.Primary}
		}
		return c.idle()
	case Rollback:
		if c.Phase == Idle {
			return Canary{Phase: Idle, Primary: c.Previous, RolledBack: s.reason(by)}
		}
		// Released is forgotten: a rollback that is asked for twice must not go back two releases.
		return Canary{Phase: Idle, Primary: c.Primary, RolledBack: s.reason(by)}
	case Reset:
		return Canary{Phase: Idle}
	}
	return c
}

// idle is the end of a release that sent the candidate nothing.
func (c Canary) idle() Canary {
	return Canary{Phase: Idle, Primary: c.Primary, Released: c.Released, Previous: c.Previous}
}

// begins says from which phases a step is legal.
var begins = map[Action][]Phase{
	Lock:     {Idle},
	Stage:    {Locked, Staged},
	Weigh:    {Staged, Releasing, All},
	Complete: {Releasing},
	Unlock:   {Locked, Staged, All},
	Rollback: {Idle, Locked, Staged, Releasing, All},
	Reset:    {Idle},
}

func (a Action) holders() bool { return a != Lock && a != Rollback && a != Reset }

func (s Step) check() error {
	if s.Do == Stage {
		if _, err := parseUpstream("candidate", s.Candidate); err != nil {
			return err
		}
	}
	if s.Do == Weigh {
		if err := checkWeight(s.Weight); err != nil {
			return err
		}
	}
	if s.Guard != nil {
		if err := s.Guard.check(); err != nil {
			return err
		}
	}
	return validText("reason", s.Reason, reasonBytesMax)
}

func (s Step) reason(by string) string {
	if s.Reason == "" {
		return "by " + by
	}
	return s.Reason
}

// what says in words what the step does.
func (s Step) what() string {
	switch {
	case s.Do == Stage:
		return "stage " + s.Candidate
	case s.Do == Weigh:
		return "canary " + formatWeight(s.Weight)
	case s.Do == Rollback && s.Reason != "":
		return "rollback: " + s.Reason
	}
	return string(s.Do)
}

func checkWeight(percent float64) error {
	if !(percent >= 0 && percent <= percentMax) { // also of NaN
		return fmt.Errorf("%w: weight %v is not from 0 to 100 percent", ErrInvalid, percent)
	}
	return nil
}

// roundWeight rounds to what the choice resolves.
func roundWeight(percent float64) float64 {
	return float64(shareOf(percent)) * percentMax / weightSteps
}

func formatWeight(percent float64) string {
	return strconv.FormatFloat(roundWeight(percent), 'f', -1, 64) + " %"
}
