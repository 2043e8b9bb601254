"""The page's server: who may ask it, what it answers, and what it refuses."""

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from dlm_trl.notes import read
from dlm_trl.review.serve import listen
from dlm_trl.synth.staging import applied, staged
from tests.review.pages import LIMITS, PAIRS, TEXT, TOKEN, YEAST, Page, document

ROUTES = [("GET", path) for path in ("", "page.css", "text.js", "coverage.js", "page.js", "state")]
DECISIONS = ["accept", "drop", "undo"]


def ask(page: Page, method: str, path: str, body: object = None, host: str | None = None) -> tuple[int, Any, Any]:
    """Status, body and headers; a path that starts with a / is used as it is."""
    url = urlsplit(page.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    target = path if path.startswith("/") else f"{url.path}{path}"
    connection.request(method, target, raw if body is not None else None, {"Host": host} if host else {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(text) if is_json else text, response.headers


def decide(page: Page, what: str, **more: object) -> tuple[int, Any]:
    return ask(page, "POST", what, {"version": page.review.version, **more})[:2]


def test_every_route_needs_the_token(page: Page) -> None:
    for method, path in [*ROUTES, *(("POST", path) for path in DECISIONS)]:
        assert ask(page, method, path, {"version": 1, "id": "x"} if method == "POST" else None)[0] in (200, 409), path
        for token in ("", "another", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "%ff"):
            status, text, headers = ask(page, method, f"/{token}/{path}")
            assert (status, "each start has its own" in text) == (403, True), (token, path)
            assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert staged(read(page.path)) and page.text == TEXT


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80", "localhost.evil:1"])
def test_other_host_names_are_refused(page: Page, host: str) -> None:
    for method, path in ROUTES:
        assert ask(page, method, path, host=host)[0] == 403
    assert ask(page, "GET", "state", host="localhost:99")[0] == 200  # a port that was forwarded


def test_nothing_is_loaded_from_elsewhere_or_kept(page: Page) -> None:
    for method, path in ROUTES:
        _, text, headers = ask(page, method, path)
        policy = headers["Content-Security-Policy"]
        assert "http" not in policy and "unsafe" not in policy and "*" not in policy
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        if path != "state":
            assert "http:" not in text and "https:" not in text
            assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "document.write" not in text


def test_the_server_listens_on_this_machine_only() -> None:
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(Exception, match=r"can't be used.*Choose another --port"):
            listen(listening.getsockname()[1])
        assert listening.family == socket.AF_INET


def test_the_state_has_each_pair_beside_its_prose(page: Page) -> None:
    _, state, _ = ask(page, "GET", "state")
    assert [(pair["question"], pair["state"]) for pair in state["pairs"]] == [
        (PAIRS[0][0], "staged"), (PAIRS[1][0], "staged"), ("Who bakes?", "rejected"), (PAIRS[2][0], "staged"),
    ]  # fmt: skip
    first, second, lost, third = state["pairs"]
    for section in state["sections"]:
        assert "".join(part["text"] for part in section["parts"]) in TEXT
    sentences = {p["sentence"]: p for s in state["sections"] for p in s["parts"] if "sentence" in p}
    assert sentences[second["marks"][0]] == {"text": YEAST, "sentence": second["marks"][0], "line": 9}
    assert sentences[third["marks"][0]]["text"] == "Salt slows the yeast\n> down."
    assert (first["section"], third["section"], lost["marks"]) == (0, 1, [])
    assert [sentences[number]["text"] for number in state["own"]] == ["The bacteria make acids."]
    assert [score["verdict"] for score in first["scores"]][:2] == ["≥ 0.10: passed", "≥ 0.70: passed"]
    assert lost["scores"][1] == {"name": "grounding", "shown": "0.31", "verdict": "≥ 0.70: not passed", "value": 0.31}
    assert (lost["stage"], lost["reason"]) == ("grounding", "grounding below 0.70: 0.31")
    assert set(state["scores"]) >= set(LIMITS) and first["checks"] and not lost["checks"]


def test_decisions_answer_with_the_pair_as_it_is_now(page: Page) -> None:
    first, second, third = (item.section_id for item in staged(read(page.path)))
    status, done = decide(page, "accept", id=first)
    assert (status, done["was"], done["pair"]["state"], done["undo"]) == (200, first, "applied", PAIRS[0][0])
    _, edited = decide(page, "accept", id=second, question="What lifts a dough?", answer="Gas.")
    assert edited["was"] == second != edited["pair"]["id"]
    assert edited["pair"]["editedFrom"] == list(PAIRS[1][:2]) and edited["pair"]["question"] == "What lifts a dough?"
    _, dropped = decide(page, "drop", id=third)
    assert (dropped["pair"]["state"], dropped["pair"]["dropped"]) == ("rejected", True)
    assert [item.pair.question for item in applied(read(page.path))] == [PAIRS[0][0], "What lifts a dough?"]
    states = {pair["question"]: pair["state"] for pair in ask(page, "GET", "state")[1]["pairs"]}
    assert states[PAIRS[2][0]] == "rejected" and list(states.values()).count("applied") == 2
    assert [decide(page, "undo")[1]["pair"]["id"] for _ in range(3)] == [third, second, first]
    assert page.text == TEXT and [item.section_id for item in staged(read(page.path))] == [first, second, third]
    status, refused = decide(page, "undo")
    assert (status, "nothing to undo" in refused["error"]) == (409, True)


def test_a_changed_document_is_refused_until_the_page_is_loaded_again(page: Page) -> None:
    first = staged(read(page.path))[0].section_id
    page.path.write_text(TEXT.replace("Bakers", "All bakers"))
    for what in DECISIONS:
        status, refused = ask(page, "POST", what, {"version": 1, "id": first})[:2]
        assert (status, "changed outside" in refused["error"], "Reload" in refused["error"]) == (409, True, True)
    assert ask(page, "GET", "state")[1]["version"] == 2
    assert ask(page, "POST", "accept", {"version": 1, "id": first})[0] == 409
    assert ask(page, "POST", "accept", {"version": 2, "id": first})[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b"{}", b'{"version": "x"}', b'{"version": 1, "id": 3}', b'{"version": 1, "x": 1}']
)
def test_a_request_that_cannot_be_read_changes_nothing(page: Page, body: bytes) -> None:
    for what in DECISIONS:
        status, refused, _ = ask(page, "POST", what, body)
        assert (status, "can't be read" in refused["error"]) == (400, True)
    assert page.text == TEXT and len(staged(read(page.path))) == 3


def test_other_paths_and_methods_do_not_exist(page: Page) -> None:
    assert ask(page, "GET", "nothing")[0] == 404
    assert ask(page, "GET", "../state")[0] == 404
    assert ask(page, "GET", "accept")[0] == 405
    assert ask(page, "POST", "state", {})[0] == 405


def test_a_document_that_became_unreadable_is_one_clear_error(page: Page) -> None:
    page.path.write_text("no frontmatter")
    status, refused, _ = ask(page, "GET", "state")
    assert status == 409 and str(page.path) in refused["error"]
    document(page.path)
    assert ask(page, "GET", "state")[0] == 200


def test_a_sentence_is_found_in_prose_that_was_edited_around_it(page: Page) -> None:
    page.path.write_text(TEXT.replace("The bacteria make acids.", "Bacteria make acids."))
    first, second, third, _ = ask(page, "GET", "state")[1]["pairs"]  # still in the order of their sentences
    assert [pair["isEdited"] for pair in (first, second, third)] == [True, True, False]
    assert (second["section"], second["line"], len(second["marks"])) == (0, 9, 1)
    page.path.write_text(TEXT.replace(YEAST, "Gas lifts it."))
    pairs = {pair["question"]: pair for pair in ask(page, "GET", "state")[1]["pairs"]}
    assert (pairs[PAIRS[0][0]]["section"], pairs[PAIRS[1][0]]["section"]) == (0, None)
