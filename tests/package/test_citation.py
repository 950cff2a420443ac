"""A test of CITATION.cff, which hosts of repositories and reference managers read."""

from __future__ import annotations

import pytest
from paths import ROOT

import iwae_fast as iw


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # those that the format requires
    assert citation["version"] == iw.__version__
    assert all({"title", "authors", "type"} <= set(each) for each in citation["references"])
