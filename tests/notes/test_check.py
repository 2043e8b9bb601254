"""`check` finds everything the parser rejects or misreads at once, and nothing in good files."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, parse
from dlm_trl.notes.check import check
from dlm_trl.notes.findings import Finding

HEAD = "---\ndlm_id: 01JTRX0000000000000000000A\ndlm_version: 15\nbase_model: tiny\n---\n"
PAIR = "::instruction::\n### Q\nWhat is dew?\n### A\nWater.\n"
BODY = HEAD.count("\n") + 1  # the file line where a body behind HEAD begins
ERRORS = {
    *("DlmEncodingError", "FrontmatterError", "SchemaValidationError", "DlmVersionError", "UnsupportedMigrationError"),
    *("FenceError", "InstructionParseError", "PreferenceParseError"),
}


def findings(folder: Path, text: str | bytes) -> list[Finding]:
    path = folder / "notes.dlm"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return check(path)


def found(folder: Path, text: str | bytes) -> list[tuple[int, str]]:
    """Line and rule of each finding."""
    return [(finding.line, finding.rule) for finding in findings(folder, text)]


def test_a_finding_says_where_what_why_and_what_to_do(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, f"{HEAD}\nProse.\n  ::instruction::\n")
    assert (finding.path, finding.line, finding.column) == (tmp_path / "notes.dlm", BODY + 2, 3)
    assert finding.rule == "near-fence"
    assert "indented" in finding.message
    assert "text" in finding.why
    assert "`::instruction::`" in finding.fix


@pytest.mark.parametrize(
    ("line", "difference"),
    [
        ("::instruction:: ", "trailing white space"),
        ("::instruction::\t", "trailing white space"),
        (" ::prose::", "indented"),
        ("    ::preference::", "indented"),
        ("::instruction::\u200b", "invisible"),
        ("\ufeff::prose::", "invisible"),
        ("\\::instruction::", "backslash"),
        (":: Instruction ::", "spelled differently"),
        ("::instruction", "colons or spaces"),
        (":instruction::", "colons or spaces"),
        (":::prose:::", "colons or spaces"),
        ("::instruction #poet::", "colons or spaces"),
        ("：：instruction：：", "colons or spaces"),
        (":: instuction ::", "spelled differently"),
        ("::image path=a.png::", "attributes"),
        ("::image path='a.png'::", "attributes"),
        (r'::image path="a\"b.png"::', "attributes"),
        ("::image path=“a.png”::", "attributes"),
        ('::image path="a.png" ', "trailing white space"),
        ('::image#x path="a.png"::', "attributes"),
        ('::Image path="a.png"::', "spelled differently"),
    ],
)
def test_near_miss_fences(line: str, difference: str, tmp_path: Path) -> None:
    (finding,) = [f for f in findings(tmp_path, f"{HEAD}Prose.\n{line}\n") if f.rule == "near-fence"]
    assert finding.line == BODY + 1
    assert difference in finding.message


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("::Instruction::", "`::instruction::`"),
        ("::instuction::", "`::instruction::`"),
        ("::std::", "Kinds are"),
        ("::image::", "path"),
        ("::instruction#Poet::", "lower-case"),
        ('::image alt="x"::', "path"),
        ("::---::", "Kinds are"),
    ],
)
def test_bad_fences_do_not_hide_later_problems(line: str, hint: str, tmp_path: Path) -> None:
    first, last = findings(tmp_path, f"{HEAD}{line}\n### Q\n{PAIR}### Q\nOpen end.\n")
    assert (first.line, first.rule) == (BODY, "FenceError")
    assert hint in first.fix
    assert (last.line, last.rule) == (BODY + 7, "InstructionParseError")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # Fences that are in code for Markdown only …
        ("~~~\n::prose::\n~~~\n", [(1, "fence-in-code")]),
        ("- list:\n  ```\n::prose::\n  ```\n", [(2, "fence-in-code")]),
        ("````\n```\n::prose::\n```\n````\n", [(2, "fence-in-code")]),
        ("~~~\n::bogus::\n~~~\n", [(1, "FenceError")]),
        # … and for the parser only.
        ("```\ncode\n  ```\n::prose::\ntext\n```\n", [(3, "hidden-fence")]),
        ("```one``` word\n::prose::\n```two``` words\n", [(1, "hidden-fence")]),
        ("~~~\n```\n~~~\n::prose::\n~~~\n```\n~~~\n", [(3, "hidden-fence")]),
        # Examples in a block for both are fine.
        ("```\n::prose::\n ::prose::\n::bogus::\n::Instruction::\n```\n", []),
        ("~~~\n ::prose::\n~~~\n  ```\n  ::instruction:: \n  ```\n", []),
        ("Gone ~~~ and\n~~~\n::prose::\nNo block without an end.\n", []),
    ],
)
def test_code_that_hides_or_shows_fences(body: str, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    assert found(tmp_path, HEAD + body) == [(BODY + line, rule) for line, rule in expected]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (f"```py\nnever closed\n{PAIR}```py\nclosed\n```\n", 0),
        (f"```py\nclosed\n```\n{PAIR}```py\nnever closed\n", 8),
        (f"```inline``` words\n{PAIR}", 0),
        (f"````md\n```\ninner\n````\n{PAIR}", 1),
    ],
)
def test_an_open_code_block_is_reported_and_hides_nothing(body: str, line: int, tmp_path: Path) -> None:
    assert found(tmp_path, f"{HEAD}{body}::instruction::\nx\n") == [
        (BODY + line, "FenceError"),
        (BODY + body.count("\n") + 1, "InstructionParseError"),
    ]


def test_headers_in_code_end_the_text(tmp_path: Path) -> None:
    text = f"{HEAD}{PAIR}```md\n### Q\nAn example.\n### A\nOf a pair.\n```\n"
    assert found(tmp_path, text) == [(BODY + 6, "header-in-code"), (BODY + 8, "header-in-code")]
    assert found(tmp_path, text.replace("```md", "~~~").replace("```", "~~~")) == found(tmp_path, text)


def test_every_broken_pair_is_reported(tmp_path: Path) -> None:
    body = (
        "::instruction::\nstray\n### Q\n\n### A\na\n### A\nb\n### Q\nq\n### A\n \n"
        "::instruction::\n\n::instruction::\n### Q\nlast\n"
        "::preference::\n### Prompt\np\n### Rejected\nr\n### Chosen\nc\n"
    )
    lines = [1, 2, 6, 10, 12, 15, 20, 22, 22]
    rules = ["InstructionParseError"] * 6 + ["PreferenceParseError"] * 3
    assert found(tmp_path, HEAD + body) == [(BODY + n, rule) for n, rule in zip(lines, rules, strict=True)]


@pytest.mark.parametrize(
    "header",
    ["###Q", "## Q", "### q", "### Q:", "### Question", "### A: yes", "#### Answer", "### Q !Probe", "### Q why?"],
)
def test_near_miss_headers(header: str, tmp_path: Path) -> None:
    assert found(tmp_path, f"{HEAD}{PAIR}{header}\nmore\n") == [(BODY + 5, "near-header")]


def test_pairs_that_repeat_also_across_sections(tmp_path: Path) -> None:
    again = PAIR.replace("What is dew", "what  is dew")
    other = PAIR.replace("::instruction::", "::instruction#poet::")
    head = HEAD.replace("base_model: tiny", "base_model: tiny\ntraining: {adapters: {poet: {}}}")
    assert found(tmp_path, f"{head}{PAIR}Text.\n{other}::prose::\nx\n{again}{PAIR.replace('Water', 'Wet')}") == []
    assert found(tmp_path, f"{HEAD}{PAIR}::prose::\nx\n{again}") == [(BODY + 8, "repeated-pair")]
    section = PAIR + PAIR.removeprefix("::instruction::\n")
    assert found(tmp_path, HEAD + section) == [(BODY + 5, "repeated-pair")]


def test_preferences_with_equal_sides(tmp_path: Path) -> None:
    triple = "### Prompt\np\n### Chosen\nsame  thing\n### Rejected\nsame thing\n"
    assert found(tmp_path, f"{HEAD}::preference::\n{triple}") == [(BODY + 5, "equal-sides")]
    assert found(tmp_path, f"{HEAD}::preference::\n{triple.replace('same thing', 'other')}") == []


@pytest.mark.parametrize(
    ("training", "name", "hint"),
    [
        ("adapters: {poet: {}, judge: {}}", "poem", "`#poet`"),
        ("adapters: {poet: {}, judge: {}}", "zzz", "Declare it"),
        ("seed: 1", "poet", "training.adapters"),
    ],
)
def test_undeclared_adapters(training: str, name: str, hint: str, tmp_path: Path) -> None:
    head = HEAD.replace("base_model: tiny", f"base_model: tiny\ntraining: {{{training}}}")
    (finding,) = findings(tmp_path, head + PAIR.replace("::instruction::", f"::instruction#{name}::"))
    assert (finding.line, finding.rule) == (BODY + 1, "undeclared-adapter")
    assert hint in finding.fix


def synthesised(source: str) -> str:
    keys = 'synth_teacher="self" synth_strategy="extraction" synth_at="2026-04-24T10:18:42Z"'
    return PAIR.replace("\n", f'\n<!-- dlm-auto-synth: {keys} source_section_id="{source}" -->\n', 1)


@pytest.mark.parametrize("blank", ["", "\n", "\n\n"])
@pytest.mark.parametrize("source", ["421905de9ab75735", "7587f60368f4c6e7"])
def test_a_source_is_found_whatever_blank_lines_follow_it(blank: str, source: str, tmp_path: Path) -> None:
    # The two ids are those of `Prose one.` without and with a blank line after it.
    assert found(tmp_path, f"{HEAD}Prose one.\n{blank}{synthesised(source)}") == []


def test_a_source_that_is_gone(tmp_path: Path) -> None:
    assert found(tmp_path, f"{HEAD}Prose two.\n{synthesised('421905de9ab75735')}") == [(BODY + 1, "dangling-source")]


@pytest.mark.parametrize("where", ["Prose.\n{}", PAIR + "::prose::\n{}", "::instruction::\n{}"])
def test_markers_that_stay_text(where: str, tmp_path: Path) -> None:
    marker = '<!-- dlm-auto-harvest: source="x" --> '
    text = HEAD + where.format(marker + "\n")
    assert (text.count("\n"), "marker-is-text") in found(tmp_path, text)


@pytest.mark.parametrize("character", "\u2028\u2029\x85\v\f\x1c\u200b\u2060\u00ad\u202e\x00\x1b")
@pytest.mark.parametrize(
    "where", [f"{HEAD}Pro{{}}se.\n", f"{HEAD}```\nco{{}}de\n```\n", HEAD.replace("tiny", "'t{}y'")]
)
def test_invisible_characters(character: str, where: str, tmp_path: Path) -> None:
    text = where.format(character)
    lines = [f.line for f in findings(tmp_path, text) if f.rule == "invisible-character"]
    assert lines == [text[: text.index(character)].count("\n") + 1]


def test_joiners_are_allowed_where_a_script_needs_them(tmp_path: Path) -> None:
    assert found(tmp_path, f"{HEAD}می‌خواهم and 👩‍🔬.\n") == []
    assert found(tmp_path, f"{HEAD}wo\u200drd\n") == [(BODY, "invisible-character")]


def test_lone_carriage_returns(tmp_path: Path) -> None:
    assert found(tmp_path, f"{HEAD}one\rtwo\n") == [(BODY, "lone-return")]
    assert found(tmp_path, f"{HEAD}one\ntwo\n".replace("\n", "\r")) == []
    assert found(tmp_path, f"{HEAD}one\ntwo\n".replace("\n", "\r\n")) == []


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("base_modle: x", "`base_model`"),
        ("lora_r: 8", "`training.lora_r`"),
        ("training: {lora_rank: 8}", "`lora_r`"),
        ("training: {preference: {hyperparams: {betta: 0.1}}}", "`beta`"),
        ("training: {adapters: {poet: {lora_alfa: 8}}}", "`lora_alpha`"),
        ("training: {sources: [{path: ., includes: []}]}", "`include`"),
        ("temprature: 1", "`export.default_temperature`"),
        ("zzz: 1", "Known here"),
    ],
)
def test_unknown_keys_get_a_suggestion(key: str, hint: str, tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, HEAD.replace("base_model: tiny", f"base_model: tiny\n{key}"))
    assert (finding.line, finding.rule) == (5, "SchemaValidationError")
    assert hint in finding.fix


def test_all_problems_of_head_and_body_have_their_lines(tmp_path: Path) -> None:
    head = (
        "---\ndlm_id: short\ndlm_version: 15\ntraining:\n  lora_r: 0\n  lora_r: 999\n  micro_batch_size: x\n  seed: 1\n"
        "  sources:\n    - path: .\n      max_files: none\n---\n"
    )
    assert found(tmp_path, f"{head}::bad::\n::instruction::\n### Q\n") == [
        (2, "SchemaValidationError"),  # base_model is missing
        (2, "SchemaValidationError"),
        (6, "SchemaValidationError"),
        (6, "repeated-key"),
        (7, "SchemaValidationError"),
        (11, "SchemaValidationError"),
        (13, "FenceError"),
        (15, "InstructionParseError"),
        (15, "InstructionParseError"),
    ]


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        ("", [1]),
        (f"\n{HEAD}", [2]),
        (HEAD.replace("---\n", "--- \n", 1), [1]),
        (HEAD.replace("tiny\n---", "tiny\n--- "), [5]),
        (HEAD.replace("tiny\n---", "tiny\n..."), [5]),
        (HEAD.replace("tiny\n---", "tiny\n"), [1]),
        (HEAD.replace("tiny", "[tiny"), [4]),
        ("---\n---\n", [2, 2]),
    ],
)
def test_a_broken_frontmatter_does_not_hide_problems_of_the_body(head: str, lines: list[int], tmp_path: Path) -> None:
    text = f"{head}::instruction::\n### Q\nq\n"
    shown = findings(tmp_path, text)
    assert [f.line for f in shown if f.rule in ("FrontmatterError", "SchemaValidationError")] == lines
    assert [f.line for f in shown if f.rule == "InstructionParseError"] == [text.count("\n") - 1]


def test_a_delimiter_inside_a_yaml_text(tmp_path: Path) -> None:
    head = HEAD.replace("base_model: tiny\n", "base_model: tiny\nsystem_prompt: |\n  one\n---\n  two\n")
    assert found(tmp_path, f"{head}\nProse.\n") == [(7, "early-end")]
    assert found(tmp_path, f"{HEAD}\nA heading\n---\n  indented\n---\n") == []


def test_a_surrogate_in_the_system_prompt(tmp_path: Path) -> None:
    head = HEAD.replace("base_model: tiny\n", 'base_model: tiny\nsystem_prompt: "Hi \\ud83d\\ude00"\n')
    assert found(tmp_path, f"{head}\nProse.\n") == [(5, "SchemaValidationError")]


def test_every_line_that_is_not_utf8(tmp_path: Path) -> None:
    text = HEAD.encode() + b"ab\xff\n::bad::\n\xc0\x80\n"
    assert found(tmp_path, text) == [
        (BODY, "DlmEncodingError"),
        (BODY + 1, "FenceError"),
        (BODY + 2, "DlmEncodingError"),
    ]
    assert found(tmp_path, "---\n".encode("utf-16")) == [(1, "DlmEncodingError")]


def test_missing_sources(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    training = (
        "training:\n  sources_policy: strict\n  sources:\n    - path: here\n    - path: nowhere\n    - path: ..\n"
    )
    head = HEAD.replace("---\n", "", 1).replace("---\n", f"{training}---\n")
    assert found(tmp_path, f"---\n{head}") == [(9, "SourceError"), (10, "SourceError")]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DlmError) as caught:
        check(tmp_path / "nothing.dlm")
    assert caught.value.kind == "DlmReadError"


CLEAN_PROSE = st.sampled_from(
    [
        "Plain prose with `::instruction::` in a line, std::vector, and a --- dash.",
        "# Heading\n\n- a list\n  - nested\n\n1. one\n\n> ::quoted::\n\n---\n\n***",
        "### Q and A about dew\n\nText.",
        "```python\n# ### Q\nprint('::prose::')\n::prose::\n ::bad::\n```",
        "- item\n\n  ```sh\n  ls\n  ```\n\n~~~\nblock\n~~~\n\n~~struck~~ out.",
        "| a | b |\n|---|---|\n| :image: | ::1 |\n",
        "Term\n: definition\n\n::1 is localhost; ::ffff:10.0.0.1 is not.\n",
        "Ελληνικά, 日本語, עברית, ไทย, e\u0301, 👨‍👩‍👧 and a\u00a0no-break space.",
        "    indented code\n\ttab\n",
        "<!-- a comment -->\n\n<b>html</b>\n",
        "training: is a word, export: too\n\n---\nMore.",
        "x\n\n\n\ny   \n",
    ]
)
CLEAN_ANSWER = st.sampled_from(
    [
        "Water.",
        "First.\n\n### Approach\n\nSteps:\n\n1. `A`\n2. Q\n\n#### Q factor\n\nAn A/B test.",
        "```python\ndef f():\n    return 1\n```",
        "### A note\n\nText\n\n# Answers\n\n## Questions and answers",
        "A: yes\nQ: no",
    ]
)


@st.composite
def clean_documents(draw: st.DrawFn) -> str:
    """Valid files of many shapes."""
    adapters = draw(st.sampled_from(["", "#poet"]))
    head = HEAD
    if adapters:
        head = head.replace(
            "base_model: tiny", "base_model: 'hf:a/b'  # base\ntraining:\n  adapters:\n    poet: {lora_r: 4}"
        )
    parts = [draw(st.sampled_from(["", "\n", f"\n{draw(CLEAN_PROSE)}\n"]))]
    for i in range(draw(st.integers(0, 4))):
        fence = draw(
            st.sampled_from(["::prose::", "::instruction::", "::preference::", '::image path="a b.png" alt="x"::'])
        )
        if fence == "::prose::":
            body = draw(CLEAN_PROSE)
        elif fence == "::instruction::":
            body = f"\n### Q\nQuestion {i}?\n### A \n\n{draw(CLEAN_ANSWER)}\n\n### Q !probe\nSecond {i}?\n### A\nYes."
        elif fence == "::preference::":
            body = f"### Prompt\n{i}?\n### Chosen\n{draw(CLEAN_ANSWER)}\n### Rejected\nNothing of it."
        else:
            body = "A caption."
        name = adapters if fence in ("::instruction::", "::preference::") else ""
        parts.append(f"{fence[:-2]}{name}::\n{body}\n" if name else f"{fence}\n{body}\n")
    text = draw(st.sampled_from(["", "\ufeff"])) + head + "".join(parts)
    text = text.removesuffix("\n") if draw(st.booleans()) else text
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n", "\r"])))


@given(clean_documents())
def test_a_good_file_gives_no_finding(tmp_path: Path, text: str) -> None:
    assert findings(tmp_path, text) == []


LINES = st.one_of(
    st.sampled_from(
        ["", " ", "Dew.", "### Q", "### A ", "### Q !probe", "### Prompt", "### Chosen", "### Rejected", "---"]
    ),
    st.sampled_from(["::prose::", "::instruction::", "::instruction#a::", "::preference::", '::image path="a.png"::']),
    st.sampled_from(
        ["```", "```py", "````", "~~~", "  ```", "```a``` b", "::std::", " ::prose::", "::Prose::", "::audio::"]
    ),
    st.sampled_from(
        ['<!-- dlm-auto-harvest: source="x" -->', "<!-- dlm-auto-synth: x -->", "<!-- dlm-auto-mined: -->"]
    ),
    st.sampled_from(["a\u2028### Q", "### A\x0c", "\ufeff", "training:", "\u200b### Q", "::::", "::"]),
    st.text(max_size=8).filter(lambda text: text.isprintable()),
)
HEADS = st.sampled_from([HEAD, HEAD, HEAD, "", "---\n---\n", "---\n", f"\n{HEAD}", HEAD.replace("tiny", "{a: b")])


@settings(max_examples=300)
@given(HEADS, st.lists(LINES, max_size=14), st.sampled_from(["\n", "\r\n", "\r"]))
@example(HEAD, ["```", "::instruction::", "```", "### Q", "```"], "\n")
def test_check_and_parser_agree_on_what_is_rejected(tmp_path: Path, head: str, lines: list[str], newline: str) -> None:
    text = (head + "\n".join(lines)).replace("\n", newline)
    shown = findings(tmp_path, text)
    assert all(1 <= f.line <= text.count(newline) + 1 and f.message and f.why and f.fix for f in shown)
    refused = None
    try:
        document = parse(text)
        for section in document.sections:
            section.pairs()
            section.triples()
    except DlmError as error:
        refused = error.kind
    rules = {f.rule for f in shown} & ERRORS
    assert (refused in rules) if refused else not rules


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: HEAD.encode() + tail)))
def test_no_bytes_crash_check(tmp_path: Path, raw: bytes) -> None:
    findings(tmp_path, raw)


CODE = st.sampled_from(["x = 1", "x = 1\ny = 2", "x = 1\n\ny = 2"])


@st.composite
def damaged_documents(draw: st.DrawFn) -> tuple[list[str], set[int]]:
    """The lines of a body in which one end of one code block is damaged, and the lines that may be blamed for it."""
    language = draw(st.sampled_from(["", "py"]))
    lines: list[str] = []
    blocks = []
    for i in range(draw(st.integers(1, 5))):
        part = draw(st.sampled_from(["code", "code in an answer", "prose"])) if i else "code"
        if part == "prose":
            lines += ["Some text.", ""]
            continue
        if part == "code in an answer":
            lines += ["::instruction::", "### Q", f"Why {i}?", "### A"]
        block = [f"```{language}", *draw(CODE).split("\n"), "```"]
        blocks.append((len(lines), len(lines) + len(block) - 1))
        lines += [*block, "", *(["::prose::"] if part == "code in an answer" else [])]
    opener, closer = draw(st.sampled_from(blocks))
    at = draw(st.sampled_from([opener, closer]))
    damage = draw(st.sampled_from(["indent", "delete", "duplicate", "shorten"]))
    if damage == "delete":
        del lines[at]
        return lines, {opener if at == closer else closer - 1}
    if damage == "duplicate":
        lines.insert(at, lines[at])
        return lines, {at, at + 1}
    lines[at] = f" {lines[at]}" if damage == "indent" else lines[at].replace("```", "``")
    return lines, {at} if damage == "indent" else {opener, closer}


@settings(max_examples=200)
@given(damaged_documents())
def test_the_damaged_end_of_a_code_block_is_blamed(tmp_path: Path, damaged: tuple[list[str], set[int]]) -> None:
    lines, blamed = damaged
    (line,) = [f.line for f in findings(tmp_path, HEAD + "\n".join(lines)) if f.rule == "FenceError"]
    assert line - BODY in blamed


def test_an_indented_end_of_a_block_is_named_with_the_other_end(tmp_path: Path) -> None:
    text = f"{HEAD}One:\n\n ```powershell\nGet-Pump\n```\n\n```yaml\na: b\n```\n\n```yaml\nc: d\n```\n"
    (finding,) = findings(tmp_path, text)
    assert (finding.line, finding.rule) == (BODY + 2, "FenceError") and f"line {BODY + 4}" in finding.message
    assert "column 0" in finding.fix
    assert found(tmp_path, text.replace(" ```powershell", "```powershell")) == []
    assert found(tmp_path, text.replace(" ```powershell", "```powershell").replace("d\n```", "d\n  ```")) == [
        (BODY + 12, "FenceError")
    ]


def test_a_file_of_backticks_is_checked_in_linear_time(tmp_path: Path) -> None:
    lines = ["`" * (3 + i % 200) + "x" * (i % 2) for i in range(20_001)]
    assert "FenceError" in {rule for _, rule in found(tmp_path, HEAD + "\n".join(lines))}


def hints(folder: Path, body: str) -> list[int]:
    """The lines of the body with a hint of pairs or cards; there may be no other finding."""
    shown = findings(folder, HEAD + body)
    assert all(finding.is_hint and finding.rule == "pair-in-prose" for finding in shown), shown
    return [finding.line - BODY for finding in shown]


@pytest.mark.parametrize(
    "pair",
    [
        "Q: When?\nA: On Monday.",
        "**Q:** When?\n**A:** On Monday.",
        "**Q**: When?\n\n**A**: On Monday.",
        "Question: When?\nAnswer: On Monday.",
        "Q1. When?\nA1. On Monday.",
        "1. Q: When?\n   A: On Monday.",
        "- Q: When? A: On Monday.",
        "Frage 1: Wann?\nAntwort 1: Am Montag.",
        "问：何时？\n答：星期一。",
        "问题: 何时？\n答案: 星期一。",
        "Front: When\nBack: Monday",
        "### Q\nWhen?\n### A\nOn Monday.",
        "## Question 3\nWhen?\n## Answer 3\nOn Monday.",
        "When is it? :: On Monday.",
        "Dew :: water\nRime :: ice",
        "When is it?\n?\nOn Monday.",
        "The roof closes at ==22== degrees. #flashcard",
        "The roof closes at {{c1::22}} degrees.",
    ],
)
def test_pairs_and_flashcards_in_prose_get_a_hint(pair: str, tmp_path: Path) -> None:
    assert hints(tmp_path, f"Text.\n\n{pair}\n\nText.\n") == [2]
    assert hints(tmp_path, f"```\n{pair}\n```\n") == []


@pytest.mark.parametrize(
    "prose",
    [
        "Note: the pump is loud.\nAnswer: it depends.",
        "A: the first\nB: the second",
        "Q: is asked.\n\nNothing else.",
        "Is it so?\nA. no\nB. yes",
        "bleed :: Pump -> IO ()\nstop :: Pump -> IO ()",
        "std :: vector is a container.",
        "Classifier: License :: OSI Approved\nClassifier: Topic :: Text\nTopic :: Text :: Markup\nA :: B :: C",
        "tags:: pump\nid:: 3",
        "Why?\n\n?\n\nQ&A: see below. FAQ: A to Z.",
        "Quality: good\nAmount: 3",
        "It is 10:30. Answer by 12:00. The #flashcards2 tag.",
        "Frage nicht: antworte.",
        "| a :: b | c |\n| d :: e | f |",
    ],
)
def test_colons_in_prose_give_no_hint(prose: str, tmp_path: Path) -> None:
    assert hints(tmp_path, f"{prose}\n") == []


def test_labels_in_an_instruction_section_get_the_right_words(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, f"{HEAD}::instruction::\nQ: When?\nA: On Monday.\n")
    assert finding.rule == "InstructionParseError" and "`### Q` alone" in finding.fix


@pytest.mark.parametrize(
    "block",
    [
        ":::note\nText.\n:::",
        "::: details The pump\nText.\n:::",
        "::: {.prose}\nText.\n:::",
        ":::{image} a.png\n:::",
        "::: prose\nText.\n:::",
        "::::: instruction\n::: note\nText.\n:::\n:::::",
        '::card{title="Pump"}\nText.\n::',
        '::image{src="a.png"}\nText.\n::',
        "!!! note\n    Text.",
        "> [!NOTE]\n> Text.",
        ':::row:::\n:::column span="2":::\nText.\n:::column-end:::\n:::row-end:::',
        "tags:: pump, water\n\nstd::vector, ::1 and ::ffff:1.",
    ],
)
def test_containers_of_other_dialects_are_prose(block: str, tmp_path: Path) -> None:
    assert found(tmp_path, f"{HEAD}Text.\n\n{block}\n\nText.\n") == []


def test_a_directive_of_microsoft_learn_is_named(tmp_path: Path) -> None:
    text = ':::image type="content" source="media/pump.png" alt-text="The west pump.":::'
    (finding,) = findings(tmp_path, f"{HEAD}{text}\n\n::: note\nText.\n:::\n")
    assert (finding.line, finding.rule, finding.is_hint) == (BODY, "other-dialect", True)
    assert "Microsoft Learn" in finding.message and "::image path" not in finding.fix
    assert found(tmp_path, f'{HEAD}:::image path="a.png":::\n') == [(BODY, "near-fence")]


@pytest.mark.parametrize("piece", ["Q ", "Q: A:", " :: ", "1. ", "{{c1", "::: ", "问", "#card", "::image ", "*"])
def test_long_lines_are_checked_in_linear_time(piece: str, tmp_path: Path) -> None:
    findings(tmp_path, HEAD + piece * 100_000 + f"\n{piece}" * 5_000)
