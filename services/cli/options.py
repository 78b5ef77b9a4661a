"""The flags that several commands share, and what a run's flags order."""

import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from algorithms.learning import NAMES
from algorithms.search.catalogue import STRATEGIES
from events.kinds import Schedule
from runtime.run.bounds import BOUNDS, LARGEST_GROUP

if TYPE_CHECKING:
    from runtime.run.order import RunOrder, Search

SET_NAMES = "evolog.set"
"""The place in a context's `meta` of the names of what --set has set."""
Function = TypeVar("Function", bound=Callable[..., Any])


def examples(*commands: str) -> str:
    """The end of a command's help: commands to copy, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def directory(function: Function) -> Function:
    """The flag of every command that needs a project directory."""
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".evolog"),
        envvar="EVOLOG_DIR",
        show_default=True,
        help="The project directory: log, blobs, archive.",
    )(function)


def credentials_option(function: Function) -> Function:
    """The flag of the commands that run services on a host of their own."""
    return click.option(
        "--credentials",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        metavar="FILE",
        help="A bundle of `evolog credentials`: the broker's address, keys and certificates.",
    )(function)


def as_json(function: Function) -> Function:
    """The flag of every command that reads."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(function)


class CommandLineOnly(click.Option):
    """A flag that no file or variable sets: it is said on the command line, or it is not said."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"allow_from_autoenv": False})


def named_flags(command: click.Command) -> dict[str, str]:
    """The parameters of a command by the names that files may set them by."""
    return {name: option.name or "" for option in command.params if is_settable(option) for name in flag_names(option)}


def is_settable(option: click.Parameter) -> bool:
    """Whether files and variables may set a parameter."""
    return not isinstance(option, CommandLineOnly)


def flag_names(option: click.Parameter) -> list[str]:
    """How files and variables may call a parameter: as its flags are written, then by its own name."""
    flags = [flag for flag in (*option.opts, *option.secondary_opts) if flag.startswith("--")]
    return [*(flag.lstrip("-").replace("-", "_") for flag in flags), option.name or ""]


class SetOption(CommandLineOnly):
    """`--set KEY=VALUE`: the same as the flag of that name with that value, on the command line too."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Put the settings among what the flags said; raises `click.UsageError` for a key that is none, or is said
        twice.
        """
        given: tuple[str, ...] = tuple(opts.get(self.name or "") or ())
        flags = {name: option for option in ctx.command.params if _may_be_set(option) for name in flag_names(option)}
        for setting in given:
            key, equals, value = setting.partition("=")
            option = flags.get(key.strip().replace("-", "_"))
            if not equals or option is None or option.name is None:
                raise click.UsageError(
                    f"{setting!r} is nothing to --set: write KEY=VALUE, the key being one of "
                    f"{', '.join(sorted({flag_names(each)[0] for each in flags.values()}))}.",
                    ctx,
                )
            if option.name in opts:
                raise click.UsageError(f"{flag_names(option)[0]} is said twice: give its flag or --set it, once.", ctx)
            assert isinstance(opts, dict)  # which the parser has just made
            opts[option.name] = value
            ctx.meta.setdefault(SET_NAMES, set()).add(option.name)
        return super().handle_parse_result(ctx, opts, args)


def _may_be_set(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and is_settable(option) and not (option.is_flag or option.multiple)


def read_config(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Take the settings of this file, in place of those of the nearest evolog.toml."""
    from services.cli.defaults import defaults

    if file is not None and context.info_name and not context.resilient_parsing:
        context.default_map = defaults(flags_of_all(context), Path.cwd(), file)[context.info_name]
    return file


def flags_of_all(context: click.Context) -> dict[str, dict[str, str]]:
    """The flags of each command of the program that a context is in; see `named_flags`."""
    program = context.find_root().command
    commands = program.commands if isinstance(program, click.Group) else {context.info_name or "": context.command}
    return {name: named_flags(command) for name, command in commands.items()}


