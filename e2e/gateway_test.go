package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// The whole system as go run . starts it: one URL, log-ins, and every service behind it.

// A whole is the gateway with all services, and the passwords that it announced, by login.
type whole struct {
	*process
	base      string
	passwords map[string]string
}

var announced = regexp.MustCompile(`log in as (\S+) +with (\S+)\n`)

// startWhole starts everything, and waits until the gateway says to people that it is up.
func startWhole(t *testing.T, env ...string) *whole {
	t.Helper()
	w := &whole{process: start(t, build(t, "."), append([]string{"DATA_DIR=" + t.TempDir()}, env...)...), passwords: map[string]string{}}
	w.base = "http://" + w.addr
	eventually(t, "the gateway announces itself", patience, func() bool {
		said := w.stderr.String()
		return strings.Contains(said, "dongne is up: "+w.base+" ") && strings.HasSuffix(said, "\n\n")
	})
	for _, login := range announced.FindAllStringSubmatch(w.stderr.String(), -1) {
		w.passwords[login[1]] = login[2]
	}
	return w
}

// signedOut is what the console shows of a page that asks who its reader is when nobody has logged in.
const signedOut = "/whoami: Failed to load resource: the server responded with a status of 401"

// visit opens an address of the whole in a browser context of its own, is led to the form, logs in there, and comes to where
// it wanted to go.
func (w *whole) visit(t *testing.T, browser context.Context, login, path string) *tab {
	t.Helper()
	p := newTab(t, browser, login, w.base+path)
	p.logIn(login, w.passwords[login])
	p.until("the page that was wanted", "location.pathname === "+quoted(path)+" && !new URLSearchParams(location.search).has('next') && "+
		"(location.pathname !== '/' || !$('who').hidden)")
	p.untroubled(signedOut)
	return p
}

// logIn fills in the form of the log-in page with the keyboard.
func (p *tab) logIn(login, password string) {
	p.t.Helper()
	p.until("the form", "location.pathname === '/' && !$('log-in').hidden")
	p.do(chromedp.SendKeys(chromedp.CSS("#log-in [name=login]"), login), chromedp.SendKeys(chromedp.CSS("#log-in [name=password]"), password), enter)
}

// routeJS finds a route on the gateway's page.
func routeJS(name string) string {
	return fmt.Sprintf("[...document.querySelectorAll('#routes li')].find((l) => l.querySelector('h2').textContent === %s)", quoted(name))
}

// untilRoute waits until what the page says of a route contains text.
func (p *tab) untilRoute(name, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%s with %q", name, text), fmt.Sprintf("%s.textContent.includes(%s)", routeJS(name), quoted(text)))
}

// operate presses a button of a route.
func (p *tab) operate(name, label string) {
	p.t.Helper()
	button := fmt.Sprintf("[...%s.querySelectorAll('button')].find((b) => b.textContent === %s && b.checkVisibility())", routeJS(name), quoted(label))
	p.until("the button "+label, button)
	eval[bool](p, button+".click(), true")
}

// fetched is what a request of the page is answered with: the status and the body.
func (p *tab) fetched(path string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("fetch(%s, { cache: 'no-store' }).then(async (a) => a.status + ' ' + await a.text())", quoted(path)))
}

// TestGateway looks at one system as people see it who come to its one URL.
func TestGateway(t *testing.T) {
	browser := newBrowser(t)
	w := startWhole(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, context.Context, *whole)
	}{
		{"chat", neighboursWrite}, {"pay", payBehindGateway}, {"operators", operatorsOperate}, {"switch", switchMeetsChat}, {"looks", gatewayLooks},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, browser, w) })
	}
	w.stop(t)
}

// neighboursWrite: two neighbours log in and write to each other in chat, and see pay.
func neighboursWrite(t *testing.T, browser context.Context, w *whole) {
	p := newTab(t, browser, "stranger", w.base)
	p.until("the services", routeJS("chat")+".className === 'up' && "+routeJS("pay")+".className === 'up'")
	p.logIn("minji", "not her password")
	p.until("the refusal", "$('refused')?.textContent === 'The login or the password is wrong.'")
	p.save("refused")
	p.untroubled(signedOut)

	minji := w.visit(t, browser, "minji", "/chat/")
	junho := w.visit(t, browser, "junho", "/chat/")
	minji.until("the page", "loaded && me === 'minji'")
	minji.create("direct", "", "junho")
	junho.open("minji")
	minji.say("안녕하세요")
	junho.untilTexts("안녕하세요")
	junho.say("hello")
	both := []string{"안녕하세요", "hello"}
	minji.untilTexts(both...)
	minji.save("chat")
	if cookies := eval[string](minji, "document.cookie"); cookies != "" {
		t.Errorf("a script reads the cookies %q", cookies)
	}

	minji.do(chromedp.Navigate(w.base + "/pay/"))
	minji.until("pay", "loaded && me === 'minji'")
	minji.save("pay")
	minji.do(chromedp.Navigate(w.base + "/chat")) // without the slash it leads there all the same
	minji.open("junho")
	minji.untilTexts(both...)
	minji.untroubled()
	junho.untroubled()

	minji.do(chromedp.Navigate(w.base))
	minji.until("her name", "$('user').textContent === 'minji'")
	if eval[int](minji, "document.querySelectorAll('.operate:not([hidden])').length") != 0 {
		t.Error("who is no operator can operate")
	}
	minji.do(chromedp.Click(chromedp.CSS("form[action=logout] button")))
	minji.until("the form", "!$('log-in').hidden && $('who').hidden")
	if got := minji.fetched("/chat/rooms"); !strings.HasPrefix(got, "401 ") {
		t.Errorf("after the log-out: %s", got)
	}
	junho.say("are you there?")
	junho.untilTexts("안녕하세요", "hello", "are you there?")
}

