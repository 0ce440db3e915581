"""The command line `hf-unlearn`.

hf-unlearn run recipes/demo/demo.yaml --alpha 0.8         what is forgotten, and how: a recipe's configuration
hf-unlearn evaluate recipes/demo/demo.yaml --model out/demo
hf-unlearn compare recipes/demo/compare.yaml
hf-unlearn card out/demo
hf-unlearn push out/demo --repo_id me/forgetful
hf-unlearn env
"""

import argparse
import inspect
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from .experiments.catalogue import copied, found, listed
from .experiments.compare import Comparison, compare
from .hub.model_card import write_card
from .hub.upload import push_folder
from .ops import active_kernels
from .privacy.redaction import salt_of
from .report.environment import environment
from .report.result_tables import results_table
from .report.results import Results
from .yaml_files import read_yaml

EXIT_CODES = (
    "exit codes: 0 done, 1 a mistake that one line explains, 2 wrong usage, 143 ended by SIGTERM "
    "with a checkpoint"
)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code; a user's mistake is one line on stderr."""
    arguments, more = _parser().parse_known_args(argv)
    if more and arguments.function not in (run, evaluate):
        print(
            f"error: unknown: {' '.join(more)}; hf-unlearn {arguments.command} --help",
            file=sys.stderr,
        )
        return 2
    try:
        return arguments.function(arguments, more) or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "hf-unlearn",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name, function, text, **options):
        options = {"description": function.__doc__, **options}
        command = commands.add_parser(name, help=text, epilog=EXIT_CODES, **options)
        command.set_defaults(function=function, help_text=command.format_help)
        return command

    for name, function, text in (
        ("run", run, "unlearn by a recipe's configuration"),
        ("evaluate", evaluate, "evaluate a saved model on the splits of a configuration"),
    ):
        # --help is the recipe's
        command = add(name, function, text, add_help=False, allow_abbrev=False)
        command.add_argument(
            "config",
            nargs="?",
            help="YAML file, or a recipe by its name (hf-unlearn recipes); after it, --key value "
            "for every option of the recipe",
        )
        command.add_argument(
            "--recipe", type=Path, help="the recipe's script; default: unlearn.py beside the YAML"
        )
    command = add(
        "compare", compare_methods, "tune and compare "
                                    "methods", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{compare_methods.__doc__}\n\n{inspect.cleandoc(Comparison.__doc__)}",
    )  # fmt: skip
    command.add_argument(
        "file", type=Path, help="YAML that says what to compare; recipes/demo/compare.yaml is one"
    )
    command = add("card", card, "write a run's model card again")
    command.add_argument("folder", type=Path, help="output_dir of a run: holds results.json")
    command.add_argument(
        "--name_forgotten", action="store_true", help="name the forgotten speakers in the card"
    )
    command.add_argument(
        "--to", type=Path, help="file to write instead of README.md; the plot is copied beside it"
    )
    command = add("push", push, "upload a run's output folder to the Hub")
    command.add_argument("folder", type=Path, help="output_dir of a run")
    command.add_argument(
        "--repo_id", required=True, help="user/name on the Hub; made if it is not there"
    )
    command.add_argument(
        "--private", action="store_true", default=None, help="make it private, if it is new"
    )
    command.add_argument("--revision", help="branch to commit to")
    command.add_argument("--message", default="Upload unlearned model", help="commit message")
    command.add_argument(
        "--merge", action="store_true", help="merge an adapter into its base model first"
    )
    command.add_argument("--name_forgotten", action="store_true", help="publish who was forgotten")
    command = add("recipes", list_recipes, "list the recipes, or copy one to change it")
    command.add_argument("action", nargs="?", choices=["copy"], help="without it: list them")
    command.add_argument("name", nargs="?", help="of the recipe, such as digits")
    command.add_argument("folder", nargs="?", type=Path, help="where the copy goes")
    add("env", env, "print what an issue report needs")
    return parser


