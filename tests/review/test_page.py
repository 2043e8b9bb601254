"""The page in a real browser: every decision by keyboard alone, two tabs, reloads, text that looks like HTML."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlm_trl.notes import read
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.rejected import rejected
from dlm_trl.synth.staging import applied, stage, staged
from tests.review.pages import AT, PAIRS, TEXT, YEAST, Page, candidate, document, many, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

NOTES = Path(__file__).parents[2] / "recipes" / "notes.dlm"
HTML = '<img src=x onerror="document.title=1"><script>document.title=2</script> &amp; <b>bold</b>'


class Window:
    """Tabs of one browser window; errors of the page, and requests to other addresses, fail the test."""

    def __init__(self, browser: "Browser") -> None:
        self._context = browser.new_context(viewport={"width": 1280, "height": 800})
        self._context.set_default_timeout(60_000)  # the machine may be busy
        self.problems: list[str] = []

    def open(self, url: str) -> "Tab":
        tab = self._context.new_page()
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("console", lambda m: self.problems.append(m.text) if m.type == "error" and "409" not in m.text else None)
        tab.on("request", lambda r: None if r.url.startswith((url, "data:")) else self.problems.append(r.url))
        tab.goto(url)
        settle(tab)
        return tab

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def window(browser: "Browser") -> Iterator[Window]:
    opened = Window(browser)
    yield opened
    opened.close()
    assert opened.problems == []


def settle(tab: "Tab") -> None:
    """Wait until the server has answered."""
    tab.wait_for_selector("main[aria-busy=false]")


def press(tab: "Tab", *keys: str) -> None:
    """Press each key, and wait until what it decided has been answered."""
    for key in keys:
        tab.keyboard.press(key)
        settle(tab)


def question(tab: "Tab") -> str:
    return tab.inner_text("#question")


def status(tab: "Tab") -> str:
    return tab.inner_text("#said")


def counts(tab: "Tab") -> list[int]:
    """How many pairs are to review, in the file, and rejected."""
    return [int(text) for text in tab.locator("#views b").all_inner_texts()]


def test_a_pair_is_shown_beside_its_marked_sentence(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    assert (question(tab), tab.inner_text("#answer")) == PAIRS[0][:2]
    assert tab.inner_text("#prose mark") == "A starter has yeast in it."
    assert "≥ 0.70: passed" in tab.inner_text("#scores") and "hf:one" in tab.inner_text("#origin")
    press(tab, "n")
    assert (question(tab), tab.inner_text("#prose mark")) == (PAIRS[1][0], YEAST)
    assert tab.locator("#prose .scroll .open").all_inner_texts() == ["A starter has yeast in it.", YEAST]
    press(tab, "j")
    assert "Salt slows the yeast\n> down." in tab.text_content("#prose mark")
    press(tab, "n", "p", "k", "p", "p")
    assert question(tab) == PAIRS[0][0] and counts(tab) == [3, 0, 1]
    assert page.text == TEXT


def test_accept_edit_drop_and_undo_by_keyboard(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    press(tab, "a")
    assert (question(tab), status(tab), counts(tab)) == (PAIRS[1][0], f"Accepted. {PAIRS[0][0]}", [2, 1, 1])
    assert [item.pair.question for item in applied(read(page.path))] == [PAIRS[0][0]]

    press(tab, "e")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("What a lifts the dough?")  # the letters of keys are only letters here
    tab.keyboard.press("Tab")
    tab.keyboard.press("End")
    tab.keyboard.press("Enter")
    tab.keyboard.type("It is from yeast.")
    press(tab, "Control+Enter")
    assert (question(tab), counts(tab)) == (PAIRS[2][0], [1, 2, 1])
    written = applied(read(page.path))[1]
    assert written.pair == QAPair("What a lifts the dough?", "The gas.\nIt is from yeast.")
    assert written.edited_from == QAPair(*PAIRS[1][:2])

    press(tab, "d")
    assert tab.inner_text("#nothing h2") == "Nothing left to review" and counts(tab) == [0, 2, 2]
    press(tab, "2", "n")
    assert "edited" in tab.inner_text("#state") and "The teacher wrote:" in tab.inner_text("#before")
    assert tab.is_disabled("#accept") and tab.is_disabled("#drop")
    press(tab, "3", "n")
    assert question(tab) == PAIRS[2][0] and "you dropped it" in tab.inner_text("#state")

    press(tab, "u")
    assert (question(tab), counts(tab)) == (PAIRS[2][0], [1, 2, 1])
    press(tab, "u")
    assert (question(tab), counts(tab)) == (PAIRS[1][0], [2, 1, 1])
    press(tab, "u")
    assert (question(tab), counts(tab)) == (PAIRS[0][0], [3, 0, 1])
    assert page.text == TEXT and tab.is_disabled("#undo")
    press(tab, "u")
    assert page.text == TEXT and tab.is_hidden("#alert")


def test_the_buttons_do_what_the_keys_do(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    tab.click("#next")
    tab.click("#previous")
    tab.click("#accept")
    settle(tab)
    tab.click("#change")
    tab.fill("[name=answer]", "Gas.")
    tab.click("#save")
    settle(tab)
    tab.click("#drop")
    settle(tab)
    assert [item.pair.answer for item in applied(read(page.path))] == ["A starter.", "Gas."]
    for _ in range(3):
        tab.click("#undo")
        settle(tab)
    assert page.text == TEXT and question(tab) == PAIRS[0][0]
    tab.click("#list li:nth-child(3)")
    assert question(tab) == PAIRS[2][0]


def test_a_rejected_pair_says_why_and_can_be_accepted(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    press(tab, "3")
    assert "grounding below 0.70: 0.31" in tab.inner_text("#state")
    assert "not passed" in tab.inner_text("#scores .failed") and "Accept all the same" in tab.inner_text("#accept")
    press(tab, "a")
    assert [item.pair.question for item in applied(read(page.path))] == ["Who bakes?"]
    assert counts(tab) == [3, 1, 0] and rejected(read(page.path)) == []
    press(tab, "u")
    assert counts(tab) == [3, 0, 1] and page.text == TEXT and "grounding" in tab.inner_text("#state")


def test_decisions_and_the_place_survive_a_reload_and_a_restart(tmp_path: Path, window: Window) -> None:
    path = tmp_path / "notes.dlm"
    document(path)
    with serving(path) as page:
        tab = window.open(page.url)
        press(tab, "a", "n")
        assert question(tab) == PAIRS[2][0]
        tab.reload()
        settle(tab)
        assert (question(tab), counts(tab)) == (PAIRS[2][0], [2, 1, 1])
        press(tab, "e")
        tab.keyboard.press("Control+a")
        tab.keyboard.type("What brakes it?")
        tab.reload()  # in the middle of an edit
        settle(tab)
        assert tab.input_value("[name=question]") == "What brakes it?"
        press(tab, "Escape")
        assert question(tab) == PAIRS[2][0]
        press(tab, "e")
        assert tab.input_value("[name=question]") == PAIRS[2][0]
        press(tab, "Escape", "u")
        assert path.read_text() == TEXT
        press(tab, "a", "d")
    press(tab, "a")
    assert "isn't running any more" in tab.inner_text("#alert")
    window.problems.clear()  # the browser reports the failed request
    assert len(applied(read(path))) == 1
    with serving(path) as page:
        tab = window.open(page.url)
        assert counts(tab) == [1, 1, 2]
        press(tab, "3")
        assert "you dropped it" in tab.inner_text("#state")


def test_two_tabs_decide_about_a_pair_once(page: Page, window: Window) -> None:
    one, two = window.open(page.url), window.open(page.url)
    press(one, "a", "d")
    press(two, "a")
    assert "already accepted" in status(two) and question(two) == PAIRS[1][0]
    press(two, "a")
    assert "already dropped" in status(two)
    assert [item.pair.question for item in applied(read(page.path))] == [PAIRS[0][0]]
    press(two, "a")
    assert counts(two) == [0, 2, 2]
    press(one, "e")
    press(one, "Control+Enter")
    assert "already accepted" in status(one) and counts(one) == [0, 2, 2]
    press(one, "u")
    assert question(one) == PAIRS[2][0] and len(applied(read(page.path))) == 1


def test_a_document_changed_outside_is_refused_with_the_remedy(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    press(tab, "a")
    page.path.write_text(page.text.replace("Bakers weigh", "A baker weighs"))
    changed = page.text
    for key in ("a", "d", "u"):
        press(tab, key)
        assert "changed outside of this page" in tab.inner_text("#alert"), key
        assert page.text == changed and len(staged(read(page.path))) == 2
    press(tab, "r")
    tab.wait_for_selector("#alert", state="hidden")
    press(tab, "a", "u", "u")
    assert page.text == TEXT.replace("Bakers weigh", "A baker weighs")


def test_html_in_pairs_and_prose_is_shown_as_text(tmp_path: Path, window: Window) -> None:
    path = tmp_path / "notes.dlm"
    document(path, TEXT.replace("# Bread", f"# Bread {HTML}").replace(YEAST, f"{YEAST} The tag {HTML} is no markup."))
    texts = (f"What is {HTML}?", f"It is {HTML}, and \u202e this.")
    stage(read(path), [candidate(path, *texts, 0, HTML.replace('"', ""))], AT)
    with serving(path) as page:
        tab = window.open(page.url)
        while question(tab) != texts[0]:
            press(tab, "n")
        assert tab.inner_text("#answer") == f"It is {HTML}, and \\u202e this."
        assert HTML in tab.inner_text("#prose .scroll") and HTML in tab.inner_text("#list")
        assert tab.title() == "Review: notes.dlm"
        assert tab.locator("#pair img, #prose img, #list img, main b, main script").count() == 0
        press(tab, "e", "Control+Enter", "u", "d", "c")
        assert tab.title() == "Review: notes.dlm" and page.text == path.read_text()


def test_filters_by_section_teacher_and_score(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    press(tab, "f")
    tab.select_option("[name=teacher]", "hf:two")
    assert tab.locator("#list li").count() == 1 and question(tab) == PAIRS[1][0]
    tab.select_option("[name=teacher]", "")
    tab.select_option("[name=section]", "1")
    assert question(tab) == PAIRS[2][0]
    tab.reload()
    settle(tab)
    assert tab.input_value("[name=section]") == "1" and tab.locator("#list li").count() == 1
    tab.click("#clear")
    tab.wait_for_selector("#list li:nth-child(3)")
    tab.select_option("[name=score]", "margin")
    tab.fill("[name=from]", "0.5")
    assert tab.inner_text("#nothing h2") == "No pair passes the filters"
    tab.fill("[name=from]", "0.4")
    assert tab.locator("#list li").count() == 3
    tab.fill("[name=to]", "0.3")
    assert tab.locator("#list li").count() == 0


def test_coverage_follows_the_decisions(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    assert tab.inner_text("#cover-text") == "1 of 5 sentences covered"
    press(tab, "a")
    assert tab.inner_text("#cover-text") == "2 of 5 sentences covered"
    press(tab, "c")
    assert "Bakers weigh their salt." in tab.inner_text("#coverage .open-sentences")
    first, second = tab.locator("#coverage tbody tr").all_inner_texts()
    assert (first.split()[-3:], second.split()[-3:]) == (["3", "2", "3"], ["2", "0", "1"])
    press(tab, "Escape", "u")
    assert tab.inner_text("#cover-text") == "1 of 5 sentences covered"


def test_a_key_that_is_held_down_decides_once(page: Page, window: Window) -> None:
    tab = window.open(page.url)
    for _ in range(3):  # a browser repeats the key like this
        tab.keyboard.down("a")
        settle(tab)
    tab.keyboard.up("a")
    assert counts(tab) == [2, 1, 1]
    press(tab, "Control+d", "Alt+d", "Shift+?", "Escape")
    assert counts(tab) == [2, 1, 1]


def test_five_hundred_pairs_stay_usable(tmp_path: Path, window: Window) -> None:
    path = tmp_path / "notes.dlm"
    many(path, NOTES, 500)
    with serving(path) as page:
        tab = window.open(page.url)
        assert counts(tab)[0] == 500 and tab.locator("#list li").count() == 500
        # One pair is laid out at a time, beside a list of plain rows.
        assert tab.locator("main *").count() < 500 * 3 + 200
        press(tab, *"aadnanaud")
        assert counts(tab) == [495, 3, 2]
        press(tab, *"uuuuu")
        assert page.path.read_bytes() == NOTES.read_bytes() and counts(tab) == [500, 0, 0]
