"""Trial cuts of a module in its own captured graph: nothing is made smaller, and nothing captured anew."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.layers import Layer
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array
from graphprune.graph.run import CannotRun
from graphprune.graph.torch_feed import Call
from graphprune.graph.torch_program import named_tensors
from graphprune.graph.torch_types import array_of
from graphprune.recover.evidence import Evidence, summand
from graphprune.verify.torch_reference import MaskedReference


class TorchEvidence(Evidence):
    """Measures groups one by one: the masked reference runs with the weights that make up for what is masked."""

    def _original(self) -> list[list[Array]]:
        self._traced = self.deps.source.source
        self._call = Call(self._traced)
        self._state = {n: t.detach() for n, t in named_tensors(self._traced.module)}
        return self._run(self.deps.cut(np.zeros(0, np.int32)), {})

    def _outputs(self, cut: Cut) -> list[list[Array]]:
        changed: dict[str, Tensor] = {}
        for layer, weight, shift in self.compensations(cut):
            self._put(changed, layer.weight, weight)
            self._shift(changed, layer, shift)
        return self._run(cut, changed)

    def _shift(self, changed: dict[str, Tensor], layer: Layer, shift: Array) -> None:
        found = summand(layer)
        if found is None:
            return
        name, sign = found
        old = self.deps.source.weights[name].read()
        self._put(changed, name, old.astype(np.float64) + sign * shift.reshape(old.shape))

    def _put(self, changed: dict[str, Tensor], name: str, array: Array) -> None:
        source = self.deps.source.weights[name].source
        changed[source] = torch.from_numpy(np.array(array, np.float64)).to(self._state[source])

    def _run(self, cut: Cut, changed: Mapping[str, Tensor]) -> list[list[Array]]:
        """Per feed the float outputs, at full width.

        Raises:
            CannotRun: It does not run.
        """
        reference = MaskedReference(cut, {**self._state, **changed})
        try:
            made = [reference(*self._call(feed)) for feed in self.feeds]
        except Exception as error:  # whatever operators may raise
            raise CannotRun(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        return [[array_of(t).astype(np.float64) for t in each if t.is_floating_point()] for each in made]
