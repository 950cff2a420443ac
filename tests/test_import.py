"""What importing does not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from fresh import run


def test_import_initialises_no_cuda_and_compiles_nothing() -> None:
    result = run(
        "import sys, torch, iwae_fast\n"
        "assert not torch.cuda.is_initialized()\n"
        "for name in ('torch._inductor', 'torch._dynamo.convert_frame', 'triton'):\n"
        "    assert name not in sys.modules, name"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("missing", ["triton", "iwae_fast._C", "typer", "matplotlib", "sklearn", "safetensors"])
def test_import_needs_neither_triton_nor_the_extension_nor_the_command_line(missing: str) -> None:
    result = run(f"import sys; sys.modules[{missing!r}] = None\nimport iwae_fast, torch\niwae_fast.backends.info()")
    assert result.returncode == 0, result.stderr


def test_kernels_is_not_a_top_level_package() -> None:
    root = Path(__file__).parents[1]
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
        "ImportError: load_run reads what the command line wrote, and safetensors is not installed: "
        "pip install 'iwae_fast[cli]'"
    )
