package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
)

// pair is minji on n1 and junho on n2, both in the direct room between them.
func pair(t *testing.T) (c *cluster, minji, junho *tab) {
	t.Helper()
	browser := newBrowser(t)
	c = startCluster(t)
	minji = newTab(t, browser, "minji", as(c.url("n1"), "minji", ""))
	junho = newTab(t, browser, "junho", as(c.url("n2"), "junho", ""))
	minji.create("direct", "", "junho")
	junho.open("minji")
	return c, minji, junho
}

func TestSignIn(t *testing.T) {
	browser := newBrowser(t)
	c := startCluster(t)
	p := newTab(t, browser, "minji", c.url("n1"))
	p.save("light")
	p.do(chromedp.SendKeys(chromedp.CSS("#name"), "minji"), enter)
	p.until("the room list", "loaded && $('me').textContent === 'minji' && $('connection').hidden")
	p.do(chromedp.Reload())
	p.until("the same user after a reload", "loaded && me === 'minji'")
	p.do(chromedp.Click(chromedp.CSS("#leave-session")))
	p.until("nobody", "!$('sign-in').hidden && me === ''")
}

// TestConversation: what one of two people on two nodes does, the other sees.
func TestConversation(t *testing.T) {
	browser := newBrowser(t)
	c := startCluster(t)
	minji := newTab(t, browser, "minji", as(c.url("n1"), "minji", ""))
	junho := newTab(t, browser, "junho", as(c.url("n2"), "junho", ""))
	minji.create("direct", "", "junho")

	junho.untilBadge("minji", "")
	minji.say("안녕하세요, is the bicycle still there?")
	junho.untilBadge("minji", "1")
	minji.say("I could come by at six")
	junho.untilBadge("minji", "2")
	junho.until("the count in the title", "document.title.startsWith('(2) ')")

	junho.open("minji")
	junho.untilTexts("안녕하세요, is the bicycle still there?", "I could come by at six")
	junho.untilBadge("minji", "")
	minji.until("seen", "document.querySelector('#messages .seen')?.textContent === 'Seen'")

	junho.do(chromedp.SendKeys(chromedp.CSS("#text"), "네"))
	minji.until("typing", "$('typing').textContent === 'junho is typing'")
	junho.do(chromedp.SendKeys(chromedp.CSS("#text"), ", 여섯 시에 봐요"), enter)
	both := []string{"안녕하세요, is the bicycle still there?", "I could come by at six", "네, 여섯 시에 봐요"}
	minji.untilTexts(both...)
	junho.untilTexts(both...)
	minji.until("no typing any more", "$('typing').textContent === ''")

	junho.do(chromedp.Reload())
	junho.untilTexts(both...)
	junho.untilBadge("minji", "")
}

// TestPresence: a page shows whether the other one is there, from its own start on and when that changes.
func TestPresence(t *testing.T) {
	c, minji, junho := pair(t)
	minji.do(chromedp.Reload())
	minji.until("presence", "$('about').textContent === 'Here now' && document.querySelector('#rooms .avatar.here')")
	junho.do(chromedp.Navigate("about:blank"))
	minji.until("absence", "$('about').textContent === 'Away' && !document.querySelector('#rooms .avatar.here')")
	junho.do(chromedp.Navigate(as(c.url("n2"), "junho", "")))
	minji.until("presence again", "$('about').textContent === 'Here now'")
}

// TestChange: an edit, a deletion and a reply show on the other side, and stay.
func TestChange(t *testing.T) {
	_, minji, junho := pair(t)
	minji.say("at six")
	minji.say("never mind")
	minji.untilTexts("at six", "never mind")
	minji.act("at six", "Edit")
	eval[bool](minji, "setText(''), true")
	minji.say("at seven")
	junho.untilTexts("at seven", "never mind")
	junho.until("marked as edited", "document.querySelector('#messages .meta span').textContent === 'edited'")

	minji.act("never mind", "Delete")
	deleted := []string{"at seven", "This message was deleted."}
	minji.untilTexts(deleted...)
	junho.untilTexts(deleted...)

	junho.act("at seven", "Reply")
	junho.say("좋아요")
	minji.until("the quote", "document.querySelector('#messages .quote').textContent === 'minji: at seven'")
	minji.do(chromedp.Reload())
	minji.untilTexts(append(deleted, "좋아요")...)
	if eval[int](minji, "document.querySelectorAll('#messages .gone').length") != 1 {
		t.Error("the deleted message does not look deleted after a reload")
	}
}

