"""Read a recipe's YAML: `read_yaml(Path("recipes/notes.yaml"))` maps each setting to its value and its line."""

from __future__ import annotations

from pathlib import Path

import yaml

from dlm_trl.notes.errors import ConfigError
from dlm_trl.notes.key_lines import key_lines
from dlm_trl.train.setting import Setting


class _Loader(yaml.SafeLoader):
    """YAML without dates: no setting is one, and `2024-13-45` would be an error without a line."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Setting]:
    """The file's top-level keys in order, with values as YAML reads them.

    Raises DlmError (ConfigError) for a file that can't be read, isn't a YAML mapping, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.load(text, _Loader)
        lines, repeated = key_lines(text)
    except OSError as error:
        raise ConfigError(f"Can't read it: {error.strerror}.", path=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("Not UTF-8.", path=path) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise ConfigError(
            f"Not YAML: {error.problem or error.context}.", path=path, line=line, column=column
        ) from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # PyYAML raises anything for a value that its tag doesn't fit, such as `!!int x`.
        raise ConfigError(f"Not YAML: {' '.join(str(error).split())}.", path=path) from error
    except RecursionError:
        raise ConfigError("The YAML is nested too deeply.", path=path) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError("It must be a mapping of settings to values.", path=path)
    if repeated:
        key, line = repeated[0]
        name = ".".join(map(str, key))
        raise ConfigError(f"{name} is set twice.", hint="Keep one of the two.", path=path, line=line)
    return {str(key): Setting(value, f"{path}:{lines.get((str(key),), 1)}") for key, value in content.items()}
