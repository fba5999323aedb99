"""MeshGEMM against Cannon, step by step: the same products in another order, over shorter ways."""

import numpy as np

import meshkernels as mk


def main() -> None:
    """Look at every step of both on one small mesh."""
    A, B = np.arange(16.0).reshape(4, 4), np.eye(4)
    for name in ("cannon", "meshgemm"):
        ledger = mk.count(mk.schedule(name, mk.Mesh(4), 4, 4, 4))

        def look(snapshot, hops=ledger.step_hops):
            if snapshot.step.compute:
                k = snapshot.holds["A"][:, :, 0] % 4  # the block of K that each core multiplies
                print(f"  step {snapshot.index}, {hops[snapshot.index]} hops; blocks of K by core:", *k.tolist())

        print(f"{name}: {ledger.critical_hops} hops on the critical path")
        C = mk.gemm(A, B, 4, algorithm=name, method="lockstep", observe=look)
        print("  right:", bool((C == A).all()))


if __name__ == "__main__":
    main()
