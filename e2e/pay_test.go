package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// startPay starts one pay and returns where its page is.
func startPay(t *testing.T, env ...string) *process {
	t.Helper()
	return start(t, build(t, "./pay"), append([]string{"DATA_DIR=" + t.TempDir()}, env...)...)
}

// openAccount opens an account through the form.
func (p *tab) openAccount(id, kind string) {
	p.t.Helper()
	p.until("the accounts", "loaded")
	eval[bool](p, "$('open-part').open = true")
	eval[string](p, fmt.Sprintf("$('open-kind').value = %s", quoted(kind)))
	p.do(chromedp.SendKeys(chromedp.CSS("#open-id"), id), enter)
	p.until("the account "+id, accountJS(id))
}

// accountJS finds an account in the list.
func accountJS(id string) string {
	return fmt.Sprintf("[...document.querySelectorAll('#accounts button')].find((b) => b.dataset.id === %s)", quoted(id))
}

// send fills in the form with the keyboard.
func (p *tab) send(from, to, amount, memo string) {
	p.t.Helper()
	eval[bool](p, "for (const id of ['from', 'to', 'amount', 'memo']) $(id).value = ''; true")
	p.do(chromedp.SendKeys(chromedp.CSS("#from"), from), chromedp.SendKeys(chromedp.CSS("#to"), to),
		chromedp.SendKeys(chromedp.CSS("#amount"), amount), chromedp.SendKeys(chromedp.CSS("#memo"), memo), enter)
}

// untilSum waits for the balance that an account is shown with.
func (p *tab) untilSum(id, sum string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%s with %s", id, sum), fmt.Sprintf("%s?.querySelector('.sum').textContent === %s", accountJS(id), quoted(sum)))
}

// TestPay: what one of two people pays, the other sees at once; what cannot be paid is said.
func TestPay(t *testing.T) {
	browser := newBrowser(t)
	service := startPay(t)
	base := "http://" + service.addr + "/"
	minji := newTab(t, browser, "minji", as(base, "minji", ""))
	junho := newTab(t, browser, "junho", as(base, "junho", ""))
	minji.openAccount("bank", "asset")
	minji.openAccount("minji", "liability")
	junho.openAccount("junho", "liability")
	minji.until("the other's account", accountJS("junho"))
	junho.until("live", "$('connection').textContent === 'live'")

	minji.send("bank", "minji", "50,000", "for a start")
	minji.untilSum("minji", "50,000 KRW")
	minji.until("said", "$('transfer-said').textContent === 'Sent 50,000 KRW to minji.'")
	minji.send("minji", "junho", "12000", "자전거 <img src=x onerror=alert(1)> <b>&amp;")
	junho.untilSum("junho", "12,000 KRW")
	junho.until("the event", `$('feed').firstChild.querySelector('.what').textContent === 'Transfer 12,000 KRW from minji to junho'`)
	junho.until("the memo as text", `$('feed').firstChild.querySelector('.memo').textContent === '자전거 <img src=x onerror=alert(1)> <b>&amp;' && !document.querySelector('img')`)
	minji.untilSum("minji", "38,000 KRW")

	minji.send("minji", "junho", "38001", "")
	minji.until("the refusal", `$('transfer-error').textContent.includes('available')`)
	minji.send("minji", "nobody", "1", "")
	minji.until("the refusal", `$('transfer-error').textContent === 'there is no account "nobody"'`)
	minji.send("minji", "junho", "1.5", "")
	minji.until("no won of half", `$('transfer-error').textContent === 'An amount of KRW is a whole number.'`)
	minji.save("refused")
	minji.untilSum("minji", "38,000 KRW")

	// A hold is captured by a button of its event, on the other's page.
	minji.do(chromedp.Click(chromedp.CSS("#hold")))
	minji.send("minji", "junho", "8000", "deposit")
	minji.until("held", accountJS("minji")+".textContent.includes('8,000 KRW held')")
	junho.until("the button", "$('feed').firstChild.querySelector('.todo button')?.textContent === 'Capture'")
	eval[bool](junho, "$('feed').firstChild.querySelector('.todo button').click(), true")
	junho.untilSum("junho", "20,000 KRW")
	minji.untilSum("minji", "30,000 KRW")
	minji.until("nothing more to do", "!document.querySelector('.todo')")
	junho.save("feed")
}

