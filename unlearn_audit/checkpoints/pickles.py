"""Tell pickles by their beginning, without reading them."""

import pickletools
from itertools import islice

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the number that torch's legacy files begin with


def first_value(data: bytes) -> object:
    """Return the argument of the first opcode that has one after the protocol, or None."""
    try:
        for opcode, argument, _ in islice(pickletools.genops(data), 4):
            if argument is not None and opcode.name not in {"PROTO", "FRAME"}:
                return argument
    except Exception:  # a damaged pickle can fail in any way
        return None
    return None


def is_old_pickle(data: bytes) -> bool:
    """Return whether `data` is one whole pickle of protocol 0 or 1, which has no mark at its beginning."""
    try:
        names = [opcode.name for opcode, _, _ in pickletools.genops(data)]
    except Exception:  # not a pickle
        return False
    return not {"GLOBAL", "INST"}.isdisjoint(names)