// TestMarkupIsText: nothing of a message is ever read as markup, wherever it is shown.
func TestMarkupIsText(t *testing.T) {
	_, minji, junho := pair(t)
	const attack = `<script>hacked = 1</script><img src=x onerror="hacked = 1"><b>bold</b> &amp; ${hacked=1}`
	count := "document.querySelectorAll('script, img, b').length"
	before := eval[int](junho, count)
	minji.say(attack)
	junho.untilTexts(attack)
	junho.act(attack, "Reply")
	junho.say("what is this?")
	const name = "<b>동네</b><img src=x onerror='hacked = 1'>"
	minji.create("group", name, "junho")
	junho.open(name)
	if after := eval[int](junho, count); after != before {
		t.Errorf("the page has %d elements that came out of a message or a name", after-before)
	}
	if eval[bool](junho, "typeof hacked !== 'undefined'") {
		t.Error("a message's script ran")
	}
}

// TestRestart: a node goes away while people write on both sides; its page comes back, misses nothing, repeats nothing,
// and sends what was written meanwhile just once.
func TestRestart(t *testing.T) {
	for _, end := range []struct {
		name string
		how  func(*process, *testing.T)
	}{{"stopped", (*process).stop}, {"killed", (*process).kill}} {
		t.Run(end.name, func(t *testing.T) {
			c, minji, junho := pair(t)
			minji.say("before")
			junho.untilTexts("before")

			c.nodes["n2"].front.lead("") // no new connection, as with a node that is down
			end.how(c.nodes["n2"].process, t)
			junho.until("the loss shown", "$('connection').dataset.state === 'waiting' && !$('connection').hidden")
			junho.say("from here")
			junho.untilTexts("before", "[from here]")
			want := []string{"before"}
			for i := range 5 {
				text := fmt.Sprint("meanwhile ", i)
				minji.say(text)
				want = append(want, text)
			}
			minji.untilTexts(want...)

			c.start("n2")
			want = append(want, "from here")
			junho.untilTexts(want...)
			minji.untilTexts(want...)
			junho.until("the connection back", "$('connection').hidden")
			minji.say("after")
			junho.untilTexts(append(want, "after")...)
		})
	}
}

// TestLostDisk: a node comes back empty, and cut off. Its page is told to fetch everything anew, which is nothing, and has
// it all once the other node has given it back.
func TestLostDisk(t *testing.T) {
	c, minji, junho := pair(t)
	minji.say("one")
	junho.untilTexts("one")
	junho.say("two")
	minji.untilTexts("one", "two")
	eval[bool](junho, "globalThis.resets = 0, handlers.reset = ((whole) => () => { resets++; whole(); })(handlers.reset), true")
	n := c.nodes["n2"]
	n.front.lead("")
	n.kill(t)
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	c.cut()
	minji.say("three")
	c.start("n2")
	junho.until("the reset", "resets === 1 && rooms.size === 0")
	c.heal()
	minji.say("four")
	junho.untilTexts("one", "two", "three", "four")
	junho.say("five")
	minji.untilTexts("one", "two", "three", "four", "five")
}

// TestLateMessage: what was written on both sides of a cut stands in one order, by id, once it heals.
func TestLateMessage(t *testing.T) {
	c, minji, junho := pair(t)
	minji.say("zero")
	junho.untilTexts("zero")
	c.cut()
	minji.say("one")
	minji.untilTexts("zero", "one")
	junho.say("two")
	junho.untilTexts("zero", "two")
	minji.say("three")
	minji.untilTexts("zero", "one", "three")
	junho.say("four")
	junho.untilTexts("zero", "two", "four")
	c.heal()
	minji.untilTexts("zero", "one", "two", "three", "four")
	junho.untilTexts("zero", "one", "two", "three", "four")
}

