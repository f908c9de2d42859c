"""Text without the folders of the machine that it was written on: they are no fact about a model."""

import re
import shlex

PATH_START = r"(?:/|%\w+%[\\/]|~\w*/|\$\{?\w+\}?/|file:/+|[A-Za-z]:[\\/]|\\\\(?=\w))"
QUOTED_PATH = re.compile(rf"""(?<=["']){PATH_START}[^"'\n]+(?=["'])""")
BARE_PATH = re.compile(rf"""(?<![\w:/\\.~$}}-]){PATH_START}[^\s"'=,;]+""")
SHELL_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", flags=re.DOTALL)
# An argument that is a path, after its flag or key.
OWN_PATH = re.compile(rf"((?:-*[\w.-]+=)*(?:-\w(?=/))?)({PATH_START}\S.*)", flags=re.DOTALL)
BETWEEN_PATHS = re.compile(
    rf"((?<!\b[A-Za-z])[,;:](?!//)(?=(?:[\w.-]+=)?{PATH_START}))"
)  # of several paths in one argument
WINDOWS_PATH = re.compile(r"[A-Za-z]:\\|\\\\\w|%\w+%\\")


def is_path(text: str) -> bool:
    """Whether a text begins as an absolute path does."""
    return re.match(PATH_START, text) is not None


def without_paths(text: str) -> str:
    """Text whose absolute paths are cut to their last part: how a disk is laid out is no fact about a model."""
    text = QUOTED_PATH.sub(lambda match: last_part(match[0]), text)
    return BARE_PATH.sub(lambda match: last_part(match[0]), text)


def command_without_paths(text: str) -> str:
    """A command of a shell whose arguments name no folder: as `without_paths`, also of paths with spaces in them."""
    return SHELL_WORD.sub(lambda match: _short_word(match[0]), text)


def _short_word(word: str) -> str:
    """One word of a command, quoted or not; as it was where it has no path."""
    if WINDOWS_PATH.search(word):
        argument = word.replace('"', "").replace("'", "")  # backslashes are no quotes there
    else:
        argument = "".join(shlex.split(word))
    pieces = BETWEEN_PATHS.split(argument)  # what lies between two separators, and each separator
    short = "".join(map(_short_piece, pieces))
    return word if short == argument else shlex.quote(short)


def _short_piece(piece: str) -> str:
    own = OWN_PATH.fullmatch(piece)
    return f"{own[1]}{last_part(own[2])}" if own else without_paths(piece)


def last_part(path: str) -> str:
    """The name of a file or folder, without the folders that it lies in."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
