"""How a Contraction is cut: which operand runs along the lanes, the tiles, what is packed, the blocks of k.

A plan is a pure function of the contraction and the target; the number of threads never enters, and no choice changes a
bit of the result. Its records are what the shared functions read. May import: loops.py, target.py, microkernel.py,
pack.py. Read next: matmul.py.
"""

from __future__ import annotations

from math import lcm

from msgspec import Struct
from msgspec.structs import replace

from .loops import Contraction, Operand, Store
from .microkernel import ASK, GROUP, Tile, narrow_tile, row_tile, wide_tile
from .pack import K_ROWS
from .target import Target

K_BLOCK = 1024           # more k than that, and a panel of B leaves the second cache level before its next use
CHUNK_ROWS = (48, 132)   # fewest and most rows of A that use a panel of B before the next is read; these measure alike
SECOND_CACHE = 2**19     # bytes that surely stay in it
NO_LIMIT = 2**62


def ceil_divide(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


class Plan(Struct, frozen=True):
    """The cut of one contraction, already oriented so that the lanes run along n.

    turns_back: stores want lanes along m (the contraction is the transpose of the one given, or has a single column):
    tiles are turned in the buffer, a whole chunk of rows at a time, before the epilogue.
    """

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
    turns_back: bool = False

    @property
    def narrow(self) -> Tile:
        """Packed blocks of A have the rows of the wide tile."""
        return Tile(self.wide.rows, 1) if self.packs_a else narrow_tile(self.contraction.m)

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
    def buffers_chunks(self) -> bool:
        """Whether the buffer holds all rows of a chunk, not only those of one call."""
        return self.k_blocks > 1 or self.turns_back

    @property
    def turned_row(self) -> int:
        """Elements of a row of a turned tile."""
        return ceil_divide(self.chunk_rows, self.lanes) * self.lanes

    @property
    def uses_buffer(self) -> bool:
        """Whether some tile does not go straight to C."""
        return self.direct is None or self.columns > self.contraction.n

    @property
    def columns(self) -> int:
        """Columns of all panels; the last may have more than C."""
        return self.wide_panels * self.wide_width + self.narrow_panels * self.lanes

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
        """In place, the last panel begins early enough to end with B's row; what is computed twice is stored once."""
        return not self.packs_b and self.contraction.n > self.lanes and self.contraction.n % self.lanes != 0

    @property
    def b_runs_across(self) -> bool:
        """B is packed by copying rows of consecutive n; otherwise by groups of a vector's width of columns."""
        return self.contraction.b.strides[2] == 1

    @property
    def a_block_bytes(self) -> int:
        """Bytes of a packed block of rows of A; a line more, or blocks written side by side would share a cache set."""
        return ceil_divide(self.wide.rows * self.contraction.k * self.size, 64) * 64 + 64

    @property
    def a_bytes(self) -> int:
        """Bytes of the packed blocks of one batch element of A."""
        return ceil_divide(self.contraction.m, self.wide.rows) * self.a_block_bytes

    @property
    def b_bytes(self) -> int:
        """Bytes of the packed panels of one batch element of B."""
        return ceil_divide(self.columns * self.contraction.k * self.size, 64) * 64

    @property
    def a_offset(self) -> int:
        return self.b_bytes * self.b_batches if self.packs_b else 0

    @property
    def scratch_bytes(self) -> int:
        return self.a_offset + (self.a_bytes * self.a_batches if self.packs_a else 0)

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
        rows = self.chunk_rows if self.buffers_chunks else max(self.wide.rows, self.narrow.rows)
        return rows * max(self.wide_width, self.lanes) * self.size + self.target.vector_bytes

    @property
    def compute_cycles(self) -> float:
        """A rough count, fitted to measurements, for comparing orientations and choosing threads.

        A call costs 60 cycles; a step of k takes four even with little to do; narrow tiles reach 60 % of two fma a cycle.
        """
        c = self.contraction
        cycles = 0.0
        for tile, panels, rate in ((self.wide, self.wide_panels, 0.5), (self.narrow, self.narrow_panels, 0.85)):
            step = max(4.0, tile.rows * tile.vectors * rate)
            cycles += ceil_divide(c.m, tile.rows) * panels * (60.0 + c.k * step)
        per_element = 1.0 if self.turns_back else 3.0 * _scatters(c) + 2.0 / self.lanes
        return c.batch * (cycles + c.m * c.n * per_element)

    @property
    def pack_cycles(self) -> float:
        """The same for packing, by bytes: copied, turned or gathered, slower beyond the second cache."""
        (_, k_stride, n_stride), total = self.contraction.b.strides, 0.0
        b_rate = 0.1 if n_stride == 1 else 0.12 if k_stride == 1 else 0.6
        for bytes_, rate in ((self.b_bytes * self.b_batches * self.packs_b, b_rate),
                             (self.a_bytes * self.a_batches * self.packs_a, 0.1)):
            total += bytes_ * rate * (2.0 if bytes_ > SECOND_CACHE else 1.0)
        return total

    def shape_record(self) -> dict[str, int]:
        """The fields of product.SHAPE."""
        c, direct = self.contraction, self.direct or Operand(0, 0, (0, 0, 0))
        return {
            "panels": max(1, self.panels), "chunks": max(1, self.chunks), "chunk_rows": self.chunk_rows,
            "wide_panels": self.wide_panels, "m": c.m, "n": c.n, "k": c.k, "k_block": self.k_block,
            "k_blocks": self.k_blocks, "direct": int(self.direct is not None),
            "finishes_chunks": int(self.turns_back), "c_batch": direct.strides[0] * self.size,
            "c_row": direct.strides[1] * self.size, "size": self.size,
        }  # fmt: skip

    def panels_record(self, tile: Tile) -> dict[str, int]:
        """The fields of product.PANELS for the panels of this tile."""
        c, size, width = self.contraction, self.size, tile.vectors * self.lanes
        first = 0 if tile == self.wide else self.wide_panels * self.wide_width
        b_batch, b_step, _ = (stride * size for stride in c.b.strides)
        b_panel = width * size
        if self.packs_b:
            b_batch, b_step, b_panel = self.b_bytes if self.b_batches > 1 else 0, width * size, width * c.k * size
        piece = 64 * ASK * max(1, self.k_block // GROUP)
        return {
            "rows": tile.rows, "width": width, "first_column": first,
            "left_limit": c.n - width if self.overlaps else NO_LIMIT,
            **self._a_steps(tile),
            "b_place": first * size * (c.k if self.packs_b else 1), "b_batch": b_batch, "b_panel": b_panel,
            "b_step": b_step, "tile_call": tile.rows * width * size if self.buffers_chunks else 0,
            "tile_row": width * size, "ahead": b_panel if self.packs_b else 0,
            "ahead_piece": piece if self.packs_b else 0,
            "ahead_pieces": max(1, self.wide_width * c.k * size // piece), "ahead_step": 64 * ASK * self.packs_b,
        }  # fmt: skip

    def _a_steps(self, tile: Tile) -> dict[str, int]:
        """The strides of A as this tile reads it."""
        size = self.size
        batch, row, step = (stride * size for stride in self.contraction.a.strides)
        if self.packs_a:
            batch, row, step = self.a_bytes if self.a_batches > 1 else 0, size, tile.rows * size
            chunk, call = self.chunk_rows // tile.rows * self.a_block_bytes, self.a_block_bytes
        else:
            chunk, call = self.chunk_rows * row, tile.rows * row
        return {"a_batch": batch, "a_chunk": chunk, "a_call": call, "a_row": row, "a_step": step}

    def pack_b_record(self) -> dict[str, int]:
        """The fields of pack.PACK_B."""
        c, size = self.contraction, self.size
        batch, k, n = (stride * size for stride in c.b.strides)
        return {
            "columns": c.n, "k": c.k, "groups": self.b_units, "dst_batch": self.b_bytes, "src_batch": batch,
            "src_column": n, "src_k": k, "wide_columns": self.wide_panels * self.wide_width, "width": self.wide_width,
        }  # fmt: skip

    def turn_record(self, tile: Tile) -> dict[str, int]:
        """The fields of pack.PACK_B for turning a buffered chunk: its rows are the columns of the packed panel."""
        width, row = tile.vectors * self.lanes, self.turned_row
        return {
            "columns": self.chunk_rows, "k": width, "groups": row // self.lanes, "dst_batch": 0, "src_batch": 0,
            "src_column": width * self.size, "src_k": self.size, "wide_columns": row, "width": row,
        }  # fmt: skip

    def pack_a_record(self) -> dict[str, int]:
        """The fields of pack.PACK_A."""
        c, size = self.contraction, self.size
        batch, _, k = (stride * size for stride in c.a.strides)
        return {
            "m": c.m, "k": c.k, "groups": self.k_units, "dst_batch": self.a_bytes, "src_batch": batch, "src_k": k,
            "block": self.a_block_bytes,
        }  # fmt: skip


def plan_contraction(contraction: Contraction, target: Target) -> Plan:
    """The cheaper of the two orientations, cut into tiles."""
    plain, other = (_turned_back(_cut(each, target)) for each in (contraction, transposed(contraction)))
    return min(plain, other, key=lambda plan: plan.compute_cycles + plan.pack_cycles)


def transposed(contraction: Contraction) -> Contraction:
    """The same sums as C^T = B^T A^T: m and n, the operands and the variables of the epilogue exchanged."""
    c = contraction
    (b, m, n), (a_b, a_m, a_k), (b_b, b_k, b_n) = c.variables, c.a.strides, c.b.strides
    left, right = replace(c.b, strides=(b_b, b_n, b_k)), replace(c.a, strides=(a_b, a_k, a_m))
    return replace(c, m=c.n, n=c.m, a=left, b=right, variables=(b, n, m))


def _turned_back(plan: Plan) -> Plan:
    """The plan, with tiles turned before the epilogue if that makes consecutive what its lanes store."""
    c = plan.contraction
    if c.m == 1 or _scatters(transposed(c)) or not (_scatters(c) or c.n == 1):
        return plan
    rows = plan.wide.rows if plan.wide_panels else plan.narrow.rows
    # Whole vectors along m, so that no chunk ends inside one; packed blocks must stay whole too.
    unit = lcm(rows, plan.lanes) if plan.packs_a else plan.lanes
    return replace(plan, turns_back=True, direct=None, chunk_rows=_chunk_rows(c.m, rows, unit))


def _cut(contraction: Contraction, target: Target) -> Plan:
    c, lanes = contraction, target.lanes(contraction.dtype)
    packs_b = _packs_b(c, lanes)
    vectors = ceil_divide(c.n, lanes) if packs_b else c.n // lanes
    wide = row_tile(c.n // lanes) if c.m == 1 else wide_tile(target, vectors)
    width = wide.vectors * lanes
    wide_panels, rest = divmod(c.n, width) if wide.vectors > 1 else (0, c.n)
    narrow_panels = ceil_divide(rest, lanes)
    if packs_b and narrow_panels > wide.vectors // 2 > 0:
        wide_panels, narrow_panels = wide_panels + 1, 0
    rows = wide.rows if wide_panels else narrow_tile(c.m).rows
    chunk_rows = _chunk_rows(c.m, rows, rows)
    k_blocks = max(1, ceil_divide(c.k, K_BLOCK))
    k_block = max(1, ceil_divide(c.k, k_blocks))
    packs_a = c.a.strides[1] == 1 and c.a.strides[2] != 1 and c.k > 1 and c.m >= lanes and c.n >= 2 * width
    return Plan(c, target, wide, wide_panels, narrow_panels, packs_a, packs_b, _direct(c), chunk_rows, k_block)


def _chunk_rows(m: int, rows: int, unit: int) -> int:
    """Rows of a chunk, a multiple of `unit`: an even number of chunks, or one, that the microkernel computes least for."""
    fewest, most = (ceil_divide(limit, unit) * unit for limit in CHUNK_ROWS)

    def computed(chunk: int) -> tuple[int, int]:
        chunks = ceil_divide(m, chunk)
        chunks += chunks % 2 if chunks > 1 else 0
        return chunks * ceil_divide(chunk, rows) * rows, abs(chunk - 72)

    return min(range(fewest, most + 1, unit), key=computed)


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


def _scatters(c: Contraction) -> int:
    """Stores of the epilogue whose lanes are not consecutive in memory."""
    steps = [dict(store.index.terms).get(c.variables[2], 0) for store in c.epilogue if isinstance(store, Store)]
    return sum(step != 1 for step in steps)