// TestRefused: the server's reason is shown, the message is kept, and goes out when it is allowed again.
func TestRefused(t *testing.T) {
	c, minji, junho := pair(t)
	eval[bool](minji, "$('info').click(), $('block').click(), true")
	minji.until("blocked", "$('block').textContent === 'Unblock junho'")
	junho.do(chromedp.Navigate("about:blank"))
	junho.do(chromedp.Navigate(as(c.url("n1"), "junho", eval[string](minji, "current")))) // where the block is known already
	junho.until("the room", "room()?.floor === ''")
	junho.say("hello?")
	junho.until("the reason", "document.querySelector('.failure')?.textContent.includes('blocked by the other user')")
	junho.save("refused")
	eval[bool](minji, "$('block').click(), true")
	minji.until("not blocked", "$('block').textContent === 'Block junho'")
	junho.act("hello?", "Try again")
	junho.untilTexts("hello?")
	minji.untilTexts("hello?")
}

// TestRooms: a group and a channel, with everything that members and owners do.
func TestRooms(t *testing.T) {
	c, minji, junho := pair(t)
	minji.create("group", "망원동 book club", "junho, sora")
	junho.open("망원동 book club")
	junho.until("the members", "$('about').textContent.startsWith('3 members')")
	junho.do(chromedp.Click(chromedp.CSS("#info")), chromedp.SetValue(chromedp.CSS("#rename-name"), "Poetry 시 모임"))
	eval[bool](junho, "$('rename').requestSubmit(), true")
	minji.until("the new name", "$('title').textContent === 'Poetry 시 모임'")
	eval[bool](junho, "$('add-name').value = 'haneul', $('add-member').requestSubmit(), true")
	minji.until("the new member", "$('about').textContent.startsWith('4 members')")
	eval[bool](junho, "$('add-name').value = 'not a name!', $('add-member').requestSubmit(), true")
	junho.until("the API's complaint", "document.querySelector('#room-info .error').textContent.includes('is not a user')")
	eval[bool](junho, "$('leave').click(), $('leave').click(), true")
	junho.until("the room gone", "!("+roomJS("Poetry 시 모임")+") && current === ''")
	minji.until("one member less", "$('about').textContent.startsWith('3 members')")

	minji.create("channel", "동네 notices", "")
	minji.say("The market is open on Saturday")
	room := eval[string](minji, "current")
	junho.do(chromedp.Navigate(as(c.url("n2"), "junho", room)))
	junho.until("the invitation", "!$('join').hidden")
	junho.do(chromedp.Click(chromedp.CSS("#join")))
	junho.untilTexts("The market is open on Saturday")
	junho.until("no composer", "$('composer').hidden && $('listen').textContent === 'Only minji writes in this channel.'")
}

// TestHistory: a long history comes in pieces as one scrolls up, each message once, and what is in view stays there.
func TestHistory(t *testing.T) {
	_, minji, junho := pair(t)
	const count = 3 * 50
	eval[bool](minji, fmt.Sprintf(`(async () => {
		for (let i = 0; i < %d; i++) await request('POST', pathOf('rooms', current, 'messages'), { text: 'message ' + i }, newKey());
		return true;
	})()`, count))
	all := make([]string, count)
	for i := range all {
		all[i] = fmt.Sprint("message ", i)
	}
	junho.untilTexts(all...)
	minji.until("the whole read", "document.querySelector('#messages .seen')")
	junho.do(chromedp.Reload())
	junho.untilTexts(all[count-50:]...)
	junho.until("the end in view", "atEnd()")

	eval[bool](junho, "$('log').scrollTop = 100, true")
	place := fmt.Sprintf(`Math.round([...document.querySelectorAll('#messages .message')].find(
		(m) => m.querySelector('.text').textContent === 'message %d').getBoundingClientRect().top)`, count-50)
	before := eval[int](junho, place)
	junho.until("the piece before", "document.querySelectorAll('#messages .message').length >= 100")
	if after := eval[int](junho, place); after != before {
		t.Errorf("the first message was at %d px, and is at %d px once older ones came", before, after)
	}
	eval[bool](junho, "$('log').scrollTop = 0, true")
	junho.until("the whole", "room().floor === ''")
	if diff := cmp.Diff(all, junho.texts()); diff != "" {
		t.Errorf("messages mismatch (-want +got):\n%s", diff)
	}
	minji.say("and one more")
	junho.until("word of the message out of view", "!$('jump').hidden")
	junho.do(chromedp.Click(chromedp.CSS("#jump")))
	junho.until("the end in view", "atEnd() && $('jump').hidden")
}

