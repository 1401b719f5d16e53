"""Vectors of 16 float32 for Numba kernels: loads, stores and arithmetic that become SIMD.

Numba leaves vectorisation to LLVM, which gives up on loops over more than a few arrays, because it
cannot prove that they do not overlap. A `Lanes` value is an LLVM vector instead: one AVX-512
register, two of AVX, four of SSE or NEON. Every operation is the IEEE one, in the order written and
fused where `fma` is written, so the same bits come out on every width. The price: loops go in steps
of 16, so rows need padding, there is no bounds check, and a CPU without fused multiply-add calls a
function for each lane of it.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import config
from numba.extending import intrinsic, models, overload, register_model

NUM_LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), NUM_LANES)
_INT32 = ir.IntType(32)


def _has_many_registers() -> bool:
    """Whether the CPU that Numba compiles for has 32 registers of a whole vector."""
    chosen = cast(Any, config).CPU_FEATURES
    if chosen is not None:
        return "+avx512f" in chosen
    return bool(get_host_cpu_features().get("avx512f", False))


HAS_MANY_REGISTERS = _has_many_registers()
"""No bit depends on it."""


class LanesType(types.Type):
    """Numba's type of a vector of 16 float32."""


Lanes: Any = cast(Any, LanesType)(name="Lanes")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        cast(Any, super()).__init__(dmm, fe_type, _VECTOR)


def _primitive(function: Any) -> Any:
    """Make `function` callable in kernels.

    It types a call and returns the writer of its LLVM code.
    """
    return intrinsic(prefer_literal=True)(function)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    last = array_type.ndim - 1
    # Strides count bytes. The last one is known, so that neighbours share a register.
    offset = builder.mul(ir.IntType(64)(4), builder.extract_value(index, last))
    for axis in range(last):
        stride, position = (
            builder.extract_value(view.strides, axis),
            builder.extract_value(index, axis),
        )
        offset = builder.add(offset, builder.mul(stride, position))
    start = builder.bitcast(view.data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(start, [offset]), _VECTOR.as_pointer())


@_primitive
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """The 16 items of a float32 array from `index`, a tuple, along its last axis.

    The last axis must be contiguous.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # 4 bytes, not 64: kernels read neighbours too, one column to the left or right.
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return Lanes(array, index), generate


@_primitive
def load_item(typing_context: Any, array: Any, index: Any) -> Any:
    """One item of a float32 array; unlike `array[index]` without a look whether it is negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(pointer, ir.FloatType().as_pointer()), align=4)

    return types.float32(array, index), generate


@_primitive
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 items of a float32 array from `index`, a tuple, along its last axis.

    The last axis must be contiguous.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], array, index), align=4)
        return context.get_dummy_value()

    return types.void(array, index, Lanes), generate


