"""How long a context fits: a model of one's own on a WSE-2, its cache shifted over the rows or put on one."""

import perfmodel as pm


def main() -> None:
    """A LLaMA of 3 billion parameters, on several grids."""
    model = pm.Model("llama-3b", 3072, 8192, 28, 24, 8, 128, 128256)
    for grid in (200, 300, 400):
        for cache in ("concat", "shift"):
            try:
                found = pm.capacity("wse2", model, grid=grid, cache=cache)
                print(f"{grid} x {grid} cores, {cache:6}: {found.tokens:8,} tokens")
            except pm.DoesNotFit as refusal:
                print(f"{grid} x {grid} cores, {cache:6}: {refusal}")


if __name__ == "__main__":
    main()
