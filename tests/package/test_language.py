"""The language of docstrings and docs, as far as a test can hold it (docs/style.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from paths import ROOT

FRAGMENTS = ("Of", "What", "Whose", "How", "By", "Whether", "Who", "As", "Here", "With", "Which", "Also", "And", "Else")
"""Words that begin a fragment instead of a sentence."""

BRITISH = re.compile(
    r"\b(normalis|reparameteris|optimis|initialis|specialis|vectoris|minimis|maximis|summaris|binaris|serialis|"
    r"synchronis|recognis|generalis|neighbour|colour|behaviour|centre|grey|favour|labelled|modelled)\w*",
    re.IGNORECASE,
)

CODE = re.compile(r"`[^`]*`|\"[^\"\n]*\"|https?://\S+|\bgrey_\w+|\w+_grey\w*")
"""Code, quoted words and addresses keep their spelling."""

CPP_SUFFIXES = (".h", ".cpp", ".cu")
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = sorted(path for folder in ("iwae_fast", "kernels") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CPP = sorted(
    path
    for folder in ("csrc", "tests/cuda_emulator")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in CPP_SUFFIXES
)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of every docstring, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def british(text: str) -> list[str]:
    return [match.group() for match in BRITISH.finditer(CODE.sub("", text))]


def test_docstrings_are_sentences() -> None:
    found = [(path, line, text) for path in (*SOURCES, *TESTS) for line, text in docstrings(path)]
    assert len(found) > 800
    assert [each for each in found if each[2].split(maxsplit=1)[0] in FRAGMENTS] == []


def test_code_is_spelled_as_in_the_us() -> None:
    lines = ((path, n, line) for path in SOURCES for n, line in enumerate(path.read_text().splitlines(), 1))
    assert [(path, n, words) for path, n, line in lines if (words := british(line))] == []


def test_pages_are_spelled_as_in_the_us() -> None:
    pages = ((path, re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)) for path in PAGES)
    assert [(path, words) for path, text in pages if (words := british(text))] == []


def test_lines_have_at_most_120_characters() -> None:
    """Check pages, except tables and images, which cannot be wrapped, and C++; ruff checks Python."""
    lines = ((path, n, line) for path in (*PAGES, *CPP) for n, line in enumerate(path.read_text().splitlines(), 1))
    assert [(path, n) for path, n, line in lines if len(line) > 120 and not line.startswith(("|", "!["))] == []
