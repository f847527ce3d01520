"""The errors graphprune raises on purpose. Each maps to one exit code of the command line."""

from __future__ import annotations


class GraphPruneError(Exception):
    """Base of every deliberate error; the message is one line that a user can act on."""

    exit_code = 1


class InputError(GraphPruneError):
    """The file, the data or an option is wrong (exit code 2)."""

    exit_code = 2


class InfeasibleError(GraphPruneError):
    """The target cannot be met under the constraints (exit code 3); the message names the best reachable."""

    exit_code = 3


class VerificationError(GraphPruneError):
    """The pruned model does not equal the masked original; nothing was written (exit code 4)."""

    exit_code = 4


class NothingToPruneError(GraphPruneError):
    """No channel of the model can be removed; the message says what blocks it (exit code 5)."""

    exit_code = 5
