package ledger

// Concerns says whether an event is a user's business. That of an account is its owner's. That of a transfer is for whoever
// asked for it, for its recipient, for the owners of its accounts, and for everybody whose business the transfer is that it
// was done with: who paid a hold hears how it ended. elsewhere are accounts of other shards, whose owners it is for, too;
// they are told only while the answer here is no.
func (s *State) Concerns(event uint32, user string) (yes bool, elsewhere []string) {
	who := s.byUser[user] // 0: nobody of this shard
	for n := event; n != 0; n = s.records.at(n).parent {
		r := s.records.at(n)
		if r.account != 0 {
			return who != 0 && s.accounts.at(r.account).owner == who, nil
		}
		if who != 0 && (r.by == who || s.posted(r, who)) {
			return true, nil
		}
		kept := s.kept(n)
		if user != "" && kept.Recipient == user {
			return true, nil
		}
		for _, leg := range kept.Legs {
			if !s.here(leg.Account) {
				elsewhere = append(elsewhere, leg.Account)
			} else if at := s.find(leg.Account); who != 0 && at != 0 && s.accounts.at(at).owner == who {
				return true, nil
			}
		}
	}
	return false, elsewhere
}

// posted says whether a record moved something in an account of a user.
func (s *State) posted(r *record, user uint32) bool {
	for n := r.posting; n < r.posting+uint32(r.postings); n++ {
		if s.accounts.at(s.postings.at(n).account).owner == user {
			return true
		}
	}
	return false
}

// Find returns the number of the event that made a transfer; 0 if the id names nothing of this shard.
func (s *State) Find(transfer ID) uint32 { return s.lookup(transfer) }

// Payee returns the account that a hold is for; "" if the id names no hold of this shard.
func (s *State) Payee(hold ID) string {
	if r := s.roots[s.lookup(hold)]; r != nil {
		return r.payee
	}
	return ""
}

// EventTime returns when an event was, in Unix nanoseconds.
func (s *State) EventTime(number uint32) int64 { return s.records.at(number).time }
