"""Transformer models as data: the dimensions that decide time and memory, one TOML (or JSON) file each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from perfmodel import checks, files
from perfmodel.errors import DataError, ModelError, shown, unknown

FOLDER = Path(__file__).parent / "models"

#: largest dimension: a hundred times the widest model or vocabulary, and products of four still fit 2^96
LARGEST = 1 << 24


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer with gated FFN.

    Attributes:
        name: as in `model`.
        dim: width of the residual stream.
        ffn: width of the hidden layer of the FFN.
        layers: how many layers.
        heads: heads of the queries.
        kv_heads: heads of keys and values.
        head_dim: elements of one head.
        vocab: tokens of the vocabulary.
        title: what its makers call it.
        source: where the numbers come from.
    """

    name: str
    dim: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    title: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("name", "title", "source"):
                checks.text(field.name, value)
            elif type(value) is not int or not 1 <= value <= LARGEST:
                raise DataError(f"{field.name} = {shown(value)} must be a whole number of at least 1, "
                                f"at most {LARGEST}")
        for name, count in (("heads", self.heads), ("kv_heads", self.kv_heads)):
            if (width := count * self.head_dim) > LARGEST:
                raise DataError(f"{name} x head_dim = {width} must be at most {LARGEST}")

    @property
    def kv_dim(self) -> int:
        """Elements of one key (or value) vector."""
        return self.kv_heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights of one layer: Q and O, K and V, up, gate and down; norms are left out.

        >>> round(model("llama3-8b").layer_weights / 1e6, 1)
        218.1
        """
        return 2 * self.dim * self.heads * self.head_dim + 2 * self.dim * self.kv_dim + 3 * self.dim * self.ffn


def models() -> list[str]:
    """Names of the models that come with the package.

    Returns:
        Names, sorted.

    >>> "llama3-8b" in models()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def model(name: str | Path) -> Model:
    """Load a model by name, or its dimensions from a ``.json`` or ``.toml`` file.

    Args:
        name: one of `models`, or the path of a file; a published ``config.json`` is read by its own names.

    Returns:
        The checked dimensions.

    Raises:
        UnknownName: no such model; the message lists the known ones and the nearest.
        DataError: a dimension is missing, unknown or not a positive whole number.
    """
    if not isinstance(name, str | Path):
        checks.choice("model", name, models())  # refuses
    path = Path(name)
    if path.suffix not in (".json", ".toml"):
        path = FOLDER / f"{checks.choice('model', str(name), models())}.toml"
    known = ", ".join(models())
    return _build(path, files.json_value(path, known) if path.suffix == ".json" else files.toml(path, known))


def as_model(given: object) -> Model:
    """The model itself, or the one of a name or file."""
    if isinstance(given, str | Path):
        return model(given)
    if not isinstance(given, Model):
        raise ModelError(f"{shown(given)} is no Model; load one by perfmodel.model, of: {', '.join(models())}")
    return given


def _build(path: Path, found: object) -> Model:
    """The checked model; a published ``config.json`` is read by its own names, other files by ours."""
    table = checks.table(path.name, found)
    if "hidden_size" in table:  # null stands for a value that follows from the others
        table = {ours: table[theirs] for theirs, ours in _CONFIG.items() if table.get(theirs) is not None}
    if isinstance(heads := table.get("heads"), int) and heads > 0:
        table = {"kv_heads": heads, **table}  # without its own count, every head has its own keys and values
        if isinstance(dim := table.get("dim"), int) and "head_dim" not in table:
            if dim % heads:
                raise DataError(f"{path.name}: dim = {shown(dim)} is no multiple of heads = {shown(heads)}; "
                                f"give head_dim")
            table["head_dim"] = dim // heads
    folder = path.resolve().parent.name  # a published configuration is called config.json in a folder of its model
    table = {"name": folder if path.stem in ("config", "model") and folder else path.stem, **table}
    fields = {field.name for field in dataclasses.fields(Model)}
    if extra := sorted(set(table) - fields):
        raise unknown(f"dimension in {path.name}", extra[0], fields)
    if missing := sorted(fields - {"title", "source"} - set(table)):
        raise DataError(f"{path.name} lacks {', '.join(missing)}")
    try:
        return Model(**table)
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None


#: names in a published ``config.json``, and ours
_CONFIG = {
    "hidden_size": "dim", "intermediate_size": "ffn", "num_hidden_layers": "layers", "vocab_size": "vocab",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "head_dim": "head_dim",
}
