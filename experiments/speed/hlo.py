"""The text of a compiled program, read: what its operations are, and the bytes that they read and write.

Kinds of operations: `products` (convolutions, matrix products, attention), `update` (what a training step does after
the gradient), `copies` (the same numbers in another order, place or type), `links` (between devices), `rest`
(elementwise operations and sums). Bytes are those of a chip's large memory, of whole operands and results: what a
cache keeps from one operation to the next is counted, and what a TPU keeps in the memory beside its cores is not.
"""

import collections
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4,
         "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8}
# What moves nothing, or is counted where it was begun.
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "opt-barrier", "after-all", "partition-id",
        "replica-id", "add-dependency"}
COPIES = FREE | {"copy", "copy-start", "transpose", "slice", "slice-start", "concatenate", "pad", "reshape", "convert",
                 "dynamic-slice"}
LINKS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def size(kind):
    """Bytes of a type, of all arrays of a tuple; those in another memory than the large one, S(n), take none."""
    found = re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", kind)
    return sum(BYTES.get(name, 0) * math.prod(int(n) for n in shape.split(",") if n)
               for name, shape, layout in found if "S(" not in layout)


def computations(text):
    """{name: lines} of a module's computations; that of the program itself is "ENTRY"."""
    found, lines = {}, []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            lines = found["ENTRY" if head[1] else head[2]] = []
        else:
            lines.append(re.sub(r"/\*.*?\*/", "", line))
    return found


def parsed(line):
    """(name, type, operation, names of its operands) of a line, or None."""
    found = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:, |$)", line)
    return found and (*found.groups()[:3], re.findall(r"%([\w.\-]+)", found[4]))


def _kind(operation, line, body):
    """The kind of an operation, of its line and the lines of the computation that it calls."""
    text, inside = "\n".join(body), {found[2] for found in map(parsed, body) if found}
    if operation.startswith(LINKS):
        return "links"
    if re.search(r" (convolution|dot)\(|__cudnn|__cublas", line + text):
        return "products"
    # A fusion without a name of its own has those of what was fused.
    names = re.findall(r'op_name="([^"]*)"', line) or re.findall(r'op_name="([^"]*)"', text)
    if any("(step)" in name for name in names) and not any("jvp" in name for name in names):
        return "update"
    return "copies" if (inside or {operation}) <= COPIES else "rest"


def counted(parts, name="ENTRY", steps=None):
    """{kind: {"operations", "bytes", "cycles" (that a TPU's compiler expects)}} of a computation of `computations` and
    what it calls, loops as many times as they turn: `steps` times where that is not known (ValueError without)."""
    sizes, kinds = {}, collections.defaultdict(collections.Counter)
    for line in parts[name]:
        found = parsed(line)
        if not found:
            continue
        own, kind, operation, operands = found
        sizes[own] = size(kind)
        if operation in ("while", "call", "conditional"):
            times, inner = called(parts, line, operation, steps)
            for which, one in inner.items():
                kinds[which].update({key: times * value for key, value in one.items()})
        elif operation not in FREE and not operation.endswith(("-done", "-update")):
            body = re.search(r"calls=%([\w.\-]+)", line)
            # The type of what is begun has the operands in it.
            begun = operation.endswith("-start") and kind.startswith("(")
            cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
            kinds[_kind(operation, line, parts[body[1]] if body else [])].update(
                operations=1, bytes=sizes[own] + (0 if begun else sum(sizes.get(one, 0) for one in operands)),
                cycles=int(cycles[1]) if cycles else 0)
    return {which: dict(one) for which, one in sorted(kinds.items())}


def called(parts, line, operation, steps):
    """(times, what is counted) of the computation that a loop, a call or a choice has; of a choice the largest."""
    if operation == "while":
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        if not known and not steps:
            raise ValueError(f"how often a loop turns is not known: {line.strip()[:100]}")
        return int(known[1]) if known else steps, counted(parts, re.search(r"body=%([\w.\-]+)", line)[1], steps)
    names = re.findall(r"(?:to_apply|calls|(?:true|false)_computation)=%([\w.\-]+)", line)
    for several in re.findall(r"branch_computations=\{(.*?)\}", line):
        names += re.findall(r"%([\w.\-]+)", several)
    return 1, max((counted(parts, one, steps) for one in names),
                  key=lambda kinds: sum(kind["bytes"] for kind in kinds.values()))
