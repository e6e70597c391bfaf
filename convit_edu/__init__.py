"""Gated positional self-attention and ConViT from scratch, with what it takes to understand them."""

from .attention import GPSA, SelfAttention
from .model import CONFIGS, VisionTransformer, create_model

__all__ = ["CONFIGS", "GPSA", "SelfAttention", "VisionTransformer", "create_model"]
__version__ = "0.1.0"
