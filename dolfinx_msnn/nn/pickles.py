# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""What a TorchScript pickle asks torch to build, checked without building it.

torch believes its pickles: a tensor that is said to be larger than the entry with its numbers is
read from memory that lies behind them. So the operations are gone through first, on a stack of
plain values, and nothing is made or called; what torch does not write itself is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Mapping
from typing import Any

#: Bytes of a number in each kind of storage.
_SIZES = {
    "torch BFloat16Storage": 2,
    "torch BoolStorage": 1,
    "torch ByteStorage": 1,
    "torch CharStorage": 1,
    "torch ComplexDoubleStorage": 16,
    "torch ComplexFloatStorage": 8,
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch IntStorage": 4,
    "torch LongStorage": 8,
    "torch ShortStorage": 2,
}

_TENSOR = "torch._utils _rebuild_tensor_v2"

#: Torch frees what is nested by recursion, which must not exhaust the stack.
_DEEPEST = 200

#: Length of a type's name, which torch reads by recursion.
_LONGEST = 500

#: How classes of TorchScript are named; with a space for those of the main program.
_TORCHSCRIPT = ("__torch__.", "__torch__ ")

#: What may be named; classes of TorchScript (``_TORCHSCRIPT``) may too.
_GLOBALS = {
    *_SIZES,
    _TENSOR,
    "collections OrderedDict",
    "torch device",
    "torch.jit._pickle build_boollist",
    "torch.jit._pickle build_doublelist",
    "torch.jit._pickle build_intlist",
    "torch.jit._pickle build_tensorlist",
    "torch.jit._pickle restore_type_tag",
}

_LITERALS = {
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "LONG1",
    "NEWFALSE",
    "NEWTRUE",
    "NONE",
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}


class _Global(str):
    """A name that a pickle refers to."""

    __slots__ = ()


class _Storage(int):
    """Numbers in a storage; an ``int``, and no integer of the pickle."""

    __slots__ = ()


class _Built:
    """A list, a dictionary, an object or a tensor: of interest is only how deep it is nested."""

    __slots__ = ("depth", "used")

    def __init__(self) -> None:
        self.depth, self.used = 0, False


class _Tuple(tuple[Any, ...]):
    """A tuple, likewise."""

    depth = 0


def _tuple(values: list[Any]) -> _Tuple:
    made = _Tuple(values)
    made.depth = _depth_of(values)
    return made


def _depth_of(parts: list[Any]) -> int:
    """How deep what holds these parts is nested; none of them may change from now on."""
    depth = 0
    for part in parts:
        if isinstance(part, _Built | _Tuple):
            depth = max(depth, 1 + part.depth)
        if isinstance(part, _Built):
            part.used = True
    if depth > _DEEPEST:
        raise _Refused("it is nested too deep")
    return depth


class _Refused(ValueError):
    """With a reason that can be told."""


def check_pickle(code: bytes, records: Mapping[str, int]) -> None:
    """Refuse a TorchScript pickle that could make torch read beyond its data.

    Args:
        code: The pickle.
        records: Bytes of each entry that it may take numbers from, by name.

    Raises:
        ValueError: If a tensor does not fit its numbers, or torch would not write such a pickle.
    """
    try:
        _Machine(records).run(code)
    except _Refused:
        raise
    except Exception:
        raise ValueError("its pickle is not as torch writes it") from None


class _Machine:
    """The stack of a pickle, with names and literals on it and nothing else."""

    def __init__(self, records: Mapping[str, int]) -> None:
        self._records = records
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, code: bytes) -> None:
        """Go through all operations."""
        argument: Any
        for number, (operation, argument, place) in enumerate(pickletools.genops(code)):
            name = operation.name
            if name == "STOP":
                if place != len(code) - 1:
                    raise _Refused("it has more than one pickle")
                return
            if name == "PROTO":
                if number:
                    raise _Refused("it has more than one pickle")
            elif name in _LITERALS:
                self._stack.append(argument if name != "NONE" else None)
            elif name == "GLOBAL":
                known = argument in _GLOBALS or argument.startswith(_TORCHSCRIPT)
                if not known or len(argument) > _LONGEST:
                    raise _Refused(f"it names {argument[:80]!r}")
                self._stack.append(_Global(argument))
            elif name in _PUTS:
                # Torch makes room for all numbers up to this one.
                if argument > len(self._memo):
                    raise IndexError
                self._memo[argument] = self._stack[-1]
            elif name in _GETS:
                self._stack.append(self._memo[argument])
            else:
                self._build(name)
        raise _Refused("it has no end")

    def _pop(self, num: int) -> list[Any]:
        """The topmost values, none from below the last mark."""
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - floor < num:
            raise IndexError
        values = self._stack[len(self._stack) - num :]
        del self._stack[len(self._stack) - num :]
        return values

    def _above_mark(self) -> list[Any]:
        values = self._pop(len(self._stack) - self._marks[-1])
        self._marks.pop()
        return values

    def _build(self, name: str) -> None:
        """An operation that takes values from the stack."""
        push = self._stack.append
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            push(_Built())
        elif name == "EMPTY_TUPLE":
            push(_tuple([]))
        elif name in _TUPLES:
            push(_tuple(self._pop(_TUPLES[name])))
        elif name == "TUPLE":
            push(_tuple(self._above_mark()))
        elif name in ("APPENDS", "SETITEMS"):
            self._fill(self._above_mark())
        elif name in ("APPEND", "SETITEM", "BUILD"):
            self._fill(self._pop(2 if name == "SETITEM" else 1))
        elif name == "BINPERSID":
            push(self._storage(*self._pop(1)[0]))
        elif name in ("NEWOBJ", "REDUCE"):
            push(self._call(*self._pop(2)))
        else:
            raise _Refused(f"it has the operation {name}")

    def _fill(self, parts: list[Any]) -> None:
        """Put parts into what is below them, before that is part of something else."""
        whole = self._stack[-1]
        if not isinstance(whole, _Built) or whole.used or whole in parts:
            raise TypeError
        whole.depth = max(whole.depth, _depth_of(parts))

    def _call(self, what: _Global, arguments: _Tuple) -> _Built:
        """Make an object, a tensor or a list of a certain type."""
        if not isinstance(what, _Global) or not isinstance(arguments, _Tuple):
            raise TypeError
        if what == _TENSOR:
            _check_tensor(*arguments[:4])
        for part in arguments:
            if isinstance(part, str) and len(part) > _LONGEST:
                raise _Refused("it names a type that is too long")
        made = _Built()
        made.depth = arguments.depth
        return made

    def _storage(self, tag: str, kind: str, key: str, device: str, num: int) -> _Storage:
        if tag != "storage" or not isinstance(kind, _Global) or type(num) is not int:
            raise TypeError
        if num < 0 or num * _SIZES[kind] != self._records[key]:
            raise _Refused(f"it takes {num} numbers from the entry {key!r}, which has others")
        return _Storage(num)


def _check_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """Refuse a tensor with entries outside of its storage."""
    if not isinstance(storage, _Storage) or not len(shape) == len(strides) <= 64:
        raise TypeError
    numbers = (offset, *shape, *strides)
    if any(type(number) is not int for number in numbers) or min(numbers) < 0:
        raise TypeError
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # Strides of zero let few numbers stand for many.
    count = math.prod(shape)
    if max(numbers) >= 2**62 or count > storage or (count and last >= storage):
        raise _Refused("it has a tensor that is larger than its numbers")
