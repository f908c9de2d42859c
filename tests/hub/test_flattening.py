"""Modules made into flat files: what comes along, what is left out, and what is refused."""

import textwrap

import pytest

from fpt_adapters.hub.flattening import Flattener
from fpt_adapters.hub.trimming import Route

PACKAGE = {
    "main.py": '''
        import json
        import os
        from collections import Counter as Count
        from typing import TYPE_CHECKING

        from .room.rare import Rare  # noqa: F401  it is not decided to travel
        from .room.registry import Registered  # noqa: F401  registers itself
        from .room.shapes import SIZE, area
        from .room.shapes import scale as scaled
        from .room.table import TABLE

        if TYPE_CHECKING:
            from .home.cards import Card

        __all__ = ["Model"]
        UNUSED = os.sep


        # A comment of its own
        class Model:
            """What is asked for.

            More of it.
            """

            size = SIZE  # and one beside

            # A part

            def run(self, name: str) -> str:
                """Said at home."""
                from .room.extras import extra

                return extra(TABLE[name].build()) + scaled(area(2)) + json.dumps(Count(name))

            def show(self, card: "Card", *, width: int = 3) -> str:
                """Said at home."""
                from .home.cards import render

                return render(card, width)

            def store(self, place: str) -> None:
                if place:
                    from .home.cards import render

                    render(place, 3)
                if not TRAVELS:
                    os.sync()

            @classmethod
            def fit(cls, rows: list) -> "Model":
                """Said at home."""
                os.sync()
                return cls(unused(rows))
        ''',
    "room/shapes.py": """
        import math

        SIZE, DEPTH = 3, 4


        def area(side):
            return side**2


        def scale(value):
            return math.floor(value)


        def unused():
            return math.pi
        """,
    "room/extras.py": '''
        from .shapes import scale

        CALLS = []
        CALLS.append(scale(1))


        def extra(value):
            """Only said."""


        def other():
            return CALLS
        ''',
    "room/table.py": """
        from .kinds import Kind
        from .rare import Rare

        TABLE = {
            "kind": Kind(),
            "rare": Rare(),
        }
        """,
    "room/kinds.py": '''
        class Kind:
            """In pieces."""

            words = "some"

            def __init__(self):
                self.value = 1

            def build(self):
                return self.part

            @property
            def part(self):
                return self.value

            def describe(self):
                return self.words
        ''',
    "room/registry.py": """
        import abc


        class Registered:
            pass


        class Other:
            pass


        abc.ABC.register(Registered)
        """,
    "room/rare.py": """
        from .kinds import Kind


        class Rare(Kind):
            def build(self):
                return 2
        """,
    "home/cards.py": "",
}
MAIN = '''\
"""A title."""

from collections import Counter as Count
import json

from .flat_room import Registered, SIZE, TABLE, area, scale as scaled

# main.py

class Model:
    size = SIZE

    def run(self, name: str) -> str:
        from .flat_room import extra

        return extra(TABLE[name].build()) + scaled(area(2)) + json.dumps(Count(name))

    def show(*args, **kwargs):
        raise ImportError("not here")

    def store(self, place: str) -> None:
        if place:
            raise ImportError("not here")

    @classmethod
    def fit(*args, **kwargs):
        raise ImportError("not here")
'''
ROOM = '''\
"""A title."""

import abc
import math

# registry.py

class Registered:
    pass

abc.ABC.register(Registered)

# shapes.py

SIZE, DEPTH = 3, 4

def area(side):
    return side**2

def scale(value):
    return math.floor(value)

# kinds.py

class Kind:
    words = "some"

    def __init__(self):
        self.value = 1

    def build(self):
        return self.part

    @property
    def part(self):
        return self.value

# table.py

TABLE = {
    "kind": Kind(),
}

# extras.py

CALLS = []
CALLS.append(scale(1))

def extra(value):
    """Only said."""
'''


def write(folder, package):
    for name, text in package.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f'"""A module."""\n{textwrap.dedent(text)}', encoding="utf-8")


def flatten(folder, name="Model"):
    decided = {"extras.py": True, "rare.py": False, "cards.py": False, "registry.py": True}
    route = Route(
        flat_name=lambda path: "main" if path.parent == folder else f"flat_{path.parent.name}",
        travels=lambda path: decided.get(path.name),
        missing="not here",
        in_pieces=("Kind",),
        at_home=("fit",),
    )
    flattener = Flattener(route, "A title.")
    flattener.add(folder / "main.py", name)
    return flattener.files()


def test_what_is_needed_comes_along_and_no_more(tmp_path):
    write(tmp_path, PACKAGE)
    assert flatten(tmp_path) == {"main.py": MAIN, "flat_room.py": ROOM}


@pytest.mark.parametrize(
    "line, message",
    [
        ("SIZE = 5", r"SIZE of .*extras\.py has another meaning in flat_room\.py"),
        ("from .shapes import scale as SIZE", r"extras\.py imports scale as SIZE, and both are in flat_room\.py"),
    ],
)
def test_a_name_has_one_meaning_in_a_file(tmp_path, line, message):
    write(tmp_path, PACKAGE | {"room/extras.py": f"{line}\n\n\ndef extra(value):\n    return SIZE\n"})
    with pytest.raises(ValueError, match=message):
        flatten(tmp_path)
