package api

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"dongne/auth/realm"
	"dongne/internal/serve"
)

const lineBytesMax = 16 << 10

func newLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), lineBytesMax)
	return s
}

// legacyToken reads a line of POST /migrate.
func legacyToken(line []byte) (row realm.LegacyToken, err error) {
	var j legacyRow
	if err := serve.Unmarshal(line, &j); err != nil {
		return row, err
	}
	switch {
	case (j.Token == "") == (j.Hash == ""):
		return row, errors.New("want one of token and token_sha256")
	case j.User == "":
		return row, errors.New("user is missing")
	case j.Expires.IsZero():
		return row, errors.New("expires_at is missing")
	case j.Token != "":
		row.Hash = realm.HashOf(j.Token)
	default:
		sum, err := hex.DecodeString(j.Hash)
		if err != nil || len(sum) != len(row.Hash) {
			return row, fmt.Errorf("token_sha256 is not %d hexadecimal digits", 2*len(row.Hash))
		}
		row.Hash = realm.Hash(sum)
	}
	row.User, row.Expires, row.Revoked = j.User, j.Expires.UnixMilli(), j.Revoked
	return row, nil
}
