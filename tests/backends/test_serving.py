"""The table that says who serves CUDA tensors, against the committed figures, the documentation and the choices."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict

import pytest
import torch
from paths import ROOT

import iwae_fast as iw
from iwae_fast.backends import MISSING, NATIVE, serving
from iwae_fast.capture import launched_by_a_graph
from iwae_fast.experiments.cli import about
from iwae_fast.reference import DENSITIES

OURS = {"iwae_fast cuda": "cuda", "iwae_fast triton": "triton"}
TIMES = ("seconds", "seconds with Python")


def measured() -> dict[tuple[str, str, str, str, str], dict[str, float]]:
    """Return the microseconds of each backend by op, mode, shape, dtype and metric, from the committed files."""
    found: dict[tuple[str, str, str, str, str], dict[str, float]] = defaultdict(dict)
    for path in (ROOT / "benchmarks" / "results").glob(f"{serving.SOURCE}*.csv"):
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if row["provider"] in OURS and row["metric"] in TIMES and row["op"] in serving.RULES:
                    key = (row["op"], row["mode"], row["shape"], row["dtype"], row["metric"])
                    found[key][OURS[row["provider"]]] = 1e6 * float(row["median"])
    return found


def elements(shape: str) -> int:
    """Return the number of elements of a shape such as "k=50 B=20 D=784"; H is not one of the operands' axes."""
    sizes = dict(part.split("=") for part in shape.split())
    return math.prod(int(size) for axis, size in sizes.items() if axis != "H")


FIGURES = {figure for rule in serving.RULES.values() for figure in (rule.small, rule.large)}


@pytest.mark.parametrize("figure", sorted(FIGURES), ids=str)
def test_every_figure_is_a_committed_one(figure: serving.Figure) -> None:
    times = measured()[figure.op, figure.mode, figure.shape, "float32", figure.metric]
    assert (figure.cuda, figure.triton) == (round(times["cuda"]), round(times["triton"]))


def slower_than_another() -> list[str]:
    """Return the committed rows in which the backend that is preferred for them is slower than the other one, of two
    that are offered."""
    wrong = []
    for (op, mode, shape, dtype, metric), times in measured().items():
        rule, size = serving.RULES[op], elements(shape)
        offered = {name: time for name, time in times.items() if (op, mode, name) not in serving.NO_LONGER_OFFERED}
        counts = "seconds with Python" if size <= rule.small_elements else "seconds"
        if metric == counts and len(offered) > 1 and rule.order(size)[0] != min(offered, key=offered.__getitem__):
            wrong.append(f"{op} {mode} {shape} {dtype} {metric}")
    return wrong


def test_no_preferred_backend_is_the_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slower_than_another() == []
    monkeypatch.setattr(serving, "NO_LONGER_OFFERED", set())
    (deleted,) = slower_than_another()
    assert deleted.startswith("linear_bernoulli_log_prob forward+backward k=50 B=1024 H=200 D=784")
    other = serving.RULES["bernoulli_iwae_loss"]._replace(large=serving.SMALL_LOSS)
    monkeypatch.setitem(serving.RULES, "bernoulli_iwae_loss", other)
    assert "bernoulli_iwae_loss forward+backward k=50 B=1024 D=784 float32 seconds" in slower_than_another()


def test_the_small_calls_are_those_that_were_measured() -> None:
    assert elements(serving.SMALL_LOSS.shape) == serving.SMALL_ELEMENTS
    assert {f"{name}_log_prob" for name in DENSITIES} <= serving.RULES.keys()


class Elsewhere:
    """A stand-in for a tensor on a GPU, of which a choice reads these attributes only."""

    device = torch.device("cuda", 0)
    layout = torch.strided

    def dim(self) -> int:
        return 3