// TestNarrow: on a telephone there is one thing at a time, and nothing sticks out.
func TestNarrow(t *testing.T) {
	_, minji, junho := pair(t)
	minji.say("averyveryveryveryveryveryveryveryveryverylongwordthatdoesnotfitonatelephoneatall https://example.com/" + strings.Repeat("a", 80))
	minji.say("자전거 아직 있나요? I can come by at six.")
	for _, p := range []*tab{minji, junho} {
		p.do(chromedp.EmulateViewport(360, 740))
		fits := "document.documentElement.scrollWidth <= 360 && $('log').scrollWidth <= $('log').clientWidth"
		p.until("everything within 360 px", fits)
		p.until("the conversation alone", "$('log').offsetWidth > 0 && $('side').offsetWidth === 0")
		p.save("room")
		p.do(chromedp.Click(chromedp.CSS("#back")))
		p.until("the list alone", "$('log').offsetWidth === 0 && $('side').offsetWidth > 0 && "+fits)
		p.save("list")
	}
	junho.do(chromedp.Click(chromedp.CSS("#rooms a")))
	junho.until("the conversation again", "$('log').offsetWidth > 0")
}

// TestEventParser: the page's parser of event streams, with the stream cut into two at every place, and into single
// characters.
func TestEventParser(t *testing.T) {
	browser := newBrowser(t)
	c := startCluster(t)
	p := newTab(t, browser, "minji", c.url("n1"))
	const stream = ": comment\nretry: 1500\n\nid: 1\nevent: message\ndata: {\"a\":\ndata:1}\n\n" + // two lines of data
		"data: crlf\r\nid\r\n\r\n" + "data: cr\rdata\rid: 2\r\r" + // every line end; a field without a colon
		"id: 3\n\n" + // a position without an event
		"id: 4\x00\ndata:  two spaces: and a colon\nretry: soon\nunknown: field\n\n" + "event: empty\n\n" + "data: 동네\n\n" + "data: unfinished"
	want := []string{"retry 1500", "at ", "at 1", `message {"a":` + "\n1}", "at ", "message crlf", "at 2", "message cr\n", "at 3",
		"at 3", "message  two spaces: and a colon", "at 3", "at 3", "message 동네"}
	results := eval[[][]string](p, `(() => {
		const stream = `+quoted(stream)+`;
		const parse = (chunks) => {
			const got = [];
			const feed = eventParser({ event: (type, data) => got.push(type + ' ' + data), retry: (ms) => got.push('retry ' + ms), position: (id) => got.push('at ' + id) });
			chunks.forEach(feed);
			return got;
		};
		return [parse([...stream]), ...Array.from(stream, (_, i) => parse([stream.slice(0, i), stream.slice(i)]))];
	})()`)
	if len(results) < len([]rune(stream)) {
		t.Fatalf("%d ways to cut the stream, want more", len(results))
	}
	for i, got := range results {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("cut %d: mismatch (-want +got):\n%s", i-1, diff)
		}
	}
}

