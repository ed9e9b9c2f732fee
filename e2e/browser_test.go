package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// newBrowser starts Chromium; the test is skipped where there is none.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil && program == "" {
			program = found
		}
	}
	if program == "" {
		missing(t, "Chromium", "chromium")
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(program)} // chromedp makes a new user data directory
	for _, name := range []string{"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
		"disable-background-networking", "disable-component-update", "disable-sync", "mute-audio", "hide-scrollbars",
		"disable-dev-shm-usage", "disable-backgrounding-occluded-windows", "disable-background-timer-throttling", "disable-renderer-backgrounding"} {
		options = append(options, chromedp.Flag(name, true))
	}
	ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx, chromedp.WithErrorf(t.Logf))
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	return ctx
}

// A tab is one page in a browser context of its own: nothing is shared with another tab but the browser's process.
type tab struct {
	t    *testing.T
	ctx  context.Context
	name string

	mu       sync.Mutex
	problems []string // guarded by mu; scripts that threw, and what the page's own policy refused
	failures []string // guarded by mu; what else the console shows as errors: requests without success, and what scripts say
}

// newTab opens a page. When the test ends it must not have thrown, nor tried what its policy forbids.
func newTab(t *testing.T, browser context.Context, name, address string) *tab {
	t.Helper()
	p := &tab{t: t, name: name}
	ctx, end := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(p.note))
	t.Cleanup(end)
	p.ctx = ctx
	if err := chromedp.Do(ctx); err != nil { // with a context that has no deadline, as the tab would end with it
		t.Fatalf("%s: open a tab: %v", name, err)
	}
	call(p, log.Enable, cdp.Empty{})
	p.do(chromedp.EmulateViewport(1280, 800), chromedp.Navigate(address))
	t.Cleanup(func() {
		for _, problem := range p.takeProblems() {
			t.Errorf("%s's page: %s", name, problem)
		}
	})
	return p
}

// takeProblems returns what was noted, and forgets it.
func (p *tab) takeProblems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := p.problems
	p.problems = nil
	return problems
}

func (p *tab) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		problem := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			problem += " " + e.ExceptionDetails.Exception.Description
		}
		p.problems = append(p.problems, problem)
	case *log.EventEntryAdded:
		if e.Entry.Source == log.EntrySourceSecurity || e.Entry.Source == log.EntrySourceJavascript {
			p.problems = append(p.problems, e.Entry.Text)
		} else if e.Entry.Level == log.EntryLevelError {
			p.failures = append(p.failures, e.Entry.URL+": "+e.Entry.Text)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError {
			p.failures = append(p.failures, fmt.Sprintf("console.error of %d values", len(e.Args)))
		}
	}
}

// untroubled fails the test for all that the console showed as an error since the last call, but what contains one of these
// texts.
func (p *tab) untroubled(but ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, failure := range p.failures {
		if !slices.ContainsFunc(but, func(text string) bool { return strings.Contains(failure, text) }) {
			p.t.Errorf("%s's console: %s", p.name, failure)
		}
	}
	p.failures = nil
}

// as is the address of a user's page below base, with a room open unless it is "".
func as(base, user, room string) string {
	where := url.Values{"user": {user}}
	if room != "" {
		where.Set("room", room)
	}
	return base + "#" + where.Encode()
}

// do does actions one after the other.
func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, end := context.WithTimeout(p.ctx, patience)
	defer end()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// get does an action that has a value.
func get[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, end := context.WithTimeout(p.ctx, patience)
	defer end()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	return value
}

// call sends a command of the DevTools protocol.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, command, params); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// eval evaluates an expression in the page; a promise is awaited.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	return get(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// until waits for an expression to become true: it looks whenever the document changes, and now and then, since where
// the page is scrolled to, or that a form field has text, is no change of the document.
func (p *tab) until(what, condition string) {
	p.t.Helper()
	met := p.await(fmt.Sprintf(`new Promise((resolve) => {
		const met = () => { try { return Boolean(%s); } catch { return false; } };
		const end = (value) => { observer.disconnect(); clearInterval(timer); clearTimeout(limit); resolve(value); };
		const look = () => { if (met()) end(true); };
		const observer = new MutationObserver(look), timer = setInterval(look, 100), limit = setTimeout(() => end(met()), %d);
		observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
		look();
	})`, condition, (patience / 2).Milliseconds()))
	if !met {
		p.save("failed")
		p.t.Fatalf("%s: waited in vain: %s\nnot true: %s\nthe page:\n%s", p.name, what, condition, eval[string](p, "document.body.innerText.slice(-1500)"))
	}
}

