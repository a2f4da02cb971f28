"""Makes the golden files of the evaluation networks: what other implementations make of the same weights and images.

    pip install '.[reference]'
    cdm eval weights lite0 rn50 lpips_alex lpips_vgg
    python tests/golden/make_networks.py

    lite0       efficientnet_lite_pytorch, on Pillow's bicubic of floats
    rn50        written below from the Keras layers, on the same
    inception   torch-fidelity, with its TensorFlow 1 resize: pool_3, logits without bias, mixed_6/conv
    dinov2_s    transformers' Dinov2Model, on Pillow's bicubic; positions interpolated by PyTorch
    lpips_alex, lpips_vgg    the package lpips

<name>.npz is of fake weights (fake.py), of which only the names and shapes in the published file are stored, and
<name>_real.npz of the published ones. tensors.pth and tensors_old.pth are a state dict in PyTorch's two formats.
"""

import json
import pathlib
import tempfile

import lpips
import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from fake import fake, images
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import Dinov2Config, Dinov2Model

from cdm.evals.weights import cached
from cdm.interop import foreign
from cdm.stage import flatten

HERE = pathlib.Path(__file__).parent


class Weights(dict):
    """The weights that a network asked for, by name: fake ones, or those of `arrays`."""

    def __init__(self, arrays=None):
        super().__init__()
        self.arrays = arrays

    def get(self, name, *shape):
        value = np.array(fake(name, shape) if self.arrays is None else self.arrays[name], np.float32)
        assert value.shape == shape
        self[name] = torch.from_numpy(value)
        return self[name]

    def fill(self, net):
        """Into a network of the same names."""
        net.load_state_dict({name: self.get(name, *value.shape) for name, value in net.state_dict().items()
                             if value.dtype == torch.float32}, strict=False)


def pillow(batch):
    """uint8 [B, H, W, 3] to [B, 3, 224, 224] in 0..255, by channel, in floats."""
    planes = [[Image.fromarray(np.float32(image[..., c])).resize((224, 224), Image.Resampling.BICUBIC)
               for c in range(3)] for image in batch]
    return torch.from_numpy(np.clip(np.array([[np.asarray(p) for p in image] for image in planes]), 0, 255))


def save(name, weights, **outputs):
    if weights.arrays is None:
        about = dict(names=json.dumps(list(weights)), shapes=json.dumps([list(v.shape) for v in weights.values()]))
    else:
        about, name = {}, f"{name}_real"
    np.savez_compressed(HERE / f"{name}.npz", **about,
                        **{key: value.numpy().astype(np.float32) for key, value in outputs.items()})


def lite0(weights):
    net = EfficientNet.from_name("efficientnet-lite0").eval()
    weights.fill(net)
    x = (pillow(images(0)) - 127) / 128
    save("lite0", weights, pool=net.extract_features(x).mean((2, 3)), logits=net(x))


def rn50(weights):
    get = weights.get

    def conv_norm(x, name, channels, size, stride=1, padding=0):
        of, bn = ("conv1", "bn_conv1") if name == "1" else (f"res{name}", f"bn{name}")
        kernel = get(f"{of}/kernel", size, size, x.shape[1], channels).permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, get(f"{of}/bias", channels), stride, padding)
        return F.batch_norm(x, get(f"{bn}/moving_mean", channels), get(f"{bn}/moving_variance", channels),
                            get(f"{bn}/gamma", channels), get(f"{bn}/beta", channels), eps=1e-3)

    x = pillow(images(0)).flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    x = F.max_pool2d(F.pad(F.relu(conv_norm(x, "1", 64, 7, 2, 3)), (1, 1, 1, 1)), 3, 2)
    for stage, blocks in enumerate(("abc", "abcd", "abcdef", "abc")):
        width = 64 * 2**stage
        for block in blocks:
            name, stride = f"{stage + 2}{block}_branch", 2 if stage and block == "a" else 1
            h = F.relu(conv_norm(x, f"{name}2a", width, 1, stride))
            h = F.relu(conv_norm(h, f"{name}2b", width, 3, 1, 1))
            h = conv_norm(h, f"{name}2c", 4 * width, 1)
            x = F.relu(h + (conv_norm(x, f"{name}1", 4 * width, 1, stride) if block == "a" else x))
    pool = x.mean((2, 3))
    save("rn50", weights, pool=pool, logits=pool @ get("fc1000/kernel", 2048, 1000) + get("fc1000/bias", 1000))


def inception(weights):
    with tempfile.TemporaryDirectory() as folder:
        # It is only made with weights: first those that are in it when it asks for them.
        load, FeatureExtractorInceptionV3.load_state_dict = FeatureExtractorInceptionV3.load_state_dict, lambda *_: None
        path = f"{folder}/weights.pth"
        torch.save({}, path)
        net = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], path)
        FeatureExtractorInceptionV3.load_state_dict = load
    weights.fill(net)
    found = []
    net.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, output: found.append(output))
    pool, logits = net(torch.from_numpy(images(0)).permute(0, 3, 1, 2))
    save("inception", weights, pool=pool, logits=logits, spatial=found[0][:, :7].permute(0, 2, 3, 1).flatten(1))


