"""Tests of evaluating a run, its report, and the comparison of runs, on networks too small to learn anything."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import jinja2
import numpy as np
import pytest
import torch

import iwae_fast as iw
from iwae_fast.data import ImageData
from iwae_fast.data.rows import fingerprint
from iwae_fast.evaluate import likelihood
from iwae_fast.evaluate.pruning import without_units
from iwae_fast.experiments.cli import main
from iwae_fast.experiments.cli.closing import evaluate_and_print
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.evaluate import results
from iwae_fast.experiments.evaluate.comparison import compare_runs
from iwae_fast.experiments.evaluate.per_observation import PerObservation
from iwae_fast.experiments.pictures import pictures
from iwae_fast.experiments.report import render, write_run_report
from iwae_fast.experiments.report.page import Figure, duration, fixed, percent, plain, signed
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.fixed_pixels import fixed_test_images, fixed_training_images
from iwae_fast.experiments.train.runs import Run, create_run, open_run, trained_model

pytestmark = pytest.mark.xdist_group("reports")

SECTIONS = [
    "likelihood",
    "active-units",
    "importance-weights",
    "training",
    "model",
    "pictures",
    "settings",
    "provenance",
]
VOID = {"meta", "img", "source", "br", "link", "hr"}
K = 25
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """A parser that checks that tags are balanced, and collects what the tests need."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.images, self.dark, self.attributes, self.text = [], [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.attributes += attrs
        assert tag not in ("script", "link", "iframe", "object")
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "source":
            self.dark.append(attributes)
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def assert_self_contained(page, text):
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert all(each["srcset"].startswith("data:image/png;base64,") for each in page.dark)
    assert all(each["media"] == "(prefers-color-scheme: dark)" for each in page.dark)
    assert not [name for name, _ in page.attributes if name == "href" or name.startswith("on")]
    for outside in ("http:", "https:", "url(", "@import"):
        assert outside not in text


def tiny_data(image_shape=(3, 4), grey_levels=True):
    generator = torch.Generator().manual_seed(1)
    levels = torch.rand(70, 12, generator=generator)
    return ImageData("tiny", levels[:40], levels[40:], image_shape, grey_levels=grey_levels, source="Made for a test.")


