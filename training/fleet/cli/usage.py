"""The command line as people meet it: help with examples, and the nearest name for one that is mistyped.

Owns the parser's class and the examples. Leaves which commands and options there are to `program`.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

EXAMPLES: Final[Mapping[str, tuple[str, str]]] = {
    "status": ("status", "status --watch 5"),
    "list": ("list --status pending,failed --model gbt", "list --since yesterday --host gpu-tower"),
    "compare": ("compare", "compare --metric auroc --split time"),
    "best": ("best", "best --model cnn --split hosts --json"),
    "get": ("get best", "get a1b2 -o model --only card,figures,metrics"),
    "card": ("card best", "card a1b2"),
    "open": ("open best", "open a1b2 -o result"),
    "predict": ("predict best --data day.csv --out scores.csv", "predict a1b2 --data - --threshold 0.9"),
    "evaluate": ("evaluate best --data data/lab", "evaluate a1b2 --data data/lab --json"),
    "show": ("show a1b2", "show a1b2 --json"),
    "why": ("why a1b2", "why a1b2 --json"),
    "hosts": ("hosts", "hosts --json"),
    "host": ("host gpu-tower", "host gpu-tower --json"),
    "events": ("events --since yesterday", "events --worker gpu-tower --limit 20"),
    "cancel": ("cancel a1b2 c3d4", "cancel --status pending --model cnn"),
    "requeue": ("requeue a1b2", "requeue --status failed --since 8h --yes"),
    "plan": ("plan", "plan new.toml --exit-code"),
    "reload": ("reload", "reload --if-plan DIGEST"),
    "backup": ("backup", "backup before-upgrade --artifacts"),
    "prune": ("prune --older-than 30d --keep-best 3", "prune --unnamed --yes"),
    "fsck": ("fsck", "fsck --no-hash"),
    "invite": ("invite gpu-tower", "invite gpu-tower --ttl 2h --receiver https://receiver.example:8445"),
    "identity": ("identity list", "identity revoke gpu-tower"),
    "apply": ("apply new.toml", "apply new.toml --if-plan DIGEST"),
    "manifest": ("manifest history", "manifest diff 3"),
    "login": ("login https://receiver.example:8445", "login https://receiver.example:8445 --name lab"),
    "context": ("context", "context use lab"),
    "completion": ("completion bash", "completion fish | source"),
}
"""Two lines for each command, without the program's name."""


SHARED: Final = ("output", "connection")
"""The groups of options that every command has; they stand at the end of its help."""


class Parser(argparse.ArgumentParser):
    """A parser that shows examples and says what a mistyped name is near to."""

    def __init__(self, **settings: Any) -> None:
        command = str(settings.get("prog", "")).rpartition(" ")[2]
        defaults = {"epilog": examples(command), "allow_abbrev": False}
        super().__init__(**{**defaults, **settings, "formatter_class": argparse.RawDescriptionHelpFormatter})
        self._positionals.title = "arguments"

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the parsed command line, or end with status 2 and say what was meant."""
        options, left = self.parse_known_args(args, namespace)
        if left:
            known = self._options_of(getattr(options, "command", None))
            # What does not begin with a dash is one argument too many, not an option.
            near = _near(left[0].partition("=")[0], known) if left[0].startswith("-") else ""
            self.error(f"found {' '.join(left)}, which this command does not take{near}")
        return options

    def format_help(self) -> str:
        """Return the help, whose first lines show what is this command's own."""
        self.usage = self._own_usage()
        return super().format_help()

    def format_usage(self) -> str:
        """Return how the command is used."""
        return f"usage: {self._own_usage()}\n"

    def _own_usage(self) -> str:
        shared = {action for group in self._action_groups if group.title in SHARED for action in group._group_actions}
        own = [
            action for action in self._actions if action not in shared and not isinstance(action, argparse._HelpAction)
        ]
        formatter = self._get_formatter()
        formatter.add_usage(None, own, [], "")
        return formatter.format_help().strip().replace("%", "%%")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        near = _near(str(value), names)
        if isinstance(action, argparse._SubParsersAction):
            # Without the action's name, because "argument COMMAND" is no word that anybody typed.
            raise argparse.ArgumentError(None, f"found no command {value}{near}; `{self.prog} --help` lists all")
        raise argparse.ArgumentError(action, f"found {value!r}, expected one of {', '.join(names)}{near}")

    def _options_of(self, command: str | None) -> list[str]:
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        chosen = [group.choices[command] for group in groups if command in group.choices]
        return [text for parser in (self, *chosen) for action in parser._actions for text in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and end with status 2."""
        self.exit(2, f"cis490-jobs: {message}\n")


def examples(command: str) -> str | None:
    """Return the end of a command's help, None for a command without examples."""
    lines = EXAMPLES.get(command)
    return None if lines is None else "examples:\n" + "\n".join(f"  cis490-jobs {line}" for line in lines)


def _near(name: str, there: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, there, 1, 0.7)
    return f"; did you mean {found[0]}?" if found else ""
