package room

import "fmt"

// Shard says in which of several shared logs, numbered from 0, the fact of a request belongs. Everything about one room is
// in one of them, so its order is exact on every node:
//
//   - of a direct room, in that which its id hashes to;
//   - of any other room, in that which gave out its id, which is the id's tag;
//   - a new room that is not direct, in that which the user and the idempotency key hash to: the retry comes to where the
//     first try is known. Without a key, in that which spread says: any number will do;
//   - blocking a user, and taking it back, in that of the two users' direct room, where alone it has an effect;
//   - read positions, in that of the first one's room: the caller gathers those of one shard.
//
// An idempotency key is looked for in all that the node knows, and is exact within the shard.
func (f *Fact) Shard(key string, spread uint64, shards int) int {
	switch f.Kind {
	case Created:
		switch {
		case f.RoomKind == Direct && len(f.Members) == 2:
			return directID(f.Members[0], f.Members[1]).Shard(shards)
		case key != "":
			return int(keyHash(f.By, key) % uint64(shards))
		}
		return int(spread % uint64(shards))
	case Blocked, Unblocked:
		return directID(f.By, f.Target).Shard(shards)
	case Read:
		return f.Reads[0].Room.Shard(shards)
	case Renamed, Joined, Left, Posted, Edited, Deleted:
		return f.Room.Shard(shards)
	}
	panic(fmt.Sprintf("room: a request of kind %d", f.Kind))
}

// Shard is the number of the shared log, of so many, that all about a room of that id is in.
func (id ID) Shard(shards int) int {
	if id&idDirectBit != 0 {
		return int((id &^ idDirectBit) % ID(shards))
	}
	return int(id & (1<<idTagBits - 1) % ID(shards))
}
