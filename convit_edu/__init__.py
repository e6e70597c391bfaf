"""Gated positional self-attention and ConViT from scratch, with what it takes to understand them."""

from .attention import GPSA, SelfAttention
from .model import CONFIGS, ConViT, create_model

__all__ = ["CONFIGS", "GPSA", "SelfAttention", "ConViT", "create_model"]
__version__ = "0.1.0"
