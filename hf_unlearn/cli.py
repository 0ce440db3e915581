"""Makes models forget chosen training data, and evaluates, compares, audits and uploads them.

hf-unlearn recipes                                the recipes that come with the package
hf-unlearn recipes copy digits mine               a copy of a recipe's files, to change them
hf-unlearn run digits --alpha 0.8                 a recipe by its name,
hf-unlearn run mine/digits.yaml                   or by the YAML file of its configuration
hf-unlearn evaluate digits --model out/digits
hf-unlearn compare mine/compare.yaml
hf-unlearn audit out/demo --fail_when "worst_gap > 5"
hf-unlearn verify out/demo --steps 20
hf-unlearn card out/demo
hf-unlearn push out/demo --repo_id me/forgetful
hf-unlearn env
"""

import argparse
import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .experiments.audit.settings import add_arguments as add_audit_arguments
from .experiments.catalogue import configurations, copy_recipe, overview
from .experiments.compare.keys import keys_text
from .experiments.mistakes import TRACEBACK, TRACEBACK_HELP, is_mistake
from .experiments.starting import start_recipe
from .report.file_names import CARD, PLOT

# Commands import what they need themselves: torch and transformers take seconds to load, and
# `run` replaces the process, which would load them twice.

# A command may return an exit code.
Command = Callable[[argparse.Namespace, list[str]], int | None]
EXIT_CODES = "exit codes: 0 done, 1 an error, 2 wrong usage"
# Those that only one command has.
MORE_EXIT_CODES = {
    "run": "143 stopped by SIGTERM after saving a checkpoint",
    "audit": "3 the rule of --fail_when holds",
    "verify": "3 the weights do not follow",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code. A user's mistake is one line on stderr, unless
    `--traceback` asks for more; any other error is raised."""
    arguments, options = build_parser().parse_known_args(argv)
    if options and arguments.function not in (run, evaluate):
        print(
            f"error: unknown option {' '.join(options)} "
            f"(see hf-unlearn {arguments.command} --help)",
            file=sys.stderr,
        )
        return 2
    try:
        return arguments.function(arguments, options) or 0
    except Exception as error:
        if arguments.traceback or not is_mistake(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "hf-unlearn",
        description=__doc__,
        epilog="; ".join([EXIT_CODES, *(f"of {n}: {code}" for n, code in MORE_EXIT_CODES.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_recipe_commands(commands)
    _add_folder_commands(commands)
    _add(commands, "env", env, "print what an issue report needs")
    return parser


def _add(
    commands: argparse._SubParsersAction, name: str, function: Command, text: str, **options: Any
) -> argparse.ArgumentParser:
    """Adds a command, described by its function's docstring."""
    options = {"description": inspect.getdoc(function), **options}
    codes = [EXIT_CODES, *([MORE_EXIT_CODES[name]] if name in MORE_EXIT_CODES else [])]
    command = commands.add_parser(name, help=text, epilog=", ".join(codes), **options)
    command.add_argument(TRACEBACK, action="store_true", help=TRACEBACK_HELP)
    command.set_defaults(function=function, help_text=command.format_help)
    return command


def _add_recipe_commands(commands: argparse._SubParsersAction) -> None:
    for name, function, text in (
        ("run", run, "unlearn with a recipe's configuration"),
        ("evaluate", evaluate, "evaluate a saved model on the splits of a configuration"),
    ):
        # `--help` after a configuration is passed on to the recipe.
        command = _add(commands, name, function, text, add_help=False, allow_abbrev=False)
        command.add_argument(
            "config",
            nargs="?",
            help="YAML file, or the name of a recipe (see hf-unlearn recipes); --key value for any "
            "option of the recipe may follow",
        )
        command.add_argument(
            "--recipe", type=Path, help="the recipe's script; default: unlearn.py beside the YAML"
        )
    command = _add(
        commands,
        "compare",
        compare_methods,
        "tune and compare methods",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{inspect.getdoc(compare_methods)}\n\nKeys of the YAML file:\n{keys_text()}",
    )
    command.add_argument(
        "file", type=Path, help="YAML file that says what to compare, with the keys above"
    )
    command = _add(commands, "recipes", recipes, "list the recipes, or copy one to change it")
    copying = "copy: copy a recipe to a folder; default: list the recipes"
    command.add_argument("action", nargs="?", choices=["copy"], help=copying)
    command.add_argument("name", nargs="?", help="name of the recipe, such as digits")
    command.add_argument("folder", nargs="?", type=Path, help="where the copy goes")


def _add_folder_commands(commands: argparse._SubParsersAction) -> None:
    command = _add(commands, "audit", audit, "check whether forgotten data can still be reached")
    add_audit_arguments(command)
    command = _add(commands, "verify", verify, "repeat a run and compare the weights")
    command.add_argument("folder", type=Path, help="output_dir of a run, with forget_ledger.json")
    command.add_argument(
        "config",
        nargs="?",
        type=Path,
        help="YAML file with the options that have changed, where data or models have moved",
    )
    command.add_argument(
        "--steps",
        type=int,
        help="repeat only the steps up to this one, at least the run's digest_steps (20 unless "
        "set); default: the whole run",
    )
    command.add_argument(
        "--weights_only",
        action="store_true",
        help="repeat nothing and need no data: only compare the weights with the ledger, as "
        "anyone can do with a pushed model",
    )
    command.add_argument(
        "--original",
        help="with --weights_only: folder or Hub id of the model that the first request started "
        "from; says which weights differ from it",
    )
    command = _add(commands, "card", card, "write a run's model card again")
    command.add_argument("folder", type=Path, help="output_dir of a run, with results.json")
    command.add_argument(
        "--name_forgotten", action="store_true", help="name the forgotten persons in the card"
    )
    command.add_argument(
        "--to", type=Path, help="file to write instead of README.md; the plot is copied beside it"
    )
    command = _add(commands, "push", push, "upload a run's output folder to the Hub")
    command.add_argument("folder", type=Path, help="output_dir of a run")
    command.add_argument(
        "--repo_id", required=True, help="user/name on the Hub; created if it does not exist"
    )
    command.add_argument(
        "--private", action="store_true", default=None, help="make a new repository private"
    )
    command.add_argument("--revision", help="branch to commit to")
    command.add_argument("--message", default="Upload unlearned model", help="commit message")
    command.add_argument(
        "--merge", action="store_true", help="merge an adapter into its base model first"
    )
    command.add_argument(
        "--name_forgotten",
        action="store_true",
        help="name the forgotten persons in everything that is uploaded",
    )


def run(arguments: argparse.Namespace, options: list[str]) -> None:
    """Runs a recipe. `hf-unlearn run config.yaml --key value` starts the script beside the YAML
    file with these options, by `accelerate launch` where `launch:` in the YAML gives flags for it.
    `--dry_run true` prints the plan; `hf-unlearn run config.yaml --help` lists all options."""
    _start(arguments, options)


def evaluate(arguments: argparse.Namespace, options: list[str]) -> None:
    """Evaluates a model (`--model folder-or-id`) on the splits of a configuration, and writes
    evaluation.json."""
    helped = {"-h", "--help"} & set(options)
    if not helped and not any(option.split("=")[0] == "--model" for option in options):
        raise ValueError("--model is missing: give a folder or Hub id")
    _start(arguments, options if helped else ["--evaluate", "true", "--gold", "none", *options])


def _start(arguments: argparse.Namespace, options: list[str]) -> None:
    if arguments.config is None and {"-h", "--help"} & set(options):
        print(arguments.help_text())
        return
    passed_on = [TRACEBACK] if arguments.traceback else []
    start_recipe(arguments.config, arguments.recipe, [*options, *passed_on])


def recipes(arguments: argparse.Namespace, _: list[str]) -> None:
    """Lists the recipes and their configurations, for `hf-unlearn run NAME/CONFIGURATION`.
    `hf-unlearn recipes copy NAME FOLDER` copies a recipe, to change it."""
    if arguments.action is None:
        print(overview())
        return
    if arguments.folder is None:
        raise ValueError("the recipe or the folder is missing: hf-unlearn recipes copy NAME FOLDER")
    copy_recipe(arguments.name, arguments.folder)
    print(f"{arguments.name} is in {arguments.folder}:")
    for file in configurations(arguments.folder).values():
        print(f"    hf-unlearn run {file}")


def compare_methods(arguments: argparse.Namespace, _: list[str]) -> None:
    """Tunes and compares methods through a recipe. An interrupted comparison continues where it
    stopped."""
    from .experiments.compare import Comparison, compare

    comparison = Comparison.read(arguments.file)
    print(compare(comparison))
    print(
        "\nreached: the number of runs in which a method reached each level. best: the number in "
        "which it beat all others. a ± b: mean and standard deviation over the runs."
    )
    print(f"\nruns.csv, table.md and frontier.png are in {comparison.output_dir}")


def audit(arguments: argparse.Namespace, _: list[str]) -> int:
    """Measures what the original, the unlearned and the retrained model of a run know of the
    forgotten samples, through every door: forms of deployment, ways of decoding, fine-tuning and
    attacks. The door with the largest gap is the headline. Writes audit.json, and continues
    where an earlier call stopped."""
    from .experiments.audit import command

    return command.run(arguments)


def verify(arguments: argparse.Namespace, _: list[str]) -> int:
    """Checks a model against its ledger (forget_ledger.json, in which a run records what was
    forgotten and how): repeats the last request from the same model, data, settings and seed, and
    compares digests of the weights step by step. Refuses where data or versions differ. With
    --weights_only it needs nothing but a pushed folder, and says less."""
    from .experiments.verification.published import check_published
    from .experiments.verification.verify import DIFFERENT, verify_by_repetition

    folder = arguments.folder
    if arguments.weights_only and (arguments.config or arguments.steps is not None):
        raise ValueError("--weights_only repeats nothing: leave out the configuration and --steps")
    if arguments.original and not arguments.weights_only:
        raise ValueError(
            "--original needs --weights_only; without it, name the model as `model:` in a YAML"
        )
    agrees = (
        check_published(folder, arguments.original)
        if arguments.weights_only
        else verify_by_repetition(folder, arguments.config, steps=arguments.steps)
    )
    return 0 if agrees else DIFFERENT


def card(arguments: argparse.Namespace, _: list[str]) -> None:
    """Prints a run's table, and writes its model card from results.json."""
    from .hub.model_card import write_card
    from .privacy.redaction import salt_of
    from .report.result_tables import results_table
    from .report.results import Results

    folder, to = arguments.folder, arguments.to
    results = Results.read(folder)
    plot = folder / PLOT
    if plot.exists():
        results.card["plot"] = f"{to.stem}.png" if to else plot.name
    written = write_card(
        folder, results, salt_of(folder), name_forgotten=arguments.name_forgotten, to=to
    )
    if to and plot.exists():
        shutil.copyfile(plot, to.with_suffix(".png"))
    print(results_table(results) if results.unlearned else written.text)
    print(f"\nthe card is in {to or folder / CARD}")


def push(arguments: argparse.Namespace, _: list[str]) -> None:
    """Uploads weights, processor, configurations, results and model card of a run. The token is
    that of `hf auth login`, or HF_TOKEN. Salted hashes replace the names of forgotten persons."""
    from .hub.upload import push_folder

    done = push_folder(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        message=arguments.message,
        name_forgotten=arguments.name_forgotten,
        merge=arguments.merge,
    )
    print(f"pushed: {done.commit_url}")


def env(_: argparse.Namespace, __: list[str]) -> None:
    """Prints versions, devices and kernels: paste this into an issue report."""
    from .ops import active_kernels
    from .report.environment import environment

    print(json.dumps({**environment(), "kernels": active_kernels()}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
