package e2e

import (
	"encoding/base32"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"dongne/auth/password"
)

const passes = "five grey herons wade" // everybody's

// fill writes into fields of a page, given as pairs of ids and texts, in place of what is there, and presses Enter in the last.
func (p *tab) fill(fields ...string) {
	p.t.Helper()
	for i := 0; i < len(fields); i += 2 {
		eval[bool](p, fmt.Sprintf("$(%s).value = '', true", quoted(fields[i])))
		p.do(chromedp.SendKeys(chromedp.CSS("#"+fields[i]), fields[i+1]))
	}
	p.do(enter)
}

func (p *tab) press(id string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS("#" + id)))
}

// TestAuth: auth's page alone: sign up, log in, a second factor, sessions, and what an administrator does.
func TestAuth(t *testing.T) {
	browser := newBrowser(t)
	service := start(t, build(t, "./auth"), "DATA_DIR="+t.TempDir(), "ISSUER=http://auth.test",
		fmt.Sprintf(`SEED=[{"login":"root","password":%q,"name":"Root","groups":["admin"]}]`, passes))
	base := "http://" + service.addr + "/"
	minji := newTab(t, browser, "minji", base)
	minji.until("the log-in form", "!$('sign-in').hidden")
	minji.press("other-way")
	minji.fill("login", "minji", "password", "too short")
	minji.until("a refusal", "$('sign-in-error').textContent.includes('at least 15')")
	minji.fill("login", "minji", "name", "<b>민지</b>", "password", passes)
	minji.until("signed up", "$('sign-in-said').textContent.includes('log in')")
	minji.fill("login", "minji", "password", "some other words here")
	minji.until("a refusal", "$('sign-in-error').textContent === 'the login or the password is wrong'")
	minji.save("log-in")
	minji.fill("password", passes)
	minji.until("in", "!$('app').hidden && $('me').textContent === '<b>민지</b> · minji' && $('sessions').children.length === 1")
	minji.until("no administrator's parts", "$('users-part').hidden && $('events-part').hidden")

	minji.fill("enrol-password", passes)
	minji.until("a secret", "!$('confirm').hidden && $('uri').href.startsWith('otpauth://totp/')")
	minji.save("enrolment")
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(eval[string](minji, "$('secret').textContent.replaceAll(' ', '')"))
	if err != nil {
		t.Fatal(err)
	}
	minji.fill("confirm-code", password.TOTPCode(secret, password.TOTPStep(time.Now())))
	minji.until("recovery codes", "!$('recovery').hidden && $('codes').children.length > 5 && $('confirm').hidden && $('secret').textContent === ''")
	minji.save("recovery")
	codes := eval[[]string](minji, "[...$('codes').children].map((c) => c.textContent)")

	phone := newTab(t, browser, "phone", base)
	phone.until("the log-in form", "!$('sign-in').hidden")
	phone.fill("login", "minji", "password", passes)
	phone.until("the code's field", "!$('code-part').hidden")
	phone.fill("code", codes[0])
	phone.until("in", "!$('app').hidden && $('sessions').children.length === 2")
	phone.until("a code less", fmt.Sprintf("$('factor-state').textContent === 'on · %d recovery codes left'", len(codes)-1))
	phone.do(chromedp.Click(chromedp.CSS("#sessions button")))
	phone.until("one session", "$('sessions').children.length === 1")
	minji.press("everywhere") // with a token whose session the phone has ended
	minji.until("out", "!$('sign-in').hidden && $('app').hidden")

	root := newTab(t, browser, "root", base)
	root.until("the log-in form", "!$('sign-in').hidden")
	root.fill("login", "root", "password", passes)
	root.until("in, as an administrator", "!$('events-part').hidden && $('events').children.length > 5")
	root.fill("find-id", "nobody")
	root.until("nobody", "$('users-error').textContent === 'there is no such user'")
	root.fill("find-id", "minji")
	root.until("minji", "!$('found').hidden && $('found-name').textContent === '<b>민지</b> · minji'")
	root.fill("groups-text", "moderators")
	root.until("set", "$('users-said').textContent === 'Set, from the next refresh on.'")
	root.press("disable")
	root.until("disabled", "$('found-state').textContent.startsWith('disabled') && $('users-said').textContent === 'Disabled.'")
	phone.fill("before", passes, "after", "nine loud magpies sing")
	phone.until("out", "!$('sign-in').hidden && $('app').hidden")
	root.press("rotate")
	root.until("a key", "$('system-said').textContent.includes('is published')")
	root.fill("stage-route", "chat")
	root.until("a stage", "$('stages').textContent === 'chatlegacy'")
	root.press("again")
	root.until("the trail", "[...$('events').querySelectorAll('b')].some((b) => b.textContent === 'stage-set')")
	root.screens("administrator")
	root.press("leave")
	root.until("out", "!$('sign-in').hidden && $('app').hidden")
	root.screens("log-in")
}

// screens takes pictures of a page as people have it: wide and narrow, light and dark.
func (p *tab) screens(name string) {
	p.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		p.prefer(scheme)
		for kind, width := range map[string]int64{"wide": 1280, "narrow": 390} {
			call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 1000, DeviceScaleFactor: 1})
			if over := eval[int](p, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
				p.t.Errorf("%s %s: %d pixels stand out", kind, name, over)
			}
			p.save(strings.Join([]string{name, kind, scheme}, "-"))
		}
	}
}
