"""`kvmrkt completion`: scripts made from the commands themselves.

A script holds every command and flag, so that completing costs no start of kvmrkt; only UUIDs of
pods and names of images are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import click

from kvmrkt.cli.command import Command, OptionalValue
from kvmrkt.errors import UsageError

_PODS = "kvmrkt list --full --no-legend 2>/dev/null | cut -f1"
_IMAGES = "kvmrkt image list --no-legend --fields=name 2>/dev/null"
_OF_PODS = frozenset(
    {
        "attach",
        "cat-manifest",
        "cp",
        "enter",
        "export",
        "logs",
        "port-forward",
        "rm",
        "run-prepared",
        "status",
        "stop",
    }
)
_OF_APPS = frozenset({"exec"})
_OF_IMAGES = frozenset({"cat-manifest", "export", "extract", "render", "rm", "verify"})


class _Words(NamedTuple):
    """What can stand after a command: `path` is its words, with blanks between."""

    path: str
    summary: str
    commands: tuple[str, ...]
    flags: tuple[str, ...]
    valued: tuple[str, ...]
    """The flags whose value is the next word."""

    @property
    def source(self) -> str | None:
        """The shell's command that lists what the arguments may be; None for files."""
        parent, _, name = self.path.rpartition(" ")
        if parent == "image":
            return _IMAGES if name in _OF_IMAGES else None
        if parent == "app":
            return _PODS if name in _OF_APPS else None
        return _PODS if not parent and name in _OF_PODS else None


@click.command(
    cls=Command,
    params=[click.Argument(["shell"], nargs=-1)],
    help="Print the completion script of a shell: bash, zsh or fish.",
)
@click.pass_context
def command(ctx: click.Context, /, shell: tuple[str, ...]) -> None:
    """Print the script."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if len(shell) != 1:
        raise UsageError("give one shell: " + ", ".join(makers))
    if shell[0] not in makers:
        raise UsageError(f'"{shell[0]}" shell not supported', hint="shells: " + ", ".join(makers))
    top = ctx.find_root().command
    click.echo(makers[shell[0]](_all_words(ctx.find_root(), top, "")), nl=False)


def _all_words(ctx: click.Context, command: click.Command, path: str) -> list[_Words]:
    names: list[str] = command.list_commands(ctx) if isinstance(command, click.Group) else []
    found = [_words_of(command, path, names)]
    if isinstance(command, click.Group):
        for name in names:
            below = command.get_command(ctx, name)
            if below is not None and not below.hidden:
                found += _all_words(ctx, below, f"{path} {name}".strip())
    return found


def _words_of(command: click.Command, path: str, names: list[str]) -> _Words:
    from kvmrkt.cli.app_flags import APP_FLAGS

    parameters: list[click.Parameter] = [*command.params]
    if path in ("run", "prepare"):
        parameters += APP_FLAGS
    options = [
        option for option in parameters if isinstance(option, click.Option) and not option.hidden
    ]
    flags = sorted({name for option in options for name in option.opts} | {"--help"})
    valued = {
        name
        for option in options
        if not option.is_flag and not isinstance(option, OptionalValue)
        for name in option.opts
    }
    summary = (command.help or "").partition("\n")[0]
    return _Words(path, summary, tuple(names), tuple(flags), tuple(sorted(valued)))


def _bash(table: list[_Words]) -> str:
    cases = "\n".join(
        f'        "{words.path}") commands="{" ".join(words.commands)}" '
        f'flags="{" ".join(words.flags)}" source="{words.source or ""}" ;;'
        for words in table
    )
    return f"""# bash completion of kvmrkt: source it, or put it in /etc/bash_completion.d
_kvmrkt_words()
{{
    case "$1" in
{cases}
        *) return 1 ;;
    esac
}}

_kvmrkt_valued=" {" ".join(sorted({flag for words in table for flag in words.valued}))} "

