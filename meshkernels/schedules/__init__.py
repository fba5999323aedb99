"""What a schedule means. Everything that reads one (executors, ledger, compliance, proofs) keeps to this page.

**A schedule** says what it computes (`Task`), how operands and result are cut into blocks (`Tiling`: one size,
padded with zeros), what every core keeps (`Tiles`, `Values`), what happens (`Step`, `Repeat`) and where the result
lies at the end (`Collect`). It is plain data: integers, names and tuples, frozen, compared and hashed by value,
pickled, written as JSON. It states no order of summation and no promise: both are derived, and `verify` proves or
refuses.

**Where and when.** Every integer of a step may differ from core to core and from iteration to iteration: an `Index`
is a table that rotates with the core's coordinates and with the number of the iteration of the repeat around the
step. A slot is evaluated on the core that sends, the slot of arrival on the core that receives (in a `Permute` on
the sender).

**A step** is computation, then communication.

* *Computation*: every core does the operations of the step, one after the other, on what it holds as the step begins.
  There are two: `Multiply` (a tile by a tile, or by its transpose, added to a piece of values or replacing it) and
  `Copy` (a tile, or its transpose, becomes values). All cores do the same, each on slots of its own.
* *Communication*: all moves of the step happen at once. A move reads what its buffer holds after the computation of
  the step and before any arrival of the step; a tile cannot be relayed twice in one step. What arrives replaces what
  was in its slot, or is combined with it. Two arrivals in one slot of one core in one step are refused.
* *Versions*: a buffer that is read in a step (by its computation or by a move) and receives in the same step needs
  ``copies=2``: what arrives is the next version, and the step reads the one before. With one copy that is refused: it
  would be overwritten while it is read.
* *A reduction consumes what it adds*: after a `Reduce` the sum is on the roots, and the values of the other members are
  invalid until they are written again; so are those of the roots if the sum goes to another buffer.

**Routes.** `Shift` along cycles of a line (of all of it, or of a span), `Multicast` and `Relay` from any number of
roots to the cores of the line that name them (a whole line, a segment, every n-th core), `Reduce` of the cores that
name one root, `Permute` from core to core with at most one bend. Lines of one move may do different things, or
nothing. What moves by what is a table in `meshkernels.schedules.check`.

**Widths.** Tiles are kept and sent as wide as operands are stored; values as wide as sums are (``dtype="sum"``), or
as stored where nothing is added (``dtype="stored"``). A *word* is one element of either kind: the ledger counts
words, bytes and messages.

**Time**, for readers that tell it. A core's router works beside its processor, and the two of a step overlap as far
as data allow: a message of tiles may leave when the step begins (the computation only reads them), a message of
values when the operation that writes them has ended; an arrival may be written at once if its buffer has a second
copy, otherwise when the step no longer reads it. A core begins a step when it has what it computes with, not when
all cores are ready: there is no barrier. It handles the messages of one step in the order of the moves, sends before
receipts; links in different directions work at the same time, messages over one link one after the other. In a
`Reduce` a core waits for the stream behind it, adds its own and passes the sum on; that, and a relay's hand-over, is
a routing stage.
"""

from meshkernels.schedules.buffers import Collect, Place, Tiles, Values
from meshkernels.schedules.index import Index
from meshkernels.schedules.order import ChainSum, RingOrder, SplitSum
from meshkernels.schedules.routes import Multicast, Permute, Reduce, Relay, Shift, line
from meshkernels.schedules.steps import Copy, Move, Multiply, Repeat, Schedule, Step, Task, settled
from meshkernels.schedules.verify import Proof, verify

__all__ = [
    "ChainSum", "Collect", "Copy", "Index", "Move", "Multicast", "Multiply", "Permute", "Place", "Proof", "Reduce",
    "Relay", "Repeat", "RingOrder", "Schedule", "Shift", "SplitSum", "Step", "Task", "Tiles", "Values", "line",
    "settled", "verify",
]
