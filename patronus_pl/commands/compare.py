"""`patronus compare`: evaluations side by side, provided that they were measured alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patronus_pl.errors import CorruptFileError, InvalidOptionError

SHOWN = 5
"""Number of differences that the error names."""
Numbers = dict[str, Any]
"""Values by their path, such as `latents.probe.auroc`."""


def compare(files: list[str], without: str = "") -> None:
    """Print two or more evaluations side by side; refuse those that were not measured by one protocol.

    Args:
        files: files that `patronus test` wrote (evaluation.json), or folders that hold one.
        without: sections to leave out, with commas, such as `denoising` for models with different losses.
    """
    if len(files) < 2:
        raise InvalidOptionError(f"{len(files)} evaluation to compare; name two or more")
    hidden = [name.strip() for name in without.split(",") if name.strip()]
    evaluations = [leave_out(read_evaluation(name), hidden, name) for name in files]
    differing = [line for other in evaluations[1:] for line in differences(evaluations[0], other)]
    if differing:
        more = f" (and {len(differing) - SHOWN} more)" if len(differing) > SHOWN else ""
        which = list(dict.fromkeys(line.split(".")[0] for line in differing))
        whole = not set(which) <= set(_sections(evaluations[0]))  # of other data, or of another version
        raise InvalidOptionError(
            f"not measured alike, so the numbers say nothing beside each other: {'; '.join(differing[:SHOWN])}{more}. "
            "Run `patronus test` with the same data and options"
            + ("" if whole else f", or leave those numbers out: `--without {','.join(which)}`")
        )
    print("\n".join(side_by_side(files, evaluations)))


def read_evaluation(name: str) -> Numbers:
    """Return what `patronus test` wrote to a file, or to evaluation.json in a folder.

    Raises:
        CorruptFileError: there is no such file, or it is no evaluation.
    """
    path = Path(name) / "evaluation.json" if Path(name).is_dir() else Path(name)
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is no evaluation ({error}); `patronus test` writes one") from error
    if not isinstance(evaluation, dict) or "schema_version" not in evaluation:
        raise CorruptFileError(f"{path} is no evaluation (it has no schema_version); `patronus test` writes one")
    return evaluation


def leave_out(evaluation: Numbers, sections: list[str], name: str) -> Numbers:
    """Return the evaluation without some of its sections.

    Raises:
        InvalidOptionError: the evaluation has no such section.
    """
    for section in sections:
        if section not in _sections(evaluation):
            known = ", ".join(_sections(evaluation))
            raise InvalidOptionError(f"--without {section}: {name} has no such section; it has {known}")
    return {key: value for key, value in evaluation.items() if key not in sections}


def _sections(evaluation: Numbers) -> list[str]:
    """Return the names of the sections, with or without numbers."""
    return [key for key, value in evaluation.items() if isinstance(value, dict) and {"protocol", "absent"} & set(value)]


def differences(a: Numbers, b: Numbers) -> list[str]:
    """Return where the protocols of two evaluations differ; a section that one of them lacks does not count.

    Images count as the same if their pixels are. Only if they differ are the descriptions of the data compared too.
    """
    versions = a["schema_version"], b["schema_version"]
    found = [] if versions[0] == versions[1] else [f"schema_version: {versions[0]} | {versions[1]}"]
    ours, theirs = dict(_protocols(a)), dict(_protocols(b))
    for section in [name for name in ours if name in theirs]:
        found += _unequal(section, ours[section], theirs[section])
    if any(".pixels" in line for line in found):
        found = _unequal("data", dict(_leaves(a.get("data"))), dict(_leaves(b.get("data")))) + found
    return found


def _unequal(section: str, a: Numbers, b: Numbers) -> list[str]:
    keys = sorted(a.keys() | b.keys())
    return [f"{section}.{key}: {a.get(key)} | {b.get(key)}" for key in keys if a.get(key) != b.get(key)]


def _protocols(value: Any, path: str = "") -> Iterator[tuple[str, Numbers]]:
    """Yield every protocol, with the path of the section that it belongs to."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "protocol":
                yield path, dict(_leaves(entry))
            else:
                yield from _protocols(entry, f"{path}.{key}".lstrip("."))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no container, with its path."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if entries is None:
        yield path, value
    else:
        for key, entry in entries:
            yield from _leaves(entry, f"{path}.{key}".lstrip("."))


def side_by_side(names: list[str], evaluations: list[Numbers]) -> list[str]:
    """Return lines of text: what the models are, then every number that any of them has."""
    columns = [dict(_leaves(_shown(evaluation))) for evaluation in evaluations]
    rows = list(dict.fromkeys(key for column in columns for key in column))
    cells = [["", *names], *([row, *(_cell(column.get(row)) for column in columns)] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]


def _shown(value: Any) -> Any:
    """Leave out protocols, which are equal, reasons for absence, and what only says how the file was made."""
    if not isinstance(value, dict):
        return value
    hidden = {"protocol", "absent", "schema_version", "data", "preset", "versions", "weights"}
    return {key: _shown(entry) for key, entry in value.items() if key not in hidden}


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
