"""Tests of the command line as a user runs it: a process on real digits."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fresh
import pytest
import torch
from same_run import assert_same_run

import iwae_fast
from iwae_fast import backends
from iwae_fast.experiments.cli import main
from iwae_fast.experiments.train.checkpoint import load_checkpoint
from iwae_fast.experiments.train.runs import Run

pytestmark = pytest.mark.xdist_group("command line")  # one run for all tests

PACKAGE = Path(iwae_fast.__file__).parents[1]
SMALL = ("--hidden", "20", "--latent", "5", "--k", "5", "--seed", "3")
TIMES = ("seconds", "steps_per_second")
MINUTES = 300
PNG = b"\x89PNG\r\n\x1a\n"


def environment(**changes):
    path = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **changes}


def iwae(*arguments, cwd, **changes):
    """Run the program in a process of its own; standard output and error as text."""
    code = "from iwae_fast.experiments.cli import main; main()"
    return fresh.run(code, *map(str, arguments), cwd=cwd, **environment(**changes))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def assert_error(result, message, code=2):
    assert result.returncode == code, result.stderr
    assert_error_line(result.stderr, message)


def assert_error_line(text, message):
    assert text.startswith("iwae-fast: error: ")
    assert message in text
    assert text.count("\n") == 1


@pytest.fixture
def here(monkeypatch, tmp_path, capsys):
    """Return a function that runs the command line in this process and returns exit code, output and error."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run_here


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run of four epochs, and its output."""
    folder = tmp_path_factory.mktemp("cli") / "a run"  # a space: the command to resume must quote it
    result = iwae("train", *SMALL, "--epochs", 4, "--eval-k", 20, "-o", folder, cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    if backends.MISSING["cpu"] is None:  # or a warning says so
        assert result.stderr == ""
    return folder, result.stdout


def test_train_leaves_everything(run):
    folder, printed = run
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "checkpoint.safetensors",
        "config.json",
        "evaluation.json",
        "evaluation.npz",
        "evaluations",
        "loss-curve.png",
        "metrics.csv",
        "reconstructions.png",
        "report.html",
        "samples.png",
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(PNG)
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]
    assert [row["step"] for row in rows(folder)] == ["29", "58", "87", "116"]
    assert float(rows(folder)[-1]["bound"]) > float(rows(folder)[0]["bound"]) + 1.0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["k"], evaluation["observations"], evaluation["dataset"]) == (20, 360, "digits")
    assert 20.0 < evaluation["nll"] < 30.0
    assert 0.0 < evaluation["std_error"] < 1.0
    assert f"test NLL {evaluation['nll']:.3f} ± {evaluation['std_error']:.3f} nats" in printed
    assert printed.splitlines()[-1] == f"run folder {folder}"
    assert "one by one: the model is on cpu" in (folder / "report.html").read_text()
    assert sum(line.startswith("epoch ") for line in printed.splitlines()) == 4


def test_same_seed_same_numbers_and_default_folder(run, tmp_path):
    folder, _ = run
    result = iwae("train", *SMALL, "--epochs", 4, "--eval-k", 20, "--no-capture", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (other,) = (tmp_path / "runs").iterdir()
    assert other.name.startswith("digits-iwae-k5-")
    assert_same_run(Run(folder), Run(other))
    nll = [json.loads((f / "evaluation.json").read_text())["nll"] for f in (folder, other)]
    assert nll[0] == nll[1]


def test_interrupt_and_resume(tmp_path):
    """Interrupt a run by Ctrl-C and resume it: the result is that of an uninterrupted run."""
    arguments = ("train", *SMALL, "--epochs", "10", "--eval-k", "0")
    whole, broken = tmp_path / "whole", tmp_path / "it's broken"
    assert iwae(*arguments, "-o", whole, cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "iwae_fast", *arguments, "-o", str(broken)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            process.send_signal(signal.SIGINT)
            break
    _, message = process.communicate(timeout=MINUTES)
    assert process.returncode == 130
    assert message.startswith("iwae-fast: interrupted")
    assert message.count("\n") == 1
    command = message.partition("resume with: ")[2].strip()
    steps = load_checkpoint(broken / "checkpoint.safetensors").step
    assert 3 * 29 <= steps < 10 * 29
    assert len(rows(broken)) == steps // 29
    program, *asked = shlex.split(command)
    assert program == "iwae-fast"
    resumed = iwae(*asked, "--eval-k", 0, cwd=Path.cwd())
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(Run(whole), Run(broken))


def test_more_epochs(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    result = iwae("train", "--resume", folder, "--epochs", 5, "--eval-k", 0, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4", "5"]
    assert rows(folder)[:4] == rows(run[0])
    assert json.loads((folder / "config.json").read_text())["epochs"] == 5


def test_another_objective_when_resuming(run, tmp_path, here):
    """Resume with another objective, as in Table 2 of Burda et al. 2016."""
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    change = ("--bound", "vr-iwae", "--alpha", 0.3, "--estimator", "dreg", "--budget", 2, "--chunk-size", 3)
    code, _, error = here("train", "--resume", folder, "--epochs", 5, *change, "--eval-k", 0)
    assert code == 0, error
    assert rows(folder)[:4] == rows(run[0])
    config = json.loads((folder / "config.json").read_text())
    assert (config["bound"], config["alpha"], config["budget"]) == ("vr-iwae", 0.3, 2)
    code, _, error = here("train", "--bound", "elbo", "--estimator", "rws")
    assert code == 2
    assert_error_line(error, "estimator 'rws' is valid only for IWAE, got ELBO()")


def test_two_latent_layers(tmp_path, here):
    layers = ("--latent", "6,3", "--hidden", "20/10", "--estimator", "gdreg", "--budget", 2, "--kl-warmup", 10)
    folder = tmp_path / "run"
    code, output, error = here("train", *layers, "--k", 5, "--epochs", 2, "--eval-k", 30, "-o", folder)
    assert code == 0, error
    config = json.loads((folder / "config.json").read_text())
    assert (config["latent"], config["hidden"], config["kl_warmup"]) == ([6, 3], [[20], [10]], 10)
    _, again, _ = here("evaluate", folder, "--k", 30)
    assert again.split("(")[0] in output
    assert here("sample", folder)[0] == 0
    code, _, error = here("train", "--latent", "6,x")
    assert code == 2
    assert_error_line(error, "latent must be comma-separated sizes such as 100,50, got '6,x'")


def test_evaluate(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    earlier = json.loads((folder / "evaluation.json").read_text())
    result = iwae("evaluate", folder, "--k", 20, "--chunk-size", 7, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["nll"] == pytest.approx(earlier["nll"], rel=1e-6)
    assert f"test NLL {again['nll']:.3f}" in result.stdout
    result = iwae("evaluate", folder, "--k", 200, "--observations", 50, "--backend", "reference", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "50 of 360 test images" in result.stdout
    assert json.loads((folder / "evaluation.json").read_text()) == again  # of all test images: the better one
    kept = [json.loads(path.read_text()) for path in (folder / "evaluations").glob("*.json")]
    assert sorted((one["k"], one["observations"]) for one in kept) == [(20, 360), (200, 50)]
    assert not list(folder.glob("*.partial.npz"))


def test_sample(run, tmp_path, here):
    first, second, other = (tmp_path / name for name in ("first.png", "second.png", "other.png"))
    arguments = ("sample", run[0], "--rows", 2, "--columns", 3, "--seed")
    result = iwae(*arguments, 1, "-o", first, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{first}\n"
    assert here(*arguments, 1, "-o", second)[0] == 0
    assert here(*arguments, 2, "-o", other)[0] == 0
    assert first.read_bytes().startswith(PNG)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_info(tmp_path):
    result = iwae("info", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["iwae_fast"] == iwae_fast.__version__
    assert content["torch"] == torch.__version__
    assert content["backends"].keys() == backends.info()["backends"].keys()
    assert content["chosen"]["cpu"] in content["backends"]
    assert ("CUDA graphs" in content["training_steps"]) == torch.cuda.is_available()


def test_info_table(here):
    code, printed, _ = here("info")
    assert code == 0
    for name in (iwae_fast.__version__, torch.__version__, *(f"backend {b}" for b in backends.info()["backends"])):
        assert name in printed


# --- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--k", "0"), "k must be at least 1, got 0"),
        (("train", "--k", "many"), "Invalid value for '--k'"),
        (("train", "--epochs", "-1"), "epochs must be at least 1, got -1"),
        (("train", "--learning-rate", "-0.1"), "learning_rate must be positive and finite, got -0.1"),
        (("train", "--hidden", "20x"), "hidden must be comma-separated sizes such as 200,200, got '20x'"),
        (("train", "--dataset", "cifar"), "unknown data set 'cifar': choose one of digits, mnist"),
        (("train", "--bound", "vae"), "unknown bound 'vae': choose one of iwae, elbo"),
        (("train", "--backend", "nonsense"), "nonsense"),
        (("train", "--device", "tpu"), "unknown device 'tpu'"),
        (("train", "--device", "cuda:99"), "device 'cuda:99' is not available"),
        (("train", "--eval-k", "-1"), "eval_k must be at least 0, got -1"),
        (("train", "--speed", "9"), "No such option: --speed"),
        (("train", "--alpha", "0.3"), "--alpha is an option of bound vr-iwae, and has no effect on bound 'iwae'"),
        (
            ("train", "--bound", "elbo", "--order", "1"),
            "--order is an option of bound jvi, and has no effect on bound 'elbo'",
        ),
        (("train", "--bound", "ciwae", "--groups", "5"), "--groups is an option of bound miwae and piwae"),
        (
            ("train", "--bound", "miwae", "--beta", "0.5"),
            "--beta is an option of bound ciwae, and has no effect on bound 'miwae'",
        ),
        (("train", "--k", "5", "--budget", "6"), "--budget must be at most k = 5"),
        (("train", "--stages", "2", "--epochs", "3"), "--stages has no effect beside --epochs: protocol 'constant'"),
        (("reproduce", "digits", "--trials", "3"), "--trials has no effect on table 'digits'"),
        (("reproduce", "digits", "--epochs", "3"), "--epochs has no effect on table 'digits'"),
        (("reproduce", "iwaer-table-1", "--stages", "3"), "--stages has no effect on table 'iwaer-table-1'"),
        (("sample", "nowhere", "-o", "x.jpg"), "--output must end in .png, the format that it writes, got 'x.jpg'"),
        (("compare", "a", "b", "--html", "x.pdf"), "--html must end in .html or .htm"),
        (("compare", "a", "b", "--json", "x.csv"), "--json must end in .json"),
        (("train", "--resume", "nowhere"), "nowhere is not the folder of a run"),
        (("evaluate", "nowhere"), "nowhere is not the folder of a run"),
        (("evaluate",), "Missing argument 'RUN'"),
        (("paint",), "No such command 'paint'"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, here):
    code, _, error = here(*arguments)
    assert code == 2
    assert_error_line(error, message)
    assert not any(tmp_path.iterdir())


def test_error_of_the_program(tmp_path, here, monkeypatch):
    assert_error(iwae("train", "--k", 0, cwd=tmp_path), "k must be at least 1, got 0")
    assert_error(iwae("train", cwd=tmp_path, IWAE_FAST_BACKEND="nonsense"), "unknown backend 'nonsense'")
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv("IWAE_FAST_DEBUG", "1")
    with pytest.raises(ValueError, match="k must be at least 1"):
        main(["train", "--k", "0"])


def test_no_command_shows_help(here):
    code, output, error = here()
    assert code == 2
    assert "Usage: iwae-fast" in output + error
    assert "error:" not in error


def test_existing_folder(run, tmp_path):
    before = {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()}
    assert_error(iwae("train", *SMALL, "-o", run[0], cwd=tmp_path), "is not empty")
    assert {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()} == before


def test_resume_of_another_run(run, tmp_path, here):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    config = json.loads((folder / "config.json").read_text())
    for arguments, message in (
        (("--latent", 6), "a run cannot be resumed with another latent"),
        (("--epochs", 2), "epochs can only be raised"),
        (("-o", "other"), "--output and --start-from cannot be used with --resume"),
        (("--stages", 9), "stages must be at most 8"),
        (("--data", "x.npz", "--dataset", "mnist"), "--data and --dataset exclude each other"),
        (("--groups", 5), "--groups is an option of bound miwae and piwae, and has no effect on bound 'iwae'"),
        (("--budget", 9), "--budget must be at most k = 5"),
    ):
        code, _, error = here("train", "--resume", folder, *arguments)
        assert code == 2
        assert_error_line(error, message)
    assert json.loads((folder / "config.json").read_text()) == config
    (folder / "config.json").write_text(json.dumps({**config, "latent": 6}))
    code, _, error = here("train", "--resume", folder)
    assert code == 2
    assert_error_line(error, "belongs to a different run than")


def test_truncated_checkpoint(run, tmp_path, here):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert_error(iwae("train", "--resume", folder, cwd=tmp_path), f"{path} is damaged")
    for command in ("evaluate", "sample"):
        code, _, error = here(command, folder)
        assert code == 2
        assert_error_line(error, f"{path} is damaged")


def test_damaged_data(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00 and then nothing of use")
    result = iwae("train", "--dataset", "mnist", cwd=tmp_path, IWAE_FAST_DATA=tmp_path)
    assert_error(result, "train-images-idx3-ubyte.gz is damaged")
    assert not (tmp_path / "runs").exists()


def test_missing_extra(tmp_path):
    library = (
        "typer",
        "rich",
        "safetensors",
        "sklearn",
        "matplotlib",
        "jinja2",
        "filelock",
        "platformdirs",
        "requests",
    )
    script = f"""
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys({library}))
from iwae_fast.experiments.cli import main

