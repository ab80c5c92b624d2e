"""What a module makes of the modules inside it: masks, positions, softmax, residuals, soft-caps.

The candidate's pass is recorded, block by block: with what each module was called, and what it
returned. Then the plain model, the reference in the candidate's dtype, goes the same way, and each
module in it that has others inside returns what it computes of the *candidate's* recorded parts. So
both have the same parts, and what differs is the composition: a head that is left out, a mask that
is off by one, a batch neighbour that leaks, a hook. The same code gives the same bits in any number
format; where bits differ, they may by twice what one rounding unit in every part makes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import OUTPUT_FACTOR
from ..module_calls import computing_with, copied, first_tensor, nudged, tensors_by_place
from ..paired_modules import PairedModules
from .recorded_calls import Call, CallRecorder, Calls

_LOWEST = torch.finfo(torch.float16).min  # masks' "never" has many values, all of them below


@dataclass(frozen=True)
class Mismatch:
    """A module that makes something else of its parts.

    ``place`` says of which value, ``error`` by how much of that value's size the worst token is
    off, ``times`` how many times what rounding explains, ``row`` and ``position`` where that is;
    ``channels`` are the worst token's largest differences.
    """

    module: str
    place: str
    error: float
    times: float
    row: int = 0
    position: int = 0
    channels: tuple[int, ...] = ()


class CompositionRun:
    """Compares the composition of every module that has paired modules inside.

    ``plain`` maps names to modules with the reference's weights in the candidate's dtype. Modules
    with a child that has no partner of its own are taken as they are: see `whole`. What becomes of
    padding, 0 in ``mask`` [rows, tokens], does not count.
    """

    def __init__(
        self,
        paired: PairedModules,
        plain: Callable[[str], nn.Module],
        mask: torch.Tensor | None = None,
    ) -> None:
        self._mask = mask
        self.mismatches: list[Mismatch] = []
        self.opaque = opaque_modules(paired)
        # A model that is opaque still has layers to compare.
        self.whole = {n for n in self.opaque if outermost_block(n) and n in paired.pairs}
        whole = self.whole | {name for name, pair in paired.pairs.items() if pair.is_leaf}
        inside = {n for n in paired.pairs if any(n.startswith(f"{owner}.") for owner in whole)}
        self._pairs = {n: pair for n, pair in paired.pairs.items() if n not in inside}
        self._composed = {
            name
            for name, pair in self._pairs.items()
            if not pair.is_leaf and name not in self.opaque and not _is_list(pair.reference)
        }
        self._blocks = {n for n in self._composed if n and n == outermost_block(n)}
        self._plain = plain
        self._recorder = CallRecorder({n: pair.candidate for n, pair in self._pairs.items()})
        self.compared = 0

    def run(self, forward: Callable[[], Any]) -> None:
        """Let ``forward`` be a pass of the candidate."""
        recording = self._recorder.recording(self._ended)
        with torch.no_grad(), recording, self._same_attention():
            forward()

    def _ended(self, name: str, calls: Calls) -> None:
        if name in self._blocks or (not name and name in self._composed):
            self._compare(name, calls)

    @contextmanager
    def _same_attention(self) -> Iterator[None]:
        """The plain model computes attention as the candidate does, where both say how."""
        plain, candidate = self._plain(""), self._pairs[""].candidate
        own, wanted = (getattr(m.config, "_attn_implementation", None) for m in (plain, candidate))
        if own == wanted or wanted is None:
            yield
            return
        plain.set_attn_implementation(wanted)  # type: ignore[operator]  # of transformers' models
        try:
            yield
        finally:
            plain.set_attn_implementation(own)  # type: ignore[operator]

    def _compare(self, block: str, calls: Calls) -> None:
        inside = {n: queue for n, queue in calls.items() if _is_inside(n, block)}
        for name in inside:
            del calls[name]
        inside = {n: queue for n, queue in inside.items() if self._owner(n) == self._caller(n)}
        call = calls[block][-1]
        first = self._replayed(block, call, inside, _unchanged)
        calls_of = {block: [call], **{name: [*queue] for name, queue in inside.items()}}
        in_parts = {
            found.module
            for found in first.miscounted
            if (own := calls_of.get(found.module))
            and all(self._composes(found.module, each) for each in own)
        }
        wrong = {
            (module, place): pair
            for (module, place), pair in first.values.items()
            if module not in in_parts and not _same(*pair)
        }
        self.compared += len(first.values)
        if wrong:
            second = self._replayed(block, call, inside, nudged)
            whole = self._called_in_parts(inside)
            for (module, place), (plain, ours) in wrong.items():
                if module not in whole:
                    continue
                moved = second.values.get((module, place), (plain, ours))[0]
                if not module and place.endswith("(logits)"):
                    # A constant that is added to all costs one rounding more, of its size.
                    moved = moved.float() + (nudged(ours).float() - ours.float())
                    plain, ours, moved = map(_seen_by_softmax, (plain, ours, moved))
                found = _mismatch(module, place, plain, ours, moved, self._mask)
                if found is not None:
                    self.mismatches.append(found)
        self.mismatches += [m for m in first.miscounted if m.module not in in_parts]

    def _composes(self, name: str, call: Call) -> bool:
        """Whether the reference's code makes what a module returned of the candidate's own parts,
        each called anew: a module may call them row by row, or for some positions at a time."""
        made = []
        for change in (_unchanged, nudged):
            parts = {n: self._pairs[n] for n in self._pairs if _is_inside(n, name)}
            forwards = {
                self._plain(n): _then(pair.candidate, change)
                for n, pair in parts.items()
                if pair.is_leaf
            }
            try:
                with computing_with(forwards), self._recorder.paused():
                    made.append(self._plain(name)(*change(call.args), **change(call.kwargs)))
            except (RuntimeError, TypeError, ValueError):
                return False
        plain, ours, moved = map(first_tensor, (made[0], call.output, made[1]))
        if plain is None or ours is None or moved is None:
            return False
        return _mismatch(name, "its output", plain, ours, moved, self._mask) is None

    def _called_in_parts(self, calls: Calls) -> set[str]:
        """The modules of which every part with weights was called: others compute with the weights
        of a part themselves, as Mamba's mixers do, and so differ where those do."""
        uncalled = {
            self._caller(name)
            for name, pair in self._pairs.items()
            if pair.is_leaf and name not in calls and _has_weights(pair.reference)
        }
        return self._composed - uncalled

    def _replayed(
        self, block: str, call: Call, inside: Calls, change: Callable[[Any], Any]
    ) -> _Replay:
        replay = _Replay({name: deque(queue) for name, queue in inside.items()}, change)
        forwards: dict[nn.Module, Callable[..., Any]] = {}
        for name in inside:
            module = self._plain(name)
            composed = name in self._composed - self._blocks  # a block was compared as it returned
            own = module.forward if composed else None
            forwards[module] = replay.forward(name, self._owner(name), own)
        with torch.no_grad(), computing_with(forwards):
            output = self._plain(block)(*change(call.args), **change(call.kwargs))
        replay.take(block, "its output", output, call.output)
        for name, queue in replay.calls.items():
            if queue:
                replay.miscount(self._owner(name), name)
        return replay

    def _owner(self, name: str) -> str:
        """The nearest module around a module whose composition is compared."""
        while name:
            name = name.rpartition(".")[0]
            if name in self._composed:
                return name
        return name

    def _caller(self, name: str) -> str:
        """The nearest module around a module that is no list."""
        owner = name.rpartition(".")[0]
        while owner and _is_list(self._pairs[owner].reference):
            owner = owner.rpartition(".")[0]
        return owner


