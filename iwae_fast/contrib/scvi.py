"""Log-weights of a module of scvi-tools, for :func:`iwae_fast.evaluate.log_likelihood`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluate.distributions import sampler
from ..evaluate.observations import Chunk
from ..evaluate.sources import LogWeightsOfChunk, Source, checked_log_weights
from ..models.draw import Draw

X, Z, LIBRARY = "X", "z", "library"
"""Names of scvi-tools: the counts in a batch, and the latent variables in a module's outputs."""


class FromSCVI(Source):
    """A trained module of scvi-tools, such as ``model.module`` of an ``scvi.model.SCVI``:
    ``iw.evaluate.log_likelihood(FromSCVI(model.module), loader)``.

    Its ``inference`` runs once per chunk of cells, and its ``generative`` for draws of z, and of the library size l
    where that is latent; their inputs come from ``_get_inference_input`` and ``_get_generative_input``. The log-weights
    are log p(x | z, l) + log p(z) + log p(l) - log q(z | x) - log q(l | x), from the outputs "px", "pz", "pl", "qz" and
    "ql". A module whose outputs have other names, such as that of TOTALVI, is refused. So is a logistic-normal latent
    space ("ln"), in which "qz" is not the density of z.

    The noise is a function of (seed, sample, cell), so the result does not depend on the chunk size, batches or ranks,
    up to rounding.

    Observations are a loader of mappings from names to tensors with one row per cell, such as the model's own
    ``_make_data_loader(adata=adata)``. A single mapping is given as ``[mapping]``.

    Args:
        module: the module, whose parameters are on one device.

    Raises:
        TypeError, ValueError: the module is something else; or in an evaluation, a batch or an output is.
    """

    def __init__(self, module: nn.Module) -> None:
        for name in ("inference", "generative", "_get_inference_input", "_get_generative_input"):
            if not callable(getattr(module, name, None)):
                raise TypeError(
                    f"module must be one of scvi-tools, such as model.module, got {type(module).__name__}, which has "
                    f"no method {name}"
                )
        if getattr(module, "latent_distribution", "normal") != "normal":
            raise ValueError(
                f"module must have latent_distribution 'normal', got {module.latent_distribution!r}: its z is a "
                "function of the variable whose density q is"
            )
        super().__init__(module)
        self.scvi: Any = module
        self.names: list[str] | None = None

    def check(self, x: Any, context: Sequence[Tensor]) -> None:
        if self.names is None or len(context) != len(self.names):
            raise TypeError(
                f"x must be a loader of mappings with {X!r}, as scvi-tools makes them, got {type(x).__name__}: give "
                "[batch] for a single mapping"
            )
        super().check(x, context)

    def parts(self, batch: Any, index: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not isinstance(batch, Mapping) or X not in batch:
            got = (
                f"a mapping with {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
            )
            raise TypeError(f"batches of x must be mappings with {X!r}, but batch {index} is {got}")
        found = sorted(name for name, tensor in batch.items() if name != X and tensor is not None)
        if index == 0:
            self.names = found
        if found != self.names:
            raise ValueError(f"batches of x must have the same names, but batch {index} has {found}, not {self.names}")
        return batch[X], tuple(batch[name] for name in found)

    def prepared(self, chunk: Chunk, seed: int, step: int, num_steps: int) -> LogWeightsOfChunk:  # noqa: ARG002
        x, module = chunk.x, self.scvi
        tensors = {X: x, **dict(zip(self.names or (), chunk.context, strict=True))}
        inferred = module.inference(**module._get_inference_input(tensors))
        latent = [(Z, "qz", "pz")]
        if inferred.get("ql") is not None:
            latent.append((LIBRARY, "ql", "pl"))
        samplers = {
            name: sampler(_entry(inferred, q, "inference"), len(x), q, stream)
            for stream, (name, q, _) in enumerate(latent)
        }
        key = torch.full((), seed, dtype=torch.int64, device=x.device)

        def log_weights(first: int, count: int) -> Tensor:
            draw = Draw(key, count, first, chunk.first)
            drawn = {name: draws(draw) for name, draws in samplers.items()}
            values = {name: value for name, (value, _) in drawn.items()}
            if LIBRARY not in values and LIBRARY in inferred:
                values[LIBRARY] = inferred[LIBRARY].expand(count, *inferred[LIBRARY].shape)
            outputs = module.generative(**module._get_generative_input(tensors, {**inferred, **values}))
            total = _entry(outputs, "px", "generative").log_prob(x).sum(-1)
            for name, _, p in latent:
                value, log_q = drawn[name]
                total = total + _entry(outputs, p, "generative").log_prob(value).sum(-1) - log_q
            return checked_log_weights("generative and inference", total, count, x)

        return log_weights


def _entry(outputs: Mapping[str, Any], name: str, method: str) -> Any:
    """Return a distribution of a module's outputs; raise ValueError if there is none."""
    if outputs.get(name) is None:
        raise ValueError(
            f"{method}() of the module must return a distribution {name!r}, got {', '.join(map(repr, outputs))}: the "
            "joint density of another module can be given to iwae_fast.evaluate.FromDraws"
        )
    return outputs[name]
