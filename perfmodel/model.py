"""Transformer models as data: the dimensions that decide time and memory, one TOML (or JSON) file each."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from perfmodel.errors import DataError, unknown

FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer with gated FFN.

    Attributes:
        dim: width of the residual stream.
        ffn: width of the hidden layer of the FFN.
        layers, heads, kv_heads, head_dim, vocab: as in the model's configuration.
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

    >>> "llama3-8b" in models()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def model(name: str | Path) -> Model:
    """Load a model by name, or its dimensions from a ``.json`` or ``.toml`` file.

    Raises:
        UnknownName: no such model; the message lists the known ones and the nearest.
        DataError: a dimension is missing, unknown or not a positive whole number.
    """
    path = Path(name)
    if path.suffix not in (".json", ".toml"):
        if str(name) not in models():
            raise unknown("model", str(name), models())
        path = FOLDER / f"{name}.toml"
    elif not path.is_file():
        raise DataError(f"no model file {str(path)!r}; the package brings: {', '.join(models())}")
    text = path.read_text(encoding="utf-8")
    try:
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise DataError(f"{path.name}: {error}") from error
    return _build(path, table)


def _build(path: Path, table: dict[str, object]) -> Model:
    """The checked model; a published ``config.json`` is read by its own names, other files by ours."""
    if "hidden_size" in table:
        table = {ours: table[theirs] for theirs, ours in _CONFIG.items() if theirs in table}
    if isinstance(heads := table.get("heads"), int) and heads > 0:
        table = {"kv_heads": heads, **table}  # without its own count, every head has its own keys and values
        if isinstance(dim := table.get("dim"), int) and "head_dim" not in table:
            if dim % heads:
                raise DataError(f"{path.name}: dim = {dim} is no multiple of heads = {heads}; give head_dim")
            table["head_dim"] = dim // heads
    folder = path.resolve().parent.name  # a published configuration is called config.json in a folder of its model
    table = {"name": folder if path.stem in ("config", "model") and folder else path.stem, **table}
    fields = {field.name for field in dataclasses.fields(Model)}
    if extra := sorted(set(table) - fields):
        raise unknown(f"dimension in {path.name}", extra[0], fields)
    if missing := sorted(fields - {"title", "source"} - set(table)):
        raise DataError(f"{path.name} lacks {', '.join(missing)}")
    for key, value in table.items():
        if key not in ("name", "title", "source") and (type(value) is not int or value < 1):
            raise DataError(f"{path.name}: {key} = {value!r} must be a whole number of at least 1")
    return Model(**table)  # type: ignore[arg-type]


#: names in a published ``config.json``, and ours
_CONFIG = {
    "hidden_size": "dim", "intermediate_size": "ffn", "num_hidden_layers": "layers", "vocab_size": "vocab",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "head_dim": "head_dim",
}
