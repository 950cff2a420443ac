from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fresh import run

import iwae_fast as iw
from iwae_fast.backends import NATIVE, triton
from iwae_fast.backends.extension import MODULE

needs_extension = pytest.mark.skipif(NATIVE["cpu"].unavailable() is not None, reason=str(NATIVE["cpu"].unavailable()))


def test_extension_is_there() -> None:
    """Check that the extension is missing only where the environment says that it may be."""
    if os.environ.get("IWAE_FAST_EXPECT_EXTENSION", "1") == "1":
        assert NATIVE["cpu"].unavailable() is None


def test_info() -> None:
    info = iw.backends.info()
    assert set(info["backends"]) == {*NATIVE, "reference"}
    for backend in info["backends"].values():
        assert backend["available"] == (backend["reason"] is None)
    assert info["chosen"]["cpu"] in info["backends"]
    json.dumps(info)


class Doubled(type(NATIVE["cpu"])):  # type: ignore[misc]
    """The C++ backend with log-densities twice as large."""

    def density(self, *arguments: Any) -> torch.Tensor:
        return 2.0 * super().density(*arguments)


@pytest.fixture
def doubled() -> Iterator[None]:
    iw.backends.register("doubled", Doubled())
    yield
    iw.backends.unregister("doubled")


@needs_extension
@pytest.mark.usefixtures("doubled")
def test_a_registered_backend_is_used_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    value, logits = torch.rand(3), torch.randn(2, 3)
    plain = iw.bernoulli_log_prob(value, logits)
    assert torch.equal(iw.bernoulli_log_prob(value, logits, backend="doubled"), 2.0 * plain)
    compiled = torch.compile(iw.bernoulli_log_prob, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(value, logits, backend="doubled"), 2.0 * plain)
    assert iw.backends.info()["backends"]["doubled"]["available"]
    monkeypatch.setenv("IWAE_FAST_BACKEND", "doubled")
    assert torch.equal(iw.bernoulli_log_prob(value, logits), 2.0 * plain)


@pytest.mark.usefixtures("doubled")
def test_what_cannot_be_registered_or_removed() -> None:
    for name in ("doubled", "cpu", "reference"):
        with pytest.raises(ValueError, match=f"backend name '{name}' is taken: expected none of cpu, "):
            iw.backends.register(name, Doubled())
    with pytest.raises(TypeError, match="got object without device, optional_ops, .*missing, .* density, "):
        iw.backends.register("object", object())
    for name in ("cpu", "reference", "unknown"):
        with pytest.raises(ValueError, match=f"name must be that of a registered backend, got '{name}'"):
            iw.backends.unregister(name)


def test_environment_forces_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IWAE_FAST_BACKEND", "warp")
    with pytest.raises(ValueError, match="unknown backend 'warp': choose one of .*reference"):
        iw.standard_gaussian_log_prob(torch.ones(3))
    monkeypatch.setenv("IWAE_FAST_BACKEND", "reference")
    assert iw.backends.info()["forced"] == "reference"
    assert iw.backends.choose(None, (torch.ones(3),)) == "reference"


@needs_extension
def test_forced_backend_refuses_other_devices() -> None:
    with pytest.raises(iw.backends.BackendError, match="takes cpu tensors, got one on meta"):
        iw.standard_gaussian_log_prob(torch.ones(3, device="meta"), backend="cpu")
    assert iw.standard_gaussian_log_prob(torch.ones(2, 3, device="meta")).device.type == "meta"


def test_missing_extension_falls_back_and_says_why() -> None:
    result = run(
        "import sys; sys.modules['iwae_fast._C'] = None\n"
        "import torch, iwae_fast as iw\n"
        "print(iw.bernoulli_log_prob(torch.ones(3), torch.zeros(2, 3)).tolist())\n"
        "print(iw.backends.info()['chosen']['cpu'])\n"
        "try: iw.standard_gaussian_log_prob(torch.ones(3), backend='cpu')\n"
        "except iw.backends.BackendError as error: print(error)"
    )
    assert result.returncode == 0, result.stderr
    values, chosen, error = result.stdout.splitlines()
    assert values.startswith("[-2.079")
    assert chosen == "reference"
    assert "'cpu' is forced but does not support this call: the C++ extension is not installed" in error


NO_EXTENSION = (
    "import sys; sys.modules['iwae_fast._C'] = None\n"
    "import torch, warnings, iwae_fast as iw\n"
    "seen = warnings.catch_warnings(record=True).__enter__()\n"
    "warnings.simplefilter('always')\n"
)


def test_a_missing_extension_is_told_once_at_first_use() -> None:
    code = (
        "iw.backends.info()\n"
        "assert not seen\n"
        "model = iw.models.DenseVAE(6, (2,), (4,))\n"
        "iw.iwae_loss(torch.zeros(3, 4, device='meta'))\n"
        "assert not seen, seen[0].message\n"
        "for _ in range(3): iw.Objective(iw.bounds.IWAE(), num_samples=2)(model, torch.rand(3, 6)).backward()\n"
        "(only,) = seen\n"
        "print(only.message)\n"
    )
    result = run(NO_EXTENSION + code, IWAE_FAST_BACKEND="")
    assert result.returncode == 0, result.stderr
    for part in (
        "runs on its reference backend",
        "the C++ extension is not installed",
        "install GCC or Clang",
        "iwae-fast info",
    ):
        assert part in result.stdout
    forced = run(NO_EXTENSION + "iw.iwae_loss(torch.zeros(3, 4))\nprint(len(seen))", IWAE_FAST_BACKEND="reference")
    assert forced.stdout == "0\n"
    compiled = (
        "loss = torch.compile(iw.iwae_loss, fullgraph=True, backend='eager')(torch.zeros(3, 4))\n"
        "print([w for w in seen if 'iwae_fast' in str(w.message)])"
    )
    assert run(NO_EXTENSION + compiled, IWAE_FAST_BACKEND="").stdout == "[]\n"


