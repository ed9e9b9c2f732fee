package ledger

import (
	"fmt"
	"strings"
)

// Currency is an ISO 4217 code, such as KRW.
type Currency [3]byte

// The active codes of ISO 4217 for money, without those of funds, metals and tests.
const currencyCodes = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD " +
	"CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD " +
	"HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD " +
	"MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG " +
	"QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS " +
	"UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG"

// ParseCurrency reads a code; the error names it.
func ParseCurrency(code string) (Currency, error) {
	if len(code) != 3 || strings.ContainsRune(code, ' ') || !strings.Contains(currencyCodes, code) {
		return Currency{}, fmt.Errorf("%q is no currency of ISO 4217, such as KRW", code)
	}
	return Currency([]byte(code)), nil
}

// String returns the code.
func (c Currency) String() string { return string(c[:]) }