// operatorsOperate: an operator switches a service off and on, and brings out a new version of it, on the start page.
func operatorsOperate(t *testing.T, browser context.Context, w *whole) {
	admin, minji := w.visit(t, browser, "admin", "/"), w.visit(t, browser, "minji", "/")
	admin.untilRoute("chat", "requests")
	const rooms = "/chat/rooms"
	answers := func(want string) {
		t.Helper()
		if got := minji.fetched(rooms); !strings.Contains(got, want) {
			t.Errorf("%s answers %q, want %q", rooms, got, want)
		}
	}
	answers(`200 {"items":[`)
	minji.untroubled()

	admin.operate("chat", "Switch off")
	admin.untilRoute("chat", "switched off")
	answers("switched-off")
	admin.save("switched-off")
	admin.operate("chat", "Switch on")
	admin.until("chat is up", routeJS("chat")+".className === 'up'")
	answers(`200 {"items":[`)
	minji.untroubled("503 (Service Unavailable)")

	candidate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the candidate") }))
	t.Cleanup(candidate.Close)
	stage := func() {
		t.Helper()
		admin.operate("chat", "Begin a release")
		admin.untilRoute("chat", "release locked by admin")
		eval[bool](admin, fmt.Sprintf("%s.querySelector('input').value = %s, true", routeJS("chat"), quoted(candidate.URL)))
		admin.operate("chat", "Stage")
		admin.untilRoute("chat", "release staged by admin")
		answers(`200 {"items":[`)
	}
	canary := func(weight string) {
		t.Helper()
		eval[bool](admin, fmt.Sprintf("%s.querySelector('input.weight').value = %s, true", routeJS("chat"), weight))
		admin.operate("chat", "Canary %")
		admin.untilRoute("chat", "release canary by admin at "+weight+" %")
	}
	stage()
	canary("0")
	answers(`200 {"items":[`)
	canary("100")
	answers("200 the candidate")
	admin.save("canary")
	admin.operate("chat", "Roll back")
	admin.untilRoute("chat", "rolled back: by admin")
	answers(`200 {"items":[`)
	admin.save("rolled-back")

	stage()
	canary("100")
	admin.operate("chat", "All")
	admin.untilRoute("chat", "release all by admin")
	admin.operate("chat", "Finish")
	admin.until("the end of the release", "!"+routeJS("chat")+".textContent.includes('release all')")
	answers("200 the candidate")
	admin.operate("chat", "Roll back")
	admin.untilRoute("chat", "rolled back: by admin")
	answers(`200 {"items":[`)
	admin.untroubled()
}

// switchMeetsChat: what is written while chat is switched off arrives when it is back.
func switchMeetsChat(t *testing.T, browser context.Context, w *whole) {
	admin, minji := w.visit(t, browser, "admin", "/"), w.visit(t, browser, "minji", "/chat/")
	minji.until("the page", "loaded")
	minji.create("group", "kill switch", "junho")
	minji.say("before")
	minji.untilTexts("before")
	admin.operate("chat", "Switch off")
	admin.untilRoute("chat", "switched off")
	minji.say("while it is off")
	minji.until("not sent yet", textsJS+".at(-1) === '[while it is off]'")
	minji.save("while-off")
	admin.operate("chat", "Switch on")
	minji.untilTexts("before", "while it is off")
}

// gatewayLooks: the start page in light and dark, wide and narrow, for who has logged in and who has not: nothing is wider
// than the window, all text stands out from its background.
func gatewayLooks(t *testing.T, browser context.Context, w *whole) {
	stranger, admin := newTab(t, browser, "stranger", w.base), w.visit(t, browser, "admin", "/")
	stranger.logIn("minji", "not her password")
	stranger.until("the refusal", "$('refused')?.textContent !== ''")
	admin.operate("chat", "Begin a release")
	admin.operate("pay", "Switch off")
	admin.untilRoute("pay", "switched off")
	admin.untilRoute("chat", "release locked by admin")
	for _, p := range []*tab{stranger, admin} {
		p.until("the services", routeJS("auth")+".className === 'up'")
		for _, scheme := range []string{"light", "dark"} {
			p.prefer(scheme)
			p.until("the scheme", "matchMedia('(prefers-color-scheme: "+scheme+")').matches")
			for _, width := range []int64{1280, 390} {
				p.do(chromedp.EmulateViewport(width, 900))
				p.until("no wider than the window", "innerWidth === "+fmt.Sprint(width)+" && document.documentElement.scrollWidth <= innerWidth")
				p.save(fmt.Sprintf("%s-%d", scheme, width))
			}
			for _, faint := range eval[[]string](p, faintJS) {
				t.Errorf("%s, %s: %s", p.name, scheme, faint)
			}
		}
	}
}
