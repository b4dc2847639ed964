"""How a Contraction is cut: which operand runs along the lanes, the tiles, what is packed, the blocks of k.

A plan is a pure function of the contraction and the target; the number of threads never enters, and no choice changes a bit of the
result. May import: loops.py, target.py, microkernel.py. Read next: matmul.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adjoint.compiler.loops import Contraction, Operand, Store
from adjoint.compiler.microkernel import NARROW, ROW, Tile, wide_tile
from adjoint.compiler.target import Target

K_BLOCK = 1024           # above this many k a panel of B no longer stays in the second cache level beside a chunk of A
K_ROWS = 32              # rows of the source that one parallel work item of packing copies
CHUNK_ROWS = 96          # rows of A that reuse a panel of B before the next panel is read


@dataclass(frozen=True)
class Plan:
    """The cut of one contraction, already oriented so that the lanes run along n."""

    contraction: Contraction
    target: Target
    wide: Tile
    wide_panels: int
    narrow_panels: int
    packs_a: bool
    packs_b: bool
    direct: Operand | None      # where C lies, if the epilogue is nothing but a store with consecutive n
    chunk_rows: int
    k_block: int

    narrow = NARROW

    @property
    def size(self) -> int:
        return self.contraction.dtype.itemsize

    @property
    def lanes(self) -> int:
        return self.target.lanes(self.contraction.dtype)

    @property
    def wide_width(self) -> int:
        return self.wide.vectors * self.lanes

    @property
    def panels(self) -> int:
        return self.wide_panels + self.narrow_panels

    @property
    def used_tiles(self) -> tuple[Tile, ...]:
        return (self.wide,) * (self.wide_panels > 0) + (self.narrow,) * (self.narrow_panels > 0)

    def fills(self, tile: Tile) -> bool:
        """Whether every panel of this tile's width holds only columns of C."""
        width = tile.vectors * self.lanes
        columns = self.contraction.n if tile == self.wide else self.contraction.n - self.wide_panels * self.wide_width
        return columns // width >= (self.wide_panels if tile == self.wide else self.narrow_panels)

    @property
    def chunks(self) -> int:
        return ceil_divide(self.contraction.m, self.chunk_rows)

    @property
    def tiles(self) -> int:
        """Parallel work items of the computing step."""
        return self.contraction.batch * self.chunks * self.panels

    @property
    def k_blocks(self) -> int:
        return max(1, ceil_divide(self.contraction.k, self.k_block))

    @property
    def a_batches(self) -> int:
        return self.contraction.batch if self.contraction.a.strides[0] else min(1, self.contraction.batch)

    @property
    def b_batches(self) -> int:
        return self.contraction.batch if self.contraction.b.strides[0] else min(1, self.contraction.batch)

    @property
    def overlaps(self) -> bool:
        """In place, the last panel begins early enough to end with the row of B; columns computed twice are stored once."""
        return not self.packs_b and self.contraction.n % self.lanes != 0

    @property
    def b_runs_across(self) -> bool:
        """B is packed by copying rows of consecutive n, in units of K_ROWS; otherwise by groups of a vector's width of columns."""
        return self.contraction.b.strides[2] == 1

    @property
    def a_block_bytes(self) -> int:
        """Bytes of one packed block of rows of A; one cache line more, or blocks written side by side would share a cache set."""
        return ceil_divide(self.wide.rows * self.contraction.k * self.size, 64) * 64 + 64

    @property
    def a_bytes(self) -> int:
        """Bytes of the packed blocks of one batch element of A."""
        return ceil_divide(self.contraction.m, self.wide.rows) * self.a_block_bytes

    @property
    def b_bytes(self) -> int:
        """Bytes of the packed panels of one batch element of B."""
        columns = self.wide_panels * self.wide_width + self.narrow_panels * self.lanes
        return ceil_divide(columns * self.contraction.k * self.size, 64) * 64

    @property
    def a_offset(self) -> int:
        return self.b_bytes * self.b_batches if self.packs_b else 0

    @property
    def scratch_bytes(self) -> int:
        return self.a_offset + (self.a_bytes * self.a_batches if self.packs_a else 0)

    @property
    def packed_elements(self) -> int:
        return self.scratch_bytes // self.size

    @property
    def k_units(self) -> int:
        return ceil_divide(self.contraction.k, K_ROWS)

    @property
    def b_units(self) -> int:
        """Parallel work items of packing one batch element of B."""
        return self.k_units if self.b_runs_across else ceil_divide(self.contraction.n, self.lanes)

    @property
    def pack_extent(self) -> int:
        b_extent = self.b_units * self.b_batches if self.packs_b else 0
        return b_extent + (self.k_units * self.a_batches if self.packs_a else 0)

    @property
    def tile_bytes(self) -> int:
        """The buffer on the stack for tiles that do not go straight to C; one vector more for an overlapped panel."""
        rows = self.chunk_rows if self.k_blocks > 1 else max(self.wide.rows, self.narrow.rows)
        return rows * max(self.wide_width, self.lanes) * self.size + self.target.vector_bytes


