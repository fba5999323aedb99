"""Model files: GGUF read and checked, tensors widened, texts tokenized, chats rendered, the demo's weights fetched."""

from meshkernels.files.checkpoint import Checkpoint, Config, load, smollm2_path

__all__ = ["Checkpoint", "Config", "load", "smollm2_path"]