FORCE_TRITON = (
    "import iwae_fast as iw, torch\n"
    "try: iw.standard_gaussian_log_prob(torch.ones(3), backend='triton')\n"
    "except iw.backends.BackendError as error: print(error)\n"
    "print(iw.backends.BEST)"
)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this build of torch has CUDA")
def test_triton_says_why_it_cannot_serve() -> None:
    error, best = run(FORCE_TRITON, TRITON_INTERPRET="0").stdout.splitlines()
    assert "'triton' is forced but does not support this call" in error
    assert "has no CUDA" in error or "Triton is not installed" in error
    assert "'cuda': 'reference'" in best
    missing = run("import sys; sys.modules['triton'] = None\n" + FORCE_TRITON, TRITON_INTERPRET="1")
    assert "Triton is not installed; it comes with CUDA builds of torch" in missing.stdout


@pytest.mark.skipif(not hasattr(MODULE, "cuda"), reason="the extension was built without CUDA")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_kernels_load_without_a_driver_and_say_so_when_called() -> None:
    noise = torch.empty(1, 1, 4)
    with pytest.raises(RuntimeError, match="CUDA: .*(driver|device)"):
        MODULE.cuda.standard_normal(False, 0, None, (1, 1, 4), (0, 0, 0), noise.data_ptr(), (0, int))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this build of torch has CUDA")
def test_cuda_says_why_it_cannot_serve() -> None:
    code = (
        "import iwae_fast as iw, torch\n"
        "try: iw.standard_gaussian_log_prob(torch.ones(3), backend='cuda')\n"
        "except iw.backends.BackendError as error: print(error)\n"
    )
    told = run(code).stdout
    assert "'cuda' is forced but does not support this call" in told
    assert "has no CUDA" in told or "was built without CUDA" in told
    missing = run("import sys; sys.modules['iwae_fast._C'] = None\n" + code).stdout
    assert "the C++ extension is not installed" in missing


def test_an_old_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "installed_version", lambda: "3.5.1")
    assert NATIVE["triton"].missing() == "Triton 3.5.1 is too old: at least 3.6 is needed"
    monkeypatch.setattr(triton, "installed_version", lambda: "3.10.0+git1234")
    assert "too old" not in (NATIVE["triton"].missing() or "")


def test_the_interpreter_is_never_chosen() -> None:
    result = run("import sys; sys.modules['iwae_fast._C'] = None\n" + FORCE_TRITON, TRITON_INTERPRET="1")
    assert "'cpu': 'reference'" in result.stdout


ISA_PROBE = """
import torch, iwae_fast as iw
torch.manual_seed(0)
x, logits, log_ratio = torch.rand(5, 77), 9 * torch.randn(3, 5, 77), torch.randn(3, 5)
mean, log_std = torch.randn(3, 5, 77), torch.randn(77)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    leaves = [t.to(dtype).requires_grad_() for t in (x, logits, log_ratio, mean, log_std)]
    x_, logits_, log_ratio_, mean_, log_std_ = leaves
    def loss(backend):
        return (iw.bernoulli_iwae_loss(x_, logits_, log_ratio_, backend=backend)
                + iw.gaussian_iwae_loss(x_, mean_, log_std_, log_ratio_, backend=backend)
                + iw.standard_gaussian_log_prob(mean_, backend=backend).sum())
    ours, theirs = loss("cpu"), loss("reference")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves))
noise = [iw.standard_normal((3, 4, 9), 1, backend=name) for name in ("cpu", "reference")]
torch.testing.assert_close(*noise, rtol=1e-6, atol=2e-6)
samples = torch.randint(30, (4, 3)).T
for dtype in (torch.float32, torch.float64):
    whole = iw.standard_normal((30, 4, 77), 1, dtype=dtype, backend="cpu")[samples, torch.arange(4)]
    assert torch.equal(iw.standard_normal((3, 4, 77), 1, sample_indices=samples, dtype=dtype, backend="cpu"), whole)
    leaves = [torch.randn(4, 77, dtype=dtype).requires_grad_() for _ in range(2)]
    ours, theirs = (
        sum(t.sum() for t in iw.sample_gaussian(*leaves, 3, 1, sample_indices=samples, backend=name))
        for name in ("cpu", "reference")
    )
    close = dict(rtol=1e-5, atol=2e-5) if dtype == torch.float32 else dict(rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), **close)
print(iw.backends.info()["backends"]["cpu"]["isa"])
"""


@needs_extension
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine(isa: str) -> None:
    usable = NATIVE["cpu"].details()["usable_isas"]
    if isa not in usable:
        pytest.skip(f"this processor or build has no {isa} kernels")
    result = run(ISA_PROBE, IWAE_FAST_ISA=isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == isa


@needs_extension
def test_unknown_instruction_set_falls_back_and_says_why() -> None:
    result = run("import iwae_fast as iw; print(iw.backends.info()['backends']['cpu']['reason'])", IWAE_FAST_ISA="mmx")
    assert "the C++ extension does not load: IWAE_FAST_ISA=mmx cannot run here: choose one of" in result.stdout