@dataclass
class _Replay:
    """What the plain model computes of recorded parts: by module and place, beside the recorded."""

    calls: Calls
    change: Callable[[Any], Any]
    values: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    miscounted: list[Mismatch] = field(default_factory=list)

    def forward(self, name: str, owner: str, own: Callable[..., Any] | None) -> Callable[..., Any]:
        """In place of a plain module's forward: the recorded output; ``own`` computes as well."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self.calls[name]:
                self.miscount(owner, name)
                return own(*args, **kwargs) if own else None
            call = self.calls[name].popleft()
            given = f"what it hands to {name.removeprefix(f'{owner}.')}"
            self.take(owner, given, (args, kwargs), (call.args, call.kwargs))
            if own is not None:
                output = own(*self.change(call.args), **self.change(call.kwargs))
                self.take(name, "its output", output, call.output)
            return self.change(copied(call.output))

        return forward

    def take(self, module: str, place: str, plain: Any, recorded: Any) -> None:
        theirs, ours = dict(tensors_by_place(plain)), dict(tensors_by_place(recorded))
        for key in theirs.keys() & ours.keys():
            name = key.rpartition(".")[2]
            title = f"{place} ({name})" if name and not name.isdigit() else place
            self.values.setdefault((module, title), (theirs[key].detach(), ours[key]))

    def miscount(self, owner: str, name: str) -> None:
        place = f"how often it calls {name.removeprefix(f'{owner}.')}"
        self.miscounted.append(Mismatch(owner, place, float("inf"), float("inf")))


def opaque_modules(paired: PairedModules) -> set[str]:
    """Modules of which a part has no partner, or shares one: what they make of their parts cannot
    be told from the parts."""
    alone = set(paired.unpaired) | {n for n, pair in paired.pairs.items() if pair.columns}
    found = set()
    for name in alone:
        owner = name.rpartition(".")[0]
        while owner and _is_list(paired.pairs[owner].reference):
            owner = owner.rpartition(".")[0]
        found.add(owner)
    return found


def outermost_block(name: str) -> str:
    """The layer around a module: its path up to the first number; "" for what lies outside."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ""


