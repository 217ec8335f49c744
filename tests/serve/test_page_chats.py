"""What a user says to the page and is told stays as it was: in the browser's store, on the screen, in what is copied."""

import json
import re

import pytest
from helpers.live import slowed, talkative
from helpers.processes import until

from openglm.serve.strings import SAMPLE, STARTERS

TYPED = "$5 or $6, 2*3*4\n  **not bold** `a` \\* _b_ <b>x</b> &lt; # no\n\n\n1) 好 ~5~ ![i](u) https://a.test/?a_b_c"
SAID = [
    "It costs $5 or $6.",
    "2*3*4 = 24 and 2**3**2",
    "call __init__ of List<int>",
    "if a<b and c>d",
    "about ~5 or ~6",
    "the entity &lt; and &amp;",
    "床前明月光，\n疑是地上霜。",
    "US$5/AU$6, $HOME and $PATH",
]


@pytest.fixture(scope="module")
def paged(another):
    return talkative(another(page=True, feedback=False))


def context(browser, **options):
    return browser.new_context(**{"viewport": {"width": 1000, "height": 720}, "locale": "en-US", **options})


def opened(where, server, address="/"):
    page = where.new_page()
    page.posted = []
    page.on("request", lambda request: page.posted.append(request.post_data or ""))
    page.goto(server.url + address)
    ready(page)
    return page


def ready(page):
    page.wait_for_selector("#box textarea")
    page.wait_for_selector("#model:has-text('tokens/s')", timeout=60_000)


