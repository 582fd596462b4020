"""Weights of networks: files of them read without running code, parts of a file, freezing, hashes for cache keys."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.io.checksum import find_damage, seal
from common.io.output_folder import atomic_path

_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
MAKE_WEIGHTS = "python -m common run BUNDLE --scale demo --output_dir RUN"


class MissingWeights(FileNotFoundError):
    """Weights that are needed are not there; the message names the command that makes them."""


def missing_weights(what: str, make_weights: str | None = None) -> MissingWeights:
    """The error that says what is missing and how it is made.

    Args:
        what: is missing, such as "models/model.pt does not exist".
        make_weights: the command that makes it, as a bundle's configuration says it; default that of any bundle.
    """
    return MissingWeights(f"{what}; make it with {make_weights or MAKE_WEIGHTS}, then --ckpt_dir RUN/models")


# ---- files -----------------------------------------------------------------------------------------------------------


def read_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Content of a `.safetensors` file or of one that `torch.save` or `write_checkpoint` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, cannot be read as weights or is no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected a checkpoint")
    if damage := find_damage(path):
        raise ValueError(f"{path} is damaged ({damage}), expected a file of weights as it was written")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a file of weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return content


def read_state(path: str | os.PathLike[str], make_weights: str | None = None) -> dict[str, Tensor]:
    """The plain state dict that a training left, names to tensors.

    Args:
        path: ``model.pt``.
        make_weights: see `missing_weights`.

    Raises:
        MissingWeights: if there is no such file.
        ValueError: as `read_checkpoint`.
    """
    if not Path(path).is_file():
        raise missing_weights(f"{path} does not exist", make_weights)
    return dict(read_checkpoint(path))


def load_part(
    module: nn.Module,
    path: str | os.PathLike[str],
    part: str,
    state: Mapping[str, Tensor] | None = None,
    make_weights: str | None = None,
) -> None:
    """Load one part of a plain state dict (``model.pt``), all of its tensors or none.

    Args:
        module: gets the weights.
        path: of the file.
        part: what its names begin with in the file.
        state: content of the file, if it has been read already.
        make_weights: see `missing_weights`.

    Raises:
        MissingWeights: if the file or the part is missing.
        ValueError: if the part has other names or shapes than the module.
    """
    state = read_state(path, make_weights) if state is None else state
    tensors = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
    if not tensors:
        raise missing_weights(f"{path} holds no {part} weights", make_weights)
    load_exactly(module, tensors, f"{path}: {part}")


def load_exactly(module: nn.Module | ChosenWeights, state: Mapping[str, Tensor], what: str) -> None:
    """`load_state_dict` that changes nothing unless every name and shape agrees, and says what does not."""
    check_state(module.state_dict(), state, what)
    module.load_state_dict(state)


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not exactly those of a module.

    Args:
        own: the module's.
        state: that are to be loaded.
        what: they are called.

    Raises:
        ValueError: if names or shapes differ.
    """
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unexpected or shapes:
        listed = ", ".join((missing + unexpected + shapes)[:3])
        raise ValueError(
            f"{what} does not fit: {len(missing)} tensors missing, {len(unexpected)} unexpected, {len(shapes)} of "
            f"another shape ({listed}), expected exactly {len(own)}; is the network.json beside it its own?"
        )


def save_parts(path: str | os.PathLike[str], parts: Mapping[str, nn.Module | Tensor]) -> None:
    """Put parts into a plain state dict file, keeping the other parts that it holds; all of it or nothing is written.

    Args:
        path: ``model.pt``; its folder is created.
        parts: name to module, whose names get it before them, or name to a single tensor (``scale_factor``).
    """
    path = Path(path)
    state = read_state(path) if path.is_file() else {}
    write_state(path, replace_parts(state, parts))