def setting_source(context: click.Context, name: str) -> str:
    """What set a parameter of a command, in words; empty where nothing did."""
    from click.core import ParameterSource

    from services.cli.defaults import file_settings, read_dotenv

    option = next((each for each in context.command.params if each.name == name), None)
    match context.get_parameter_source(name):
        case ParameterSource.COMMANDLINE if option is not None:
            said = name in context.meta.get(SET_NAMES, ())
            return "--set" if said else "the command line"
        case ParameterSource.ENVIRONMENT if option is not None:
            names = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
            names += [f"{context.auto_envvar_prefix}_{name}".upper()]
            variable = next((each for each in names if each in os.environ), "the environment")
            from_file = read_dotenv(Path.cwd()).get(variable) == os.environ.get(variable)
            return f"{variable} in .env" if from_file else variable
        case ParameterSource.DEFAULT_MAP:
            settings = file_settings(flags_of_all(context), Path.cwd(), context.params.get("config"))
            setting = settings.get(context.info_name or "", {}).get(name)
            return str(setting.path) if setting else "a file"
        case _:
            return ""


def config_options(function: Function) -> Function:
    """The flags by which a command is told its other flags: by a file, and as key=value."""
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            cls=SetOption,
            is_eager=True,
            expose_value=False,
            metavar="KEY=VALUE",
            help="The same as the flag --KEY VALUE.",
        ),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            cls=CommandLineOnly,
            is_eager=True,
            callback=read_config,
            metavar="FILE",
            help="Settings, as in evolog.toml (`evolog init` writes one), and in its place.",
        ),
    ):
        function = option(function)
    return function


def task_code(function: Function) -> Function:
    """The flags of the commands that may run a task's code for a recorded run."""
    for option in (
        click.option(
            "--trust-code",
            is_flag=True,
            cls=CommandLineOnly,
            help="Run the code of the task folder that an export names, with all your rights.",
        ),
        click.option(
            "--task",
            default="",
            metavar="FOLDER",
            cls=CommandLineOnly,
            help="The task's folder or name, in place of the one that the run names; its code is run.",
        ),
    ):
        function = option(function)
    return function


def search_options(function: Function) -> Function:
    """The flags that say how a run searches; `search_of` reads them."""
    for option in (
        click.option(
            "--schedule",
            type=click.Choice(typing.get_args(Schedule)),
            default="agent",
            show_default=True,
            help="Who chooses the lever: the agent, or a fixed order.",
        ),
        click.option(
            "--refills",
            type=click.IntRange(*BOUNDS["refills"]),
            default=0,
            show_default=True,
            help="How often a training round plays the groups again whose attempts all tie.",
        ),
        click.option(
            "--max-lag",
            type=click.IntRange(*BOUNDS["max_lag"]),
            default=0,
            show_default=True,
            help="How many versions the adapter that plays may be behind the one that is trained; 0: they take turns.",
        ),
        click.option(
            "--recheck",
            type=click.IntRange(*BOUNDS["recheck"]),
            default=0,
            show_default=True,
            help="Further attempts at each dev item where a candidate is too close to the best to call.",
        ),
        click.option(
            "--first-items",
            type=click.IntRange(*BOUNDS["first_items"]),
            default=0,
            show_default=True,
            help="Dev items asked first; a candidate that does worse on them than its parent is asked no more.",
        ),
        click.option(
            "--width",
            type=click.IntRange(*BOUNDS["width"]),
            default=1,
            show_default=True,
            help="Candidates under way at once.",
        ),
        click.option(
            "--strategy",
            type=click.Choice(list(STRATEGIES)),
            default="chain",
            show_default=True,
            help="Which candidate is changed next: the best (chain), any by the Darwin Goedel Machine's draw (dgm), or "
            "none, the start asked again (best_of_k).",
        ),
    ):
        function = option(function)
    return function