def run(*arguments):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try: main(arguments)
        except SystemExit as end: return end.code, output.getvalue()

code, text = run("info")
assert code == 0 and "backend reference   available" in text and "\\ncpu tensors use" in text, text
code, text = run("info", "--json")
assert code == 0 and json.loads(text)["chosen"]["cpu"], text
for arguments, code in (((), 2), (("--help",), 0)):
    assert run(*arguments)[0] == code
    assert "iwae_fast[cli]" in run(*arguments)[1]
main(["train"])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert_error(result, "pip install 'iwae_fast[cli]'", code=1)


def test_by_the_name_of_the_package(tmp_path):
    command = [sys.executable, "-m", "iwae_fast", "info", "--json"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["iwae_fast"] == iwae_fast.__version__


@pytest.mark.skipif(
    not (Path(os.environ.get("IWAE_FAST_DATA", "nowhere")) / "mnist").is_dir(), reason="IWAE_FAST_DATA has no mnist"
)
def test_mnist(tmp_path, here):
    """Train for one epoch in large batches, and check the likelihood."""
    arguments = ("--batch-size", 2000, "--hidden", 20, "--latent", 5, "--k", 2, "--epochs", 1, "--eval-k", 0)
    code, _, error = here("train", "--dataset", "mnist", *arguments, "-o", tmp_path / "run")
    assert code == 0, error
    _, output, _ = here("evaluate", tmp_path / "run", "--k", 5, "--observations", 100)
    assert "100 of 10000 test images" in output
