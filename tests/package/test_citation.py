"""Tests of CITATION.cff, which GitHub and Zenodo read."""

from __future__ import annotations

import pytest
from paths import ROOT

import iwae_fast


def test_it_has_the_keys_of_the_format_and_the_facts_of_the_package() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert str(citation["version"]) == iwae_fast.__version__
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert all("name" in author or "family-names" in author for author in work["authors"])