CHANGEABLE: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (
        "--levers",
        {
            "type": click.Choice(["both", "scaffold", "weights"]),
            "default": "both",
            "show_default": True,
            "help": "The levers that may be pulled.",
        },
    ),
    (
        "--policy",
        {
            "default": "",
            "metavar": "NAME",
            "help": "In place of the task's own: text-scorer, tiny-lm, smollm2 (`evolog model get`), or hf:PATH.",
        },
    ),
    (
        "--agent",
        {
            "default": "rules",
            "show_default": True,
            "metavar": "NAME",
            "help": "rules, anthropic:MODEL or openai:MODEL; the last two need a key.",
        },
    ),
    (
        "--verifier",
        {
            "default": "",
            "metavar": "NAME|PATH",
            "help": "In place of the task's own: another of its by name, or a file.",
        },
    ),
    (
        "--algorithm",
        {
            "type": click.Choice(NAMES),
            "default": None,
            "metavar": "NAME",
            "help": "The learning algorithm of every weight update, in place of the agent's choice: "
            f"{', '.join(NAMES)}.",
        },
    ),
    (
        "--group-size",
        {
            "type": click.IntRange(1, LARGEST_GROUP),
            "default": None,
            "help": "Attempts at each item of the probe and of a training round; 8 unless it is set.",
        },
    ),
)
"""The flags that `run`, `ablate` and `fork` have alike."""


def fork_options(function: Function) -> Function:
    """The flags of `CHANGEABLE` for a fork, which changes what they say and takes the rest from its parent.

    No file and no variable sets them: a fork with nothing on its command line is its parent's equal.
    """
    for flag, settings in reversed(CHANGEABLE):
        given = {**settings, "default": None, "show_default": False}
        function = click.option(flag, cls=CommandLineOnly, **given)(function)
    return function


def search_of(options: Mapping[str, Any]) -> "Search":
    """The search that these options order, with others among them or not."""
    from runtime.run.order import Search

    return Search(**{name: options[name] for name in Search._fields})


def preflight_option(function: Function) -> Function:
    """The flag of every command that starts runs."""
    return click.option(
        "--preflight/--no-preflight",
        default=True,
        show_default=True,
        help="Ask the agent's language model one small question before anything is started.",
    )(function)


def order_options(function: Function) -> Function:
    """The flags that `run` and `ablate` share; `order_of` reads them."""
    for option in (
        directory,
        click.option("--budget", default="", help="What a run may spend: rollouts=N,tokens=N,usd=X,time=30m."),
        click.option(
            "--generations",
            type=click.IntRange(0, 1000),
            default=None,
            help="Most changes to try; the task has a default.",
        ),
        search_options,
        click.option(
            "--on-drift",
            type=click.Choice(["off", "freeze", "rollback", "stop"]),
            default="off",
            show_default=True,
            help="What the auditor may do to the run when it finds drift: freeze the lever, go back to before it too, "
            "or end the run.",
        ),
        click.option(
            "--sandbox",
            type=click.Choice(["auto", "none"]),
            default="auto",
            show_default=True,
            help="What scaffolds run in: what `evolog doctor` says, or nothing, which needs EVOLOG_ALLOW_UNSANDBOXED=1 "
            "too.",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(1, 100_000),
            help="The longest completion of the policy; the task has a default.",
        ),
        click.option(
            "--examples",
            type=click.IntRange(0, 4),
            default=4,
            show_default=True,
            help="Descriptions of other tasks that a language model is shown before it writes the first scaffold; 0: "
            "none.",
        ),
        *(click.option(flag, **settings) for flag, settings in reversed(CHANGEABLE)),
    ):
        function = option(function)
    return function


def order_of(task: str, options: Mapping[str, Any]) -> "RunOrder":
    """The run of a task that these options order, with others among them or not."""
    from runtime.run.order import ON_DRIFT, RunOrder

    return RunOrder(
        task=task,
        levers=options["levers"],
        seed=options.get("seed", 0),
        generations=options["generations"],
        budget=options["budget"],
        name=options.get("name", ""),
        policy=options["policy"],
        sandbox="none" if options["sandbox"] == "none" else "",
        max_tokens=options["max_tokens"] or 0,
        agent=options["agent"],
        verifier=options["verifier"],
        on_drift=ON_DRIFT[options["on_drift"]],
        algorithm=options["algorithm"] or "",
        group_size=options["group_size"] or 0,
        search=search_of(options),
        examples=options["examples"],
    )
