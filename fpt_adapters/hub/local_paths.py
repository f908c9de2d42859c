"""Cutting absolute paths out of text: the folders of somebody's machine are no fact about a model."""

import re
import shlex

PATH_START = r"(?:/|%\w+%[\\/]|~\w*/|\$\{?\w+\}?/|file:/+|[A-Za-z]:[\\/]|\\\\(?=\w))"
QUOTED_PATH = re.compile(rf"""(?<=["']){PATH_START}[^"'\n]+(?=["'])""")
BARE_PATH = re.compile(rf"""(?<![\w:/\\.~$}}-]){PATH_START}[^\s"'=,;]+""")
SHELL_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", flags=re.DOTALL)
# An argument that is a path, perhaps after its flag or key.
OWN_PATH = re.compile(rf"((?:-*[\w.-]+=)*(?:-\w(?=/))?)({PATH_START}\S.*)", flags=re.DOTALL)
BETWEEN_PATHS = re.compile(
    rf"((?<!\b[A-Za-z])[,;:](?!//)(?=(?:[\w.-]+=)?{PATH_START}))"
)  # separators between several paths in one argument
WINDOWS_PATH = re.compile(r"[A-Za-z]:\\|\\\\\w|%\w+%\\")


def is_path(text: str) -> bool:
    """Whether a text begins like an absolute path."""
    return re.match(PATH_START, text) is not None


def without_paths(text: str) -> str:
    """Cut the absolute paths in a text to their last part."""
    text = QUOTED_PATH.sub(lambda match: last_part(match[0]), text)
    return BARE_PATH.sub(lambda match: last_part(match[0]), text)


def command_without_paths(text: str) -> str:
    """Cut the absolute paths in a shell command to their last part, including paths with spaces."""
    return SHELL_WORD.sub(lambda match: _short_word(match[0]), text)


def _short_word(word: str) -> str:
    """Shorten the paths in one word of a command, quoted or not; unchanged if it has none."""
    if WINDOWS_PATH.search(word):
        argument = word.replace('"', "").replace("'", "")  # backslashes are no quotes there
    else:
        argument = "".join(shlex.split(word))
    pieces = BETWEEN_PATHS.split(argument)  # the separators too
    short = "".join(map(_short_piece, pieces))
    return word if short == argument else shlex.quote(short)


def _short_piece(piece: str) -> str:
    own = OWN_PATH.fullmatch(piece)
    return f"{own[1]}{last_part(own[2])}" if own else without_paths(piece)


def last_part(path: str) -> str:
    """The name of a file or folder without its parent folders."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
