"""Tests of the parts of a report: numbers against expected values, pictures by their content."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
import torch
from paths import ROOT
from torch import nn

import iwae_fast as iw
from iwae_fast.data import ImageData
from iwae_fast.models.draw import Draw
from iwae_fast.ops.samples import seed_tensor

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from matplotlib.figure import Figure as Canvas
from matplotlib.image import imread

from iwae_fast.experiments.bound_settings import BOUNDS
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.evaluate import machine
from iwae_fast.experiments.evaluate.decomposition import decompose
from iwae_fast.experiments.pictures import pictures, plots
from iwae_fast.experiments.pictures.themes import DARK, LIGHT, Theme
from iwae_fast.experiments.report.architecture import layers
from iwae_fast.experiments.report.page import Figure
from iwae_fast.experiments.report.verdict import judge
from iwae_fast.experiments.train.fixed_pixels import fixed_test_images
from iwae_fast.experiments.train.metrics import EpochMetrics

OBSERVATIONS = 150


def model_and_data() -> tuple[iw.models.DenseVAE, ImageData]:
    levels = torch.rand(OBSERVATIONS, 12)
    data = ImageData("tiny", levels, levels.flip(0), (3, 4), source="Made for a test.")
    model = iw.models.DenseVAE(12, (3,), (5,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.6)
    return model, data


# --- numbers ----------------------------------------------------------------------------------------------------


def test_the_parts_of_the_elbo() -> None:
    model, data = model_and_data()
    x = fixed_test_images(data)
    found = decompose(model, x, seed=5)
    posterior = model.encode(x)
    _, terms = model.terms(x, posterior, Draw(seed_tensor(5, x.device), 64))
    assert found.reconstruction == pytest.approx(-terms.log_likelihood.double().mean().item(), rel=1e-5)
    assert found.reconstruction + found.divergence == pytest.approx(
        -terms.log_weights().double().mean().item(), rel=1e-5
    )
    closed_form = model.kl_by_dimension(posterior).sum(1).mean().item()
    assert found.divergence == pytest.approx(closed_form, rel=0.05)
    assert found.reconstruction > 12 * 0.3


def test_layers_have_all_parameters() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2, 3))
            self.inner = nn.Linear(4, 5, bias=False)

    found = layers(Own())
    assert [layer.name for layer in found] == ["(model)", "inner"]
    assert [layer.sizes for layer in found] == ["scale (2, 3)", "4 \N{RIGHTWARDS ARROW} 5"]
    assert [layer.parameters for layer in found] == [6, 20]
    model, _ = model_and_data()
    assert sum(layer.parameters for layer in layers(model)) == sum(p.numel() for p in model.parameters())


def test_settings_of_other_bounds_are_left_out() -> None:
    own = {"vr-iwae": {"alpha"}, "jvi": {"order"}, "miwae": {"groups"}, "piwae": {"groups"}, "ciwae": {"beta"}}
    for bound in BOUNDS:
        found = TrainConfig.preset("digits", bound=bound).relevant()
        assert found.keys() & {"alpha", "order", "groups", "beta"} == own.get(bound, set())
        assert {"bound", "k", "seed", "hidden"} <= found.keys()
        names = list(found)
        assert set(names[names.index("bound") + 1 :][: len(own.get(bound, ()))]) == own.get(bound, set())
    assert "stages" in TrainConfig.preset("digits", protocol="paper").relevant()
    assert "stages" not in TrainConfig.preset("digits").relevant()


@pytest.mark.parametrize(
    ("heavy", "grade"), [(0.0, "good"), (0.05, "good"), (0.06, "fair"), (0.5, "fair"), (0.51, "poor"), (1.0, "poor")]
)
def test_the_verdict_on_the_weights(heavy: float, grade: str) -> None:
    found = judge({"pareto_k_above_0.7": heavy, "pareto_k_undefined": 0, "k": 5000, "observations": 1000})
    assert found is not None
    assert found.grade == grade
    assert f"above 0.7 for {heavy:.0%} of the 1000 test observations" in found.text


def test_the_verdict_counts_what_has_no_k_hat() -> None:
    few = judge({"pareto_k_above_0.7": 0.0, "pareto_k_undefined": 3, "k": 5000, "observations": 100})
    many = judge({"pareto_k_above_0.7": 0.0, "pareto_k_undefined": 30, "k": 5000, "observations": 100})
    assert few is not None
    assert many is not None
    assert few.grade == "good"
    assert "undefined for 3" in few.text
    assert (many.grade, many.title) == ("fair", "The test NLL cannot be judged for every observation")
    assert "undefined for 30" in many.text


def test_no_verdict_without_a_tail() -> None:
    assert judge({"pareto_k_above_0.7": None}) is None


def test_the_commit_and_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.processor().strip()
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        found = machine.commit()
        assert found is not None
        assert head.startswith(found.removesuffix(" + changes"))
    monkeypatch.setattr(iw, "__file__", str(tmp_path / "iwae_fast/__init__.py"))
    assert machine.commit() is None
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "nothing")
    assert machine.processor().strip()


# --- curves -----------------------------------------------------------------------------------------------------


def rows(count: int, first: float = -300.0) -> list[EpochMetrics]:
    bounds = [first, first / 2, *[-25.0 + 0.01 * epoch for epoch in range(count)]][:count]
    return [EpochMetrics(i + 1, 10 * (i + 1), bound, 2.0, 0.5, 90.0 * (i + 1), 5.0) for i, bound in enumerate(bounds)]


@pytest.mark.parametrize("by_time", [False, True])
def test_the_first_epochs_are_in_an_inset_that_says_so(by_time: bool) -> None:
    axes = Canvas().subplots()
    plots._bound(axes, rows(40), "observation", LIGHT, by_time=by_time)
    assert axes.get_ylim()[0] > -30.0
    (inset,) = axes.child_axes
    assert inset.lines[0].get_ydata()[0] == -300.0
    assert inset.get_ylim()[0] < -300.0
    assert inset.get_title(loc="right") == "whole curve; 2 epochs are below"
    assert axes.get_ylabel() == "nats per observation"
    assert axes.get_xlabel() == ("minutes" if by_time else "epoch")
    assert axes.lines[0].get_xdata()[-1] == (60.0 if by_time else 40.0)


def test_curves_that_need_no_inset_are_shown_whole() -> None:
    for few in (rows(8), rows(40, first=-25.5)):
        axes = Canvas().subplots()
        plots._bound(axes, few, "image", LIGHT)
        assert not axes.child_axes
        assert axes.get_ylim()[0] < min(row.bound for row in few)


def test_a_single_point_is_not_cut_off() -> None:
    axes = Canvas().subplots()
    plots._size(axes, rows(1), 50, LIGHT)
    (line,) = axes.lines
    assert not line.get_clip_on()
    assert axes.get_ylim()[0] <= 0.0 < 2.0 < axes.get_ylim()[1]
    assert axes.get_xlim() == (0.5, 1.5)


# --- pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_pictures_have_the_colors_of_the_page(theme: Theme) -> None:
    style = (ROOT / "iwae_fast/experiments/report/templates/style.css").read_text()
    values = torch.rand(30).double().numpy()
    for png in (
        plots.histogram(values, "title", "unit", theme=theme),
        plots.size_curve(rows(3), 5, theme),
        plots.image_grid(torch.zeros(1, 2, 3, 4).numpy(), theme=theme),
        plots.plane(torch.randn(30, 2).numpy(), ("a", "b"), torch.zeros(30, 3, 4).numpy(), theme),
    ):
        corner = imread(io.BytesIO(png))[0, 0, :3]
        assert "#" + "".join(f"{round(255 * float(part)):02x}" for part in corner) == theme.paper
    for color in (theme.paper, theme.ink, theme.first):
        assert color in style


def test_a_figure_is_drawn_for_both_pages() -> None:
    figure = Figure.drawn(lambda theme: theme.name.encode(), "title")
    assert (figure.png, figure.dark) == (b"light", b"dark")
    assert figure.dark_uri == "data:image/png;base64,ZGFyaw=="
    assert Figure(b"a", "title").dark_uri is None


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """Record the arguments of grids of images instead of drawing them."""
    calls: list = []
    monkeypatch.setattr(plots, "image_grid", lambda *arguments, **_: calls.append(arguments) or b"")
    return calls


def test_grey_levels_are_above_the_pixels_drawn_from_them(drawn: list) -> None:
    model, data = model_and_data()
    pictures.reconstructions(model, data)
    images, labels, *_ = drawn[0]
    assert labels == ("gray levels", "as evaluated", "reconstructions")
    x = fixed_test_images(data)[:12]
    assert images.shape == (3, 12, 3, 4)
    assert (images[1] == x.unflatten(1, (3, 4)).numpy()).all()
    assert {tuple(row) for row in images[0].reshape(12, 12).tolist()} <= {tuple(row) for row in data.test.tolist()}
    assert ((images[0] > 0.5) == (images[1] == 1.0)).mean() > 0.6  # the right grey levels above each


def test_the_worst_images_come_first_with_their_nats(drawn: list) -> None:
    model, data = model_and_data()
    nll = torch.arange(OBSERVATIONS).double()
    pictures.worst(model, data, nll[:100])  # evaluated on so many
    images, _, columns, _ = drawn[0]
    assert list(columns[:3]) == ["99.0", "98.0", "97.0"]
    assert (images[1][0] == fixed_test_images(data)[99].unflatten(0, (3, 4)).numpy()).all()
    assert torch.allclose(
        torch.from_numpy(images[2][0]).flatten(), model.reconstruct(fixed_test_images(data)[99:100])[0]
    )


def test_the_latent_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list = []
    monkeypatch.setattr(plots, "plane", lambda *arguments: calls.append(arguments) or b"")
    model, data = model_and_data()
    _, said = pictures.latent_plane(model, data)
    means = model.posterior_mean(model.encode(fixed_test_images(data))).double()
    points, labels, images, _, classes = calls[0]
    assert classes is None
    variances = torch.linalg.eigvalsh(torch.cov(means.T)).flip(0)
    assert torch.allclose(torch.from_numpy(points).var(0), variances[:2].detach())
    assert labels == ("first principal component", "second principal component")
    assert f"{(variances[:2].sum() / variances.sum()).item():.0%} of the variance" in said
    assert images.shape == (OBSERVATIONS, 3, 4)
    flat = iw.models.DenseVAE(12, (2,), (5,))
    assert pictures.latent_plane(flat, data)[1] == "The axes are the two latent units."
    expected = flat.posterior_mean(flat.encode(fixed_test_images(data))).double().detach().numpy()
    assert (calls[1][0] == expected).all()


def test_the_decoded_plane(drawn: list) -> None:
    _, data = model_and_data()
    flat = iw.models.DenseVAE(12, (2,), (5,))
    pictures.decoded_plane(flat, data)
    (images,) = drawn[0]
    edge = torch.special.ndtri(torch.tensor(0.5 / 15))
    corner = flat.likelihood.mean(flat.decoder(torch.stack((edge, -edge))[None]))  # the first unit low, the second high
    assert torch.allclose(torch.from_numpy(images[0, 0]).flatten(), corner[0], atol=1e-6)


def test_thumbnails_do_not_overlap() -> None:
    where = torch.tensor([[0.5, 0.5], [0.505, 0.5], [0.0, 1.0], [1.0, 0.0]]).numpy()
    canvas = plots._thumbnails(where, torch.ones(4, 8, 8).numpy(), LIGHT)
    side = 8 * round(plots.PLANE_PIXELS * plots.THUMBNAIL / 8)
    assert (canvas[..., 3] > 0).sum() == 3 * side * side
    assert canvas[0, 0, 3] == canvas[-1, -1, 3] == 1.0
    assert plots._thumbnails(where, torch.ones(4, 2000, 10).numpy(), LIGHT).shape == canvas.shape
