"""Installed packages: those that dlm-trl needs, those of its extras, and whether they can be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dlm_trl.doctor.finding import Finding
from dlm_trl.notes.extras import PACKAGE_FOLDER, install_command
from dlm_trl.notes.shipped import shipped

EXTRAS = {
    "bnb": "QLoRA and loading in 4 or 8 bit",
    "deepspeed": "ZeRO: training that is sharded over processes",
    "quant": "quantizing to 4 bits with AWQ",
    "openai": "OpenAI and vLLM servers as teachers, and serve-check",
    "anthropic": "Anthropic's models as teachers",
    "guidance": "local teachers that keep to a JSON schema",
    "review": "the review page",
    "tracking": "TensorBoard and trackio",
}
# Some packages are installed but can't be imported: a GPU build without its driver, a missing compiler.
IMPORTED = {"torch": "torch", "trl": "trl", "bitsandbytes": "bitsandbytes", "deepspeed": "deepspeed", "autoawq": "awq"}
IMPORT_SECONDS = 120


def check_packages() -> list[Finding]:
    """One finding for what is needed, one for each extra, one for each package that can't be imported."""
    needed, extras = requirements()
    known = known_versions()
    found = [_needed(needed, known)]
    found += [_extra(extra, extras[extra], known) for extra in EXTRAS if extra in extras]
    installed = [name for name in IMPORTED if installed_version(name)]
    with ThreadPoolExecutor(2) as pool:
        errors = dict(zip(installed, pool.map(import_error, [IMPORTED[name] for name in installed]), strict=True))
    return found + [
        Finding(
            f"import {IMPORTED[name]}",
            "problem" if name in ("torch", "trl") else "warning",
            error,
            f"Reinstall {name} as {_known_name()} has it.",
        )
        for name, error in errors.items()
        if error
    ]


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What dlm-trl needs on this Python, and what each of its extras needs."""
    needed: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, requires("dlm-trl") or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.append(requirement)
            continue
        for extra in EXTRAS:
            if requirement.marker.evaluate({"extra": extra}):
                extras.setdefault(extra, []).append(requirement)
    return needed, extras


def known_versions() -> dict[str, str]:
    """The versions that are known to work together, by normalized name."""
    pins = (line.split("==") for line in shipped("constraints.txt").read_text().splitlines() if "==" in line)
    return {canonicalize_name(name.lstrip("# ")): pinned.strip() for name, pinned, *_ in pins if " " not in name}


def import_error(module: str) -> str:
    """The last line of what importing it in a process of its own prints on failure; "" if it can be imported."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"not imported after {IMPORT_SECONDS} s"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return "" if done.returncode == 0 else lines[-1]


def _needed(needed: list[Requirement], known: dict[str, str]) -> Finding:
    if wrong := [*_unmet(needed)]:
        return Finding("packages", "problem", "; ".join(wrong), _install())
    if other := _other_versions(needed, known):
        remedy = f"If something fails, install the known ones: {_install()}"
        return Finding("packages", "warning", f"untested versions: {', '.join(other)}", remedy)
    return Finding("packages", "ok", f"{len(needed)} packages in the versions that are known to work together")


def _extra(extra: str, wanted: list[Requirement], known: dict[str, str]) -> Finding:
    about, purpose = f"extra {extra}", EXTRAS[extra]
    if wrong := [*_unmet(wanted)]:
        return Finding(about, "missing", f"no {purpose}: {'; '.join(wrong)}", install_command(extra))
    if other := _other_versions(wanted, known):
        return Finding(about, "warning", f"{purpose}; untested versions: {', '.join(other)}", install_command(extra))
    names = ", ".join(f"{item.name} {installed_version(item.name)}" for item in wanted)
    return Finding(about, "ok", f"{purpose}: {names}")


def _unmet(wanted: list[Requirement]) -> Iterator[str]:
    for item in wanted:
        installed = installed_version(item.name)
        if installed is None:
            yield f"{item.name} isn't installed"
        elif not item.specifier.contains(installed, prereleases=True):
            yield f"{item.name} {installed} is installed, and {item.specifier} is needed"


def _other_versions(wanted: list[Requirement], known: dict[str, str]) -> list[str]:
    pairs = [(item.name, installed_version(item.name), known.get(canonicalize_name(item.name))) for item in wanted]
    return [f"{name} {have} (known: {good})" for name, have, good in pairs if good and have and _public(have) != good]


def _public(installed: str) -> str:
    """Without the local part: 2.13.0 for 2.13.0+cpu."""
    return installed.partition("+")[0]


def installed_version(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _known_name() -> str:
    return (
        "constraints.txt" if (PACKAGE_FOLDER.parent / "constraints.txt").exists() else str(shipped("constraints.txt"))
    )


def _install() -> str:
    where = "-e ." if (PACKAGE_FOLDER.parent / "pyproject.toml").is_file() else "dlm-trl"
    return f"pip install -c {_known_name()} {where}"
