"""Self-distillation of DINO: a centred and sharpened teacher is predicted from other crops.

Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers",
arXiv:2104.14294, Eq. 1 to 4 and Alg. 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clctl.distributed import mean
from clctl.losses._crops import check_crops, mean_over_pairs
from clctl.losses._rows import check_temperature, wide


def dino(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
) -> Tensor:
    """Cross-entropy of the student on each crop with the teacher on another crop of the sample.

        l_ij = -sum_k softmax((t_i - c) / tt)^(k) log softmax(s_j / ts)^(k)

    mean over i != j, and over rows.

    Args:
        student: Logits of every crop, each float [B, K]. fp16 and bf16 are computed in fp32.
        teacher: Logits of the first crops, each float [B, K]; receive no gradient.
        center: c, float [K] or [1, K]; receives no gradient.
        student_temperature: ts > 0.
        teacher_temperature: tt > 0, usually below ts.

    Returns:
        Scalar >= 0; log K where the student's logits are equal. Same crops are skipped.

    Raises:
        ValueError: If the shapes differ or are not [B, K] and [K], there are fewer than 2 crops,
            none or too many of the teacher, or a temperature is not above 0.
    """
    check_crops(student, teacher, "student and teacher")
    _check_center(center, teacher)
    check_temperature(student_temperature, "student_temperature")
    check_temperature(teacher_temperature, "teacher_temperature")
    log_p = [torch.log_softmax(s / student_temperature, dim=1) for s in wide(*student)]
    center, *targets = wide(center.detach(), *(t.detach() for t in teacher))
    q = [torch.softmax((t - center) / teacher_temperature, dim=1) for t in targets]
    return mean_over_pairs(log_p, q)


def update_center(
    center: Tensor, teacher: Sequence[Tensor], momentum: float | Tensor = 0.9
) -> Tensor:
    """The center moved towards the mean of the teacher's logits over crops, rows and ranks.

        c <- m c + (1 - m) mean(t)

    Args:
        center: c, float [K] or [1, K].
        teacher: Logits of each crop, each float [B, K].
        momentum: m in [0, 1].

    Returns:
        The new center, without gradient, of the shape and type of `center`, which is left as it is.

    Raises:
        ValueError: If the shapes are not [K] and [B, K], or `momentum` is not in [0, 1].
    """
    _check_center(center, teacher)
    if not isinstance(momentum, Tensor) and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    old, *logits = wide(center.detach(), *(t.detach() for t in teacher))
    new = mean(torch.stack([t.mean(dim=0) for t in logits]).mean(dim=0))
    return (momentum * old + (1 - momentum) * new).to(center.dtype)


def _check_center(center: Tensor, teacher: Sequence[Tensor]) -> None:
    shapes = [tuple(t.shape) for t in teacher]
    wanted = tuple(center.shape[1:] if center.shape[:-1] == (1,) else center.shape)
    if not shapes or any(len(s) != 2 or 0 in s or s[1:] != wanted for s in shapes):
        got = f"{tuple(center.shape)} and {shapes}"
        raise ValueError(f"center must be [K] and each crop of teacher [B, K], got {got}")
