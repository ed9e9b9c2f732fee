package control

// A Strangler moves a route from a legacy upstream to a new one by weight (Fowler's strangler fig). The zero value does
// nothing.
type Strangler struct {
	// Legacy is where the rest goes; empty: there is no strangler.
	Legacy string `json:"legacy,omitempty"`
	// New is where the weight goes; empty: where the route's requests go otherwise, canary release included.
	New    string  `json:"new,omitempty"`
	Weight float64 `json:"weight"` // percent, to the hundredth, of requests that go to the new one
	Shadow bool    `json:"shadow"` // requests go to the other one too, whose answers are compared and never returned
	// Salt is given once, and stays while the weight changes.
	Salt uint64 `json:"salt,omitempty,string"`
}

// checked returns what the strangler is after it was old, or ErrInvalid. luck is random.
func (s Strangler) checked(old Strangler, luck uint64) (Strangler, error) {
	if s.Legacy == "" {
		return Strangler{}, nil
	}
	if _, err := parseUpstream("legacy", s.Legacy); err != nil {
		return Strangler{}, err
	}
	if err := checkUpstream("new", s.New); err != nil {
		return Strangler{}, err
	}
	if err := checkWeight(s.Weight); err != nil {
		return Strangler{}, err
	}
	s.Weight = roundWeight(s.Weight)
	if s.Salt = old.Salt; s.Salt == 0 {
		s.Salt = max(luck, 1)
	}
	return s, nil
}

// what says in words what the strangler does.
func (s Strangler) what() string {
	if s.Legacy == "" {
		return "no strangler"
	}
	text := formatWeight(s.Weight) + " to the new upstream, the rest to " + s.Legacy
	if s.New != "" {
		text = formatWeight(s.Weight) + " to " + s.New + ", the rest to " + s.Legacy
	}
	if s.Shadow {
		text += ", with shadow"
	}
	return text
}