def ask(page, text):
    page.fill("#box textarea", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .user.message")


def done(page):
    page.wait_for_selector("#box .submit-button", timeout=60_000)
    until(lambda: page.locator("#note").inner_text() or page.locator("#talk .bot.message").count(), 40)


def kept(page):
    """Questions in the browser's store, by conversation."""
    chats = page.evaluate(
        "Object.entries(localStorage).filter(([k]) => k.startsWith('openglm-chat-')).map(([, v]) => v)"
    )
    return sorted([m["content"] for m in json.loads(chat)["messages"] if m["role"] == "user"] for chat in chats)


def test_two_tabs_lose_nothing_and_only_the_current_chat_is_sent(browser, paged):
    where = context(browser)
    one, two = opened(where, paged), opened(where, paged)
    ask(one, "first of one")
    done(one)
    ask(two, "first of two")
    done(two)
    ask(one, "second of one")
    done(one)
    until(lambda: kept(one) == [["first of one", "second of one"], ["first of two"]], 40)
    assert not [body for body in one.posted if "first of two" in body]
    two.click(".sidebar .toggle-button")
    two.wait_for_selector("#picker label:has-text('first of one')")  # the other tab's list follows
    two.click("#picker label:has-text('first of one')")
    two.wait_for_selector("#talk .user.message:has-text('second of one')")
    ask(one, "third of one")
    two.click(".sidebar .toggle-button")
    ask(two, "fourth, while the other tab asks the third")
    # Both at once: what cannot stand in one chat stands in two.
    last = {"third of one", "fourth, while the other tab asks the third"}
    until(lambda: last <= {text for asked in kept(two) for text in asked[2:]}, 40)
    where.close()


def test_a_reload_keeps_the_question_and_a_deleted_chat_is_gone(browser, paged):
    where, engine = context(browser), paged.service.assistant.engine
    page, step = opened(where, paged), engine.step
    slowed(paged, 0.3)
    ask(page, "half answered")
    until(lambda: kept(page) == [["half answered"]], 40)
    page.reload()
    ready(page)
    page.wait_for_selector("#talk .user.message:has-text('half answered')")
    ask(page, "and deleted meanwhile")
    until(lambda: engine.busy, 40)
    page.click(".sidebar .toggle-button")
    page.click("#delete")
    engine.step = step
    until(lambda: not engine.busy, 40)
    page.wait_for_selector("#talk .user.message", state="detached")
    assert kept(page) == []
    page.reload()
    ready(page)
    assert kept(page) == [] and page.locator("#talk .user.message").count() == 0
    where.close()


def test_full_storage_is_said(browser, paged):
    where = context(browser)
    page = opened(where, paged)
    fill = "let n = 1 << 20; while (n) try { localStorage.setItem('x' + Math.random(), 'x'.repeat(n)); } catch { n >>= 1; }"
    page.evaluate(fill)
    ask(page, "no room for this")
    page.wait_for_selector("#openglm-full:has-text('storage is full')")
    page.evaluate("Object.keys(localStorage).forEach((key) => key.startsWith('x') && localStorage.removeItem(key))")
    done(page)
    ask(page, "room again")
    until(lambda: page.locator("#openglm-full").count() == 0, 40)
    until(lambda: kept(page) == [["no room for this", "room again"]], 40)
    where.close()


def test_a_users_text_is_shown_copied_and_edited_as_typed(browser, paged):
    where = context(browser, permissions=["clipboard-read", "clipboard-write"])
    page = opened(where, paged)
    ask(page, TYPED)
    done(page)
    assert page.locator("#talk .user.message code").inner_text().removesuffix("\n") == TYPED
    assert "```" not in page.locator("#talk [aria-label*='message:']").first.get_attribute("aria-label")
    page.locator("#talk button[aria-label='Copy message']").first.click()
    until(lambda: page.evaluate("navigator.clipboard.readText()") == TYPED, 20)
    page.locator("#talk button[aria-label='Edit']").first.click()
    until(lambda: page.locator("#talk textarea").first.input_value() == TYPED, 20)
    where.close()


def test_every_visible_character_of_an_answer_is_on_the_screen(browser, paged, tmp_path):
    """And selecting it gives no other: what breaks markup is taken out once the markup is broken."""
    where, file = context(browser), tmp_path / "chat.json"
    page = opened(where, paged)
    messages = [{"role": role, "content": text} for text in SAID for role, text in (("user", "?"), ("assistant", text))]
    messages += [{"role": "user", "content": "?"}, {"role": "assistant", "content": "so $x^2$ it is"}]
    file.write_text(json.dumps(messages), encoding="utf-8")
    page.click(".sidebar .toggle-button")
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(file)
    page.wait_for_selector("#talk .katex")
    page.wait_for_timeout(200)
    shown = page.locator("#talk .bot.message .md").all_inner_texts()
    assert [text.strip() for text in shown[:-1]] == SAID
    assert not re.search("[\u2060\ufeff]", page.inner_text("#talk")) and page.locator("#talk .katex").count() == 1
    where.close()


def test_a_newcomer_clicks_a_starter_reads_fills_a_blank_and_finds_it_all_again(browser, paged):
    where = context(browser)
    page = opened(where, paged)
    assert page.locator("#talk button.example").count() == len(STARTERS) == 4
    page.locator("#talk button.example").first.click()
    page.wait_for_selector("#talk .user.message")
    done(page)
    until(lambda: kept(page) == [[STARTERS[0]]], 20)
    page.click("button[role=tab]:has-text('Fill')")
    page.fill("#fill-text textarea", "The cat ___ on the ___.")
    page.click("#fill-go")
    page.wait_for_selector("#filled table")
    assert page.locator("#filled table").count() == page.locator("#filled mark").count() == SAMPLE.count("___") == 2
    chances = [
        float(text.rstrip("%")) for text in page.locator("#filled table:first-of-type td:last-child").all_inner_texts()
    ]
    assert 0 < len(chances) <= 5 and chances == sorted(chances, reverse=True) and sum(chances) < 100.3
    page.fill("#fill-text textarea", "no blank <b>")
    page.click("#fill-go")
    page.wait_for_selector("#filled:has-text('write ___')")
    page.reload()
    ready(page)
    page.wait_for_selector("#talk .user.message")
    where.close()


def test_settings_outlive_a_reload_and_the_page_is_dark_where_its_user_wants_it(browser, paged):
    where = context(browser, color_scheme="dark")
    page = opened(where, paged)
    until(lambda: page.evaluate("document.body.classList.contains('dark')"), 20)
    page.click(".sidebar .toggle-button")
    page.click(".sidebar .label-wrap")
    page.fill("#system textarea", "Be short.")
    page.click("#dark")
    page.reload()
    ready(page)
    until(lambda: not page.evaluate("document.body.classList.contains('dark')"), 20)
    page.click(".sidebar .toggle-button")
    page.click(".sidebar .label-wrap")
    until(lambda: page.input_value("#system textarea") == "Be short.", 20)
    where.close()


NAMELESS = """() => [...document.querySelectorAll("button, input, textarea, [role=tab]")]
  .filter((one) => one.checkVisibility() && !(one.ariaLabel || one.title || one.innerText || one.labels?.length))
  .map((one) => one.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("locale", ["zh-TW", "zh-Hant-HK", "zh"])
def test_it_speaks_chinese_has_names_for_screen_readers_and_needs_no_mouse(browser, paged, locale):
    where = context(browser, locale=locale, viewport={"width": 360, "height": 640})
    page = opened(where, paged)
    assert page.get_attribute("#box textarea", "placeholder") == "说点什么"
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.focus("button[role=tab]")
    page.keyboard.press("Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.matches('#talk button.example')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .user.message")
    where.close()