_kvmrkt()
{{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" word previous="" commands flags source
    local position candidates longer
    for ((position = 1; position < COMP_CWORD; position++)); do
        word="${{COMP_WORDS[position]}}"
        longer="${{path:+$path }}$word"
        if [[ "$word" != -* && "$word" != "=" && "$previous" != "=" &&
              "$_kvmrkt_valued" != *" $previous "* ]] && _kvmrkt_words "$longer"; then
            path="$longer"
        fi
        previous="$word"
    done
    _kvmrkt_words "$path"
    COMPREPLY=()
    if [[ "$current" == "=" || "$previous" == "=" || "$_kvmrkt_valued" == *" $previous "* ]]; then
        compopt -o default 2>/dev/null  # a value: mostly a file
        return
    elif [[ "$current" == -* ]]; then
        candidates="$flags"
    elif [[ -n "$commands" ]]; then
        candidates="$commands"
    elif [[ -n "$source" ]]; then
        candidates="$(eval "$source")"
    else
        compopt -o default 2>/dev/null
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
}}

complete -F _kvmrkt kvmrkt
"""


def _zsh(table: list[_Words]) -> str:
    summaries = {words.path: words.summary for words in table}

    def described(words: _Words) -> str:
        paths = [f"{words.path} {name}".strip() for name in words.commands]
        return " ".join(
            _quoted(f"{path.rpartition(' ')[2]}:{summaries[path].replace(':', ' -')}")
            for path in paths
            if path in summaries
        )

    cases = "\n".join(
        f"        {_quoted(words.path)}) commands=({described(words)}) "
        f"flags=({' '.join(words.flags)}) source={_quoted(words.source or '')} ;;"
        for words in table
    )
    valued = " ".join(sorted({flag for words in table for flag in words.valued}))
    return f"""#compdef kvmrkt
# zsh completion of kvmrkt: put it in a folder of $fpath, as _kvmrkt
_kvmrkt_words() {{
    case "$1" in
{cases}
        (*) return 1 ;;
    esac
}}

_kvmrkt() {{
    local path_words="" word previous="" source position
    local -a commands flags valued
    valued=({valued})
    for ((position = 2; position < CURRENT; position++)); do
        word="$words[position]"
        if [[ "$word" != -* ]] && (( ! $valued[(Ie)$previous] )) &&
            _kvmrkt_words "${{path_words:+$path_words }}$word"; then
            path_words="${{path_words:+$path_words }}$word"
        fi
        previous="$word"
    done
    _kvmrkt_words "$path_words"
    if (( $valued[(Ie)$previous] )); then
        _files
    elif [[ "$words[CURRENT]" == -* ]]; then
        compadd -a flags
    elif (( $#commands )); then
        _describe command commands
    elif [[ -n "$source" ]]; then
        compadd -- ${{(f)"$(eval "$source")"}}
    else
        _files
    fi
}}

if [[ "$funcstack[1]" == _kvmrkt ]]; then
    _kvmrkt "$@"
else
    compdef _kvmrkt kvmrkt
fi
"""


def _fish(table: list[_Words]) -> str:
    summaries = {words.path: words.summary for words in table}
    paths = " ".join(_quoted(words.path) for words in table if words.path)
    head = f"""# fish completion of kvmrkt: put it in ~/.config/fish/completions/kvmrkt.fish
set -g __kvmrkt_paths {paths}

function __kvmrkt_at --description 'Whether the command so far is this one'
    set -l path ''
    for word in (commandline -opc)[2..-1]
        set -l longer (string trim "$path $word")
        if contains -- $longer $__kvmrkt_paths
            set path $longer
        end
    end
    test "$path" = "$argv[1]"
end
"""
    lines = [line for words in table for line in _fish_lines(words, summaries)]
    return "\n".join([head, *lines]) + "\n"


def _fish_lines(words: _Words, summaries: dict[str, str]) -> list[str]:
    condition = f'__kvmrkt_at "{words.path}"'
    start = f"complete -c kvmrkt -n {_quoted(condition)}"
    lines = []
    for name in words.commands:
        summary = summaries.get(f"{words.path} {name}".strip(), "")
        lines.append(f"{start} -f -a {name} -d {_quoted(summary)}")
    if words.source:
        lines.append(f"{start} -f -a {_quoted(f'({words.source})')}")
    for flag in words.flags:
        kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
        lines.append(f"{start} {kind}" + (" -r" if flag in words.valued else ""))
    return lines


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
