"""The blocks of memory that native code and Python share during a call, and the byte offsets of their fields.

Invariant: fields that different threads write lie on different cache lines, and every block starts with zeros.
May import: nothing. Read next: runtime.py (the native side), threads.py and entry.py (the Python side).

A program is `i64 program(ptr buffers, i64 thread, i64 threads, ptr control)`. It may call
    i64 adjoint_barrier(ptr control, i64 threads)   0: go on; -1: cancelled; n > 0: the status. All threads get the
    same answer i1  adjoint_poll(ptr control)                   true: cancelled, leave the kernel and go to the next
    barrier
and stores UNTIL_NEVER into `control + DEADLINE` when it passes its commit point: from there no signal is looked at.
"""

from __future__ import annotations

LINE = 64

# Control: one per call.
STATUS = 0                  # 0, or 1 + index of the failed check
CANCEL = 1 * LINE           # 1 once a Python signal handler has raised, or the call's Signals say so
SIGNALS = CANCEL + 8        # address of the words of the call's Signals while they may still cancel it, or 0
ARRIVED = 2 * LINE          # threads that wait at the barrier
PHASE = 3 * LINE            # number of barriers passed
DECISION = PHASE + 8        # what the barrier answers
DEADLINE = 4 * LINE         # clock tick at which the owner next looks for signals
OWNER = DEADLINE + 8        # identity of the calling thread: only it may touch Python
BORN = DEADLINE + 16        # GENERATION at the start of the call: another one now means that this is a child after fork
TRIAL = 5 * LINE            # calls so far that could use threads (see choice.py)
ALONE_TICKS = TRIAL + 8     # what one takes on one thread, and on all
TOGETHER_TICKS = TRIAL + 16
CONTROL_BYTES = 6 * LINE

UNTIL_NEVER = 2**63 - 1
CANCELLED = -1
BUSY = -2                   # donated data is in use by another call

# Signals: the flag that cancels, the bell of a thread that waits for news, then a flag for every result that is finished.
EVENTS = 8                  # how often it was rung
PARKED = 16                 # 1 while a thread waits for it
BELL = 24                   # a PyThread lock, held while nobody rings
READY = LINE
MOST_RESULTS = 4096

# Runtime: one per process.
COUNT = 0                   # threads that a call may use
POOL = 8                    # the Pool, or 0
START = 16                  # Python callable that starts workers, given the number of threads
SPIN_TICKS = 24             # how long an idle worker spins before it parks
POLL_TICKS = 32             # how long between two looks for signals
GENERATION = 40             # number of forks between the first process and this one, plus one
MAIN = 48                   # identity of the main thread, the only one that signals reach
RUNTIME_WORDS = 8

# Pool: one line for the pool, one for the job, then one pair of lines per worker.
POOL_BUSY = 0               # taken by the running call
POOL_STARTED = 8            # workers that live
POOL_STOP = 16              # 1: workers return
POOL_SEQUENCE = 24          # number of the job
POOL_LEFT = 32              # workers that have returned
JOB_PROGRAM = LINE
JOB_BUFFERS = LINE + 8
JOB_THREADS = LINE + 16
JOB_CONTROL = LINE + 24
WORKER = 2 * LINE           # first worker's lines; thread i (from 1) is at WORKER * i
WORKER_SEQUENCE = 0         # job to do
WORKER_PARKED = 8           # 1 while it waits for its lock
WORKER_LOCK = 16            # a PyThread lock, held while nobody wakes it
WORKER_DONE = LINE          # job done
MAX_THREADS = 256
POOL_BYTES = WORKER * MAX_THREADS

# Head: what the builtin of a compiled function is bound to.
CHAIN = 0                   # address of the chain: the number of specializations, then their addresses in order
SLOW = 8                    # Python callable for everything else
HEAD_WORDS = 2

# Specialization: one signature and its program.
CALLS = 0
KEEP = 8                    # Python object that owns the code and these words: a reference is held during a call
PROGRAM = 16
THREADS = 24                # most threads that the program is worth
RELEASE = 32                # 1: release the GIL
TAKEN = 40                  # GENERATION while a call uses the primary frame (touched under the GIL only), else 0
EXCLUSIVE = 48              # 1: donated data, so never two calls at once
ARGUMENTS = 56              # records: every positional argument, then the parts of trees
ARGUMENT_RECORDS = 64
FRAME = 72                  # primary frame
FRAME_BYTES = 80
FRAME_HEAD = 88             # bytes of a frame before its arena
MOVED = 96                  # table slots that point into the frame itself
MOVED_RECORDS = 104
FRESH = 112                 # arrays to allocate
FRESH_RECORDS = 120
BUILD = 128                 # steps that build the result
BUILD_RECORDS = 136
ON_ERROR = 144
REBUILD = 152               # Python callable given the flat tuple of results, or 0
SLOTS = 160                 # handles
CELLS = 168                 # one cell per handle
POSITIONAL = 176            # positional arguments
TABLE_END = 184             # end of the table in a frame; up to there a second frame is a copy
PARTS = 192                 # byte offset in a frame of the references to parts of trees
PART_COUNT = 200
STACK = 208                 # byte offset in a frame of the stack that builds the result
SPECIALIZATION_WORDS = 27

# Cell: the object that a handle is, then the span of its donated memory, in which no other argument may lie.
CELL_BEGIN = 8
CELL_END = 16
CELL_BYTES = 24

# Argument record. A slot is the byte offset of a pointer of the table within the frame.
RECORD = 112
KIND = 0
SLOT = 8
TYPE_NUM = 16
OTHER_NUM = 24              # the second number of the same dtype (long and long long)
ORDER = 32                  # byte order letter
NDIM = 40
FLAGS = 48                  # flags that must be set
SHAPE = 56                  # address of the extents
STORAGE = 64                # byte offset in the frame of a scalar's value
SCALAR_TYPE = 72            # type of NumPy scalar that stands for a 0-d array
CELL = SHAPE                # handle: address of the word that holds the expected object
CODE = NDIM                 # Python scalar: dtype of the stored value
BYTES = 80
DONATED = 88
SOURCE = 96                 # byte offset of the object in the arguments, or, if NESTED, in the frame
NESTED = 104
SIZE = NDIM                 # node: how many parts
KEYS = SHAPE                # node: address of the keys, or of the names of attributes
PLACE = STORAGE             # node: byte offset in the frame where its parts go
NODE_TYPE = SCALAR_TYPE     # node: its exact type
SAME_OBJECT = SHAPE         # static: address of the object
EXPECTED = TYPE_NUM         # static: the value of an int, or the bits of a float
ARRAY, FLOAT, INT, BOOL, HANDLE, TUPLE_NODE, LIST_NODE, DICT_NODE, RECORD_NODE, SAME, SAME_INT, SAME_FLOAT, SAME_STR = range(13)
FLOAT64, FLOAT32, INT64, INT32, UINT8 = range(5)

# Fresh record: SLOT, then
DESCR = 16                  # dtype object
OBJECT = 24                 # byte offset in the frame of the array object
#  NDIM, SHAPE, STORAGE as above; STORAGE 0: an array, else a scalar

# Build record: KIND, then
WHICH = 8                   # TAKE: offset of the object; HELD: address of a cell; GIVEN: offset in args; else: a count
BUILD_KEYS = 16             # DICT: address of the keys; INSTANCE: of the names of attributes
MAKE = 24                   # INSTANCE: callable that makes an empty one; CALL: callable for the parts
BUILD_RECORD = 32
TAKE, HELD, GIVEN, TUPLE, LIST, DICT, INSTANCE, CALL = range(8)
