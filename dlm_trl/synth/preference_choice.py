"""Which of two answers is better, by a judge that reads the prose: `choose(question, candidates, scores, …)`."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from dlm_trl.asking.words import words
from dlm_trl.synth import answers
from dlm_trl.synth.guard import Refusal
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.preference_questions import Question
from dlm_trl.synth.preference_staging import safe_preference
from dlm_trl.synth.report import Stage
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.verdict import limits, verdict
from dlm_trl.teachers.protocol import Reply, Request

_WHOLE = re.compile(r".*[.!?。！？](?=\s|$)", re.DOTALL)


class Answered(NamedTuple):
    """A question with both requests, and the replies to them."""

    question: Question
    requests: tuple[Request, Request]
    replies: tuple[Reply, Reply]


class Made(NamedTuple):
    """A preference: the question's text, the chosen and the rejected one; the judge's margins; the requests' keys."""

    question: Question
    texts: tuple[str, str, str]
    scores: tuple[float, float]
    keys: tuple[str, str]


class Lost(NamedTuple):
    """Why two answers give no preference, and the stage in which they are lost."""

    stage: Stage
    reason: str


def choose(
    question: Question,
    candidates: tuple[Candidate, Candidate],
    scores: tuple[Scores, Scores],
    settings: SynthSettings,
    min_gap: float,
) -> Made | Lost:
    """The preference between two judged answers, or why there is none."""
    order = (0, 1) if scores[0].margin >= scores[1].margin else (1, 0)
    (better, good), (worse, bad) = ((candidates[i], scores[i]) for i in order)
    least = limits(better, settings.threshold, settings.min_grounding)
    if failed := verdict(good, least):
        stage: Stage = "ending" if failed == "ending" else "judge" if failed == "margin" else "grounding"
        return Lost(stage, f"neither answer is right by the prose: {failed} {getattr(good, failed):.2f}")
    if wrong := answers.problem(better.pair, better.prose, "extraction"):
        return Lost("answer", wrong)
    if not math.isfinite(bad.margin):
        return Lost("judge", "the prose doesn't fit the judge's context with both answers")
    if good.margin - bad.margin < min_gap:
        return Lost("threshold", f"the answers are too close: {good.margin - bad.margin:.2f}")
    texts = safe_preference(question.text, better.pair.answer, worse.pair.answer)
    if isinstance(texts, Refusal):
        return Lost("guard", texts.reason)
    return Made(question, texts, (good.margin, bad.margin), (better.request_key, worse.request_key))


def unusable(one: Answered) -> Lost | None:
    """What is wrong with two replies before they are judged."""
    texts = _texts(one)
    if not all(texts):
        return Lost("answer", "an answer is empty, or cut off in its first sentence")
    return Lost("duplicate", "both answers are the same") if words(texts[0]) == words(texts[1]) else None


def _texts(one: Answered) -> list[str]:
    """Both answers; one that reached its limit on tokens, as far as its sentences are whole."""
    found = []
    for request, reply in zip(one.requests, one.replies, strict=True):
        text = reply.text.strip()
        if reply.is_truncated or reply.usage.completion_tokens >= request.max_new_tokens:
            whole = _WHOLE.match(text)
            text = whole[0] if whole else ""
        found.append(text)
    return found


def candidates_of(one: Answered, teacher: str) -> tuple[Candidate, Candidate]:
    """The answers as pairs for the judge."""
    question = one.question
    first, second = (
        Candidate(
            QAPair(question.text, text),
            question.section_id,
            "extraction",
            question.prose,
            request.key,
            0,
            teacher,
        )
        for request, text in zip(one.requests, _texts(one), strict=True)
    )
    return first, second
