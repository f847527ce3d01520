"""Searches the widths of a model with Optuna: `python examples/optuna_search.py --macs 60% --trials 100`.

Needs `pip install "graphprune[search]"`. Every trial proposes a width for each group; what exceeds the target is made
smaller where that costs least, and the error of the outputs on a few samples is what Optuna minimises.
"""

import argparse
from pathlib import Path

import numpy as np
import optuna

import graphprune as gp

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Searches the widths of a model with Optuna.")
    parser.add_argument("model", nargs="?", type=Path, default=HERE / "fashion.onnx")
    parser.add_argument("--data", type=Path, default=HERE / "calibration.npz")
    parser.add_argument("--macs", default="60%")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--out", type=Path, help="where to write the best model")
    args = parser.parse_args()

    with np.load(args.data) as archive:
        data = {name: archive[name] for name in archive.files if name != "labels"}
    space = gp.Space(args.model, macs=args.macs, data=data, samples=128)

    def objective(trial: optuna.Trial) -> float:
        wanted = {name: trial.suggest_categorical(name, kept) for name, kept in space.choices.items()}
        widths = space.clipped(wanted)
        trial.set_user_attr("widths", widths)
        space.tell(widths, space.error(widths))
        return space.told[-1][1]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    whole = {name: kept[-1] for name, kept in space.choices.items()}
    study.enqueue_trial(whole)  # begins with what the target alone makes of it
    study.optimize(objective, n_trials=args.trials)

    plan = space.plan(space.best)
    print(f"best error {study.best_value:.3f} at {plan.after['macs'] / plan.before['macs']:.1%} of the MACs")
    for name, width in space.best.items():
        print(f"  {name}: {width} of {space.choices[name][-1]}")
    if args.out is not None:
        print(gp.prune(args.model, args.out, from_plan=plan, data=data).verdict.text)


if __name__ == "__main__":
    main()