def atomic_parts(paired: PairedModules, name: str) -> list[str]:
    """The paired modules inside a module that hold no other."""
    inside = [pair.name for pair in paired.under(name) if pair.is_leaf]
    return inside or [name]


def _unchanged(value: Any) -> Any:
    return value


def _then(module: nn.Module, change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: change(module(*args, **kwargs))


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _is_inside(name: str, module: str) -> bool:
    return name != module and (not module or name.startswith(f"{module}."))


def _same(plain: torch.Tensor, ours: torch.Tensor) -> bool:
    return torch.equal(plain, ours) or torch.equal(plain.nan_to_num(), ours.nan_to_num())


def _seen_by_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Logits without the constant of each row that no softmax sees."""
    return logits - logits.float().mean(-1, keepdim=True)


def _mismatch(
    module: str,
    place: str,
    plain: torch.Tensor,
    ours: torch.Tensor,
    moved: torch.Tensor,
    mask: torch.Tensor | None,
) -> Mismatch | None:
    """What is beyond rounding; ``moved`` is the plain value after each part moved by one unit."""
    if plain.shape != ours.shape:
        return Mismatch(module, place, float("inf"), float("inf"))
    plain, ours, moved = (_tokens(value, mask) for value in (plain, ours, moved))
    difference, rounding = ours - plain, moved - plain
    worst, granted = difference.norm(dim=-1), rounding.norm(dim=-1)
    size = float(plain.square().sum(-1).mean().sqrt()) or 1.0
    pairs = [
        (worst.max(), granted.max()),  # a token
        (worst.norm(), granted.norm()),  # all of them
        (difference.norm(dim=(0, 1)).max(), rounding.norm(dim=(0, 1)).max()),  # a channel
        (difference.abs().max(), rounding.abs().max()),  # a number
    ]
    ratios = [float(a) / (OUTPUT_FACTOR * float(b)) if float(b) else float("inf") for a, b in pairs]
    if max(ratios) <= 1:
        return None
    flat = int(worst.argmax())
    columns = worst.shape[-1]
    channels = (
        difference.reshape(-1, difference.shape[-1])[flat].abs().topk(min(3, difference.shape[-1]))
    )
    return Mismatch(
        module,
        place,
        error=float(worst.max()) / size,
        times=max(ratios),
        row=flat // columns,
        position=flat % columns,
        channels=tuple(channels.indices.tolist()),
    )


def _tokens(value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The values as float32 [rows, tokens, channels]; what is not finite, or padding, is 0."""
    value = value.float() if value.dtype is not torch.float64 else value
    value = value.nan_to_num(neginf=_LOWEST).clamp(min=_LOWEST)
    if mask is not None and value.shape == mask.shape:
        value = value[..., None]
    while value.ndim < 3:
        value = value[None]
    value = value.reshape(value.shape[0], -1, value.shape[-1])
    if mask is not None and mask.shape == value.shape[:2]:
        value = value * mask[..., None].to(value.device)
    return value
