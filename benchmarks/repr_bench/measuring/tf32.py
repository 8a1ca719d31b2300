"""Whether torch may compute float32 in TF32, which has ten bits of mantissa."""

import warnings


def allow_tf32(*, allowed: bool) -> None:
    """For products and convolutions of this process.

    By the older of torch's two ways, without its warning: its compiler reads that one, and fails
    where the newer was used.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
