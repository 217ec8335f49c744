"""What a user does before an answer of the page, or of the server behind it, has come is not undone by it."""

import json
import re

import pytest
from helpers.live import Held, talkative
from helpers.processes import until

KEPT = ["", "[]", 1.0, 0.75, 40, False]
KEEP = f"localStorage['openglm-settings'] ??= JSON.stringify({json.dumps(KEPT)})"


@pytest.fixture(scope="module")
def paged(another):
    return talkative(another(page=True, feedback=False))


@pytest.fixture
def where(browser):
    context = browser.new_context(viewport={"width": 1000, "height": 720}, locale="en-US")
    context.add_init_script(KEEP)
    yield context
    context.close()


def half_loaded(where, server):
    """The page while one of its scripts is still on its way, and what lets it go on: Gradio has begun, but is not
    ready."""
    page, late = where.new_page(), []
    page.route(re.compile("/assets/markdown-"), lambda route: late.append(route))
    page.goto(server.url)
    page.wait_for_selector("#box textarea")
    until(lambda: late or page.wait_for_timeout(50), 60)
    return page, lambda: [route.continue_() for route in late]


def ready(page):
    page.wait_for_selector("#model:has-text('tokens/s')", timeout=60_000)


def ask(page, text):
    page.fill("#box textarea", text)
    page.keyboard.press("Enter")


def settings(page):
    return json.loads(page.evaluate("localStorage['openglm-settings']"))


def test_a_setting_typed_before_the_page_is_ready_stays_and_so_do_the_others(where, paged):
    page, go_on = half_loaded(where, paged)
    page.click(".sidebar .toggle-button")
    page.click(".sidebar .label-wrap")
    page.fill("#system textarea", "short")
    go_on()
    ready(page)
    assert page.input_value("#system textarea") == "short" and page.input_value("#tools textarea") == "[]"
    assert settings(page) == ["short", *KEPT[1:]]


def test_what_stands_in_a_box_is_kept_even_where_gradio_lags_behind_it(where, paged):
    page = where.new_page()
    page.goto(paged.url)
    ready(page)
    page.click(".sidebar .toggle-button")
    page.click(".sidebar .label-wrap")
    page.fill("#system textarea", "short")
    page.evaluate("openglm.set('', '', 0.5, 0.75, 40, false)")
    assert settings(page) == ["short", "[]", 0.5, 0.75, 40, False]


def test_a_question_before_the_page_is_ready_is_answered_whole(where, paged):
    first = where.new_page()
    first.goto(paged.url)
    ready(first)
    ask(first, "an old question")
    first.wait_for_selector("#box .submit-button")
    first.close()
    page, go_on = half_loaded(where, paged)
    held = Held(paged)
    ask(page, "a new question")
    go_on()
    until(lambda: paged.service.assistant.engine.busy or page.wait_for_timeout(50), 60)
    page.wait_for_timeout(1000)
    held.let_go()
    page.wait_for_selector("#talk .user.message:has-text('a new question')")
    page.wait_for_selector("#note:has-text('tokens/s')", timeout=60_000)
    assert page.locator("#talk .bot.message").count() == 1


def test_what_is_typed_behind_a_question_stays_in_the_box(where, paged):
    page, late = where.new_page(), []
    page.goto(paged.url)
    ready(page)
    page.route("**/gradio_api/queue/join*", lambda route: late.append(route), times=1)
    ask(page, "first")
    until(lambda: late or page.wait_for_timeout(50), 60)
    page.locator("#box textarea").press_sequentially(" second")
    late[0].continue_()
    page.wait_for_selector("#talk .user.message:has-text('first')")
    until(lambda: page.input_value("#box textarea") == " second" or page.wait_for_timeout(50), 60)


def test_an_import_that_is_given_up_leaves_the_answer_that_came_meanwhile(where, paged):
    page = where.new_page()
    page.goto(paged.url)
    ready(page)
    held = Held(paged)
    ask(page, "a question")
    until(lambda: paged.service.assistant.engine.busy or page.wait_for_timeout(50), 60)
    page.click(".sidebar .toggle-button")
    with page.expect_file_chooser():
        page.click("#import")
    held.let_go()
    page.wait_for_selector("#note:has-text('tokens/s')", timeout=60_000)
    page.evaluate("document.getElementById('opened').dispatchEvent(new Event('cancel'))")
    page.wait_for_timeout(1000)
    assert page.locator("#talk .bot.message").count() == 1
    page.reload()
    page.wait_for_selector("#talk .bot.message")