def trained(folder, data, epochs=2, **changes):
    """Return a trained run, its checkpoint and its model, whose first unit is inactive."""
    settings = {"hidden": ((6,), (5,)), "latent": (4, 3), "k": 3, "batch_size": 20, "validation": 5, **changes}
    config = TrainConfig.preset("digits", epochs=epochs, **settings)
    run = create_run(folder, config)
    training.train(config, run, data)
    run, checkpoint = open_run(folder)
    model = trained_model(checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
        model.encoder.mean.weight[0] = 0.0
    return run, checkpoint, model


def evaluated(folder, data, k=K, **options):
    run, checkpoint, model = trained(folder, data)
    results.evaluate_run(run, checkpoint, model, data, k=k, command="iwae-fast evaluate <run>", **options)
    write_run_report(run, checkpoint, model, data)
    return run, checkpoint, model


def refuse(constant):
    raise AssertionError(constant)


def read(path):
    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return an evaluated run in a folder whose name must be escaped."""
    return evaluated(tmp_path_factory.mktemp("report") / "<b>run & more", tiny_data())


# --- numbers ----------------------------------------------------------------------------------------------------


def test_evaluation(whole):
    run, checkpoint, model = whole
    found = read(run.evaluation)
    data = tiny_data()
    x = fixed_test_images(data)
    test = iw.evaluate.log_likelihood(model, x, K, seed=found["seed"])
    assert found["nll"] == -test.mean
    assert (found["k"], found["observations"], found["test_observations"], found["dataset"]) == (K, 30, 30, "tiny")
    assert found["train_observations"] == 35
    assert (found["units"], [len(layer) for layer in found["activity"]]) == ([4, 3], [4, 3])
    counts = [sum(value > found["activity_threshold"] for value in layer) for layer in found["activity"]]
    assert found["active_units"] == counts
    assert counts[0] < 4
    assert found["activity"][0][0] == 0.0
    kept = [torch.tensor(layer) > found["activity_threshold"] for layer in found["activity"]]
    pruned = iw.evaluate.log_likelihood(without_units(model, kept), x, K, seed=found["seed"])
    difference = test.value - pruned.value
    assert found["nll_active_units_only"] == -pruned.mean
    assert found["nll_all_units"] == found["nll"]
    assert found["active_units_only_difference"] == pytest.approx(difference.mean().item())
    assert found["active_units_only_difference_std_error"] == pytest.approx(difference.std().item() / 30**0.5)
    assert found["left_out"] == {}
    assert found["step"] == checkpoint.step
    for name in ("train_nll", "train_std_error", "ess", "pareto_k_above_0.7", "seconds"):
        assert isinstance(found[name], float)
    assert found["pareto_k_undefined"] == 0
    assert not list(run.folder.glob("*.partial.npz"))


def test_per_observation(whole, tmp_path):
    run, _, _ = whole
    kept = PerObservation.load(run.per_observation)
    assert kept.nll.shape == kept.std_error.shape == kept.ess.shape == kept.pareto_k.shape == (30,)
    assert kept.nll.mean() == pytest.approx(read(run.evaluation)["nll"])
    assert kept.images == fingerprint(fixed_test_images(tiny_data()))
    other = tmp_path / "other.npz"
    other.write_bytes(b"nothing of use")
    with pytest.raises(ValueError, match="does not hold the results of an evaluation"):
        PerObservation.load(other)


def test_options_leave_things_out(tmp_path):
    run, checkpoint, model = trained(tmp_path / "run", tiny_data())
    arguments = (run, checkpoint, model, tiny_data())
    none = {"train_observations": 0, "pruned_observations": 0}
    found = results.evaluate_run(*arguments, k=2, observations=1, **none)
    assert found["left_out"].keys() == {"pareto_k", "train_nll", "active_units", "nll_active_units_only"}
    assert found == read(run.evaluation)
    missing = (
        "pareto_k_above_0.7",
        "pareto_k_undefined",
        "train_nll",
        "active_units",
        "activity",
        "nll_active_units_only",
    )
    for name in ("std_error", *missing):
        assert found[name] is None
    found = results.evaluate_run(*arguments, k=2, train_observations=7, pruned_observations=8)
    assert (found["train_observations"], found["active_units_only_observations"]) == (7, 8)
    first = -PerObservation.load(run.per_observation).nll[:8].mean()
    assert found["nll_all_units"] == pytest.approx(-first)


def test_all_units_active(tmp_path):
    run, checkpoint, model = trained(tmp_path / "run", tiny_data(), hidden=(6,), latent=2)
    with torch.no_grad():
        model.encoder.mean.weight[0] = 1.0
    found = results.evaluate_run(run, checkpoint, model, tiny_data(), k=2)
    assert found["active_units"] == found["units"] == [2]
    assert found["nll_active_units_only"] == found["nll"]
    assert found["active_units_only_difference"] == 0.0


def test_other_models(tmp_path):
    """Report a model with binary latents: the page says why it has no ELBO surgery and no traversals."""
    data = tiny_data()
    run, checkpoint, _ = trained(tmp_path / "run", data)
    model = iw.models.BernoulliVAE(torch.nn.Linear(12, 3), torch.nn.Linear(3, 12), latent_dim=3)
    with torch.no_grad():
        model.encoder.weight[0] = 0.0
    found = results.evaluate_run(run, checkpoint, model, data, k=3)
    assert found["left_out"]["nll_active_units_only"] == "pruning supports DenseVAE only, not BernoulliVAE"
    write_run_report(run, checkpoint, model, data)
    text = run.report.read_text()
    assert "pruning supports DenseVAE only, not BernoulliVAE" in text
    assert "Latent traversals" not in text


def test_random_weights(tmp_path):
    data = tiny_data()
    config = TrainConfig.preset("digits", epochs=1, network="iwaer", hidden=(6,), latent=3, k=2)
    run = create_run(tmp_path / "run", config)
    training.train(config, run, data)
    run, checkpoint = open_run(run.folder)
    model = trained_model(checkpoint)
    assert results.evaluate_run(run, checkpoint, model, data, k=3)["units"] == [3]
    write_run_report(run, checkpoint, model, data)
    assert "Latent traversals" in run.report.read_text()


@pytest.mark.parametrize("stage", ["test images", "training images", "test images, active units only"])
def test_interrupted_evaluation_goes_on(stage, tmp_path, whole, monkeypatch):
    """Interrupt each estimate by Ctrl-C and resume it: the result is that of an uninterrupted evaluation."""
    monkeypatch.setattr("iwae_fast.evaluate.likelihood.OBSERVATIONS_A_CHUNK", 8)
    run, checkpoint, model = trained(tmp_path / "run", tiny_data())
    pairs = dict.fromkeys(("test images", "training images", "test images, active units only"), 0)

    def progress(name, total):
        def advance(count):
            pairs[name] += count
            if name == interrupted and pairs[name] > total // 2:
                raise KeyboardInterrupt

        return advance

    interrupted = stage
    with pytest.raises(KeyboardInterrupt):
        results.evaluate_run(run, checkpoint, model, tiny_data(), k=K, progress=progress)
    assert not run.evaluation.exists()
    assert list(run.folder.glob("*.partial.npz"))
    interrupted = None
    found = results.evaluate_run(run, checkpoint, model, tiny_data(), k=K, progress=progress)
    expected = read(whole[0].evaluation)
    for name in ("nll", "train_nll", "nll_active_units_only", "active_units", "ess"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    assert not list(run.folder.glob("*.partial.npz"))


def test_arguments_are_checked_before_anything_runs():
    for name, message in (
        ("train_observations", "train-observations must be at least 0, got -1"),
        ("pruned_observations", "active-only-observations must be at least 0, got -1"),
        ("observations", "observations must be at least 1, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_and_print(None, None, None, None, k=1, **{name: -1})


def test_fixed_pixels():
    grey, real = tiny_data(), tiny_data(grey_levels=False)
    assert set(fixed_test_images(grey).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(fixed_test_images(grey), fixed_test_images(grey))
    assert sorted(fixed_test_images(real).tolist()) == sorted(real.test.tolist())
    assert len(fixed_training_images(grey, 5)) == 35
    assert sorted(fixed_training_images(real, 0).tolist()) == sorted(real.train.tolist())
    sorted_by_class = replace(real, test=torch.arange(40.0).repeat_interleave(5)[:, None])
    assert len(fixed_test_images(sorted_by_class)[:20].unique()) > 10
    assert fingerprint(grey.test) != fingerprint(grey.test[:-1])


# --- the page ---------------------------------------------------------------------------------------------------


def test_report(whole):
    run, _, _ = whole
    text = run.report.read_text()
    page = Page(text)
    assert page.ids == SECTIONS
    assert len(page.images) == len(page.dark) == 11
    assert_self_contained(page, text)
    found = read(run.evaluation)
    assert f"{found['nll']:.3f}" in page.text
    assert "Run <b>run & more" in page.text
    assert "iwae-fast evaluate <run>" in page.text
    assert "Made for a test." in page.text
    assert torch.__version__ in page.text
    assert "prefers-color-scheme: dark" in text


def test_report_of_data_that_are_no_images(tmp_path):
    """Report a run on unscaled features with one sample: no pictures and no k-hat."""
    data = tiny_data((1, 12), grey_levels=False)
    run, checkpoint, model = evaluated(tmp_path / "run", data, k=1)
    page = Page(run.report.read_text())
    assert page.ids == SECTIONS
    assert len(page.images) == 6
    assert "the data are not images" in page.text
    assert "fitting a tail needs at least 21 samples, and k is 1" in page.text
    assert "nats per observation" in page.text
    results.draw_loss_curve(run, checkpoint)
    results.draw_reconstructions(run, model, data)
    results.draw_samples(run.samples, checkpoint, model, 2, 3, 0)
    assert run.loss_curve.exists()
    assert not run.reconstructions.exists()
    assert not run.samples.exists()
    with pytest.raises(SystemExit, match="2"):
        main(["sample", str(run.folder)])


def test_what_has_no_k_hat_is_counted(tmp_path, monkeypatch, capsys):
    """Count NaN separately, since it is not above 0.7: the closing lines and the report show the number."""
    estimate = likelihood.log_likelihood

    def two_without(*arguments, **options):
        result = estimate(*arguments, **options)
        result.pareto_k[:3] = torch.tensor([torch.nan, torch.nan, torch.inf])
        result.pareto_k[3:] = 0.5
        return result

    monkeypatch.setattr(likelihood, "log_likelihood", two_without)
    run, checkpoint, model = trained(tmp_path / "run", tiny_data())
    options = {"k": 21, "train_observations": 0, "pruned_observations": 0}
    evaluate_and_print(run, checkpoint, model, tiny_data(), **options)
    found = read(run.evaluation)
    assert (found["pareto_k_above_0.7"], found["pareto_k_undefined"]) == (pytest.approx(1 / 30), 2)
    assert "is above 0.7 for 3% of the 30 test observations and undefined for 2" in " ".join(
        capsys.readouterr().out.split()
    )
    page = Page(run.report.read_text())
    assert "and undefined for 2 of 30" in page.text
    assert "Not drawn: 1 that are inf, 0 that are \N{MINUS SIGN}inf (equal weights), 2 undefined." in page.text


def test_report_before_the_first_epoch(tmp_path):
    run, checkpoint, model = trained(tmp_path / "run", tiny_data())
    run.metrics.write_text(run.metrics.read_text().splitlines(keepends=True)[0])
    results.evaluate_run(run, checkpoint, model, tiny_data(), k=2, observations=1)
    write_run_report(run, checkpoint, model, tiny_data())
    page = Page(run.report.read_text())
    assert page.ids == SECTIONS
    assert "no epoch was completed" in page.text
    assert "a variance needs at least 2 observations" in page.text


def test_traversals(whole):
    _, _, model = whole
    assert pictures.traversals(model, tiny_data(), torch.rand(4)).startswith(PNG)


def test_render():
    with pytest.raises(jinja2.TemplateNotFound):
        render("nothing.html")
    with pytest.raises(jinja2.UndefinedError):
        render("comparison.html")
    assert "<title>iwae_fast</title>" in render("base.html")
    assert Figure(b"a", "title").uri == "data:image/png;base64,YQ=="


def test_numbers():
    assert [fixed(-1234.567), fixed(None), signed(0.5), signed(-0.5), percent(0.25)] == [
        "\N{MINUS SIGN}1,234.57",
        "\N{EN DASH}",
        "+0.50",
        "\N{MINUS SIGN}0.50",
        "25.0 %",
    ]
    assert [duration(5.25), duration(83.0), duration(7384.0)] == ["5.2 s", "1 min 23 s", "2 h 3 min"]
    assert plain([[200, 200], [100]]) == "200, 200, 100"


# --- runs side by side ------------------------------------------------------------------------------------------


@pytest.fixture
def pair(whole, tmp_path):
    """Return the run and a worse one on the same images."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(whole[0].folder, folder)
    run, checkpoint = open_run(second)
    model = trained_model(checkpoint)
    results.evaluate_run(run, checkpoint, model, tiny_data(), k=K)
    return first, second


def test_compare(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    first, second = compare_runs(pair)
    assert first.difference is None
    assert (first.dataset, first.bound, first.k, first.latent, first.epochs) == ("tiny", "iwae", 3, [4, 3], 2)
    mine, others = (PerObservation.load(Run(folder).per_observation).nll for folder in (pair[1], pair[0]))
    differences = mine - others
    assert second.difference.nll == pytest.approx(second.nll - first.nll)
    assert second.difference.std_error == pytest.approx(differences.std(ddof=1) / np.sqrt(30))
    html, numbers = tmp_path / "c.html", tmp_path / "c.json"
    with pytest.raises(SystemExit, match="0"):
        main(["compare", *map(str, pair), "--html", str(html), "--json", str(numbers)])
    assert str(html) in capsys.readouterr().out
    kept = read(numbers)["runs"]
    assert kept == [first.to_json(), second.to_json()]
    text = html.read_text()
    page = Page(text)
    assert page.ids == ["comparison", "provenance"]
    assert_self_contained(page, text)
    printed = []
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit, match="0"):
            main(["compare", *map(str, pair)])
        printed.append(capsys.readouterr().out)
    assert fixed(second.nll, 3) in printed[0]
    assert signed(second.difference.nll, 3) in printed[0]
    assert max(len(line) for line in printed[0].splitlines() if not line.startswith(("1: ", "2: "))) <= 80
    for shown in (str(pair[1]), fixed(second.nll, 3), signed(second.difference.nll, 3), "iwae-fast compare"):
        assert shown in page.text


def test_like_is_compared_with_like(pair):
    """Compare equal settings; where there are none, say why, and which command helps."""
    first, second = pair
    run, checkpoint = open_run(second)
    model = trained_model(checkpoint)
    (kept,) = run.evaluations.glob("*.json")
    both = (kept, kept.with_suffix(".npz"))

    def evaluated_otherwise(data=None, **options):
        for path in both:
            path.unlink()
        results.evaluate_run(run, checkpoint, model, data or tiny_data(), **options)
        (other,) = run.evaluations.glob("*.json")
        summary = compare_runs(pair)[1]
        for path in (other, other.with_suffix(".npz")):
            path.unlink()
        shutil.copy(Run(first).evaluation, kept)
        shutil.copy(Run(first).per_observation, kept.with_suffix(".npz"))
        return summary.difference, summary.incomparable

    to_compare = (
        f"to compare: iwae-fast evaluate '{second}' --k {K}" if " " in str(second) else f"evaluate {second} --k"
    )
    difference, reason = evaluated_otherwise(k=3)
    assert difference is None
    assert reason.startswith(f"evaluated with k = 3, not {K}; ")
    assert to_compare in reason
    difference, reason = evaluated_otherwise(k=K, observations=7)
    assert difference is None
    assert reason.startswith("evaluated with 7 observations, not 30; ")
    difference, reason = evaluated_otherwise(k=3, observations=7)
    assert reason.startswith(f"evaluated with k = 3, not {K} and 7 observations, not 30; ")
    settings = read(run.config)
    run.config.write_text(json.dumps({**settings, "likelihood": "gaussian"}))
    assert "likelihood gaussian, not bernoulli" in compare_runs(pair)[1].incomparable
    run.config.write_text(json.dumps(settings))
    results_of = PerObservation.load(both[1])
    replace(results_of, images="others").save(both[1])
    kept.write_text(json.dumps({**read(kept), "images": "others"}))
    assert "different test observations" in compare_runs(pair)[1].incomparable


def test_of_several_evaluations_those_that_are_alike_are_compared(pair):
    """Compare the evaluations that both runs have, also if one run has a better one as well."""
    first, second = pair
    before = compare_runs(pair)
    for folder, k, observations in ((first, 2, 5), (second, 3, None)):
        run, checkpoint = open_run(folder)
        results.evaluate_run(run, checkpoint, trained_model(checkpoint), tiny_data(), k=k, observations=observations)
    assert compare_runs(pair) == before
    run, checkpoint = open_run(second)
    results.evaluate_run(run, checkpoint, trained_model(checkpoint), tiny_data(), k=K + 1)
    assert read(run.evaluation)["k"] == K + 1
    assert compare_runs(pair) == before


def test_evaluations_of_earlier_versions(pair):
    """Read evaluations that lack the training likelihood, active units and results per observation."""
    run = Run(pair[1])
    shutil.rmtree(run.evaluations)
    run.per_observation.unlink()
    names = ("nll", "std_error", "ess", "k", "dataset", "observations", "step")
    content = read(run.evaluation)
    run.evaluation.write_text(json.dumps({name: content[name] for name in names}))
    summary = compare_runs(pair)[1]
    assert (summary.train_nll, summary.active_units) == (None, None)
    assert "earlier version, which did not store results per observation" in summary.incomparable
    run.evaluation.write_text(json.dumps({"nll": 1.0}))
    with pytest.raises(ValueError, match=r"evaluation.json was written by an earlier version: evaluate the run again"):
        write_run_report(run, None, None, None)
    with pytest.raises(ValueError, match="second is not the folder of a complete run: 'step' is missing or invalid"):
        compare_runs(pair)


def test_errors_of_compare(pair, tmp_path, capsys):
    first, second = pair
    (second / "evaluation.json").unlink()
    shutil.rmtree(second / "evaluations")
    for arguments, message in (
        ((first,), "compare needs at least 2 runs, got 1"),
        ((first, tmp_path), f"{tmp_path} is not the folder of a run: it does not have config.json"),
        ((first, second), f"{second} was never evaluated: it does not have evaluation.json"),
        ((), "Missing argument 'RUN RUN ...'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", *map(str, arguments)])
        error = capsys.readouterr().err
        assert error.startswith("iwae-fast: error: ")
        assert message in error
