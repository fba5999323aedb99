"""Compile a schedule to one jitted JAX function: a core is a device, a step is traced as the schedule has it.

On every device a buffer is an array ``(slots, h, w)``. A `Shift` and a `Permute` are one ``lax.ppermute`` of exactly
the schedule's messages; a `Multicast` or `Relay` is a sum along the axis in which only the roots take part, or, where a
line has several roots, an all-gather from which each device picks its root; a `Reduce` is a sum along the axis, or an
all-gather of which each root adds up its members. Multiply-adds and reductions are XLA's, in its order: results agree
with the exact product within the bound of a dot product, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from meshkernels.engines.messages import messages, slots_of
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.mesh import Tiling
from meshkernels.schedules import Index, Multiply, Place, Reduce, Tiles, Values, verify
from meshkernels.schedules.index import at
from meshkernels.schedules.routes import Permute, Shift
from meshkernels.schedules.steps import Copy, Move, Schedule, Step, unrolled

INSTALL = "pip install 'meshkernels[jax]'"
AXES = ("y", "x")


def to_jax(schedule: Schedule, devices: Any = None) -> Callable[..., Any]:
    """A jitted function that runs a schedule on a mesh of JAX devices, one for each core.

    Args:
        schedule: what to do; verified first.
        devices: ``rows * cols`` devices, row by row, an array ``(rows, cols)`` of them, or a `jax.sharding.Mesh` of
            that shape; None: the first of ``jax.devices()``.

    Returns:
        ``f(*operands)``, arrays of the shapes in ``schedule.operands`` (a vector may be given for one row), in any
        sharding, to an array of ``schedule.result.shape``. It may be differentiated, and used inside other jitted
        functions.

    Raises:
        MeshTypeError: no schedule; without JAX it says what to install.
        MeshError: devices of another number or arrangement than the cores.
        ScheduleError: the schedule does not do what it says.

    Examples:
        ``f = mk.to_jax(mk.schedule("meshgemm", mk.Mesh(4, 2), M, K, N), jax.devices()[:8]); C = f(A, B)``
    """
    try:
        import jax
    except ImportError as missing:
        raise MeshTypeError(f"to_jax needs JAX, which cannot be imported ({missing}): {INSTALL}") from None
    if not isinstance(schedule, Schedule):
        raise MeshTypeError(f"to_jax takes a Schedule, not {type(schedule).__name__}")
    verify(schedule)
    mesh = device_mesh(jax, schedule, devices)

    def function(*operands: Any) -> Any:
        return _traced(jax, schedule, mesh, operands)

    function.__name__ = function.__qualname__ = schedule.name
    function.__doc__ = f"{schedule.name}: {schedule.task.kind} on {schedule.mesh.rows} x {schedule.mesh.cols} devices."
    return jax.jit(function)


def device_mesh(jax: Any, schedule: Schedule, devices: Any) -> Any:
    """The `jax.sharding.Mesh` of the schedule's shape.

    Args:
        jax: the module.
        schedule: whose cores the devices are.
        devices: as `to_jax` takes them.

    Returns:
        The mesh, of axes `AXES`.

    Raises:
        MeshError: devices of another number or arrangement.
    """
    shape, cores = schedule.mesh.shape, schedule.mesh.cores
    named = isinstance(devices, jax.sharding.Mesh)
    if devices is None:
        devices = jax.devices()
        if len(devices) < cores:
            raise MeshError(f"{shape[0]} x {shape[1]} cores need {cores} devices; JAX has {len(devices)} "
                            f"({devices[0].platform}; XLA_FLAGS=--xla_force_host_platform_device_count={cores} "
                            "emulates them on a CPU)")
        devices = devices[:cores]
    array = np.asarray(devices.devices if named else devices, dtype=object)
    fits = array.shape == shape if array.ndim > 1 or named else len(array) == cores
    if not fits:
        raise MeshError(f"devices {'of a mesh ' * named}{array.shape}: the schedule has {shape[0]} x {shape[1]} cores "
                        f"and takes {cores} devices or a mesh of that shape")
    return jax.sharding.Mesh(array.reshape(shape), AXES)


def _traced(jax: Any, schedule: Schedule, mesh: Any, operands: Sequence[Any]) -> Any:
    jnp, spec = jax.numpy, jax.sharding.PartitionSpec(*AXES)
    names = list(schedule.operands)
    if len(operands) != len(names):
        raise MeshError(f"{schedule.name} takes the operands {', '.join(names)}, not {len(operands)} arrays")
    arrays, vector = [], False
    for name, given in zip(names, operands):
        array, shape = jnp.asarray(given), schedule.operands[name].shape
        if array.shape == shape[1:] and shape[0] == 1:
            array, vector = array[None], True
        if array.shape != shape:
            raise MeshError(f"{name} is {array.shape}; {schedule.name} takes {shape}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise MeshTypeError(f"{name} has dtype {array.dtype}; accepted are float16, bfloat16, float32 and float64")
        arrays.append(array)
    stored = jnp.result_type(*arrays)
    held = [name for name, tiles in schedule.buffers.items() if isinstance(tiles, Tiles) and tiles.home is not None]
    homes = []
    for name in held:
        tiles = schedule.buffers[name]
        assert isinstance(tiles, Tiles) and tiles.home is not None
        array = arrays[names.index(tiles.operand)].astype(stored)
        blocks = _laid_out(jnp, array, schedule.operands[tiles.operand], tiles.home, tiles.depth)
        homes.append(jnp.broadcast_to(blocks, (*schedule.mesh.shape, *blocks.shape[2:])))

    def on_device(*blocks: Any) -> Any:
        device = _Device(jax, schedule, stored, dict(zip(held, (block[0, 0] for block in blocks))))
        for step, t, s in unrolled(schedule.program):
            device.step(step, t, s)
        return device.state[schedule.collect.buffer][None, None]

    left = jax.shard_map(on_device, mesh=mesh, in_specs=(spec,) * len(held), out_specs=spec, check_vma=False)(*homes)
    result = _collected(jnp, schedule, left).astype(stored)
    return result[0] if vector else result


# ------------------------------------------------------------------------------- operands and results of all devices


def _laid_out(jnp: Any, array: Any, tiling: Tiling, home: Place, depth: int) -> Any:
    """``(rows or 1, cols or 1, depth, h, w)`` the blocks that each core holds at first; zeros where it holds none."""
    (I, J), (h, w) = tiling.grid, tiling.tile
    down, across = (np.stack([at(part, d) for d in range(depth)], axis=-1) for part in (home.down, home.across))
    padded = jnp.pad(array, ((0, I * h - array.shape[0]), (0, J * w - array.shape[1])))
    blocks = padded.reshape(I, h, J, w)
    shape = np.broadcast_shapes(down.shape, across.shape)
    plain = _plain(down, across, (I, J), shape)
    if plain is not None:  # moves nothing from device to device
        p, q = plain
        cut = blocks.reshape(shape[0], p, h, shape[1], q, w).transpose(0, 3, 1, 4, 2, 5)
        return cut.reshape(*shape, h, w)
    found = blocks[np.maximum(down, 0), :, np.maximum(across, 0)]
    if min(down.min(), across.min()) < 0:
        found = jnp.where(((down >= 0) & (across >= 0))[..., None, None], found, 0)
    return found


def _plain(down: np.ndarray, across: np.ndarray, grid: tuple[int, int],
           shape: tuple[int, ...]) -> tuple[int, int] | None:  # fmt: skip
    """``(p, q)`` if core (y, x) holds the block rows y p .. y p + p - 1 and columns x q .. x q + q - 1 in order."""
    p, q = grid[0] // shape[0], grid[1] // shape[1]
    if (shape[0] * p, shape[1] * q, p * q) != (*grid, shape[2]):
        return None
    u, v = np.divmod(np.arange(p * q), q)
    same = (down == (np.arange(shape[0]) * p)[:, None, None] + u) & (across == (np.arange(shape[1]) * q)[:, None] + v)
    return (p, q) if same.all() else None


def _collected(jnp: Any, schedule: Schedule, values: Any) -> Any:
    """The result, whole, of ``values (rows, cols, pieces, h, w)``."""
    collect, tiling = schedule.collect, schedule.result
    (I, J), (h, w) = tiling.grid, tiling.tile
    if collect.whole:
        rows, cols, pieces, _, width = values.shape
        values = values.transpose(0, 1, 3, 2, 4).reshape(rows, cols, 1, h, pieces * width)[..., :w]
    slots = values.shape[2]
    down, across = collect.place.at(schedule.mesh, slots)
    plain = _plain(down, across, (I, J), values.shape[:3])
    if plain is not None:
        p, q = plain
        cut = values.reshape(*values.shape[:2], p, q, h, w).transpose(0, 2, 4, 1, 3, 5)
        return cut.reshape(I * h, J * w)[: tiling.shape[0], : tiling.shape[1]]
    down, across = (np.broadcast_to(part, values.shape[:3]) for part in (down, across))
    taken = np.nonzero((down >= 0) & (across >= 0))
    order = np.argsort(down[taken].astype(np.int64) * J + across[taken])
    blocks = values[tuple(part[order] for part in taken)].reshape(I, J, h, w)
    return blocks.transpose(0, 2, 1, 3).reshape(I * h, J * w)[: tiling.shape[0], : tiling.shape[1]]


# --------------------------------------------------------------------------------------------- steps on one device


class _Device:
    """What every device does: the same program, with tables of what differs from core to core.

    Attributes:
        state: each buffer, ``(slots, h, w)``.
    """

    def __init__(self, jax: Any, schedule: Schedule, stored: Any, state: dict[str, Any]):
        self.jax, self.jnp, self.lax = jax, jax.numpy, jax.lax
        self.schedule, self.mesh = schedule, schedule.mesh
        self.wide = np.dtype(np.float64 if stored == np.float64 else np.float32)
        self.core = self.lax.axis_index("y") * self.mesh.cols + self.lax.axis_index("x")
        self.state = state
        for name, held in schedule.buffers.items():
            if name not in state:
                dtype = self.wide if isinstance(held, Values) and held.dtype == "sum" else stored
                state[name] = self.jnp.zeros((schedule.slots(name), *schedule.tile(name)), dtype)

    def step(self, step: Step, t: int, s: int) -> None:
        """Compute, then let everything move at once."""
        for op in step.compute:
            if isinstance(op, Multiply):
                self._multiply(op, t, s)
            else:
                self._copy(op, t, s)
        before = dict(self.state)  # what moves read
        for move in step.moves:
            if isinstance(move.route, Reduce):
                self._reduce(move, before, t, s)
            elif isinstance(move.route, Shift | Permute):
                self._permute(move, before, t, s)
            else:
                self._broadcast(move, before, t, s)

    def _mine(self, table: np.ndarray) -> Any:
        """This device's entry of ``(cores,)``; a number where all have the same."""
        return table[0].item() if (table == table[0]).all() else self.jnp.asarray(table)[self.core]

    def _slot(self, value: int | Index, t: int, s: int) -> Any:
        return self._mine(slots_of(value, self.mesh, t, s))

    def _pick(self, array: Any, slot: Any) -> Any:
        return array[slot] if isinstance(slot, int) else self.lax.dynamic_index_in_dim(array, slot, 0, keepdims=False)

    def _put(self, name: str, slot: Any, numbers: Any) -> None:
        array = self.state[name]
        self.state[name] = array.at[slot].set(numbers.astype(array.dtype))

    # ------------------------------------------------------------------------------------------- computation

    def _multiply(self, op: Multiply, t: int, s: int) -> None:
        left = self._pick(self.state[op.left], self._slot(op.left_slot, t, s))
        right = self._pick(self.state[op.right], self._slot(op.right_slot, t, s))
        product = self.jnp.matmul(left, right.T if op.transposed else right, preferred_element_type=self.wide,
                                  precision=self.lax.Precision.HIGHEST)  # fmt: skip
        self._write(op.into, op.piece, product, op.accumulate, t, s)

    def _copy(self, op: Copy, t: int, s: int) -> None:
        tile = self._pick(self.state[op.source], self._slot(op.slot, t, s))
        self._write(op.into, op.piece, tile.T if op.transposed else tile, False, t, s)

    def _write(self, name: str, piece: int | Index | None, numbers: Any, add: bool, t: int, s: int) -> None:
        array = self.state[name]
        numbers = numbers.astype(array.dtype)
        if piece is None:  # cut over all pieces, side by side
            pieces, h, w = array.shape
            numbers = self.jnp.pad(numbers, ((0, 0), (0, pieces * w - numbers.shape[1])))
            numbers = numbers.reshape(h, pieces, w).transpose(1, 0, 2)
            self.state[name] = array + numbers if add else numbers
            return
        slot = self._slot(piece, t, s)
        self._put(name, slot, self._pick(array, slot) + numbers if add else numbers)

    # ------------------------------------------------------------------------------------------ communication

    def _permute(self, move: Move, before: dict[str, Any], t: int, s: int) -> None:
        """One ppermute of the messages between cores; more where a core receives several at once."""
        whole = move.slot is None
        found = messages(move, self.mesh, 1 if whole else self.schedule.slots(move.buffer), t, s)
        left = np.arange(len(found.source))
        while len(left):
            _, first = np.unique(found.source[left], return_index=True)
            _, second = np.unique(found.target[left[first]], return_index=True)
            now = left[first[second]]
            self._permute_once(move, before, *(part[now] for part in found))
            left = np.setdiff1d(left, now)

    def _permute_once(self, move: Move, before: dict[str, Any], source: np.ndarray, target: np.ndarray,
                      sent: np.ndarray, into: np.ndarray) -> None:  # fmt: skip
        slot, place, receives = np.zeros((3, self.mesh.cores), np.int32)
        slot[source], place[target], receives[target] = sent, into, 1
        array = before[move.buffer]
        numbers = array if move.slot is None else self._pick(array, self._mine(_filled(slot, source)))
        pairs = [(int(a), int(b)) for a, b in zip(source, target) if a != b]
        arrived = self.lax.ppermute(numbers, AXES, pairs) if pairs else numbers
        itself = np.zeros(self.mesh.cores, np.int32)
        itself[source[source == target]] = 1
        if pairs and itself.any():
            arrived = self.jnp.where(self._mine(itself) > 0, numbers, arrived)
        self._arrive(move, before, arrived, self._mine(_filled(place, target)), self._mine(receives))

    def _arrive(self, move: Move, before: dict[str, Any], numbers: Any, slot: Any, receives: Any) -> None:
        """Numbers replace, or are combined with, what is in ``slot`` (of all slots) on devices that receive."""
        target = self.state[move.target]
        if move.combine:
            there = before[move.target]
            there = there if move.slot is None else self._pick(there, slot)
            numbers = self._combined(move.combine, self.jnp.stack([there, numbers]))
        numbers = numbers.astype(target.dtype)
        if not isinstance(receives, int):
            numbers = self.jnp.where(receives > 0, numbers, target if move.slot is None else self._pick(target, slot))
        elif not receives:
            return
        if move.slot is None:
            self.state[move.target] = numbers
        else:
            self._put(move.target, slot, numbers)

    def _combined(self, op: str | None, parts: Any, taking: Any = True) -> Any:
        """``parts (n, ...)`` combined along the first axis, those that are not ``taking`` part left out."""
        if op == "add":
            return self.jnp.where(taking, parts, 0).sum(axis=0, dtype=parts.dtype)
        if op == "max":
            return self.jnp.where(taking, parts, -np.inf).max(axis=0)
        each = self.jnp.where(taking, parts[..., :1], -np.inf)  # softmax states: see `meshkernels.kernels.reduce`
        largest = each.max(axis=0)
        share = self.jnp.where(each == largest, 1, self.jnp.exp(each - largest))
        sums = self.jnp.where(taking, parts[..., 1:] * share, 0).sum(axis=0, dtype=parts.dtype)
        return self.jnp.concatenate([largest, sums.astype(largest.dtype)], axis=-1)

    def _sent(self, move: Move, before: dict[str, Any], t: int, s: int) -> Any:
        array = before[move.buffer]
        return array if move.slot is None else self._pick(array, self._slot(move.slot, t, s))

    def _broadcast(self, move: Move, before: dict[str, Any], t: int, s: int) -> None:
        axis = move.route.axis  # type: ignore[union-attr]
        source = np.broadcast_to(move.route.sources(self.mesh, t, s), self.mesh.shape)  # type: ignore[union-attr]
        place = np.broadcast_to(np.arange(self.mesh.length(axis)).reshape((-1, 1) if axis == 0 else (1, -1)),
                                self.mesh.shape)  # fmt: skip
        numbers = self._sent(move, before, t, s)
        receives = (source >= 0).astype(np.int32)
        if not receives.any():
            return
        if (receives == 0).all() or (source[source >= 0] == place[source >= 0]).all():
            arrived = numbers  # everybody's own
        else:
            root = source.max(axis=axis, keepdims=True)
            if ((source == root) | (source < 0)).all():  # one root a line
                arrived = self._masked_sum(numbers, place == root, axis)
            else:
                every = self.lax.all_gather(numbers, AXES[axis])
                arrived = self._pick(every, self._mine(np.maximum(source, 0).ravel()))
        found = messages(move, self.mesh, 1, t, s)
        into = np.zeros(self.mesh.cores, np.int32)
        into[found.target] = found.into
        slot = self._mine(_filled(into, found.target))
        self._arrive(move, before, arrived, slot, self._mine(receives.ravel()))

    def _masked_sum(self, numbers: Any, taking: np.ndarray, axis: int) -> Any:
        """The sum along an axis of the numbers of the cores ``taking`` part."""
        part = self._mine(taking.ravel().astype(np.int32))
        if not isinstance(part, int):
            numbers = self.jnp.where(part > 0, numbers, self.jnp.zeros_like(numbers))
        return self.lax.psum(numbers, AXES[axis])

    def _reduce(self, move: Move, before: dict[str, Any], t: int, s: int) -> None:
        route = move.route
        assert isinstance(route, Reduce)
        axis, size = route.axis, self.mesh.length(route.axis)
        root = np.broadcast_to(route.sources(self.mesh, t, s), self.mesh.shape)
        place = np.broadcast_to(np.arange(size).reshape((-1, 1) if axis == 0 else (1, -1)), self.mesh.shape)
        receives = root == place
        if not receives.any():
            return
        numbers = self._sent(move, before, t, s)
        last = root.max(axis=axis, keepdims=True)
        if move.combine == "add" and ((root == last) | (root < 0)).all():  # one root a line
            total = self._masked_sum(numbers, root >= 0, axis)
        else:
            every = self.lax.all_gather(numbers, AXES[axis])  # (size, ...)
            lines = np.moveaxis(root, axis, 1)  # (lines, size): whom each core of the line streams to
            members = np.moveaxis(lines[:, None] == np.arange(size)[:, None], (0, 1), (1 - axis, axis))
            taking = self.jnp.asarray(members.reshape(self.mesh.cores, size))[self.core]
            taking = taking.reshape(size, *[1] * numbers.ndim)
            total = self._combined(move.combine, every, taking)
        into = move.slot if move.into_slot is None else move.into_slot
        slot = 0 if into is None else self._slot(into, t, s)
        target = self.state[move.target]
        mine = self._mine(receives.ravel().astype(np.int32))
        there = target if move.slot is None else self._pick(target, slot)
        total = total.astype(target.dtype)
        if not isinstance(mine, int):
            total = self.jnp.where(mine > 0, total, there)
        if move.slot is None:
            self.state[move.target] = total
        else:
            self._put(move.target, slot, total)


def _filled(table: np.ndarray, named: np.ndarray) -> np.ndarray:
    """``table`` with the first named entry where none is named, so that one number stands for all if it can."""
    filled = np.full_like(table, table[named[0]] if len(named) else 0)
    filled[named] = table[named]
    return filled
