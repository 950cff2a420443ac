"""Tests that every example runs and learns."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import fresh
import pytest
import torch
import torch.distributed as dist
from paths import ROOT

import iwae_fast as iw

EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str) -> str:
    # Threads that wait for each other's cores would be slow beside whatever else the machine does.
    path = str(EXAMPLES / name)
    code = f"import runpy, torch; torch.set_num_threads(1); runpy.run_path({path!r}, run_name='__main__')"
    result = fresh.run(code, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text()
    assert all(f'"{path.name}"' in here for path in EXAMPLES.glob("*.py"))


def python_in(page: str) -> list[str]:
    """Return the blocks of Python in a page of the documentation, by its path from the root."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_readme() -> None:
    """Run the Python of the README, one block after the other."""
    script = "\n".join(python_in("README.md"))
    assert "5000" in script
    result = fresh.run(script.replace("5000", "50"))
    assert result.returncode == 0, result.stderr


def test_extending_page() -> None:
    """Run the Python of docs/extending.md, one block after the other, with its assertions."""
    result = fresh.run("\n".join(python_in("docs/extending.md")))
    assert result.returncode == 0, result.stderr
    assert "relative bias" in result.stdout


def test_evaluation_page(tmp_path: Path) -> None:
    """Run the Python of docs/evaluation.md that needs no run and no other library."""
    script = "\n".join(code for code in python_in("docs/evaluation.md") if "load_run" not in code)
    assert "FromDistributions" in script
    before = "import torch\nimport iwae_fast as iw\nmodel, x = iw.models.DenseVAE(6, (2,), ((4,),)), torch.rand(9, 6)\n"
    result = fresh.run(before + script.replace("5000", "50"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_models_page(tmp_path: Path) -> None:
    """Run every line of Python in docs/models.md."""
    script = f"""
import importlib.util
import torch
from torch import nn
import iwae_fast as iw

class Encoder(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)).chunk(2, -1)

def run(code, **names):
    exec(code, names := {{"iw": iw, "nn": nn, "torch": torch, **names}})
    return names

functions, convolutions, models, folders, posteriors = {python_in("docs/models.md")!r}
networks = dict(encoder=Encoder(784, 10), decoder=nn.Linear(5, 784), x=torch.rand(4, 784))
run(functions, **networks)
assert run(convolutions, images=torch.rand(2, 1, 28, 28))["loss"].shape == ()
models = models.replace("5000", "50") + posteriors
run(models, **networks, x_test=networks["x"], loader=[networks["x"]])
if importlib.util.find_spec("safetensors") is not None:
    run(folders)
"""
    result = fresh.run(script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_drop_in() -> None:
    bounds = [float(b) for b in re.findall(r"bound (-[\d.]+) nats", run("drop_in.py"))]
    assert bounds[-1] > bounds[0] + 20


@pytest.mark.parametrize(("name", "reached"), [("convolutional.py", 25.5), ("binary_latents.py", 25.5)])
def test_digits(name: str, reached: float) -> None:
    """Compare with 27.2 nats, the negative log-likelihood of independent pixels."""
    pytest.importorskip("sklearn")
    (nll,) = re.findall(r"test NLL ([\d.]+) nats", run(name, "3" if name == "convolutional.py" else "10"))
    assert float(nll) < reached


def test_counts() -> None:
    """Compare with 162 nats, the value before training."""
    (nll,) = re.findall(r"test NLL ([\d.]+) nats", run("counts.py", "8"))
    assert float(nll) < 150.0


def test_single_cells() -> None:
    """Check that the model learns the dispersion, and finds the genes whose expression differs."""
    output = run("single_cells.py", "12")
    (theta,) = re.findall(r"theta of the genes ([\d.]+)", output)
    (found, right) = map(int, *re.findall(r"(\d+) genes found, (\d+) of them", output))
    assert 1.2 < float(theta) < 6.0
    assert right >= 10
    assert found - right <= 5


def test_tabular() -> None:
    """Compare with -7 nats, the log-likelihood of independent standard normal entries."""
    pytest.importorskip("pandas")
    printed = run("tabular.py", "15")
    (found,) = re.findall(r"log p\(observed entries\) (-?[\d.]+) nats", printed)
    assert float(found) > -5.0
    assert len(re.findall(r"expected +-?[\d.]+", printed)) == 6


def test_image_folder() -> None:
    """Check that reconstructions have the color of their class, which labels tell."""
    pytest.importorskip("PIL")
    printed = run("image_folder.py", "8")
    assert "240 training images of shape (12, 12, 3)" in printed
    colors = re.findall(r"(red|green): \d+ images, mean color of their reconstructions \[([\d.]+), ([\d.]+)", printed)
    (_, red, green), (_, red_of_green, green_of_green) = colors
    assert float(red) > float(green)
    assert float(green_of_green) > float(red_of_green)


def test_conditional() -> None:
    (found,) = re.findall(r"log p\(x \| y\) (-[\d.]+) nats", run("conditional.py"))
    assert float(found) > -36.0


def test_own_distributions() -> None:
    """Check that the estimate approaches the exact value, which training raises, and that k-hat says so."""
    pattern = r"log p\(x\) (-[\d.]+) nats, exactly (-[\d.]+); k-hat above 0.7 for (\d+)%"
    lines = re.findall(pattern, run("own_distributions.py"))
    (first, _, doubtful), *_, (found, exact, _) = ([float(number) for number in line] for line in lines)
    assert doubtful > 5
    assert lines[-1][2] == "0"
    assert found == pytest.approx(exact, abs=5e-3)
    assert found > first + 5


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize(
    ("library", "launcher", "name"),
    [
        ("lightning", (), "with_lightning.py"),
        ("lightning", (), "with_fabric.py"),
        ("accelerate", TORCHRUN, "with_accelerate.py"),
    ],
)
def test_trainers(library: str, launcher: tuple[str, ...], name: str) -> None:
    """Check that two processes print the bounds of one process on whole batches."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: it is in the extra 'trainers'")
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch has no gloo")
    command = [sys.executable, *launcher, str(EXAMPLES / name)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = [float(bound) for bound in re.findall(r"bound (-[\d.]+) nats", result.stdout)]
    assert found == pytest.approx(trained_by_one_process(), abs=2e-4)


def trained_by_one_process() -> list[float]:
    """Return the bound of every fifth step of the examples of trainers, in nats."""
    torch.manual_seed(0)
    x = (torch.rand(100, 64) < torch.rand(64)).float()
    model = iw.models.DenseVAE(64, (8,), (32,))
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    bounds = []
    for step, batch in enumerate(x.split(20) * 4):
        optimizer.zero_grad()
        loss = objective(model, batch, seed=step)
        loss.backward()
        optimizer.step()
        bounds.append(-loss.item())
    assert bounds[-1] > bounds[0] + 5.0
    return bounds[4::5]
