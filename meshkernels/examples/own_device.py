"""A chip that does not exist yet: the WSE-2 with other links and more memory, and what a target would need."""

import perfmodel as pm


def main() -> None:
    """Compare decode on three chips, then ask for a rate."""
    wse2, model = pm.device("wse2"), pm.model("llama3-8b")
    chips = {"WSE-2": wse2, "routing stages at half the cycles": wse2.replace(beta=wse2.beta / 2),
             "hops at twice the cycles": wse2.replace(alpha=2 * wse2.alpha)}  # fmt: skip
    for name, chip in chips.items():
        decoded = pm.decode(chip, model, grid=360, context=2048)
        print(f"{name:35} {1 / decoded.seconds:8,.0f} token/s, {decoded.bound}")
    print("one per cent more of a constant, in per cent of the time:")
    for found in pm.sensitivity(pm.decode(wse2, model, grid=360, context=2048))[:4]:
        print(f"  {found.constant:6} {found.elasticity:6.2f}")


if __name__ == "__main__":
    main()
