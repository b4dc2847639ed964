"""The loops around the microkernels: tiles of C, blocks of k, the epilogue; one function for all contractions of a module.

A tile is (batch element, chunk of rows, panel of columns), panels fastest, so a chunk of A stays in the cache while the
panels of B pass. What the loops must know is read from records: three divisions per call, none per tile. A tile goes
straight to C where C takes it whole and the epilogue is a plain store, else through a buffer to the epilogue function.
May import: llvmlite, flow.py, microkernel.py, target.py. Read next: matmul.py.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir
from msgspec import Struct

from .flow import I1, I64, PTR, VOID, Fields, at, call_pointer, counted_loop, i64, minimum
from .microkernel import KERNEL_TYPE
from .target import Target, mark

# emit_poll(builder, control) -> i1: true where the step should return at once (its results are then worthless).
EmitPoll = Callable[[ir.IRBuilder, ir.Value], ir.Value]

# Of the whole contraction. direct: C takes whole tiles; c_batch and c_row are its strides in bytes. finishes_chunks: the
# epilogue is called for all rows of a chunk together, not after each call of the microkernel.
SHAPE = (
    "panels", "chunks", "chunk_rows", "wide_panels", "m", "n", "k", "k_block", "k_blocks",
    "direct", "finishes_chunks", "c_batch", "c_row", "size",
)  # fmt: skip
# Of the wide panels, and of the narrow ones: rows and columns of a tile; the panel that begins past `left_limit` begins
# there; steps in bytes of A (between batch elements, chunks, calls, rows, k) and of B (first panel, between batch
# elements, panels, k); of the buffer between calls; and of what the microkernel fetches ahead.
PANELS = (
    "rows", "width", "first_column", "left_limit", "a_batch", "a_chunk", "a_call", "a_row", "a_step",
    "b_place", "b_batch", "b_panel", "b_step", "tile_call", "tile_row",
    "ahead", "ahead_piece", "ahead_pieces", "ahead_step",
)  # fmt: skip

# void(buffers, b, m, rows, n, columns, tile, tile_row): the epilogue over rows x columns elements of a buffered tile.
EPILOGUE_TYPE = ir.FunctionType(VOID, [PTR, I64, I64, I64, I64, I64, PTR, I64])
# void(begin, end, control, buffers, c, tile, epilogue, shape, then for wide and for narrow panels a, b, kernel, record)
PRODUCT_TYPE = ir.FunctionType(VOID, [I64, I64, *[PTR] * 6, *[PTR] * 8])


def product_function(module: ir.Module, target: Target, emit_poll: EmitPoll | None) -> ir.Function:
    """The function of PRODUCT_TYPE of this module."""
    name = "product_tiles" + ("_polled" if emit_poll else "")
    if name in module.globals:
        return module.globals[name]
    function = mark(ir.Function(module, PRODUCT_TYPE, name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _Product(function, emit_poll)
    return function


class _Panels(Struct, frozen=True):
    """The panels that the current tile belongs to."""

    a: ir.Value
    b: ir.Value
    kernel: ir.Value
    fields: Fields
    number: ir.Value        # of the tile's panel among them


class _Product:
    """The function while it is written."""

    def __init__(self, function: ir.Function, emit_poll: EmitPoll | None) -> None:
        self.builder = builder = ir.IRBuilder(function.append_basic_block("entry"))
        begin, end, control, self.buffers, self.c, self.tile, self.epilogue, shape, *self.panels = function.args
        self.shape = Fields(builder, shape, SHAPE)
        panels, chunks = self.shape["panels"], self.shape["chunks"]
        rest = builder.udiv(begin, panels)
        b = builder.udiv(rest, chunks)
        start = (builder.sub(begin, builder.mul(rest, panels)), builder.sub(rest, builder.mul(b, chunks)), b)
        before = builder.block
        with counted_loop(builder, begin, end):
            panel, chunk, b = phis = [builder.phi(I64) for _ in start]
            if emit_poll is not None:
                with builder.if_then(emit_poll(builder, control)):
                    builder.ret_void()
            self.emit_tile(b, chunk, panel)
            following = self.step((panel, panels), (chunk, chunks), b)
            for phi, first, value in zip(phis, start, following, strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(value, builder.block)
        builder.ret_void()

    def step(self, panel: tuple[ir.Value, ir.Value], chunk: tuple[ir.Value, ir.Value], b: ir.Value) -> list[ir.Value]:
        """The next tile: the next panel, after the last one the next chunk, after that the next batch element."""
        builder, carry, out = self.builder, i64(1), []
        for value, extent in (panel, chunk):
            value = builder.add(value, carry)
            full = builder.icmp_signed("==", value, extent)
            out.append(builder.select(full, i64(0), value))
            carry = builder.zext(full, I64)
        return [*out, builder.add(b, carry)]

    def choose(self, panel: ir.Value) -> _Panels:
        """The wide panels come first."""
        builder, wide_panels = self.builder, self.shape["wide_panels"]
        wide = builder.icmp_signed("<", panel, wide_panels)
        chosen = [builder.select(wide, a, b) for a, b in zip(self.panels[:4], self.panels[4:], strict=True)]
        a, b, kernel, record = chosen
        number = builder.select(wide, panel, builder.sub(panel, wide_panels))
        return _Panels(a, b, kernel, Fields(builder, record, PANELS), number)

    def emit_tile(self, b: ir.Value, chunk: ir.Value, panel: ir.Value) -> None:
        """All rows of the chunk times one panel of B, one block of k after the other."""
        builder, shape = self.builder, self.shape
        group = self.choose(panel)
        fields = group.fields
        n0 = builder.add(fields["first_column"], builder.mul(group.number, fields["width"]))
        columns = minimum(builder, builder.sub(shape["n"], n0), fields["width"])
        left = minimum(builder, n0, fields["left_limit"])
        a = at(builder, group.a, builder.mul(b, fields["a_batch"]), builder.mul(chunk, fields["a_chunk"]))
        b_start = at(builder, group.b, builder.mul(b, fields["b_batch"]))
        # A panel that begins early, in place, begins a number of elements before its own place.
        early = builder.mul(builder.sub(left, n0), shape["size"])
        b_panel = at(builder, b_start, fields["b_place"], builder.mul(group.number, fields["b_panel"]), early)
        last = builder.icmp_signed("==", panel, builder.sub(shape["panels"], i64(1)))
        ahead = builder.select(last, b_start, at(builder, b_panel, fields["ahead"]))
        m0 = builder.mul(chunk, shape["chunk_rows"])
        m1 = minimum(builder, builder.add(m0, shape["chunk_rows"]), shape["m"])
        block, blocks = shape["k_block"], shape["k_blocks"]
        with counted_loop(builder, i64(0), blocks) as number:
            first = builder.mul(number, block)
            state = {
                "depth": minimum(builder, builder.sub(shape["k"], first), block),
                "resume": builder.icmp_signed("<", i64(0), number),
                "last": builder.icmp_signed("==", number, builder.sub(blocks, i64(1))),
                "a": at(builder, a, builder.mul(first, fields["a_step"])),
                "b": at(builder, b_panel, builder.mul(first, fields["b_step"])),
            }
            self.emit_rows(fields, state, (b, m0, m1, n0, columns, builder.sub(i64(0), early)), ahead, group.kernel)

    def emit_rows(
        self, fields: Fields, state: dict[str, ir.Value], place: tuple[ir.Value, ...], ahead: ir.Value, kernel: ir.Value
    ) -> None:
        """One block of k for all rows of the chunk: a call of the microkernel for each few rows."""
        builder, (b, m0, m1, n0, columns, early) = self.builder, place
        rows = fields["rows"]
        whole, c, c_row, c_call = self.destination(fields, b, m0, n0, columns)
        finishes = builder.and_(state["last"], builder.not_(whole))
        together = builder.and_(finishes, builder.trunc(self.shape["finishes_chunks"], I1))
        each = builder.and_(finishes, builder.not_(together))
        steps = [fields[name] for name in ("a_row", "a_step", "b_step", "ahead_step")]
        last_piece = builder.sub(fields["ahead_pieces"], i64(1))
        before = builder.block
        with counted_loop(builder, m0, m1, rows) as m:
            phis = call, a, tile = [builder.phi(kind) for kind in (I64, PTR, PTR)]
            left = builder.sub(m1, m)
            piece = builder.mul(minimum(builder, call, last_piece), fields["ahead_piece"])
            arguments = [a, state["b"], tile, state["depth"], *steps[:3], c_row, left, state["resume"]]
            call_pointer(builder, kernel, KERNEL_TYPE, [*arguments, at(builder, ahead, piece), steps[3]])
            with builder.if_then(each):
                self.finish(b, m, minimum(builder, left, rows), n0, columns, at(builder, tile, early), c_row)
            following = builder.add(call, i64(1)), at(builder, a, fields["a_call"]), at(builder, tile, c_call)
            for phi, first, value in zip(phis, (i64(0), state["a"], c), following, strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(value, builder.block)

        with builder.if_then(together):
            self.finish(b, m0, builder.sub(m1, m0), n0, columns, at(builder, self.tile, early), c_row)

    def finish(self, *arguments: ir.Value) -> None:
        """The epilogue over some rows: b, first row, rows, first column, columns, tile, bytes between its rows."""
        call_pointer(self.builder, self.epilogue, EPILOGUE_TYPE, [self.buffers, *arguments])

    def destination(
        self, fields: Fields, b: ir.Value, m0: ir.Value, n0: ir.Value, columns: ir.Value
    ) -> tuple[ir.Value, ...]:
        """(whether C takes the tiles, address of the first, bytes between their rows, bytes between tiles)."""
        builder, shape = self.builder, self.shape
        full = builder.icmp_signed("==", columns, fields["width"])
        whole = builder.and_(builder.trunc(shape["direct"], I1), full)
        c_row = shape["c_row"]
        offsets = (builder.mul(b, shape["c_batch"]), builder.mul(m0, c_row), builder.mul(n0, shape["size"]))
        c = builder.select(whole, at(builder, self.c, *offsets), self.tile)
        c_call = builder.select(whole, builder.mul(fields["rows"], c_row), fields["tile_call"])
        return whole, c, builder.select(whole, c_row, fields["tile_row"]), c_call