// TestPayResumes: a page whose service goes and comes back shows what happened meanwhile.
func TestPayResumes(t *testing.T) {
	browser := newBrowser(t)
	front := newRelay(t)
	program, dir := build(t, "./pay"), t.TempDir()
	service := start(t, program, "DATA_DIR="+dir)
	front.lead(service.addr)
	minji := newTab(t, browser, "minji", as(front.url()+"/", "minji", ""))
	minji.openAccount("bank", "asset")
	minji.openAccount("minji", "liability")
	service.kill(t)
	front.lead("")
	minji.until("the cut", "$('connection').textContent === 'not connected'")
	service = start(t, program, "DATA_DIR="+dir)
	post(t, "http://"+service.addr+"/transfers", `{"from":"bank","to":"minji","amount":{"amount":"700","currency":"KRW"},"memo":"meanwhile"}`)
	front.lead(service.addr)
	minji.untilSum("minji", "700 KRW")
	minji.until("what was missed", "$('feed').firstChild.querySelector('.memo')?.textContent === 'meanwhile'")
	service.stop(t)
}

// post makes a change as junho.
func post(t *testing.T, url, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-User", "junho")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", "one")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("POST %s: %s", url, answer.Status)
	}
}

// payBehindGateway: who has logged in at the gateway is who he is in pay: a neighbour gets money from the bank, and does not
// see the bank's account, nor open one of that kind.
func payBehindGateway(t *testing.T, browser context.Context, w *whole) {
	bank, minji := w.visit(t, browser, "admin", "/pay/"), w.visit(t, browser, "minji", "/pay/")
	bank.openAccount("bank", "asset")
	minji.openAccount("minji", "liability")
	minji.until("live", "$('connection').textContent === 'live'")
	bank.send("bank", "minji", "50000", "for a start")
	minji.untilSum("minji", "50,000 KRW")
	minji.until("the event", "$('feed').firstChild.querySelector('.memo')?.textContent === 'for a start'")
	if eval[bool](minji, "Boolean("+accountJS("bank")+")") {
		t.Error("minji sees the bank's account")
	}
	bank.untroubled()
	minji.untroubled()
	minji.send("bank", "minji", "50000", "once more")
	minji.until("the refusal", "$('transfer-error').textContent !== ''")
	minji.save("refused")
	bank.untilSum("minji", "50,000 KRW")
}

// TestPayLooks: the page in light and dark, wide and narrow; nothing is wider than the window.
func TestPayLooks(t *testing.T) {
	browser := newBrowser(t)
	service := startPay(t)
	p := newTab(t, browser, "minji", "http://"+service.addr+"/")
	p.save("sign-in")
	p.do(chromedp.SendKeys(chromedp.CSS("#name"), "minji"), enter)
	p.openAccount("bank", "asset")
	p.openAccount("minji", "liability")
	p.openAccount("a.rather-long-account:id-that_has_no_place_to_break_at_all_012", "liability")
	p.send("bank", "minji", "125000", "salary")
	p.untilSum("minji", "125,000 KRW")
	p.send("minji", "a.rather-long-account:id-that_has_no_place_to_break_at_all_012", "4500", "커피 두 잔 — "+strings.Repeat("long", 40))
	p.untilSum("minji", "120,500 KRW")
	p.do(chromedp.Click(chromedp.CSS("#hold")))
	p.send("minji", "bank", "500", "")
	p.until("the hold", "document.querySelector('.todo')")
	p.send("minji", "bank", "900000", "")
	p.until("the refusal", "$('transfer-error').textContent !== ''")
	for _, scheme := range []string{"light", "dark"} {
		p.prefer(scheme)
		for _, width := range []int64{1280, 900, 390} {
			p.do(chromedp.EmulateViewport(width, 800))
			p.until("no wider than the window", "document.documentElement.scrollWidth <= innerWidth")
			p.save(fmt.Sprintf("%s-%d", scheme, width))
		}
	}
	service.stop(t)
}
