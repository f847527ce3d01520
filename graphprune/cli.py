"""The command line: flags to values, errors to exit codes. What a verb does is in :mod:`graphprune.commands`."""

import difflib
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from graphprune import __version__
from graphprune.errors import GraphPruneError, InputError
from graphprune.recipe import Recipe, Sweep, read_recipe
from graphprune.report.interrupts import Steps, interruptible
from graphprune.report.terminal import Terminal

if TYPE_CHECKING:
    from pydantic import BaseModel

app = App(
    name="graphprune",
    help="Structural pruning of ONNX files. `graphprune model.onnx small.onnx --macs 50%` is `graphprune prune`.",
    version=__version__,
    help_format="markdown",
    default_parameter=Parameter(negative=(), show_default=False),
    suppress_keyboard_interrupt=False,
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class View:
    """What every verb takes: the form of the report, and operators from outside.

    Attributes:
        json: One JSON object on stdout, everything else on stderr.
        quiet: Errors only.
        verbose: All rows of every table, and tracebacks of unexpected errors.
        custom_ops: Shared library with onnxruntime kernels, or Python file that calls graphprune.register. Repeatable.
    """

    json: bool = False
    quiet: Annotated[bool, Parameter(alias="-q")] = False
    verbose: Annotated[bool, Parameter(alias="-v")] = False
    custom_ops: tuple[Path, ...] = ()


Flags = Annotated[Recipe, Parameter(name="*")]
Sweeping = Annotated[Sweep, Parameter(name="*")]
_NO_FLAGS, _NO_SWEEP, _PLAIN = Recipe(), Sweep(), View()


@app.default
@app.command
def prune(
    model: Path, output: Path, /, *, recipe: Path | None = None, flags: Flags = _NO_FLAGS, view: View = _PLAIN
) -> None:
    """Make a model smaller and prove that nothing else changed.

    Writes OUTPUT and, beside it, its plan, its report and the recipe that gives it again. Nothing is written unless
    the result equals the masked original.

    Args:
        model: The ONNX file; never changed.
        output: Where the smaller one goes.
        recipe: YAML or JSON file with any of the options below under the same names; flags win.
        flags: Targets, constraints and the rest.
        view: Form of the report.
    """
    from graphprune import commands

    _show(view, lambda step: commands.prune(model, output, _merged(flags, recipe), step, given=recipe))


@app.command
def analyze(
    model: Path,
    /,
    *,
    explain: tuple[str, ...] = (),
    top: int = 8,
    input_shape: tuple[str, ...] = (),
    allow_io: tuple[str, ...] = (),
    sweep: Sweeping = _NO_SWEEP,
    view: View = _PLAIN,
) -> None:
    """Show which channels belong together, what cannot be cut and why, and what each group costs (--sensitivity).

    Args:
        model: The ONNX file.
        explain: Name of a group, tensor or node: say in words what it spans or what freezes it. Repeatable.
        top: Rows per list (8).
        input_shape: Sizes for an input with dynamic axes: x:1,3,224,224. Repeatable.
        allow_io: Regular expression; axes of graph inputs and outputs that match count as free. Repeatable.
        sweep: Measuring what each group costs.
        view: Form of the report.
    """
    from graphprune import commands

    def work(step: Callable[[str], None]) -> "BaseModel":
        return commands.analyze(
            model, explain=explain, input_shape=input_shape, allow_io=allow_io, sweep=sweep, step=step
        )

    _show(view, work, top)


@app.command
def plan(
    model: Path, output: Path, /, *, recipe: Path | None = None, flags: Flags = _NO_FLAGS, view: View = _PLAIN
) -> None:
    """Decide what to remove and write only the plan, a JSON file for `apply`. Nothing is verified yet.

    Args:
        model: The ONNX file.
        output: Where the plan goes.
        recipe: YAML or JSON file with any of the options below under the same names; flags win.
        flags: Targets, constraints and the rest.
        view: Form of the report.
    """
    from graphprune import commands

    if flags.no_verify or flags.metric is not None:
        raise InputError("plan verifies nothing: --metric and --no-verify belong to prune and apply")
    _show(view, lambda step: commands.plan(model, output, _merged(flags, recipe), step))


@app.command
def apply(
    plan: Path,
    model: Path,
    output: Path,
    /,
    *,
    data: str | None = None,
    input_shape: tuple[str, ...] = (),
    no_verify: bool = False,
    view: View = _PLAIN,
) -> None:
    """Carry out a plan on a model with the same names, such as a later checkpoint.

    Checkpoints without a graph are .safetensors, .safetensors.index.json, .pt or .pth files and Hugging Face folders.

    Args:
        plan: The plan.
        model: The ONNX file or checkpoint; never changed.
        output: Where the smaller one goes: a file of the same kind, or a new folder.
        data: Samples for verification, beside random ones: any source of prune --data.
        input_shape: Sizes for an input with dynamic axes: x:1,3,224,224. Repeatable.
        no_verify: Do not compare the result with the masked original; it is marked UNVERIFIED then.
        view: Form of the report.
    """
    from graphprune import commands

    _show(
        view,
        lambda step: commands.apply(
            plan, model, output, data=data, input_shape=input_shape, verify=not no_verify, step=step
        ),
    )


@app.command
def verify(
    model: Path,
    pruned: Path,
    plan: Path,
    /,
    *,
    data: str | None = None,
    samples: int = 1,
    seed: int = 0,
    input_shape: tuple[str, ...] = (),
    view: View = _PLAIN,
) -> None:
    """Compare a pruned model with the masked original.

    Args:
        model: The original.
        pruned: The smaller one.
        plan: The plan that led from one to the other.
        data: Samples to compare on, beside random ones: any source of prune --data.
        samples: Random inputs per input size (1).
        seed: Seed of the random inputs (0).
        input_shape: Sizes for an input with dynamic axes: x:1,3,224,224. Repeatable.
        view: Form of the report.
    """
    from graphprune import commands

    _show(
        view,
        lambda step: commands.verify(
            model, pruned, plan, data=data, input_shape=input_shape, samples=samples, seed=seed, step=step
        ),
    )


@app.command
def profile(
    model: Path,
    /,
    *,
    top: int = 20,
    latency: bool = False,
    threads: int = 0,
    input_shape: tuple[str, ...] = (),
    view: View = _PLAIN,
) -> None:
    """Show where a model spends its MACs, its bytes and its time. Writes nothing.

    Args:
        model: The ONNX file.
        top: Rows per list (20).
        latency: Also run it in onnxruntime and show the time per operator.
        threads: Threads of onnxruntime, 0 for its default.
        input_shape: Sizes for an input with dynamic axes: x:1,3,224,224. Repeatable.
        view: Form of the report.
    """
    from graphprune import commands

    _show(
        view,
        lambda step: commands.profile(model, latency=latency, threads=threads, input_shape=input_shape, step=step),
        top,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What stands after the command's name, ``sys.argv[1:]`` when None.

    Returns:
        0 done, 1 unexpected, 2 bad usage or input, 3 infeasible, 4 not verified, 5 nothing to prune, 130 interrupted.
    """
    with interruptible(to_the_end=arguments is None):
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(tokens: Sequence[str]) -> int:
    terminal = Terminal(json="--json" in tokens, verbose=bool({"-v", "--verbose"} & {*tokens}))
    try:
        _check_verb(tokens)
        with warnings.catch_warnings(action="default" if terminal.verbose else "ignore"):
            app(tokens or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        error.verbose = False
        return terminal.fail(str(error), InputError.exit_code)
    except GraphPruneError as error:
        return terminal.fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return terminal.fail("interrupted; no file was left half-written", 130)
    except Exception as error:
        hint = "" if terminal.verbose else "; run again with -v to see where"
        return terminal.fail(f"unexpected {type(error).__name__}: {error}{hint}", GraphPruneError.exit_code, error)
    return 0 if tokens else InputError.exit_code


def _check_verb(tokens: Sequence[str]) -> None:
    """A first word that is neither a verb nor a file is a verb misspelt."""
    word = tokens[0] if tokens else "-"
    verbs = [name for name in app if not name.startswith("-")]
    if word in verbs or word.startswith("-") or Path(word).suffix or Path(word).exists():
        return
    near = difflib.get_close_matches(word, verbs, 1)
    raise InputError(
        f"{word}: no such file, and no verb; " + (f"did you mean {near[0]}?" if near else ", ".join(verbs))
    )


def _merged(flags: Recipe, file: Path | None) -> Recipe:
    return flags.over(read_recipe(file)) if file is not None else flags


def _show(view: View, work: "Callable[[Callable[[str], None]], BaseModel]", rows: int | None = None) -> None:
    """Do the work of a verb under a progress bar, then show its report."""
    from graphprune.graph.custom import custom_ops

    terminal = Terminal(json=view.json, quiet=view.quiet, verbose=view.verbose)
    aside = redirect_stdout(sys.stderr) if view.json else nullcontext()
    with aside, terminal.progress() as step, custom_ops(view.custom_ops):
        report = work(Steps(step))
    terminal.show(report, rows)