def run(arguments, options: list[str]) -> None:
    """Runs a recipe: `hf-unlearn run config.yaml --key value` is `accelerate launch <its script>
    config.yaml ...`, with the flags of accelerate that `launch:` in the YAML gives. `--dry_run
    true` says what would be done; `hf-unlearn run config.yaml --help` lists all options."""
    _start(arguments, options)


def evaluate(arguments, options: list[str]) -> None:
    """Evaluates a model (`--model folder-or-id`) on the splits of a configuration, and writes
    evaluation.json."""
    helped = {"-h", "--help"} & set(options)
    if not helped and not any(option.split("=")[0] == "--model" for option in options):
        raise ValueError("which model? Give --model, a folder or Hub id")
    _start(arguments, options if helped else ["--evaluate", "true", "--gold", "none", *options])


def _start(arguments, options: list[str]) -> None:
    """This process becomes the recipe's: its signals and its exit code are the recipe's."""
    config = arguments.config
    if config is None and {"-h", "--help"} & set(options):
        print(arguments.help_text())
        return
    if config is None:
        raise ValueError(
            "which configuration? Give its YAML file first, such as recipes/demo/demo.yaml"
        )
    if config.suffix not in (".yaml", ".yml") and options and not config.is_file():
        raise ValueError(
            "the configuration comes first, as in `config.yaml --key value`, but "
            f"here that is {config}"
        )
    if Path(config).is_file() or Path(config).suffix in (".yaml", ".yml"):
        config, given = Path(config), read_yaml(config)
        script = arguments.recipe or Path(given.get("recipe") or config.parent / "unlearn.py")
    else:
        script, config = found(config)
        given = read_yaml(config) if config else {}
    if not script.is_file():
        raise ValueError(
            f"there is no recipe {script}: name its script with --recipe, or as `recipe:` in {config}"
        )
    flags = shlex.split(given.get("launch") or "")
    launcher = ["-m", "accelerate.commands.launch", *flags] if flags else []
    command = [sys.executable, *launcher, str(script), *([str(config)] if config else []), *options]
    os.execv(sys.executable, command)


def list_recipes(arguments, _) -> None:
    """Lists the recipes with their configurations, for `hf-unlearn run NAME/CONFIGURATION`; `copy
    NAME FOLDER` copies one."""
    if arguments.action is None:
        print(listed())
        return
    if arguments.folder is None:
        raise ValueError("which recipe, and where to? hf-unlearn recipes copy NAME FOLDER")
    copied(arguments.name, arguments.folder)
    print(
        f"{arguments.name} is in {arguments.folder}: hf-unlearn run {arguments.folder}/<file>.yaml"
    )


def compare_methods(arguments, _) -> None:
    """Tunes and compares methods through a recipe; goes on where it was interrupted."""
    comparison = Comparison.read(arguments.file)
    print(compare(comparison))
    print(f"\nruns.csv, table.md and frontier.png are in {comparison.output_dir}")


def card(arguments, _) -> None:
    """Prints a run's table and writes its card from results.json."""
    folder, to = arguments.folder, arguments.to
    results = Results.read(folder)
    plot = folder / "forgetting.png"
    if plot.exists():
        results["card"] = {**results.get("card", {}), "plot": f"{to.stem}.png" if to else plot.name}
    written = write_card(
        folder, results, salt_of(folder), name_forgotten=arguments.name_forgotten, to=to
    )
    if to and plot.exists():
        shutil.copyfile(plot, to.with_suffix(".png"))
    print(results_table(results) if results.get("unlearned") else written.text)
    print(f"\nthe card is in {to or folder / 'README.md'}")


def push(arguments, _) -> None:
    """Uploads weights, processor, configurations, results and card of a run. The token is that of
    `hf auth login`, or HF_TOKEN. Who was forgotten is not named: salted hashes take the place of
    names."""
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


def env(_, __) -> None:
    """Prints versions, devices and kernels: paste this into an issue report."""
    print(json.dumps({**environment(), "kernels": active_kernels()}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
