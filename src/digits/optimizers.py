"""Optimizers: parameter groups by name, and Muon for hidden matrices with AdamW for the rest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from digits.errors import UserError
from digits.targets import parameters_of

NAMES_SHOWN = 4  # of parameters, where a pattern matches none
# Their parameters may have several dimensions; those of the other normalisation layers have one.
NORMS = (nn.LayerNorm, nn.RMSNorm)


def make_optimizer(
    make: Callable[..., Optimizer],
    network: nn.Module,
    groups: Sequence[Mapping[str, Any]] = (),
    no_decay: bool = False,
) -> Optimizer:
    """Makes the optimizer of a network's parameters, without those that are frozen.

    Args:
        make: makes it from the parameters, or from groups of them as torch.optim takes them. Where it has an argument
            `network`, it gets that too.
        network: what is trained.
        groups: settings for some of the parameters, each with `params`: a pattern, or a list of patterns, of their
            names (`features.*`, `*.bias`). Of several groups that match, the first counts.
        no_decay: spare biases and the parameters of normalisation layers from weight decay, in every group.

    Raises:
        UserError: if a pattern matches nothing, a setting is none of the optimizer's, or there is nothing to train.
        ValueError: as the optimizer's class has it, for a setting out of range.
    """
    wanted = {"network": network} if "network" in parameters_of(make) else {}
    optimizer = make(parameter_groups(network, groups, no_decay), **wanted)
    given = [("groups", name) for group in groups for name in _settings(group)]
    for key, name in [*given, *([("no_decay", "weight_decay")] if no_decay else [])]:
        if name not in optimizer.defaults:  # torch would take it, and nobody read it
            kind, known = type(optimizer).__name__, ", ".join(optimizer.defaults)
            raise UserError(f"optimizer.{key}: {kind} has no setting {name}. There are: {known}")
    for group in groups:  # its constructor checks what it is given for all parameters; of a group torch takes lr=-1
        make(parameter_groups(network, (), False), **_settings(group), **wanted)
    return optimizer


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def parameter_groups(
    network: nn.Module, groups: Sequence[Mapping[str, Any]], no_decay: bool
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """The parameters to train: in groups as torch.optim takes them, or as a list where all have the same settings.

    Those that no pattern matches come first: their learning rate is the optimizer's own, and the one that a run logs.

    Raises:
        UserError: if a pattern matches nothing, or there is nothing to train.
    """
    rest = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not rest:
        raise UserError("model: nothing is left to train, every parameter is frozen")
    if not groups and not no_decay:
        return list(rest.values())
    parts = []
    for group in groups:
        taken = {name: rest.pop(name) for name in matching("optimizer.groups", group["params"], rest)}
        parts.append((group, taken))
    spared = _spared(network) if no_decay else set()
    made = []
    for group, members in [({}, rest), *parts]:
        decayed = [parameter for name, parameter in members.items() if name not in spared]
        others = [parameter for name, parameter in members.items() if name in spared]
        made += [{**group, "params": decayed}, {**group, "params": others, "weight_decay": 0.0}]
    return [group for group in made if group["params"]]


def matching(key: str, patterns: str | Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that one of the patterns matches, in their order.

    Args:
        key: of the config, to name it in the error.
        patterns: as the shell has them: `features.*`, `*.bias`.
        names: of parameters.

    Raises:
        UserError: for a pattern that matches none.
    """
    names, patterns = list(names), [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join([*names[:NAMES_SHOWN], *(["..."] if len(names) > NAMES_SHOWN else [])]) or "none"
            raise UserError(f"{key}: {pattern} matches no parameter. Those left to match: {some}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _spared(network: nn.Module) -> set[str]:
    """The names of biases and of normalisation layers' parameters."""
    norms = {name for name, module in network.named_modules() if isinstance(module, NORMS)}
    return {
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim <= 1 or name.rpartition(".")[2] == "bias" or name.rpartition(".")[0] in norms
    }


class MuonAdamW(Optimizer):
    """Muon for the hidden weights, and AdamW for all other parameters.

    Muon makes the update of a matrix nearly orthogonal. A convolution's kernels (out, in, h, w) are a matrix
    (out, in·h·w). Sources: Keller Jordan, https://kellerjordan.github.io/posts/muon/, whose `MuonWithAuxAdam` has
    groups with `use_muon` as here; torch.optim.Muon and torch.optim.AdamW do the steps.

    Args:
        params: of the network, or groups of them, with any of these settings.
        network: whose parameters they are: it says which weights are hidden.
        lr: the learning rate of Muon.
        adamw_lr: that of AdamW.
        weight_decay: of both; each step takes this share, times the learning rate, off a weight.
        momentum: of Muon.
        nesterov: whether Muon's momentum is Nesterov's.
        ns_steps: Newton-Schulz iterations of Muon's orthogonalisation.
        adjust_lr_fn: how Muon scales its rate by a matrix's shape: see torch.optim.Muon.
        betas: of AdamW.
        eps: of AdamW.
        hidden: patterns of the names of the weights that Muon is for; None: all of two or more dimensions but the
            network's first and last.

    Raises:
        ValueError: for an argument out of range, or if no weight is hidden.
        UserError: for a pattern that matches nothing.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        network: nn.Module,
        lr: float = 0.02,
        adamw_lr: float = 0.001,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        hidden: str | Sequence[str] | None = None,
    ) -> None:
        matrices = {name: weight for name, weight in network.named_parameters() if weight.ndim >= 2}
        chosen = list(matrices)[1:-1] if hidden is None else matching("optimizer.hidden", hidden, matrices)
        self._hidden = {matrices[name] for name in chosen}
        muon: dict[str, Any] = {
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        adamw: dict[str, Any] = {"betas": tuple(betas), "eps": eps}
        defaults = {"lr": lr, "adamw_lr": adamw_lr, "weight_decay": weight_decay, **muon, **adamw}
        # They check their arguments, and hold nothing: each step gives them the groups and the state of this one.
        self._muon = torch.optim.Muon([torch.zeros(1, 1)], lr, weight_decay, **muon)
        self._adamw = torch.optim.AdamW([torch.zeros(1)], adamw_lr, **adamw, weight_decay=weight_decay)
        super().__init__(params, defaults)
        if not any(group["use_muon"] for group in self.param_groups):
            raise ValueError("no hidden weight is trained, so there is nothing for Muon. Give optimizer.hidden")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group as two: Muon's and AdamW's, each with its learning rate as `lr`."""
        given = param_group["params"]
        parameters = [given] if isinstance(given, Tensor) else list(given)
        settings = self.defaults | param_group
        rates = {True: settings["lr"], False: settings["adamw_lr"]}
        for use_muon, inner in ((True, self._muon), (False, self._adamw)):
            part = [parameter for parameter in parameters if (parameter in self._hidden) == use_muon]
            if part:
                own = {"params": part, "lr": rates[use_muon], "use_muon": use_muon}
                super().add_param_group({**inner.defaults, **settings, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Makes one step of both; returns what the closure returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for group in self.param_groups:
            groups[group["use_muon"]].append(group)
        self._muon.state.clear()
        self._muon.param_groups = [
            group | {"params": [self._matrix(weight) for weight in group["params"] if weight.grad is not None]}
            for group in groups[True]
        ]
        self._muon.step()
        self._adamw.param_groups, self._adamw.state = groups[False], self.state
        self._adamw.step()
        return loss

    def _matrix(self, weight: Tensor) -> Tensor:
        """A weight (out, ...) and its gradient as a matrix (out, the product of the others), in the same memory.

        The order of the columns is that of the memory, as with the channels last. Muon's update has the same order.
        """
        order = [0, *sorted(range(1, weight.ndim), key=weight.stride, reverse=True)]
        matrix = weight.detach().permute(order).view(len(weight), -1)
        assert weight.grad is not None
        matrix.grad = weight.grad.permute(order).reshape(len(weight), -1)
        self._muon.state[matrix] = self.state[weight]
        return matrix