def dinov2(weights, name, width, depth, heads):
    net = Dinov2Model(Dinov2Config(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                                   image_size=224, patch_size=14, layer_norm_eps=1e-6)).eval()
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + 37 * 37, width),
              "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,),
              "norm.weight": (width,), "norm.bias": (width,)}
    layers = {"norm1": "norm1", "norm2": "norm2", "attn.qkv": None, "attn.proj": "attention.o_proj",
              "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "ls1.gamma": "layer_scale1.lambda1",
              "ls2.gamma": "layer_scale2.lambda1"}
    sizes = {"norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
             "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for i in range(depth):
        for layer in layers:
            if layer.endswith("gamma"):
                shapes[f"blocks.{i}.{layer}"] = (width,)
            else:
                shapes[f"blocks.{i}.{layer}.weight"] = sizes[layer]
                shapes[f"blocks.{i}.{layer}.bias"] = sizes[layer][:1]
    for key, shape in shapes.items():
        weights.get(key, *shape)
    grid = weights["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")  # as DINOv2 does it
    state = {"embeddings.cls_token": weights["cls_token"], "embeddings.mask_token": torch.zeros(1, width),
             "embeddings.position_embeddings": torch.cat([weights["pos_embed"][:, :1],
                                                          grid.permute(0, 2, 3, 1).reshape(1, 256, width)], 1),
             "layernorm.weight": weights["norm.weight"], "layernorm.bias": weights["norm.bias"]}
    for part in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{part}"] = weights[f"patch_embed.proj.{part}"]
        for i in range(depth):
            qkv = weights[f"blocks.{i}.attn.qkv.{part}"].chunk(3)
            for value, which in zip(qkv, "qkv"):
                state[f"encoder.layer.{i}.attention.{which}_proj.{part}"] = value
            for theirs, ours in layers.items():
                if theirs.endswith("gamma"):
                    state[f"encoder.layer.{i}.{ours}"] = weights[f"blocks.{i}.{theirs}"]
                elif ours:
                    state[f"encoder.layer.{i}.{ours}.{part}"] = weights[f"blocks.{i}.{theirs}.{part}"]
    net.load_state_dict(state)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    save(name, weights, pool=net((pillow(images(0)) / 255 - mean) / deviation).last_hidden_state[:, 0])


def perceptual(weights, name, net, convs):
    """convs: their places in torchvision's network."""
    model, trunk = lpips.LPIPS(net=net, pnet_rand=True, verbose=False), {"alex": "AlexNet", "vgg": "VGG16"}[net]
    parts = {place: part for slice in model.net.children() for place, part in slice.named_children()}
    for i, place in enumerate(convs):
        conv = parts[str(place)]
        outputs, inputs, *size = conv.weight.shape
        conv.weight.data = weights.get(f"{trunk}_0/Conv_{i}/kernel", *size, inputs, outputs).permute(3, 2, 0, 1)
        conv.bias.data = weights.get(f"{trunk}_0/Conv_{i}/bias", outputs)
    for i, lin in enumerate(model.lins):
        head = weights.get(f"NetLinLayer_{i}/Conv_0/kernel", 1, 1, model.chns[i], 1).permute(3, 2, 0, 1)
        if weights.arrays is None:
            lin.model[-1].weight.data = head
        else:  # the package has heads of its own
            assert torch.equal(lin.model[-1].weight, head)
    first, second = (torch.from_numpy(images(seed)).permute(0, 3, 1, 2) / 127.5 - 1 for seed in (0, 1))
    save(name, weights, distance=model(first, second).flatten())


def tensors():
    """A state dict with a shared storage, a transposed view and an integer, in both formats."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = torch.nn.Module().state_dict()
    state.update(base=base, turned=base.t(), row=base[1], count=torch.tensor(7), half=torch.tensor(0.5))
    torch.save(state, HERE / "tensors.pth")
    torch.save(state, HERE / "tensors_old.pth", _use_new_zipfile_serialization=False)


@torch.no_grad()
def main():
    tensors()
    inception(Weights())
    dinov2(Weights(), "dinov2_s", 384, 12, 6)
    for real in (False, True):
        def weights(name):
            return Weights(flatten(foreign.read(cached(name))) if real else None)

        lite0(weights("lite0"))
        rn50(weights("rn50"))
        perceptual(weights("lpips_alex"), "lpips_alex", "alex", (0, 3, 6, 8, 10))
        perceptual(weights("lpips_vgg"), "lpips_vgg", "vgg", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))


if __name__ == "__main__":
    main()