// TestLooks: light and dark, wide and narrow; all text stands out from its background as WCAG 2.2 (1.4.3) asks.
func TestLooks(t *testing.T) {
	c, minji, junho := pair(t)
	sora := newTab(t, minji.ctx, "sora", as(c.url("n1"), "sora", ""))
	sora.create("group", "망원동 book club · 책 모임", "minji, junho")
	sora.say("다음 주 목요일에 만나요. 7 pm at 한강 Books?")
	sora.create("channel", "동네 notices", "")
	sora.create("direct", "", "minji")
	sora.say("Are you coming on Thursday?")
	minji.open("junho")
	minji.say("안녕하세요! Is the bicycle still there?")
	junho.untilTexts("안녕하세요! Is the bicycle still there?")
	junho.say("네, 아직 있어요. It is a city bike, six gears, 바구니도 있어요.")
	minji.until("the answer", "document.querySelectorAll('#messages .message').length === 2")
	minji.say("좋네요")
	minji.say("I could come by at six, if that suits you. 망원시장 앞에서 볼까요?")
	junho.until("the question", "document.querySelectorAll('#messages .message').length === 4")
	junho.act("좋네요", "Reply")
	junho.say("여섯 시 좋아요 👍")
	minji.say("see you")
	junho.until("the greeting", "document.querySelectorAll('#messages .message').length === 6")
	minji.act("see you", "Delete")
	junho.act("여섯 시 좋아요 👍", "Edit")
	junho.say(" 그때 봐요!")
	minji.until("the edit and the deletion", "document.querySelector('#messages .gone') && document.querySelector('#messages .meta span')")
	minji.untilBadge("sora", "1")
	junho.do(chromedp.SendKeys(chromedp.CSS("#text"), "ㅎ"))
	minji.until("typing", "$('typing').textContent !== ''")
	for _, scheme := range []string{"light", "dark"} {
		minji.prefer(scheme)
		minji.do(chromedp.EmulateViewport(1280, 800))
		minji.until("the scheme", "matchMedia('(prefers-color-scheme: "+scheme+")').matches")
		minji.save(scheme + "-wide")
		for _, faint := range eval[[]string](minji, faintJS) {
			t.Errorf("%s: %s", scheme, faint)
		}
		for _, dialog := range []string{"new-room", "info"} {
			eval[bool](minji, "$('"+dialog+"' + ('"+dialog+"' === 'info' ? '' : '-button')).click(), true")
			minji.save(scheme + "-" + dialog)
			eval[bool](minji, "document.querySelector('dialog[open]').close(), true")
		}
		eval[bool](minji, "document.querySelector('.message.mine').focus(), true")
		minji.save(scheme + "-actions")
		minji.do(chromedp.EmulateViewport(360, 740))
		minji.save(scheme + "-narrow")
		minji.do(chromedp.Click(chromedp.CSS("#back")))
		minji.save(scheme + "-narrow-list")
		minji.open("junho")
	}
}

// TestCheckers: what the other tests rely on to see that something is wrong does see it.
func TestCheckers(t *testing.T) {
	_, minji, _ := pair(t)
	eval[bool](minji, "setTimeout(() => { throw new Error('thrown on purpose'); }), true")
	eval[bool](minji, "document.body.append(make('script', { textContent: 'hacked = 1' })), true")
	minji.say("<b>no element</b>")
	minji.untilTexts("<b>no element</b>")
	if noted := strings.Join(minji.takeProblems(), "\n"); !strings.Contains(noted, "thrown on purpose") || !strings.Contains(noted, "Content Security Policy") {
		t.Errorf("noted of an exception and an injected script: %q", noted)
	}
	if eval[bool](minji, "typeof hacked !== 'undefined'") {
		t.Error("the page's policy lets an injected script run")
	}
	eval[bool](minji, "$('title').style.color = getComputedStyle($('title').parentElement.parentElement).backgroundColor, true")
	if faint := eval[[]string](minji, faintJS); len(faint) != 1 || !strings.Contains(faint[0], "(title): contrast 1.00") {
		t.Errorf("found of an invisible title: %q", faint)
	}
}

// faintJS lists the texts in view whose contrast with what is behind them is below 4.5.
const faintJS = `(() => {
	const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
	const paint = (colours) => { // one over the other, as they lie
		canvas.clearRect(0, 0, 1, 1);
		for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
		const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const faint = [];
	for (const node of document.querySelectorAll('body *')) {
		const text = [...node.childNodes].filter((n) => n.nodeType === Node.TEXT_NODE).map((n) => n.data).join('').trim();
		if (!text || !node.checkVisibility({ visibilityProperty: true }) || node.closest('.hidden-text, script, style')) continue;
		const behind = [];
		for (let at = node; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
		const back = paint(behind), front = paint([...behind, getComputedStyle(node).color]);
		const ratio = (Math.max(back, front) + .05) / (Math.min(back, front) + .05);
		if (ratio < 4.5) faint.push(text.slice(0, 30) + ' (' + (node.className || node.id || node.tagName) + '): contrast ' + ratio.toFixed(2) + ', want 4.5');
	}
	return faint;
})()`
