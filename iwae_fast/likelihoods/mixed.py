"""Tables with columns of several kinds."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import accumulation_dtype
from .base import Likelihood, parts_of
from .bernoulli import Bernoulli
from .categorical import Categorical
from .columns import Column, Schema, as_columns
from .counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from .gaussian import Gaussian
from .poisson import Poisson, ZeroInflatedPoisson
from .student_t import StudentT

REAL: dict[str, type[Likelihood]] = {"gaussian": Gaussian, "student-t": StudentT}
COUNT: dict[str, type[Likelihood]] = {
    "negative-binomial": NegativeBinomial,
    "poisson": Poisson,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
    "zero-inflated-poisson": ZeroInflatedPoisson,
}


class _Group(NamedTuple):
    """Columns with one likelihood."""

    key: str
    columns: list[int]
    outputs: slice
    """Its outputs among those of all groups."""


class Mixed(Likelihood):
    """Independent columns of real numbers, counts, binary numbers and classes in one table (N, D).

    Each row of x has one number per column; classes are indices 0, ..., C - 1. The columns of one kind share a
    likelihood of the package, and so do the columns of C classes. The decoder returns the outputs of these, in the
    order of :attr:`outputs`: ``DenseVAE`` builds it. Its encoder receives real numbers as they are, log(1 + x)
    of counts, -1 and 1 for binary numbers, and one-hot vectors of classes, with zeros for missing features. Standardize
    real columns.

    ``mean`` and ``impute`` return the probability of 1 for binary columns, and the most probable class.

    Args:
        columns: the schema (:mod:`iwae_fast.likelihoods.columns`): a mapping such as {"age": "real", "visits": "count",
            "smoker": "binary", "blood": {"kind": "categorical", "classes": 4}}, or a sequence of columns.
        real: the likelihood of real columns, "gaussian" or "student-t".
        count: that of counts: "negative-binomial", "poisson", or one of their zero-inflated variants.
        log_std_bounds: bounds (low, high) of the log_std of real columns: see :class:`Gaussian`.
    """

    name = "mixed"
    takes_integers = False
    outputs: tuple[str, ...]

    def __init__(
        self,
        columns: Schema,
        *,
        real: str = "gaussian",
        count: str = "negative-binomial",
        log_std_bounds: tuple[float, float] | None = (-5.0, 3.0),
    ) -> None:
        super().__init__()
        for argument, value, known in (("real", real, REAL), ("count", count, COUNT)):
            if value not in known:
                raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}")
        self.columns: tuple[Column, ...] = as_columns(columns)
        self.real, self.count = real, count
        self.log_std_bounds = log_std_bounds
        by_key: dict[str, list[int]] = {}
        for index, column in enumerate(self.columns):
            by_key.setdefault(f"{column.kind}{column.classes or ''}", []).append(index)
        makers = {
            "real": lambda: REAL[real](log_std_bounds=log_std_bounds),  # type: ignore[call-arg]
            "count": COUNT[count],
            "binary": Bernoulli,
        }
        self.parts: nn.ModuleDict = nn.ModuleDict()
        self._groups: list[_Group] = []
        outputs: list[str] = []
        for key, indices in by_key.items():
            part = makers[key]() if key in makers else Categorical(int(self.columns[indices[0]].classes or 0))
            self.parts[key] = part
            self._groups.append(_Group(key, indices, slice(len(outputs), len(outputs) + len(part.outputs))))
            outputs += [f"{key}_{output}" for output in part.outputs]
        self.outputs = tuple(outputs)
        self._indices: dict[tuple[str, torch.device], Tensor] = {}

    def _part(self, group: _Group) -> Any:
        return self.parts[group.key]

    def _index(self, group: _Group, device: torch.device) -> Tensor:
        """Return the indices of a group's columns on a device, to which they are copied once."""
        key = (group.key, device)
        if torch.compiler.is_compiling():
            return torch.tensor(group.columns, device=device)
        if key not in self._indices:
            self._indices[key] = torch.tensor(group.columns, device=device)
        return self._indices[key]

    def _outputs_of(self, group: _Group, parts: tuple[Any, ...]) -> Any:
        own = parts[group.outputs]
        return own if len(own) > 1 else own[0]

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        flat = self._checked(value)
        parts = parts_of(output, self)
        terms = []
        for group in self._groups:
            index = self._index(group, flat.device)
            shown = None if mask is None else mask.index_select(-1, index)
            own = self._outputs_of(group, parts)
            terms.append(self._part(group).log_prob(flat.index_select(1, index), own, num_samples, shown, backend))
        dtype = accumulation_dtype(*terms)
        return torch.stack([term.to(dtype) for term in terms]).sum(0)

    def _checked(self, value: Tensor) -> Tensor:
        flat = value.flatten(1)
        if flat.shape[1] != len(self.columns):
            raise ValueError(f"x must have the {len(self.columns)} columns of the schema, got {tuple(value.shape)}")
        return flat

    def check_support(self, value: Tensor, mask: Tensor | None = None) -> None:
        flat = self._checked(value)
        shown = None if mask is None else mask.expand(value.shape).flatten(1)
        for group in self._groups:
            index = self._index(group, flat.device)
            part = self._part(group)
            own = None if shown is None else shown.index_select(1, index)
            if (entry := part.first_outside(flat.index_select(1, index), own)) is not None:
                row, column = entry[0], group.columns[entry[1]]
                raise ValueError(
                    f"column {self.columns[column].name!r} of likelihood 'mixed' takes {part.described_support()}, but "
                    f"x[{row}, {column}] is {flat[row, column].item():g}"
                )

    def mean(self, output: Any) -> Tensor:
        return self.imputed(self.expectations(output))

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        parts = parts_of(output, self)
        return self._table([self._part(g).sample(self._outputs_of(g, parts), generator) for g in self._groups])

    def expectations(self, output: Any) -> Tensor:
        """Return means of real columns and counts, and probabilities of 1 and of classes, (N, S)."""
        parts = parts_of(output, self)
        found = []
        for group in self._groups:
            part, own = self._part(group), self._outputs_of(group, parts)
            if isinstance(part, Categorical):
                by_class = own.reshape(len(own), -1, part.num_classes)
                found.append(torch.softmax(by_class, -1).flatten(1))
            else:
                found.append(part.mean(own))
        dtype = found[0].dtype
        for each in found[1:]:
            dtype = torch.promote_types(dtype, each.dtype)
        return torch.cat([each.to(dtype) for each in found], 1)

    def imputed(self, averages: Tensor) -> Tensor:
        sizes = [len(g.columns) * getattr(self._part(g), "num_classes", 1) for g in self._groups]
        values = []
        for group, part in zip(self._groups, averages.split(sizes, 1), strict=True):
            classes = getattr(self._part(group), "num_classes", None)
            if classes is None:
                values.append(part)
            else:
                by_class = part.unflatten(1, (-1, classes))
                unknown = by_class.isnan().any(-1)
                values.append(torch.where(unknown, torch.nan, by_class.argmax(-1).to(part.dtype)))
        return self._table(values)

    def _table(self, values: list[Tensor]) -> Tensor:
        """Return columns in their order, (N, D), for those of each group."""
        order = [column for group in self._groups for column in group.columns]
        dtype = next((v.dtype for v in values if v.is_floating_point()), torch.get_default_dtype())
        whole = torch.cat([value.to(dtype) for value in values], 1)
        return whole[:, sorted(range(len(order)), key=order.__getitem__)]

    @property
    def unordered(self) -> Tensor | None:
        return torch.tensor([column.kind == "categorical" for column in self.columns])

    def output_sizes(self, data_dim: int) -> dict[str, int]:
        if data_dim != len(self.columns):
            raise ValueError(
                f"data_dim must be the number of columns of the schema, {len(self.columns)}, got {data_dim}"
            )
        return {
            f"{group.key}_{name}": size
            for group in self._groups
            for name, size in self._part(group).output_sizes(len(group.columns)).items()
        }

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        return {
            f"{group.key}_{name}": bias
            for group in self._groups
            for name, bias in self._part(group).initial_biases(data_mean[group.columns]).items()
        }

    encoder_takes_mask = True

    def encoder_width(self, data_dim: int) -> int:
        return sum(column.classes or 1 for column in self.columns)

    def encoder_input(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the input of a dense encoder, (B, W), with zeros for features that a mask (B, D) hides."""
        flat = self._checked(x)
        inputs = []
        for group in self._groups:
            index = self._index(group, flat.device)
            part, own = self._part(group), flat.index_select(1, index)
            if isinstance(part, Categorical):
                levels = own.round().clamp(0, part.num_classes - 1).long()
                given = F.one_hot(levels, part.num_classes).to(flat.dtype)
            else:
                given = (2.0 * own - 1.0 if isinstance(part, Bernoulli) else part.encoder_input(own)).unsqueeze(-1)
            if mask is not None:
                given = torch.where(mask.flatten(1).index_select(1, index).unsqueeze(-1), given, 0.0)
            inputs.append(given.flatten(1))
        return torch.cat(inputs, 1)

    def extra_repr(self) -> str:
        return f"{len(self.columns)} columns, real={self.real!r}, count={self.count!r}"
