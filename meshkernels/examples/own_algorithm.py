"""An algorithm of one's own: verified, run bit for bit in two ways, counted, judged, timed.

Fox's broadcast-multiply-roll on the interleaved ring: at time t row y multiplies by block k = rho(pi(y) - t), which its
owner broadcasts along the row, while B rolls down the columns.
"""

import numpy as np

import meshkernels as mk
import perfmodel as pm
from meshkernels import schedules as S


def fox(mesh: mk.Mesh, M: int, K: int, N: int) -> mk.Schedule:
    """C[M, N] = A[M, K] B[K, N] on a square mesh."""
    A, B, C = (mk.Tiling(shape, mesh.shape) for shape in ((M, K), (K, N), (M, N)))
    ring, cores = mk.Ring.interleaved(mesh.rows), range(mesh.rows)
    here = S.Place(S.line(0, cores), S.line(1, cores))
    buffers: dict[str, S.Tiles | S.Values] = {
        "A": S.Tiles("A", home=here), "panel": S.Tiles("A"), "B": S.Tiles("B", home=here, copies=2),
        "C": S.Values(C.tile)}  # fmt: skip
    owner = S.Index(ring.order, y=ring.position, step=-1)  # rho(pi(y) - t)
    cycle = tuple(ring.order.tolist())
    broadcast = S.Step("broadcast", moves=(S.Move("A", S.Multicast(1, owner), into="panel"),))
    roll = S.Step("multiply, roll", (S.Multiply("panel", "B", "C"),), (S.Move("B", S.Shift(0, (cycle,))),))
    return S.Schedule("fox", S.Task("product", ("A", "B")), mesh, {"A": A, "B": B}, C, buffers,
                      (S.Repeat(mesh.rows, (broadcast, roll)),), S.Collect("C", here))  # fmt: skip


def main() -> None:
    """Run it."""
    mk.register("gemm", "fox", replace=True)(fox)  # in a module of one's own: @mk.register("gemm", "fox")
    A, B = np.random.default_rng(0).standard_normal((2, 96, 96), np.float32)
    C, ledger = mk.gemm(A, B, 8, algorithm="fox", ledger=True)
    stepped = mk.gemm(A, B, 8, algorithm="fox", method="lockstep")
    print("fused and lockstep agree bit for bit:", C.tobytes() == stepped.tobytes())
    print(mk.compliance(ledger, "wse3"))
    for name in ("fox", "meshgemm", "summa"):
        counted = mk.count(mk.schedule(name, mk.Mesh(64), 1024, 1024, 1024))
        print(f"{name:10} {pm.time(counted, 'wse3').cycles:12,.0f} cycles predicted on 64 x 64 cores of a WSE-3")


if __name__ == "__main__":
    main()
