"""Where the keys of a YAML text are: `lines, repeated = key_lines(text, first_line=2)`."""

from __future__ import annotations

import yaml

Key = tuple[str | int, ...]  # the path of a key, or of a list's item


def key_lines(text: str, first_line: int = 1) -> tuple[dict[Key, int], list[tuple[Key, int]]]:
    """The file line of every key and list item, and the repeated keys with the line of the repetition.

    first_line: of the text in its file. Raises yaml.YAMLError.
    """
    lines: dict[Key, int] = {}
    repeated: list[tuple[Key, int]] = []
    seen: set[int] = set()
    pending: list[tuple[Key, yaml.Node | None]] = [((), yaml.compose(text, yaml.SafeLoader))]
    while pending:
        key, node = pending.pop()
        if id(node) in seen:  # an alias, possibly to one of its parents
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                inner = (*key, str(name.value))
                line = name.start_mark.line + first_line
                if inner in lines and name.tag != "tag:yaml.org,2002:merge":
                    repeated.append((inner, line))
                lines[inner] = line
                pending.append((inner, value))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                lines[*key, i] = value.start_mark.line + first_line
                pending.append(((*key, i), value))
    return lines, repeated
