"""Small PyTorch networks, and what opens them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repstat.adapter import Adapter, AdapterOptions, Array, Noise
from repstat_adapters import pytorch


def normal(*shape: int, seed: int = 1, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def opened(source: object, **options: Any) -> Adapter:
    return pytorch.open_model(source, AdapterOptions(threads=1, **options))


def seeded(make: Any, seed: int = 3) -> nn.Module:
    """Build a network with weights from a seed, biases and statistics away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = make()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                nn.init.normal_(module.running_mean, 0.0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
    return model


class Mlp(nn.Module):
    """Modules for two activations, a function for the third."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc2(self.tanh(self.fc1(x)))))


class Functional(nn.Module):
    """No module but for the weights: methods, operators, in-place functions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 5)
        self.weight, self.bias = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        here = F.relu_(self.fc1(x))
        here = self.fc2(here).tanh()
        here = self.fc3(here)
        here.sigmoid_()
        return here @ self.weight + self.bias


class InPlace(nn.Module):
    """In-place activations, one through a view of the layer's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.fc1(x)
        kept = raw * 2
        here = self.fc2(self.relu(raw))
        here.view(-1).mul_(0.5).tanh_()
        return self.fc3(here) * kept.sum(1, keepdim=True)


class Reused(nn.Module):
    """One linear layer and one activation, each used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.out = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.fc(x))
        return self.out(x)


class Residual(nn.Module):
    """A block with a skip, written into the memory of the block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        stem = F.relu(self.stem(x))
        block = self.fc2(F.relu(self.fc1(stem)))
        block += stem
        return self.head(F.relu(block, inplace=True))


class Outputs(nn.Module):
    """Several outputs, in a dictionary and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.policy, self.value = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        trunk = torch.tanh(self.trunk(x))
        return {"policy": self.policy(trunk), "rest": (torch.tanh(self.value(trunk)), None)}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(10, 2)

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(torch.cat([torch.tanh(self.left(a)), torch.tanh(self.right(b))], 1) * scale)


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc1, self.out = nn.Embedding(16, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.fc1(self.embedding(ids).mean(1))))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.bn1, self.c2, self.bn2 = (
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 5, 2),
            nn.BatchNorm2d(5),
        )
        self.pool, self.drop, self.head = nn.MaxPool2d(2), nn.Dropout(0.5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.c1(x)), inplace=True))
        x = self.drop(F.relu(self.bn2(self.c2(x))))
        return self.head(torch.flatten(x, 1))


class Lstm(nn.Module):
    """The sequence comes first, as is PyTorch's default."""

    def __init__(self, *, batch_first: bool = False) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=batch_first), nn.Linear(4, 2)
        self.last = -1

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.head(y[:, -1] if self.lstm.batch_first else y[-1])


class Block(nn.Module):
    """The basic block of a residual network."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """Eighteen layers with weights, as in the residual network of that name, but narrow."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for number in range(1, 5):
            n_in, n_out = widths[number - 1], widths[number]
            blocks = Block(n_in, n_out, 1 if number == 1 else 2), Block(n_out, n_out, 1)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Encoder(nn.Module):
    """A small transformer encoder on token ids."""

    def __init__(self, *, norm_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.position = nn.Parameter(torch.randn(1, 32, 8) / 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        here = self.embedding(ids) + self.position[:, : ids.shape[1]]
        return self.head(self.encoder(here).mean(1))


class TwoNames(nn.Module):
    """One module under two names, of which `named_modules` knows the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b, self.out = self.a, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))


class TiedWeights(TwoNames):
    """Two modules that share a weight, each with its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight


FACTORY = "tests.adapters.torch_models:Mlp"


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def values_of(source: Any, **options: Any) -> dict[str, Array]:
    adapter = opened(source, **options)
    return adapter.run({"x": normal(5, 4)}, adapter.layers(), samples=np.arange(5))


def as_safetensors(state: dict[str, Any], path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    return path


def exported(model: nn.Module, path: Path, *, decomposed: bool = False) -> Path:
    """Save the program that ``torch.export`` makes of `Mlp`."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model.eval(), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program.run_decompositions() if decomposed else program, path)
    return path


class Said:
    """A model from a function of the input and modules, to write cases in one line."""

    @staticmethod
    def of(forward: Any, **modules: Any) -> Any:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                for name, module in modules.items():
                    setattr(self, name, module)

            def forward(self, x: Any) -> Any:
                return forward(self, x)

        return Net()


def linear(**others: Any) -> dict[str, Any]:
    return {"a": nn.Linear(4, 4), "b": nn.Linear(4, 2), **others}


def identities(adapter: Adapter, probe: Any = None) -> list[tuple[Any, ...]]:
    return [(x.key, x.name, x.kind, x.signature, x.unit_shape) for x in adapter.layers(probe)]


def both_ways(adapter: Adapter, x: Array, std: float) -> dict[str, Array]:
    feeds = {adapter.inputs()[0].name: x}
    layers = adapter.layers(feeds)
    noise = Noise({layer.key: std for layer in layers if layer.kind == "hidden"}, seed=11, realization=2)
    return adapter.run(feeds, layers, samples=np.arange(len(x)) + 5, noise=noise if std else None)


def furthest(a: dict[str, Array], b: dict[str, Array]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[k] - b[k].reshape(a[k].shape)).max() / max(1, np.abs(b[k]).max())) for k in a)


def truncated(path: Path) -> Path:
    cut = path.with_name("cut.pt")
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return cut