def replace_parts(state: Mapping[str, Tensor], parts: Mapping[str, nn.Module | Tensor]) -> dict[str, Tensor]:
    """A state dict in which these parts stand, on the CPU, in place of those of the same name; see `save_parts`."""
    kept = {name: tensor for name, tensor in state.items() if name.split(".")[0] not in parts}
    for part, content in parts.items():
        new = {part: content} if isinstance(content, Tensor) else content.state_dict(prefix=f"{part}.")
        kept |= {name: tensor.detach().cpu() for name, tensor in new.items()}
    return kept


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a plain state dict, see `write_checkpoint`."""
    write_checkpoint(path, dict(state))


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write what `torch.load` reads, with a checksum that `read_checkpoint` looks at; the folder is created.

    It is whole or not there, even if the machine stops at this moment.

    Args:
        path: of the file.
        content: nested dicts and lists of tensors, numbers and text.

    Raises:
        DiskFailure: if it cannot be written, say because the disk is full; what else is in the folder stays as it is.
    """
    with atomic_path(path, sync=True) as unfinished:
        with unfinished.open("wb") as file:  # a file of ours, whose errors torch does not hide
            torch.save(content, file)
        seal(unfinished)


# ---- modules ---------------------------------------------------------------------------------------------------------


class ChosenWeights:
    """Some of a module's weights under the module's own names, for savers, `EMAHandler` and `ResumeHandler`.

    They take it in place of the module, so that what is frozen is neither averaged nor saved.

    Args:
        module: wrapped in `DistributedDataParallel` or not.
        names: patterns such as "projector.*" or "*.lora_*"; a weight is chosen if its name fits one of them.

    Raises:
        ValueError: if a pattern fits no name.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.of, self.names = getattr(module, "module", module), list(names)
        known = self.of.state_dict().keys()
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(f"names has {pattern!r}, expected a pattern of a weight of {type(self.of).__name__}")

    def has(self, name: str) -> bool:
        """Whether the weight of this name is one of them."""
        return any(fnmatchcase(name, pattern) for pattern in self.names)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that are parameters, as `nn.Module.named_parameters`."""
        return ((name, parameter) for name, parameter in self.of.named_parameters() if self.has(name))

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Names, with a prefix, to tensors that share the module's memory."""
        return {f"{prefix}{name}": tensor for name, tensor in self.of.state_dict().items() if self.has(name)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load exactly these weights; the others stay as they are.

        Raises:
            RuntimeError: if names or shapes differ.
        """
        if state.keys() != (own := self.state_dict()).keys():
            differing = sorted(state.keys() ^ own.keys())
            raise RuntimeError(
                f"{len(state)} weights were given ({', '.join(differing[:3])} differ), expected the {len(own)} that "
                f"{', '.join(self.names)} choose"
            )
        self.of.load_state_dict(state, strict=False)

    def definition(self) -> dict[str, Any]:
        """Arguments that build the module, by its own `definition`."""
        return self.of.definition()


def freeze(module: nn.Module) -> nn.Module:
    """Switch off gradients and keep the module in eval mode, whatever its parent's `.train()` asks.

    `nn.Module.train` calls `child.train(mode)` on each child; this replaces that method on the instance by one that
    puts the module (and all below it) back in eval mode. The replacement survives pickling and `copy.deepcopy`, and the
    state dict is unchanged. `unfreeze` undoes it.

    Args:
        module: the module to freeze, in place.

    Returns:
        The same module.
    """
    module.requires_grad_(False)
    module.train = partial(_stay_in_eval, module)
    return module.eval()


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)


def unfreeze(module: nn.Module) -> nn.Module:
    """Undo `freeze`: gradients on, `.train()` obeyed again, in train mode."""
    vars(module).pop("train", None)
    return module.requires_grad_(True).train()


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, also of a module on the meta device."""
    return sum(p.numel() for p in module.parameters())


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a module's state dict, for cache keys.

    One tensor at a time is brought to the host. The result does not depend on the device or on the order of definition;
    it says nothing about settings that are not tensors (an epsilon, a dropout rate): those belong in the transform
    description of the cache key.

    Args:
        module: any module.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: if a tensor is on the meta device and so has no values.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: a network without values has no weights hash.")
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
