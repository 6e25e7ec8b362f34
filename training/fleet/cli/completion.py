"""Completion scripts for bash, zsh and fish, made from the parser so that they cannot go stale.

Job ids are completed by asking the receiver; without one nothing is offered.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from training.fleet.model.jobs import MODES, STATUSES
from training.fleet.model.parts import RESULT_KINDS

SHELLS: Final = ("bash", "zsh", "fish")
_IDS: Final = "cis490-jobs list 2>/dev/null </dev/null | cut -c1-12"
_BASH: Final = """\
# bash completion for cis490-jobs; load it with: eval "$(cis490-jobs completion bash)"
_cis490_jobs() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command= word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {names}) command=$word; break ;; esac
    done
    case $prev in
{values}    esac
    case $command in
{cases}        *) COMPREPLY=($(compgen -W "{commands} {globals}" -- "$cur")) ;;
    esac
}}
complete -o default -F _cis490_jobs cis490-jobs
"""


@dataclass(frozen=True, slots=True)
class Command:
    """What completion knows of one command.

    Attributes:
        name: Its name.
        about: Its one-line help.
        options: Its long options.
        words: Fixed words it takes as arguments.
        takes_jobs: True if its arguments are job ids.
    """

    name: str
    about: str
    options: tuple[str, ...]
    words: tuple[str, ...] = ()
    takes_jobs: bool = False


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script of a shell.

    Args:
        shell: One of `SHELLS`.
        parser: The program's parser.
    """
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](list(commands(parser)), _options(parser))


def commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """Yield the commands of a parser in their order."""
    group = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    about = {choice.dest: choice.help or "" for choice in group._choices_actions}
    for name, sub in group.choices.items():
        # An older name of a command still works, and need not be offered.
        if name not in about:
            continue
        places = [action for action in sub._actions if not action.option_strings]
        words = tuple(str(word) for action in places for word in action.choices or ())
        takes_jobs = any(action.dest in ("job", "jobs") for action in places)
        yield Command(name, about[name], _options(sub), words, takes_jobs)


def _options(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    return tuple(text for action in parser._actions for text in action.option_strings if text.startswith("--"))


def _values() -> dict[str, tuple[str, ...]]:
    return {"--status": STATUSES, "--mode": MODES, "--only": RESULT_KINDS}


def _bash(known: list[Command], options: tuple[str, ...]) -> str:
    values = "".join(
        f'        {option}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$cur")); return ;;\n'
        for option, words in _values().items()
    )
    return _BASH.format(
        names="|".join(item.name for item in known),
        values=values,
        cases="".join(_bash_case(item) for item in known),
        commands=" ".join(item.name for item in known),
        globals=" ".join(options),
    )


def _bash_case(item: Command) -> str:
    words = " ".join((*item.words, *item.options)) + (f" $({_IDS})" if item.takes_jobs else "")
    return f'        {item.name}) COMPREPLY=($(compgen -W "{words}" -- "$cur")) ;;\n'


def _zsh(known: list[Command], options: tuple[str, ...]) -> str:
    bash = _bash(known, options).split("\n", 1)[1]
    head = '# zsh completion for cis490-jobs; load it with: eval "$(cis490-jobs completion zsh)"\n'
    return f"{head}autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{bash}"


def _fish(known: list[Command], options: tuple[str, ...]) -> str:
    lines = ["# fish completion for cis490-jobs; load it with: cis490-jobs completion fish | source"]
    lines += [_fish_line("__fish_use_subcommand", f"-f -a {item.name} -d '{item.about}'") for item in known]
    lines += [_fish_line("__fish_use_subcommand", f"-l {option[2:]}") for option in options]
    for item in known:
        lines += _fish_command(item)
    return "\n".join(lines) + "\n"


def _fish_command(item: Command) -> list[str]:
    inside = f"__fish_seen_subcommand_from {item.name}"
    values = _values()
    lines = [
        _fish_line(inside, f"-l {option[2:]}" + (f" -x -a '{' '.join(values[option])}'" if option in values else ""))
        for option in item.options
    ]
    if item.words:
        lines.append(_fish_line(inside, f"-f -a '{' '.join(item.words)}'"))
    if item.takes_jobs:
        lines.append(_fish_line(inside, f"-f -a '({_IDS})'"))
    return lines


def _fish_line(condition: str, rest: str) -> str:
    return f"complete -c cis490-jobs -n '{condition}' {rest}"
