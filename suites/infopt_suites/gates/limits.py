"""The one factor by which errors of outputs are limited."""

# An error may be twice what a plain implementation of the same dtype makes: the form of
# FlashAttention's tests (Dao-AILab/flash-attention, tests/test_flash_attn.py).
ERROR_RATIO = 2.0
