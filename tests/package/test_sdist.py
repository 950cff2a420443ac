"""Tests of the source distribution: complete for building and testing, with a page for a package index."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from email.parser import Parser

import pytest
from paths import ROOT

pytestmark = pytest.mark.xdist_group("distribution")

NOT_DISTRIBUTED = {".gitignore", ".ci/run"}


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """Return the distribution's files by name, their text, and the output of the build."""
    pytest.importorskip("pybind11")
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    ignore = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.so", "*.egg-info", "runs", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignore)
    made = subprocess.run(
        [
            sys.executable,
            "setup.py",
            "sdist",
            "--dist-dir",
            str(folder),
            "build_py",
            "--build-lib",
            str(folder / "lib"),
        ],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        texts = {}
        for member in file.getmembers():
            if (content := file.extractfile(member)) is not None:
                texts[member.name.partition("/")[2]] = content.read().decode("utf-8", errors="replace")
    return texts, made.stdout + made.stderr


def test_it_has_every_file_of_the_repository(distribution: tuple[dict[str, str], str]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("the files of the repository are those that git knows")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.splitlines() if (ROOT / name).exists()}
    found = set(distribution[0])
    assert tracked - found == NOT_DISTRIBUTED
    made = {name for name in found - tracked if not re.match(r"PKG-INFO|setup.cfg|iwae_fast\.egg-info/", name)}
    assert not {name for name in made if name.endswith((".so", ".pyc"))}


def test_nothing_is_ambiguous_about_its_packages(distribution: tuple[dict[str, str], str]) -> None:
    assert "absent from the `packages` configuration" not in distribution[1]
    assert "iwae_fast/experiments/report/templates/run.html" in distribution[0]
    assert "copying iwae_fast/experiments/report/templates/run.html" in distribution[1]


def test_the_page_of_an_index_has_no_links_that_lead_nowhere(distribution: tuple[dict[str, str], str]) -> None:
    page = Parser().parsestr(distribution[0]["PKG-INFO"])
    assert page["Description-Content-Type"] == "text/markdown"
    text = page.get_payload()
    assert "![" not in text
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]*)\)", text))
    assert "# iwae_fast" in text
    assert "docs/objectives.md" in text  # as plain text