// await evaluates a promise, and again when the page went to another address meanwhile.
func (p *tab) await(promise string) bool {
	p.t.Helper()
	ctx, end := context.WithTimeout(p.ctx, patience)
	defer end()
	for {
		met, err := chromedp.Run(ctx, chromedp.Evaluate[bool](promise, chromedp.EvalAwaitPromise))
		if err == nil {
			return met
		}
		if ctx.Err() != nil || !strings.Contains(err.Error(), "navigated") {
			p.t.Fatalf("%s: %v", p.name, err)
		}
	}
}

// quoted is a string as JavaScript.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// texts are what the open room shows, in order; what is not sent yet stands in brackets.
func (p *tab) texts() []string {
	p.t.Helper()
	return eval[[]string](p, textsJS)
}

const textsJS = `[...document.querySelectorAll('#messages .message')].map((m) => {
	const text = m.querySelector('.text').textContent;
	return m.dataset.id ? text : '[' + text + ']';
})`

// untilTexts waits until the open room shows just these messages, in this order.
func (p *tab) untilTexts(want ...string) {
	p.t.Helper()
	list, err := json.Marshal(want)
	if err != nil {
		p.t.Fatal(err)
	}
	p.until(fmt.Sprintf("the messages %q", want), fmt.Sprintf("JSON.stringify(%s) === JSON.stringify(%s)", textsJS, list))
}

// say writes a message with the keyboard.
func (p *tab) say(text string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS("#text"), text), enter)
}

// enter presses Enter as a keyboard does, in one event that a page may refuse as a whole; SendKeys would make it two, and
// start a new line after the page has sent the first.
var enter = chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
	press := input.DispatchKeyEventParams{Key: "Enter", Code: "Enter", WindowsVirtualKeyCode: '\r', NativeVirtualKeyCode: '\r'}
	press.Type, press.Text = input.DispatchKeyEventTypeKeyDown, "\r"
	if _, err := chromedp.Call(ctx, input.DispatchKeyEvent, press); err != nil {
		return err
	}
	press.Type, press.Text = input.DispatchKeyEventTypeKeyUp, ""
	_, err := chromedp.Call(ctx, input.DispatchKeyEvent, press)
	return err
})

// open opens a room from the list, by its name.
func (p *tab) open(title string) {
	p.t.Helper()
	p.until("room "+title+" in the list", roomJS(title))
	eval[bool](p, roomJS(title)+".click(), true")
	p.until("room "+title+" open", "$('title').textContent === "+quoted(title)+" && !$('log').hidden && room().floor !== undefined")
}

// roomJS finds a room's link in the list.
func roomJS(title string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('#rooms a')].find((a) => a.querySelector('.room-name').firstChild.textContent === %s)`, quoted(title))
}

// untilBadge waits for a room's count of unread messages in the list; "" for none.
func (p *tab) untilBadge(title, count string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%s with badge %q", title, count), fmt.Sprintf("(%s.querySelector('.badge')?.textContent ?? '') === %s", roomJS(title), quoted(count)))
}

// create makes a room through the dialog.
func (p *tab) create(kind, name, members string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS("#new-room-button")), chromedp.Click(chromedp.CSS("input[value="+kind+"]"), chromedp.NodeReady))
	if name != "" {
		p.do(chromedp.SendKeys(chromedp.CSS("#room-name"), name))
	}
	p.do(chromedp.SendKeys(chromedp.CSS("#room-members"), members), enter)
	p.until("the new room open", "!$('new-room').open && !$('log').hidden && room().floor === ''")
}

// act presses a button of a message, as often as it takes, once it is there: what was just sent has none yet.
func (p *tab) act(text, label string) {
	p.t.Helper()
	button := fmt.Sprintf(`[...[...document.querySelectorAll('#messages .message')].find((m) => m.querySelector('.text').textContent === %s)
		.querySelectorAll('.actions button, .failure button')].find((b) => b.textContent === %s)`, quoted(text), quoted(label))
	p.until("the button "+label+" of "+text, button)
	eval[bool](p, fmt.Sprintf(`(() => {
		const button = %s;
		button.click();
		if (button.dataset.sure) button.click();
		return true;
	})()`, button))
}

// save takes a screenshot into the directory that DONGNE_SCREENSHOTS names, if it does.
func (p *tab) save(name string) {
	p.t.Helper()
	dir := os.Getenv("DONGNE_SCREENSHOTS")
	if dir == "" {
		return
	}
	png := get(p, chromedp.CaptureScreenshot())
	file := strings.ReplaceAll(p.t.Name(), "/", "-") + "-" + p.name + "-" + name + ".png"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), png, 0o644); err != nil {
		p.t.Error(err)
	}
}

// prefer sets the colour scheme that the page's reader likes.
func (p *tab) prefer(scheme string) {
	p.t.Helper()
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}
