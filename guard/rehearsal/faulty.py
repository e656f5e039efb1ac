"""What a fault of the rehearsed world is: a name, a line for people, arguments with defaults, and how it is injected.

A fault is a function of the world, a generator and keyword arguments; it returns what ends it, or None if it is over at
once or ends by itself. Its docstring is the line for people, its defaults are the arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, TypeVar

from guard.core.evidence import Role
from guard.rehearsal.network import NAMED, named

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node
    from guard.rehearsal.world import World

Arg = bool | int | float | str
Undo = Callable[[], None]
Do = Callable[..., Undo | None]
D = TypeVar("D", bound=Do)

NODES = ("A", "B", "either", "both", "primary", "secondary")


@dataclass(frozen=True, slots=True)
class Fault:
    """`words`: what an argument that is a word may be; `paths` arguments may also join several by +."""

    name: str
    group: str
    text: str
    args: Mapping[str, Arg]
    words: Mapping[str, tuple[str, ...]]
    do: Do

    def inject(self, world: World, rng: Random, **args: Arg) -> Undo:
        """Let it happen. The result ends it; a second call, and one after its own end, does nothing.

        ValueError: an argument that it has not, or a word that is none of its words.
        """
        for name, value in args.items():
            if why := self.unfit(name, value):
                raise ValueError(f"cannot inject {self.name}: {why}")
        world.counts[f"fault {self.name}"] += 1
        world.stir()
        undo = self.do(world, rng, **args)
        left = [undo] if undo is not None else []

        def end() -> None:
            if left:
                left.pop()()
                world.stir()

        if left:
            world.standing.append(end)
        return end

    def unfit(self, name: str, value: object) -> str:
        """Why this argument is none; "" if it is one."""
        if name not in self.args:
            return f"it has no argument {name!r}; it has {', '.join(self.args) or 'none'}"
        kind = type(self.args[name])
        if kind in (int, float):
            kinds: tuple[type, ...] = (int, float)
        else:
            kinds = (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            return f"{name}={value!r} is no {kind.__name__}"
        words = self.words.get(name)
        if words is None or value in words:
            return ""
        if words == tuple(NAMED) and isinstance(value, str):
            try:
                named(value)
            except ValueError as error:
                return str(error)
            return ""
        return f"{name}={value!r} is none of {', '.join(words)}"


class Registry:
    """Collects the faults of one module under one group."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}

    def __call__(self, group: str, **words: tuple[str, ...]) -> Callable[[D], D]:
        def register(do: D) -> D:
            name = do.__name__.replace("_", "-")
            args = {p.name: p.default for p in inspect.signature(do).parameters.values() if p.kind is p.KEYWORD_ONLY}
            known = {"node": NODES, "paths": tuple(NAMED), **words}
            text = " ".join((inspect.getdoc(do) or "").split())
            self.faults[name] = Fault(name, group, text, args, {k: v for k, v in known.items() if k in args}, do)
            return do

        return register


# ------------------------------------------------------------------ what several faults need


def pick(world: World, rng: Random, word: str) -> tuple[Node, ...]:
    """The nodes that a word means now. `secondary` of a pair without a primary is B."""
    nodes = world.nodes
    match word:
        case "either":
            return (nodes[rng.choice("AB")],)
        case "both":
            return tuple(nodes.values())
        case "primary" | "secondary":
            first = next((n for n in "AB" if world.disks.of[n].role is Role.PRIMARY), "A")
            return (nodes[first if word == "primary" else nodes[first].peer.name],)
        case _:
            return (nodes[word],)


def every(undos: list[Undo]) -> Undo:
    """All of them, the latest first."""

    def end() -> None:
        for undo in reversed(undos):
            undo()

    return end


def counted(thing: object, name: str) -> Undo:
    """One more fault of this name on `thing`, whose attribute counts them."""
    setattr(thing, name, getattr(thing, name) + 1)
    return lambda: setattr(thing, name, max(0, getattr(thing, name) - 1))


def instead(world: World, thing: object, name: str, value: object) -> Undo:
    """`value` in the place of what `thing` has. Several may lie over each other and end in any order."""
    key = (id(thing), name)
    layers = world.layers.setdefault(key, [[getattr(thing, name)]])
    layer = [value]
    layers.append(layer)
    setattr(thing, name, value)

    def back() -> None:
        kept = [each for each in layers if each is not layer]
        if len(kept) == len(layers):
            return
        layers[:] = kept
        setattr(thing, name, layers[-1][0])
        if len(layers) == 1:
            world.layers.pop(key, None)

    return back
