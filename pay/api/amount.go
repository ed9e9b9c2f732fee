package api

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"dongne/pay/ledger"
)

// amount is a whole number of a currency's minor units, as a client may write one: a JSON string or integer in decimal, no
// larger than ledger.AmountMax either way, without sign but '-', leading zeros, fraction or exponent; and no "-0".
type amount int64

var (
	errAmount      = errors.New(`want a whole number of minor units, such as "1200"`)
	errAmountRange = fmt.Errorf("at most %d either way is possible", ledger.AmountMax)
)

// UnmarshalJSON implements json.Unmarshaler.
func (a *amount) UnmarshalJSON(text []byte) error {
	s := string(text)
	if len(s) >= 2 && s[0] == '"' {
		s = s[1 : len(s)-1]
	}
	digits := strings.TrimPrefix(s, "-")
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return errAmount
		}
	}
	if digits == "" || digits[0] == '0' && s != "0" {
		return errAmount
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > ledger.AmountMax || n < -ledger.AmountMax {
		return errAmountRange
	}
	*a = amount(n)
	return nil
}

// limit is an account's limit as a client may write one; null takes it away.
type limit struct {
	given bool
	most  amount
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *limit) UnmarshalJSON(text []byte) error {
	*l = limit{given: true}
	if string(text) == "null" {
		return nil
	}
	if err := l.most.UnmarshalJSON(text); err != nil {
		return err
	}
	if l.most <= 0 {
		return errors.New("want more than 0, or null for no limit")
	}
	return nil
}

// currency is a code of ISO 4217; its zero value was not given.
type currency struct{ ledger.Currency }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *currency) UnmarshalText(text []byte) (err error) {
	c.Currency, err = ledger.ParseCurrency(string(text))
	return err
}

// money is an amount of a currency.
type money struct {
	Amount   amount   `json:"amount"`
	Currency currency `json:"currency"`
}

// moved checks money that is moved, at a path: more than nothing, of a currency.
func (m *money) moved(at string) error {
	switch {
	case m == nil:
		return fault("request-invalid", at, "is missing")
	case m.Currency == currency{}:
		return fault("request-invalid", at+".currency", "is missing")
	case m.Amount <= 0:
		return fault("request-invalid", at+".amount", "want more than 0")
	}
	return nil
}