def ceil_divide(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def plan_contraction(contraction: Contraction, target: Target) -> Plan:
    """The cheaper of the two orientations, cut into tiles."""
    plain, turned = _cut(contraction, target), _cut(transposed(contraction), target)
    return turned if _cycles(turned) < _cycles(plain) else plain


def transposed(contraction: Contraction) -> Contraction:
    """The same sums as C^T = B^T A^T: m and n, the operands and the variables of the epilogue exchanged."""
    c = contraction
    (b, m, n), (a_b, a_m, a_k), (b_b, b_k, b_n) = c.variables, c.a.strides, c.b.strides
    left, right = replace(c.b, strides=(b_b, b_n, b_k)), replace(c.a, strides=(a_b, a_k, a_m))
    return replace(c, m=c.n, n=c.m, a=left, b=right, variables=(b, n, m))


def _cut(contraction: Contraction, target: Target) -> Plan:
    c, lanes = contraction, target.lanes(contraction.dtype)
    wide = ROW if c.m == 1 else wide_tile(target)
    width = wide.vectors * lanes
    packs_b = _packs_b(c, lanes)
    wide_panels, rest = divmod(c.n, width)
    narrow_panels = ceil_divide(rest, lanes)
    if packs_b and narrow_panels > wide.vectors // 2:
        wide_panels, narrow_panels = wide_panels + 1, 0
    chunks = max(1, ceil_divide(c.m, CHUNK_ROWS))
    chunks += chunks % 2 if chunks > 1 else 0
    rows = wide.rows if wide_panels else NARROW.rows
    chunk_rows = max(1, ceil_divide(ceil_divide(c.m, chunks), rows)) * rows
    k_blocks = max(1, ceil_divide(c.k, K_BLOCK))
    k_block = max(1, ceil_divide(c.k, k_blocks))
    packs_a = c.a.strides[1] == 1 and c.a.strides[2] != 1 and c.k > 1 and c.m >= lanes and c.n >= 2 * width
    return Plan(c, target, wide, wide_panels, narrow_panels, packs_a, packs_b, _direct(c), chunk_rows, k_block)


def _packs_b(c: Contraction, lanes: int) -> bool:
    """B is read in place where its rows are consecutive and few blocks of rows of A pass over it."""
    if c.k == 0:
        return False
    return c.b.strides[2] != 1 or c.n < lanes or (c.m > 64 and c.n > 64)


def _direct(c: Contraction) -> Operand | None:
    """C, if the epilogue only stores the accumulator with consecutive n."""
    if len(c.epilogue) != 1 or not isinstance(store := c.epilogue[0], Store) or store.value is not c.accumulator:
        return None
    strides = dict(store.index.terms)
    if len(strides) != len(store.index.terms) or not set(strides) <= set(c.variables):
        return None
    b, m, n = (strides.get(variable, 0) for variable in c.variables)
    return Operand(store.buffer, store.index.offset, (b, m, n)) if n == 1 else None


def _cycles(plan: Plan) -> float:
    """A rough count for comparing orientations: packing, fma at two vectors a cycle, stores that scatter."""
    c, lanes = plan.contraction, plan.lanes
    wide = ceil_divide(c.m, plan.wide.rows) * plan.wide.rows * plan.wide_panels * plan.wide.vectors
    narrow = ceil_divide(c.m, NARROW.rows) * NARROW.rows * plan.narrow_panels
    cycles = c.k * (wide + narrow) / 2
    if plan.packs_b:
        _, k_stride, n_stride = c.b.strides
        rate = 1.5 / lanes if n_stride == 1 else 4.0 / lanes if k_stride == 1 else 2.0
        cycles += c.n * c.k * rate
    lane_strides = [dict(s.index.terms).get(c.variables[2], 0) for s in c.epilogue if isinstance(s, Store)]
    scatters = sum(stride != 1 for stride in lane_strides)
    return cycles + c.m * c.n * (2.0 * scatters + (len(lane_strides) - scatters) / lanes)