@_primitive
def store_four(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """As `store`, of the first four lanes alone."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        pointer = _pointer(context, builder, signature.args[0], array, index)
        four = builder.shuffle_vector(value, value, _lane_numbers(range(4)))
        builder.store(four, builder.bitcast(pointer, four.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, Lanes), generate


@_primitive
def store_columns(
    typing_context: Any, array: Any, index: Any, a: Any, b: Any, c: Any, d: Any
) -> Any:
    """Write 64 items from `index`: the first lane of each of four vectors, then the second, ..."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, *columns = arguments
        pointer = _pointer(context, builder, signature.args[0], array, index)
        both = range(2 * NUM_LANES)
        halves = [builder.shuffle_vector(*columns[n : n + 2], _lane_numbers(both)) for n in (0, 2)]
        order = [lane + n * NUM_LANES for lane in range(NUM_LANES) for n in range(4)]
        items = builder.shuffle_vector(*halves, _lane_numbers(order))
        builder.store(items, builder.bitcast(pointer, items.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, Lanes, Lanes, Lanes, Lanes), generate


@_primitive
def load_column(typing_context: Any, array: Any, index: Any, number: Any) -> Any:
    """One of the four vectors that `store_columns` wrote; `number` is a literal."""
    order = range(number.literal_value, 4 * NUM_LANES, 4)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        row = ir.VectorType(ir.FloatType(), 4 * NUM_LANES)
        items = builder.load(builder.bitcast(pointer, row.as_pointer()), align=4)
        return builder.shuffle_vector(items, items, _lane_numbers(order))

    return Lanes(array, index, number), generate


@_primitive
def splat(typing_context: Any, number: Any) -> Any:
    """The same float32 in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.insert_element(_VECTOR(ir.Undefined), arguments[0], _INT32(0))
        # LLVM knows this pair of instructions as one broadcast.
        return builder.shuffle_vector(first, first, _lane_numbers([0] * NUM_LANES))

    return Lanes(types.float32), generate


@_primitive
def rotate(typing_context: Any, value: Any, count: Any) -> Any:
    """Lane i of the result is lane i + count of the value, around the end; `count` is a literal."""
    order = [(lane + count.literal_value) % NUM_LANES for lane in range(NUM_LANES)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.shuffle_vector(arguments[0], arguments[0], _lane_numbers(order))

    return Lanes(Lanes, count), generate


@_primitive
def load_beside(typing_context: Any, array: Any, index: Any, other: Any, step: Any) -> Any:
    """The items one column to the right (`step`, a literal, is 1) or left (-1) of those at `index`.

    The one that is not among them is the next one's first, or the last one's before, at `other`.
    """
    right = step.literal_value == 1

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, other, _ = arguments
        here = _pointer(context, builder, signature.args[0], array, index)
        there = _pointer(context, builder, signature.args[0], array, other)
        if HAS_MANY_REGISTERS:
            both = [builder.load(pointer, align=4) for pointer in (here, there)]
            order = range(1, NUM_LANES + 1) if right else range(NUM_LANES - 1, 2 * NUM_LANES - 1)
            return builder.shuffle_vector(*(both if right else both[::-1]), _lane_numbers(order))
        # Read past the end, and what lies there is exchanged.
        item = ir.FloatType().as_pointer()
        beside = builder.gep(builder.bitcast(here, item), [_INT32(1 if right else -1)])
        value = builder.load(builder.bitcast(beside, _VECTOR.as_pointer()), align=4)
        wanted = builder.gep(builder.bitcast(there, item), [_INT32(0 if right else NUM_LANES - 1)])
        place = NUM_LANES - 1 if right else 0
        return builder.insert_element(value, builder.load(wanted, align=4), _INT32(place))

    return Lanes(array, index, other, step), generate


@_primitive
def lane(typing_context: Any, value: Any, number: Any) -> Any:
    """One lane as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], _INT32))

    return types.float32(Lanes, types.intp), generate


def _lane_numbers(numbers: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT32, len(numbers)), list(numbers))


def _binary(emit: Callable[[Any, Any, Any], Any], doc: str) -> Any:
    """An intrinsic of two vectors; `emit(builder, left, right)` writes it."""

    def operation(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return Lanes(Lanes, Lanes), generate

    operation.__doc__ = doc
    return _primitive(operation)


def _call(llvm_name: str) -> Callable[..., Any]:
    """The writer of a call of what LLVM knows by this name, of vectors to a vector."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function_type = ir.FunctionType(_VECTOR, [_VECTOR] * len(arguments))
        function = builder.module.declare_intrinsic(
            f"llvm.{llvm_name}.v{NUM_LANES}f32", (), function_type
        )
        return builder.call(function, arguments)

    return generate


@_primitive
def sqrt(typing_context: Any, value: Any) -> Any:
    """Square root of every lane."""
    return Lanes(Lanes), _call("sqrt")


@_primitive
def floor(typing_context: Any, value: Any) -> Any:
    """Largest whole number not above, of every lane."""
    return Lanes(Lanes), _call("floor")


@_primitive
def fma(typing_context: Any, factor: Any, other: Any, summand: Any) -> Any:
    """factor * other + summand of every lane, rounded once."""
    return Lanes(Lanes, Lanes, Lanes), _call("fma")


# Compare and select, since LLVM's minnum and maxnum leave open which zero they return.
minimum = _binary(
    lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y), "The smaller of each two lanes."
)
maximum = _binary(
    lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y), "The larger of each two lanes."
)


def _overload(symbol: Any, instruction: str) -> None:
    operation = _binary(lambda builder, x, y: getattr(builder, instruction)(x, y), instruction)

    def compute(left: Any, right: Any) -> Any:
        return operation(left, right)

    # Numba asks this for every use of the operator, whatever the types: None means not ours.
    @overload(symbol)
    def choose(left: Any, right: Any) -> Any:
        return compute if isinstance(left, LanesType) and isinstance(right, LanesType) else None


_overload(operator.add, "fadd")
_overload(operator.iadd, "fadd")
_overload(operator.sub, "fsub")
_overload(operator.mul, "fmul")
_overload(operator.truediv, "fdiv")