@pytest.mark.parametrize("op", serving.RULES)
def test_a_call_is_served_by_the_table(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose for CUDA tensors by op and size, while tracing by op alone, and never a backend that is missing."""
    monkeypatch.setattr(iw.backends, "refusal", lambda *_: None)
    monkeypatch.setattr(type(iw.backends.CUDA), "suits", lambda *_: True)
    rule = serving.RULES[op]

    def chosen(missing: set[str], *shape: int) -> str:
        every = {name: "absent" if name in missing else None for name in ("cuda", "triton")}
        for order in list(iw.backends._SERVES):
            first = next((name for name in order if every[name] is None), "reference")
            monkeypatch.setitem(iw.backends._SERVES, order, first)
        return iw.backends.choose(None, (Elsewhere(),), op, shape)  # type: ignore[arg-type]

    small, large = (50, 20, 784), (50, 21, 784)
    assert chosen(set(), *small) == rule.small.order[0]
    assert chosen(set(), *large) == rule.order(math.prod(large))[0]
    for shape in (small, large):
        assert chosen({"cuda"}, *shape) == "triton"
        assert chosen({"triton"}, *shape) == "cuda"
        assert chosen({"cuda", "triton"}, *shape) == "reference"
    chosen(set())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert iw.backends.choose(None, (Elsewhere(),), op, small) == rule.order(None)[0]  # type: ignore[arg-type]


def test_a_gpu_that_is_too_old_is_served_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iw.backends, "_SERVES", dict.fromkeys(iw.backends._SERVES, "cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(iw.backends, "CUDA", iw.backends.CUDABackend())
    for missing, expected in ((None, "triton"), ("absent", "reference")):
        monkeypatch.setitem(MISSING, "triton", missing)
        assert iw.backends.best(torch.device("cuda", 0), "sample_gaussian") == expected


def test_a_symbolic_size_is_not_compared() -> None:
    """Trace with symbolic sizes: a comparison with one would guard it, or raise."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    symbols = ShapeEnv()
    size = symbols.create_unbacked_symint()
    assert serving.number_of_elements((50, size, 784)) is None
    assert serving.number_of_elements((50, 20, 784)) == serving.SMALL_ELEMENTS
    assert serving.number_of_elements(()) == 1


def test_the_choice_is_traced_once_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile a choice for CUDA tensors with symbolic sizes, small and large: one graph, that of large calls."""
    for order in list(iw.backends._SERVES):
        monkeypatch.setitem(iw.backends._SERVES, order, order[0])
    device = torch.device("cuda", 0)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def by_name(x: torch.Tensor) -> torch.Tensor:
        chosen = iw.backends.best(device, "bernoulli_iwae_loss", (x.shape[0], x.shape[1]))
        return x + 1 if chosen == serving.BERNOULLI_LOSS.order[0] else x - 1

    compiled = torch.compile(by_name, fullgraph=True, dynamic=True, backend=backend)
    for size in (3, 4, 1000, 1200):
        x = torch.zeros(size, size + 1)
        assert torch.equal(compiled(x), x + 1)
    assert len(graphs) == 1


def test_dense_layers_are_served_by_triton_in_captured_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that no figure decides, so that a call is left to torch unless its launches cost nothing."""
    monkeypatch.setattr(iw.backends, "refusal", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(MISSING, "triton", None)

    def chosen(*shape: int) -> str:
        return iw.backends.choose(None, (Elsewhere(),), serving.DENSE_LAYER, shape)  # type: ignore[arg-type]

    assert chosen(1000, 200) == "reference"
    with launched_by_a_graph():
        assert chosen(1000, 200) == "triton"
        assert chosen(2**15, 512) == "triton"
        assert chosen(2**15, 513) == "reference"
        monkeypatch.setitem(MISSING, "triton", "absent")
        assert chosen(1000, 200) == "reference"
        monkeypatch.setitem(MISSING, "triton", None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
        assert chosen(1000, 200) == "reference"
    assert f"{serving.MOST_ELEMENTS:,}" in serving.DENSE_LAYER_CHOICES[0][0]


def test_captured_steps_are_served_as_launched_by_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that steps which cannot be captured are served so too, unlike the same step in a loop of one's own."""
    model, seen = iw.models.DenseVAE(6, (2,), ((3,),)), []
    encode = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda x: seen.append(serving.prefers_triton(x.shape)) or encode(x))
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=2)
    with pytest.warns(UserWarning, match="one by one"):
        step = iw.CapturedStep(objective, model, torch.optim.Adam(model.parameters()), seed=0)
    step(torch.ones(4, 6))
    objective(model, torch.ones(4, 6)).backward()
    assert seen == [True, False]


def test_info_says_which_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert iw.backends.info()["serving"] == {} or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(iw.backends, "_SERVES", dict.fromkeys(iw.backends._SERVES, "triton"))
    monkeypatch.setitem(MISSING, "cuda", "nvcc was not found")
    monkeypatch.setitem(MISSING, "triton", None)
    for backend in NATIVE.values():
        monkeypatch.setattr(backend, "unavailable", lambda: None)
    info = iw.backends.info()
    json.dumps(info)
    small, large = info["serving"]["bernoulli_iwae_loss"]
    assert small["backend"] == "triton"
    assert small["why"] == (
        "bernoulli_iwae_loss forward+backward, with its Python, k=50 B=20 D=784: cuda 628 us, triton 1344 us "
        "(nvidia-h100-at-34ce24d); cuda is missing: nvcc was not found"
    )
    assert "missing" not in large["why"]
    *_, told = about.sections({**about.collect(), **info})
    assert [name for name, _ in told] == [f"{op} on CUDA" for op in (*serving.RULES, serving.DENSE_LAYER)]
    assert "calls of captured steps with at most 16,777,216 results: triton. predicted, not measured" in told[-1][1]
    assert any("calls of at most 784,000 elements: triton. bernoulli_iwae_loss forward" in text for _, text in told)


def test_the_documentation_has_the_table() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    for calls, backend in serving.DENSE_LAYER_CHOICES:
        assert f"| `{serving.DENSE_LAYER}` | {calls} | {backend} | {serving.WITHOUT_FIGURES} |\n" in page
    for op, rule in serving.RULES.items():
        for choice in rule.choices():
            calls = choice.calls.removeprefix("calls ")
            assert f"| `{op}` | {calls} | {choice.figure.order[0]} | {choice.figure} |\n" in page
