package ledger

// column is an append-only table in chunks: growing copies nothing, and an element never moves.
type column[T any] struct {
	chunks [][]T
	n      int
}

const chunkLen = 1 << 13

// add appends an element and returns its index.
func (c *column[T]) add(v T) uint32 {
	at := c.n % chunkLen
	if at == 0 && c.n/chunkLen == len(c.chunks) {
		c.chunks = append(c.chunks, make([]T, 0, chunkLen))
	}
	chunk := &c.chunks[c.n/chunkLen]
	*chunk = append((*chunk)[:at], v)
	c.n++
	return uint32(c.n - 1)
}

func (c *column[T]) at(i uint32) *T { return &c.chunks[i/chunkLen][i%chunkLen] }

// cut removes the elements from n on.
func (c *column[T]) cut(n int) { c.n = n }

// blobs is an append-only store of bytes, addressed by where they start plus one; 0 is none.
type blobs struct {
	chunks [][]byte
	size   uint64
}

const blobChunkBytes = 1 << 16 // also the longest blob

// put appends a blob; a blob does not span chunks.
func (t *blobs) put(b []byte) uint64 {
	if len(b) > blobChunkBytes {
		panic("ledger: blob too long")
	}
	at := t.size % blobChunkBytes
	if at+uint64(len(b)) > blobChunkBytes {
		t.size += blobChunkBytes - at
		at = 0
	}
	if int(t.size/blobChunkBytes) == len(t.chunks) {
		t.chunks = append(t.chunks, make([]byte, blobChunkBytes))
	}
	copy(t.chunks[t.size/blobChunkBytes][at:], b)
	t.size += uint64(len(b))
	return t.size - uint64(len(b)) + 1
}

// from returns the bytes from a blob's start to the end of its chunk: its encoding says where it ends.
func (t *blobs) from(ref uint64) []byte {
	return t.chunks[(ref-1)/blobChunkBytes][(ref-1)%blobChunkBytes:]
}
