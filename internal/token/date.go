package token

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	secondsMax      = 253402300799 // the last second of the year 9999, the last that RFC 3339 can write
	numberBytesMax  = 64
	exponentMax     = 99
	secondDigitsMax = 12 // of secondsMax
)

var errDateRange = errors.New("is not a time between 1970 and 9999")

// parseDate reads the text of a JSON number as a NumericDate. The arithmetic is done on its digits, so there is
// nothing to overflow and nothing to round but what lies below a nanosecond, which goes up.
func parseDate(number string) (time.Time, error) {
	digits, point, err := decimal(number)
	if err != nil {
		return time.Time{}, err
	}
	if point > secondDigitsMax {
		return time.Time{}, errDateRange
	}
	// seconds are the digits before the point, nanos the nine behind it, rest what follows.
	at := func(i int) byte {
		if i < 0 || i >= len(digits) {
			return '0'
		}
		return digits[i]
	}
	var seconds, nanos int64
	for i := 0; i < point; i++ {
		seconds = 10*seconds + int64(at(i)-'0')
	}
	for i := point; i < point+9; i++ {
		nanos = 10*nanos + int64(at(i)-'0')
	}
	if rest := max(point+9, 0); rest < len(digits) && strings.Trim(digits[rest:], "0") != "" {
		nanos++ // up to 1e9, which time.Unix carries
	}
	t := time.Unix(seconds, nanos).UTC()
	if t.Unix() > secondsMax {
		return time.Time{}, errDateRange
	}
	return t, nil
}

// decimal takes a JSON number apart: its value is 0.digits times ten to the power of point. digits has no leading
// zero, and is empty for zero.
func decimal(number string) (digits string, point int, err error) {
	if len(number) > numberBytesMax || number[0] == '-' {
		return "", 0, errDateRange
	}
	mantissa, exponent := number, 0
	if e := strings.IndexAny(number, "eE"); e >= 0 {
		mantissa = number[:e]
		// Atoi takes what JSON allows: a sign and leading zeros. Its only error is an exponent out of range.
		if exponent, err = strconv.Atoi(number[e+1:]); err != nil || exponent > exponentMax || exponent < -exponentMax {
			return "", 0, errDateRange
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	all := whole + fraction
	digits = strings.TrimLeft(all, "0")
	if digits == "" {
		return "", 0, nil
	}
	return digits, len(whole) + exponent - (len(all) - len(digits)), nil
}
