"""Tests of the side effects that importing must not have."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from fresh import run
from paths import ROOT


def test_import_initialises_no_cuda_and_compiles_nothing() -> None:
    code = (
        "import sys, torch, iwae_fast\n"
        "assert not torch.cuda.is_initialized()\n"
        "for name in ('torch._inductor', 'torch._dynamo.convert_frame', 'triton'):\n"
        "    assert name not in sys.modules, name"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # and not a fork of a process that has imported them


@pytest.mark.parametrize("missing", ["triton", "iwae_fast._C", "typer", "matplotlib", "sklearn", "safetensors"])
def test_import_needs_neither_triton_nor_the_extension_nor_the_command_line(missing: str) -> None:
    result = run(f"import sys; sys.modules[{missing!r}] = None\nimport iwae_fast, torch\niwae_fast.backends.info()")
    assert result.returncode == 0, result.stderr


def test_kernels_is_not_a_top_level_package() -> None:
    root = ROOT
    result = run("import kernels", cwd=root)
    assert result.returncode != 0
    assert "import it by that name, not as 'kernels'" in result.stderr


def test_public_names_are_there_and_documented() -> None:
    import iwae_fast as iw

    for name in iw.__all__:
        member = getattr(iw, name)
        assert name == "__version__" or member.__doc__, name


def test_loading_a_run_names_the_extra_that_is_missing() -> None:
    result = run(
        "import sys; sys.modules['safetensors'] = None\n"
        "import iwae_fast\n"
        "assert not [name for name in sys.modules if name.startswith('iwae_fast.experiments')]\n"
        "iwae_fast.load_run('anywhere')"
    )
    assert result.stderr.splitlines()[-1] == (
        "ImportError: load_run needs safetensors, which is not installed: pip install 'iwae_fast[cli]'"
    )


def test_importing_the_package_waits_for_torch_until_a_name_is_asked_for() -> None:
    code = (
        "import sys, iwae_fast as iw\n"
        "assert 'torch' not in sys.modules\n"
        "assert iw.__version__ and 'iwae_loss' in dir(iw)\n"
        "assert iw.evaluate.log_likelihood and iw.pruning.without_units and iw.iwae_loss is iw.ops.losses.iwae_loss\n"
        "assert not hasattr(iw, 'no_such_name') and not hasattr(iw, '_no_such_name')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # and not a fork of a process that has torch


def test_type_checkers_see_the_names_that_are_imported_late() -> None:
    import iwae_fast as iw

    declared = next(node for node in ast.parse(Path(iw.__file__).read_text()).body if isinstance(node, ast.If))
    imported = {
        alias.name: statement.module
        for statement in declared.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    homes = {name: module for module, names in iw._HOMES.items() for name in names}
    assert {name: module for name, module in imported.items() if module is not None} == homes  # others are folders
    assert set(imported) | {"__version__"} == set(iw.__all__)


@pytest.mark.slow
def test_every_module_can_be_the_first_to_be_imported() -> None:
    """Import each module first, in a new process that has imported only torch."""
    pytest.importorskip("typer")
    code = (
        "import importlib.util, os, sys, pathlib, torch\n"
        f"root = pathlib.Path({str(ROOT / 'iwae_fast')!r})\n"
        "failed = []\n"
        "for path in sorted(root.rglob('*.py')):\n"
        "    name = '.'.join(('iwae_fast', *path.relative_to(root).with_suffix('').parts)).removesuffix('.__init__')\n"
        "    if name.endswith('__main__'):\n"
        "        continue\n"
        "    library = (name.split('.') + [None] * 2)[2]\n"
        "    if library in ('pyro', 'torchmetrics') and importlib.util.find_spec(library) is None:\n"
        "        continue\n"
        "    if (child := os.fork()) == 0:\n"
        "        importlib.import_module(name)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(child, 0)[1]:\n"
        "        failed.append(name)\n"
        "sys.exit(', '.join(failed) or None)\n"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr
