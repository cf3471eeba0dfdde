"""Losses against torch's and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from digits.losses import CrossEntropy, Focal

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
TARGET = torch.tensor([0, 2, 1, 1])
WEIGHTS = [0.5, 2.0, 1.0]


def test_cross_entropy_is_torchs_and_smooths_in_training_alone() -> None:
    loss = CrossEntropy(label_smoothing=0.2)
    assert loss(LOGITS, TARGET) == F.cross_entropy(LOGITS, TARGET, label_smoothing=0.2)
    assert loss.eval()(LOGITS, TARGET).equal(F.cross_entropy(LOGITS, TARGET, reduction="none"))


def test_class_weights_are_factors_of_the_images() -> None:
    each = F.cross_entropy(LOGITS, TARGET, reduction="none") * torch.tensor(WEIGHTS)[TARGET]
    loss = CrossEntropy(class_weights=WEIGHTS)
    assert loss(LOGITS, TARGET).item() == pytest.approx(each.mean().item())
    torch.testing.assert_close(loss.eval()(LOGITS, TARGET), each)
    assert loss.state_dict()["weight"].tolist() == WEIGHTS  # so that a checkpoint has them


def test_focal_without_gamma_is_cross_entropy() -> None:
    torch.testing.assert_close(Focal(gamma=0.0)(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET, reduction="none"))


def test_focal_of_two_classes_is_torchvisions() -> None:
    """The softmax of (0, x) is the sigmoid of x."""
    x, target = torch.tensor([-2.0, 0.3, 1.5]), torch.tensor([0, 1, 1])
    expected = sigmoid_focal_loss(x, target.float(), alpha=-1, gamma=1.7)
    torch.testing.assert_close(Focal(gamma=1.7)(torch.stack([torch.zeros(3), x], dim=1), target), expected)


def test_focal_by_hand_with_weights() -> None:
    p = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(axis=1, keepdims=True)
    own = p[np.arange(4), TARGET]
    expected = -np.array(WEIGHTS)[TARGET] * (1 - own) ** 2 * np.log(own)
    assert Focal(class_weights=WEIGHTS)(LOGITS, TARGET).numpy() == pytest.approx(expected, rel=1e-5)


def test_focal_has_a_slope_where_the_network_is_sure() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    Focal(gamma=0.5)(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), CrossEntropy(class_weights=WEIGHTS)])
def test_soft_targets_that_are_sure_are_classes(loss: torch.nn.Module) -> None:
    soft = F.one_hot(TARGET, 3).float()
    torch.testing.assert_close(loss.eval()(LOGITS, soft), loss(LOGITS, TARGET))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing=1.5: should be less than or equal to 1"),
        (lambda: CrossEntropy(class_weights=[1.0, -1.0]), "class_weights=-1.0: should be greater than or equal to 0"),
        (lambda: Focal(gamma=-1.0), "gamma=-1.0: should be greater than or equal to 0"),
    ],
)
def test_arguments_out_of_range_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
